# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio that claims, hides or is what nobody expects."""

import array
import base64
import io
import os
import struct
import subprocess
import sys
import threading
import time
import tracemalloc
import urllib.parse
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import av
import numpy as np
import pytest
import soundfile
import torch
from places import FIXTURES
from recordings import recording

from processing import audio_vita_audio, media_vita_audio
from processing.audio_vita_audio import load_audio
from processing.mp3_vita_audio import read_header


CASES = FIXTURES / "audio"
TONE = (0.3 * np.sin(np.arange(8000) / 20)).astype(np.float32)
# A second at 48 kHz, from 300 Hz on and below what a telephone lets through
CHIRP = (0.3 * np.sin(2 * np.pi * np.cumsum(np.linspace(300, 1500, 48000)) / 48000)).astype(np.float32)


@pytest.mark.parametrize(
    "name, message",
    [
        ("ogg_granule_lie.ogg", "must be a number of Hz from 1000 to 768000, got 2147483647"),
        ("wav_rate_1.wav", "must be a number of Hz from 1000 to 768000, got 1"),
        ("flac_bomb.flac", "lasts 59.0 s, longer than the limit of max_audio_seconds = 10"),
    ],
)
@pytest.mark.parametrize("as_bytes", [False, True])
def test_claims_are_checked_before_anything_is_decoded(name, message, as_bytes):
    source = (CASES / name).read_bytes() if as_bytes else CASES / name
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=message):
            load_audio(source, 16000, max_seconds=10)
        assert tracemalloc.get_traced_memory()[1] < 20e6
    finally:
        tracemalloc.stop()


@pytest.mark.slow
def test_many_channels_are_averaged_second_by_second():
    tracemalloc.start()
    try:
        samples = load_audio(CASES / "flac_bomb.flac", 16000, max_seconds=60)
        # 59 s of 8 channels at 655350 Hz would be 1.2 GB
        assert tracemalloc.get_traced_memory()[1] < 500e6
    finally:
        tracemalloc.stop()
    assert len(samples) == 59 * 16000


@pytest.mark.parametrize("rate", [0.02, 0, -16000, 1e9, float("nan"), float("inf"), "16000", True, None])
def test_rates_that_nobody_has_are_refused_at_once(rate):
    start = time.monotonic()
    with pytest.raises(ValueError, match="sampling rate|needs .array."):
        load_audio({"array": TONE, "sampling_rate": rate}, 16000)
    assert time.monotonic() - start < 5


def test_blocks_add_up_to_the_file(tmp_path):
    samples = np.random.default_rng(0).uniform(-0.5, 0.5, (40_000, 3)).astype(np.float32)
    soundfile.write(tmp_path / "a.wav", samples, 16000, subtype="FLOAT")
    np.testing.assert_array_equal(load_audio(tmp_path / "a.wav", 16000), samples.mean(axis=1))


@pytest.mark.parametrize(
    "convert",
    [
        lambda x: torch.from_numpy(x).bfloat16(),
        lambda x: torch.from_numpy(x).half(),
        lambda x: torch.from_numpy(x).to(torch.float8_e4m3fn),
        lambda x: torch.from_numpy(x).to_sparse(),
        lambda x: torch.quantize_per_tensor(torch.from_numpy(x), 0.005, 0, torch.qint8),
        lambda x: torch.from_numpy(x).double().requires_grad_(),
        lambda x: (x * 32767).astype(np.int16),
        lambda x: (x * 32767 + 32768).astype(np.uint16),
        lambda x: (x * 127 + 128).astype(np.uint8),
        lambda x: (x * 127).astype(np.int8),
        lambda x: x.astype(">f4"),
        lambda x: np.asfortranarray(np.stack([x, x], axis=1)),
    ],
)
@pytest.mark.filterwarnings("ignore:.*quantize.*", "ignore:.*quantization.*")
def test_samples_of_any_type(convert):
    np.testing.assert_allclose(load_audio(convert(TONE), 16000), TONE, atol=0.03)


