# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Audio that claims, hides or is what nobody expects."""

import io
import threading
import time
import tracemalloc
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import soundfile
import torch

from processing import audio_vita_audio
from processing.audio_vita_audio import load_audio


CASES = Path(__file__).parent / "fixtures" / "audio"
TONE = (0.3 * np.sin(np.arange(8000) / 20)).astype(np.float32)


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


def test_many_channels_are_averaged_second_by_second():
    tracemalloc.start()
    try:
        samples = load_audio(CASES / "flac_bomb.flac", 16000, max_seconds=60)
        # 59 s of 8 channels at 655350 Hz would be 1.2 GB
        assert tracemalloc.get_traced_memory()[1] < 500e6
    finally:
        tracemalloc.stop()
    assert len(samples) == 59 * 16000


def test_a_telephone_recording_is_read():
    assert len(load_audio(CASES / "gsm610_telephone.wav", 16000)) > 16000


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
        ({1: TONE, "b": 2}, ValueError, "the keys 1, b"),
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


@pytest.mark.parametrize("path", ["/a.wav", "/grüße 1.wav?größe=2"])
def test_a_url_is_read_whatever_is_in_it(server, path):
    np.testing.assert_allclose(load_audio(server + path, 16000), TONE, atol=1e-4)


@pytest.mark.parametrize(
    "path, message", [("/endless", "more than 1048576 bytes"), ("/slow", "more than 1 s"), ("/redirect", "redirects")]
)
def test_a_url_has_bounds(server, path, message, monkeypatch):
    monkeypatch.setattr(audio_vita_audio, "MAX_URL_BYTES", 2**20)
    monkeypatch.setattr(audio_vita_audio, "URL_TOTAL_SECONDS", 1)
    start = time.monotonic()
    with pytest.raises(OSError, match=f"Cannot fetch audio from .*{message}"):
        load_audio(server + path, 16000)
    assert time.monotonic() - start < 8