@pytest.mark.parametrize(
    "source, error, message",
    [
        (torch.empty(8000, device="meta"), ValueError, "meta device"),
        (np.zeros(8000, dtype="timedelta64[s]"), ValueError, "got an array of timedelta64"),
        (np.zeros(8000, dtype=complex), ValueError, "got an array of complex"),
        (np.zeros(8000, dtype=bool), ValueError, "got an array of bool"),
        (np.array(["a"] * 8000), ValueError, "got an array of <U1"),
        ({"array": {"array": TONE}, "sampling_rate": 16000}, TypeError, "another dictionary"),
        ({1: TONE, "b": 2}, ValueError, "the unknown keys 1, b"),
        ({"array": None}, ValueError, "the keys array"),
        (7, TypeError, "got int"),
    ],
)
def test_what_is_no_audio_is_named(source, error, message):
    with pytest.raises(error, match=message):
        load_audio(source, 16000)


def test_a_dictionary_within_itself_has_an_end():
    loop = {"sampling_rate": 16000}
    loop["array"] = loop
    with pytest.raises(TypeError, match="another dictionary"):
        load_audio(loop, 16000)


@pytest.fixture
def server():
    wav = io.BytesIO()
    soundfile.write(wav, TONE, 16000, format="WAV")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            if self.path == "/broken":
                self.send_response(200)
                self.send_header("Content-Length", str(len(wav.getvalue())))
                self.end_headers()
                self.wfile.write(wav.getvalue()[:9000])
                return
            if self.path == "/redirect":
                self.send_response(302)
                self.send_header("Location", "ftp://127.0.0.1/a.wav")
                self.end_headers()
                return
            self.send_response(200)
            self.end_headers()
            try:
                if self.path == "/endless":
                    while True:
                        self.wfile.write(bytes(2**16))
                elif self.path == "/slow":
                    for _ in range(200):
                        self.wfile.write(b"R")
                        self.wfile.flush()
                        time.sleep(0.05)
                else:
                    self.wfile.write(wav.getvalue())
            except OSError:
                pass  # the client has seen enough

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()


@pytest.mark.slow
@pytest.mark.parametrize("path", ["/a.wav", "/grüße 1.wav?größe=2"])
def test_a_url_is_read_whatever_is_in_it(server, path):
    np.testing.assert_allclose(load_audio(server + path, 16000), TONE, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize(
    "path, message", [("/endless", "more than 1048576 bytes"), ("/slow", "more than 1 s"), ("/redirect", "redirects")]
)
def test_a_url_has_bounds(server, path, message, monkeypatch):
    monkeypatch.setattr(audio_vita_audio, "MAX_BYTES", 2**20)
    monkeypatch.setattr(audio_vita_audio, "URL_TOTAL_SECONDS", 1)
    start = time.monotonic()
    with pytest.raises(OSError, match=f"Cannot fetch audio from .*{message}"):
        load_audio(server + path, 16000)
    assert time.monotonic() - start < 8


def test_a_url_whose_connection_breaks_off_is_no_audio(server):
    with pytest.raises(OSError, match="Cannot fetch audio from .*: the connection ended early, after 9000 of 16044 b"):
        load_audio(server + "/broken", 16000)


# What people have


def wav(samples=TONE, rate=16000, **kwargs):
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format="WAV", **kwargs)
    return content


def base64_of(content, alphabet=base64.b64encode):
    return alphabet(content.getvalue()).decode()


INTEGERS = (TONE * 32767).round().astype(np.int16)


@pytest.mark.parametrize(
    "source",
    [
        TONE.tolist(),
        tuple(TONE.tolist()),
        [*TONE],
        [TONE.tolist(), TONE.tolist()],
        [torch.from_numpy(TONE), TONE],
        [*INTEGERS],
        array.array("f", TONE),
        array.array("h", INTEGERS),
        # as of Gradio, and of soundfile and torchaudio
        (16000, INTEGERS),
        (np.int64(16000), TONE),
        [16000, TONE.tolist()],
        (TONE, 16000),
        (torch.from_numpy(TONE)[None], 16000.0),
        {"audio": TONE, "sampling_rate": 16000, "text": "Two plus two."},
        {"raw": TONE, "sampling_rate": np.float64(16000), "path": None},
        # as of a dataset in the format of PyTorch or NumPy
        {"array": torch.from_numpy(TONE), "sampling_rate": torch.tensor(16000)},
        {"array": TONE, "sampling_rate": np.array(16000)},
        (torch.tensor(16000), torch.from_numpy(TONE)),
        (TONE, np.array(16000)),
        {"array": TONE.tolist(), "sampling_rate": 16000, "bytes": None, "path": "it was once here.wav"},
        {"audio": (16000, INTEGERS)},
        {"audio": wav(), "sampling_rate": None},
        # a file that was just written is at its end
        wav(),
        wav().getvalue(),
        bytearray(wav().getvalue()),
        memoryview(wav().getvalue()),
        "data:audio/wav;base64," + base64_of(wav()),
        "DATA:audio/wav;codecs=1;BASE64," + urllib.parse.quote(base64_of(wav(), base64.encodebytes)),
        "data:audio/wav," + urllib.parse.quote_from_bytes(wav().getvalue()),
        base64_of(wav()),
        base64_of(wav(), base64.urlsafe_b64encode),
        base64.b64encode(wav().getvalue() + b"!").decode().rstrip("="),
        {"base64": base64_of(wav(), base64.encodebytes)},
        {"base64": base64_of(wav()).encode()},
        {"base64": "data:;base64," + base64_of(wav())},
        {"audio_url": "data:;base64," + base64_of(wav())},
    ],
    ids=lambda source: type(source).__name__,
)
def test_audio_as_people_have_it(source):
    np.testing.assert_allclose(load_audio(source, 16000), TONE, atol=1e-4)


@pytest.mark.parametrize("rate", [8000, 44100])
def test_a_rate_beside_the_samples_counts(rate):
    for source in ((rate, TONE), (TONE, rate), {"audio": TONE, "sampling_rate": rate}, {"audio": wav(rate=rate)}):
        assert len(load_audio(source, 16000)) == pytest.approx(8000 * 16000 / rate, abs=1)


@pytest.mark.parametrize(
    "dtype", ["f2", "f4", "f8", "longdouble", *(f"{kind}{n}" for kind in "iu" for n in (1, 2, 4, 8))]
)
@pytest.mark.parametrize("is_tensor", [False, True])
def test_every_type_of_samples(dtype, is_tensor):
    dtype = np.dtype(dtype)
    samples = TONE.astype(dtype)
    if dtype.kind in "iu":
        # the very ends of the range are 1 but for a step, and -1
        middle = 2.0 ** (8 * dtype.itemsize - 1)
        samples = (
            (TONE.astype(np.longdouble) * (middle - 1) + (middle if dtype.kind == "u" else 0)).round().astype(dtype)
        )
        samples[:2] = np.iinfo(dtype).min, np.iinfo(dtype).max
    if is_tensor:
        if dtype == np.longdouble:
            pytest.skip("torch has none")
        samples = torch.from_numpy(samples)
    loaded = load_audio(samples, 16000)
    np.testing.assert_allclose(loaded[2:], TONE[2:], atol=1e-2 if dtype.itemsize == 1 else 1e-3)
    if dtype.kind in "iu":
        assert loaded[0] == -1 and 1 - loaded[1] <= 2.0**-7


@pytest.mark.parametrize(
    "source, error, message",
    [
        ([100, -200] * 4000, ValueError, "list of integers does not say over which range"),
        ([0.1, True] * 4000, ValueError, "got bool in it"),
        ([0.1, "0.2"] * 4000, ValueError, "got str in it"),
        ([0.1, 10**400] * 4000, ValueError, "got an array of object"),
        ([TONE.tolist(), [0.1]], ValueError, "channels of an audio must be of one length"),
        ([[[0.1]] * 4000], ValueError, "got list in it"),
        ((16000, None), TypeError, "got NoneType"),
        ({"audio": TONE}, ValueError, 'together with "sampling_rate"'),
        ({"array": TONE, "samplingrate": 8000}, ValueError, "the unknown keys samplingrate; it takes array, raw"),
        ({"path": "a.wav", "start": 3.0}, ValueError, "the unknown keys start"),
        ({"base64": 7}, TypeError, "in base64 must be a string, got int"),
        ({"base64": "Not base64!"}, ValueError, "is not base64"),
        ("data:audio/wav;base64", ValueError, "has a comma"),
        ("data:audio/wav;base64,$$$$", ValueError, "is not base64"),
        ("file://elsewhere/a.wav", ValueError, "of this machine, .*got the host elsewhere"),
        (io.StringIO("RIFF"), TypeError, 'gives str where audio is bytes.*"rb"'),
        (io.StringIO(), TypeError, "gives str"),
        (soundfile.SoundFile(CASES / "gsm610_telephone.wav"), TypeError, "gives ndarray where audio is bytes"),
        (io.BytesIO(), ValueError, "is empty"),
        ("s3://bucket/a.wav", FileNotFoundError, r"no audio file s3://bucket/a.wav. Of addresses, http\(s\)://"),
        (torch.zeros(8000, dtype=torch.complex64), ValueError, "got an array of complex64"),
        (torch.zeros(8000, dtype=torch.int64) + 30000, ValueError, r"the audio array \(torch.int64\) is silent"),
    ],
)
def test_what_is_not_quite_audio_is_named(source, error, message):
    with pytest.raises(error, match=message):
        load_audio(source, 16000)


def test_files_by_every_name(tmp_path):
    path = tmp_path / "an answer 100%.wav"
    path.write_bytes(wav().getvalue())
    # soundfile would ask for the rate of such a file
    raw = path.with_suffix(".raw")
    raw.write_bytes(path.read_bytes())
    for source in (
        raw,
        path,
        str(path),
        path.as_uri(),
        f"FILE://localhost{urllib.parse.quote(str(path))}",
        f"file:{path}",
    ):
        np.testing.assert_allclose(load_audio(source, 16000), TONE, atol=1e-4)
    with open(path, "rb") as file:
        file.seek(100)
        np.testing.assert_allclose(load_audio(file, 16000), TONE, atol=1e-4)
        assert not file.closed
    with pytest.raises(OSError, match="Cannot read .*an answer 100%.wav: .*closed file"):
        load_audio(file, 16000)
    with open(path, encoding="latin-1") as file, pytest.raises(TypeError, match="binary mode"):
        load_audio(file, 16000)
    with open(tmp_path / "new", "wb") as file, pytest.raises(OSError, match="/new: it is not open for reading"):
        load_audio(file, 16000)
    with pytest.raises(IsADirectoryError, match="is a folder, and no audio file"):
        load_audio(tmp_path, 16000)


def test_pipes(monkeypatch, tmp_path):
    reading, writing = os.pipe()
    with open(writing, "wb") as file:
        file.write(wav().getvalue())
    # the name of a process substitution in a shell
    np.testing.assert_allclose(load_audio(f"/dev/fd/{reading}", 16000), TONE, atol=1e-4)
    os.close(reading)
    os.mkfifo(tmp_path / "fifo")
    writer = threading.Thread(target=(tmp_path / "fifo").write_bytes, args=(wav().getvalue(),))
    writer.start()
    np.testing.assert_allclose(load_audio(tmp_path / "fifo", 16000), TONE, atol=1e-4)
    writer.join()
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(wav()))
    np.testing.assert_allclose(load_audio("-", 16000), TONE, atol=1e-4)
    monkeypatch.setattr("sys.stdin", None)
    with pytest.raises(OSError, match="no standard input"):
        load_audio("-", 16000)


def test_what_has_no_end_is_not_read_whole(monkeypatch):
    monkeypatch.setattr(audio_vita_audio, "MAX_BYTES", 2**20)
    with pytest.raises(OSError, match="Cannot read /dev/zero: it has more than 1048576 bytes"):
        load_audio("/dev/zero", 16000)
    with open("/dev/zero", "rb") as file, pytest.raises(OSError, match="more than 1048576 bytes"):
        load_audio(file, 16000)


# Headers


def with_sizes(content, riff, data):
    position = content.index(b"data") + 4
    return (
        content[:4] + struct.pack("<I", riff) + content[8:position] + struct.pack("<I", data) + content[position + 4 :]
    )


@pytest.mark.parametrize(
    "riff, data",
    [(0, 0), (2**32 - 1, 2**32 - 1), (2**32 - 1, 0), (36, 0), (2**31 + 36, 2**31), (2**31 - 1, 2**31 - 37)],
)
@pytest.mark.parametrize("subtype", ["PCM_16", "FLOAT", "ULAW", "GSM610"])
def test_wav_from_a_pipe(riff, data, subtype):
    content = wav(subtype=subtype).getvalue()
    loaded = load_audio(with_sizes(content, riff, data), 16000)
    if subtype == "GSM610":
        assert len(loaded) == 8000  # 25 blocks, an odd number of bytes
    np.testing.assert_allclose(loaded, TONE, atol=0.15 if subtype == "GSM610" else 0.01)


def test_an_empty_wav_with_notes_is_empty():
    notes = b"LIST" + struct.pack("<I", 4000) + b"INFO" + bytes(3996)
    with pytest.raises(ValueError, match="empty"):
        load_audio(with_sizes(wav(np.zeros(0)).getvalue() + notes, 4044, 0), 16000)


def test_a_large_wav_without_a_length_is_refused(monkeypatch):
    monkeypatch.setattr(media_vita_audio, "MAX_BYTES", 10_000)
    with pytest.raises(ValueError, match="no length in its header, .*more than 10000 bytes"):
        load_audio(with_sizes(wav().getvalue(), 0, 0), 16000)


def test_a_telephone_recording_is_read():
    # by another decoder; libsndfile alone makes noise of the byte at the end
    with av.open(CASES / "gsm610_telephone.wav") as container:
        expected = np.concatenate([frame.to_ndarray()[0] for frame in container.decode(audio=0)]) / 32768
    assert len(expected) == 14400
    for source in (CASES / "gsm610_telephone.wav", (CASES / "gsm610_telephone.wav").read_bytes()):
        np.testing.assert_allclose(load_audio(source, 8000), expected, atol=1e-6)
    assert len(load_audio(CASES / "gsm610_telephone.wav", 16000)) == 28800


def mp3(samples, rate, **kwargs):
    content = io.BytesIO()
    soundfile.write(content, samples, rate, format="MP3", **kwargs)
    return content.getvalue()


def without_tag(content):
    """An MP3 as a program writes it to a pipe: without the first frame, which says how many follow."""
    tag = read_header(content[:4])
    assert content[tag.tag_start :][:4] in (b"Xing", b"Info")
    return content[tag.size :]


@pytest.mark.parametrize("rate", [8000, 11025, 12000, 16000, 22050, 24000, 32000, 44100, 48000])
@pytest.mark.parametrize("num_channels", [1, 2])
@pytest.mark.parametrize("bitrate_mode", ["CONSTANT", "VARIABLE"])
def test_an_mp3_is_as_long_as_its_frames(rate, num_channels, bitrate_mode):
    # By the size of its first frame, of silence or of noise, libsndfile takes the whole for too long or too short
    noise = np.random.default_rng(0).normal(0, 0.2, rate).astype(np.float32)
    silence, tone = np.zeros(2 * rate, np.float32), (0.3 * np.sin(np.arange(3 * rate) / 20)).astype(np.float32)
    for samples in (np.concatenate([silence, noise, tone]), np.concatenate([noise, silence, tone])):
        channels = np.stack([samples] * num_channels, axis=1)
        content = mp3(channels, rate, bitrate_mode=bitrate_mode, compression_level=0.5)
        assert len(load_audio(content, rate)) == 6 * rate
        # What a tag says besides, how much silence the encoder has put at the ends, is lost with it
        loaded = load_audio(without_tag(content), rate, max_seconds=7)
        assert 6 * rate < len(loaded) <= 6 * rate + 3 * 1152
        with pytest.raises(ValueError, match="lasts [45][.]. s, longer than the limit of max_audio_seconds = 3"):
            load_audio(without_tag(content), rate, max_seconds=3)


def test_joined_mp3s_are_read_to_the_end():
    parts = [mp3(CHIRP[start : start + 24000], 48000) for start in (0, 24000)]
    title = b"ID3\x04\0\0\0\0\x02\x01" + b"\xff" * 257
    for content in (b"".join(parts), title + (b"TAG" + bytes(125)).join(parts), title.join(parts)):
        loaded = load_audio(content, 48000)
        assert 48000 < len(loaded) < 48000 + 6 * 1152
        # The second one has its highest tones at its end
        spectrum = np.abs(np.fft.rfft(loaded[-8000:]))
        assert 1300 < np.argmax(spectrum) * 48000 / 8000 < 1550
    for other in (mp3(CHIRP, 44100), mp3(np.stack([CHIRP, CHIRP], axis=1), 48000)):
        with pytest.raises(ValueError, match="changes its sampling rate or its channels on the way"):
            load_audio(parts[0] + other, 48000)
    # Half of a file with a tag of the whole is no longer than it is
    whole = mp3(np.tile(CHIRP, 20), 48000)
    assert 9 * 48000 < len(load_audio(whole[: len(whole) // 2], 48000, max_seconds=12)) < 11 * 48000
    with pytest.raises(ValueError, match="lasts 20.0 s, longer"):
        load_audio(whole, 48000, max_seconds=5)


@pytest.mark.parametrize("subtype", ["VORBIS", "OPUS"])
def test_ogg_files_one_behind_the_other_are_read_to_the_end(subtype, monkeypatch):
    parts = [io.BytesIO(), io.BytesIO()]
    for part, samples in zip(parts, (CHIRP, CHIRP[:24000])):
        soundfile.write(part, samples, 48000, format="OGG", subtype=subtype)
    content = parts[0].getvalue() + parts[1].getvalue()
    assert 72000 <= len(load_audio(content, 48000)) < 74000
    with pytest.raises(ValueError, match="longer than the limit of max_audio_seconds = 1.2"):
        load_audio(content, 48000, max_seconds=1.2)
    monkeypatch.setitem(sys.modules, "av", None)
    with pytest.raises(ValueError, match="cannot read .it is several files, one behind the other.*pip install av"):
        load_audio(content, 48000)
    assert len(load_audio(parts[0], 48000)) == 48000


# Files that soundfile does not know


class Pipe(io.BytesIO):
    """A recorder that sends what it writes cannot go back in it."""

    def seekable(self):
        return False


RECORDINGS = {
    "webm": ("webm", "libopus", 48000, "stereo", Pipe),
    "webm of samples": ("matroska", "pcm_s16le", 16000, "mono", Pipe),
    "m4a": ("ipod", "aac", 44100),
    "mp4 in pieces": ("ismv", "aac", 48000, "mono", Pipe),
    "3gp": ("3gp", "amr_nb", 8000),
    "amr": ("amr", "amr_nb", 8000, "mono", Pipe),
    "aac": ("adts", "aac", 16000, "mono", Pipe),
    "mov": ("mov", "alac", 48000),
    "wma": ("asf", "wmav2", 44100),
    "caf": ("caf", "pcm_s16le", 48000, "mono", Pipe),
    "flac from a pipe": ("flac", "flac", 16000, "mono", Pipe),
    "ogg of flac": ("ogg", "flac", 16000),
    "wav of g726": ("wav", "adpcm_g726", 8000),
}


@pytest.mark.parametrize("name", RECORDINGS)
def test_recordings_of_browsers_and_phones(name):
    content = recording(CHIRP, 48000, *RECORDINGS[name])
    loaded = load_audio(content, 16000, max_seconds=2)
    assert 15500 < len(loaded) < 18000
    expected = load_audio((48000, CHIRP), 16000)[2000:8000]
    correlation = np.correlate(loaded[:11000], expected, "valid")
    start = int(np.argmax(correlation))
    # some codecs begin before the recording or after it, and do not say so; FFmpeg makes two channels of one by 3 dB
    # less in each
    assert abs(start - 2000) <= 1024
    assert np.corrcoef(loaded[start : start + 6000], expected)[0, 1] > 0.98
    assert 0.7 < correlation[start] / (expected @ expected) < 1.01


@pytest.mark.slow
def test_a_recording_is_bounded():
    content = recording(np.tile(CHIRP, 60), 48000, *RECORDINGS["webm"])
    tracemalloc.start()
    try:
        with pytest.raises(ValueError, match=r"lasts 5.0 s, longer than the limit of max_audio_seconds = 5"):
            load_audio(content, 16000, max_seconds=5)
        assert tracemalloc.get_traced_memory()[1] < 10e6
    finally:
        tracemalloc.stop()
    short = recording(CHIRP[:1000], 48000, "mov", "pcm_s16le", 16000)
    with pytest.raises(ValueError, match="lasts 0.021 s, shorter than"):
        load_audio(short, 16000)
    with pytest.raises(ValueError, match="from 1000 to 768000, got 800"):
        load_audio(recording(CHIRP, 48000, "mov", "pcm_s16le", 800), 16000)
    with pytest.raises(ValueError, match="corrupt, or not a webm or Matroska file"):
        load_audio(content[:40], 16000)


def test_the_decoder_that_is_missing_is_named(monkeypatch, tmp_path):
    kinds = {"webm": "webm", "m4a": "m4a", "3gp": "3gp", "aac": "aac", "flac from a pipe": "flac", "caf": "caf"}
    contents = {kind: recording(CHIRP, 48000, *RECORDINGS[name]) for name, kind in kinds.items()}
    monkeypatch.setitem(sys.modules, "av", None)
    for kind, content in contents.items():
        (tmp_path / "a").write_bytes(content)
        with pytest.raises(ValueError, match=f"/a is a .*{kind}.* file that soundfile cannot read .*: pip install av"):
            load_audio(tmp_path / "a", 16000)


def test_a_picture_alone_has_no_audio():
    output = io.BytesIO()
    with av.open(output, "w", format="matroska") as container:
        stream = container.add_stream("mjpeg", rate=10, width=16, height=16, pix_fmt="yuvj420p")
        container.mux(stream.encode(av.VideoFrame(16, 16, "yuvj420p")))
        container.mux(stream.encode(None))
    with pytest.raises(ValueError, match="has no audio in it"):
        load_audio(output.getvalue(), 16000)


@pytest.mark.slow
def test_a_broken_file_prints_no_error_of_the_decoder():
    content = io.BytesIO()
    soundfile.write(content, 0.3 * np.sin(np.arange(4000) / 20), 16000, format="AIFF")
    # a chunk of another name, behind which libsndfile looks for the samples before the start of the file
    head = b"FORM\0\0\x1fgAIFFCOMM\0\0\0\x12\0\1\0\0\x0f\xa0\0\x10@\x0c\xfa\0\0\0\0\0\0\0"
    head += b"SSyD\0\0\x1fH\0\0{\0\0\0\0\0\0\0\1\xeb\xb0"
    broken = head + content.getvalue()[len(head) :]
    program = (
        "import sys; from processing.audio_vita_audio import load_audio; load_audio(sys.stdin.buffer.read(), 16000)"
    )
    run = subprocess.run([sys.executable, "-c", program], input=broken, capture_output=True)
    assert b"ignored" not in run.stderr and run.stderr.splitlines()[-1].startswith(b"ValueError: the audio in memory")
