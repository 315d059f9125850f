# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Speech that is encoded while it comes in: by two codecs, to features, and by the processor's stream."""

import functools

import numpy as np
import pytest
import soundfile
import torch
from places import FIXTURES, MINI
from plus_fixture import plus_tensors
from tiny_models import tiny_dac, tiny_plus_processor, tiny_processor, tiny_tokenizer

from processing import Glm4VoiceCodec, VitaAudioCodec, VitaAudioFeatureExtractor, VitaAudioProcessor
from processing.convert_glm4_voice_to_hf import convert
from processing.encoding_vita_audio import FeatureEncoder
from processing.modeling_vita_audio_vocoder import noise_loop


QUESTION = soundfile.read(MINI / "sample_question.wav", dtype="float32")[0]


@pytest.fixture(scope="module")
def codec():
    """The shipped one, whose weights are trained."""
    return VitaAudioCodec.from_pretrained(MINI / "audio_tokenizer")


@pytest.fixture(scope="module")
def glm4_voice_codec(tmp_path_factory):
    """GLM-4-Voice's, small and random."""
    released = FIXTURES / "glm4_voice"
    folder = convert(released / "tokenizer", released / "decoder", tmp_path_factory.mktemp("converted") / "codec")
    return Glm4VoiceCodec.from_pretrained(folder).eval()


def noise(seconds, level=0.1):
    return np.random.default_rng(0).normal(0, level, int(16000 * seconds)).astype(np.float32)


def as_values(samples):
    return torch.from_numpy(samples)[None, None]


def encode_in_chunks(codec, recording, next_length):
    """All codes at the end, and how many there were after each chunk."""
    state, start, counts = codec.init_encoder_state(), 0, []
    while start < len(recording):
        length = next_length()
        output = codec.encode_chunk(as_values(recording[start : start + length]), state)
        counts.append(output.audio_codes.shape[-1])
        start += length
    return codec.encode_chunk(as_values(recording[:0]), state, is_final=True).audio_codes, counts


RECORDINGS = {
    "a short question": QUESTION,
    # More than a segment of 30 s
    "noise": noise(33),
    "a whole segment": noise(30),
    "whole blocks": noise(8),
    # The quietest bins are raised more and more
    "louder and louder": np.concatenate([np.zeros(5000, np.float32), np.tile(QUESTION, 8)])
    * np.linspace(0, 1, 5000 + 8 * len(QUESTION), dtype=np.float32) ** 3,
    "one sample": QUESTION[5000:5001],
}


@pytest.mark.parametrize("codec_name", ["codec", "glm4_voice_codec"])
@pytest.mark.parametrize("name", RECORDINGS)
@pytest.mark.parametrize("lengths", [[1600], [1, 160, 20000, 100000]])
def test_blocks_as_in_one_piece(codec_name, name, lengths, request):
    codec, generator = request.getfixturevalue(codec_name), np.random.default_rng(len(name))
    codes, _ = encode_in_chunks(codec, RECORDINGS[name], lambda: generator.choice(lengths))
    assert codes.tolist() == codec.encode(as_values(RECORDINGS[name])).audio_codes.tolist()


@pytest.mark.parametrize("codec_name", ["codec", "glm4_voice_codec"])
def test_autocast_and_a_default_device_change_nothing(codec_name, request):
    codec = request.getfixturevalue(codec_name)

    def outputs():
        codes = codec.encode(as_values(QUESTION)).audio_codes
        speech = codec.decode(codes[..., :20]).audio_values
        voice = codec.voice_options(speech, codes)["prompt_mel"] if hasattr(codec, "voice_options") else codes
        return codes, encode_in_chunks(codec, QUESTION, lambda: 9000)[0], speech, voice

    expected = outputs()
    with torch.autocast("cpu", torch.bfloat16):
        for output, one in zip(outputs(), expected):
            torch.testing.assert_close(output, one, rtol=0, atol=0)
    noise_loop.cache_clear()
    with torch.device("meta"):
        speech = codec.decode(expected[0][..., :20]).audio_values
    torch.testing.assert_close(speech, expected[2], rtol=0, atol=0)


def test_blocks_come_while_the_user_speaks(glm4_voice_codec, monkeypatch):
    num_frames, forward = [], glm4_voice_codec.tokenizer.forward

    @functools.wraps(forward)
    def count(input_features, *args):
        num_frames.append(input_features.shape[2])
        return forward(input_features, *args)

    monkeypatch.setattr(glm4_voice_codec.tokenizer, "forward", count)
    _, counts = encode_in_chunks(glm4_voice_codec, RECORDINGS["noise"], lambda: 1600)
    # Blocks of 4 s and the end of the segment, each when it has come, and each once
    assert sorted(set(counts)) == [0, 50, 100, 150, 200, 250, 300, 350, 375]
    assert counts.index(50) == 40
    # The last 3 s are no block, so they are encoded whole
    assert num_frames == [400] * 7 + [200, 304]


def test_codes_of_blocks_are_taken_back(glm4_voice_codec):
    # Silence is 80 dB below what comes, but not below what came before
    fading = noise(5) * np.linspace(1, 0.1, 80000, dtype=np.float32)
    recording = np.concatenate([np.zeros(16000, np.float32), noise(4, 1e-5), fading])
    codes, counts = encode_in_chunks(glm4_voice_codec, recording, lambda: 1600)
    assert counts[45] == 50 and counts[52] == 0 and counts[-1] == 100
    assert codes.tolist() == glm4_voice_codec.encode(as_values(recording)).audio_codes.tolist()


def test_a_code_of_a_block_that_rounding_could_change_is_the_one_of_the_whole(glm4_voice_codec, tmp_path):
    glm4_voice_codec.save_pretrained(tmp_path)
    half = Glm4VoiceCodec.from_pretrained(tmp_path, dtype=torch.bfloat16).eval()
    codes, _ = encode_in_chunks(half, noise(10), lambda: 16000)
    assert codes.tolist() == half.encode(as_values(noise(10))).audio_codes.tolist()


def test_bad_chunks_are_refused(glm4_voice_codec):
    with pytest.raises(ValueError, match=r"must be \(1, 1, num_samples\), got \(2, 1, 80\)"):
        glm4_voice_codec.encode_chunk(torch.zeros(2, 1, 80), glm4_voice_codec.init_encoder_state())
    with pytest.raises(ValueError, match="without a single sample"):
        glm4_voice_codec.encode_chunk(torch.zeros(1, 1, 0), glm4_voice_codec.init_encoder_state(), is_final=True)


# The processor's stream


def put_in_chunks(stream, recording, next_length):
    start = 0
    while start < len(recording):
        length = next_length()
        stream.put(recording[start : start + length])
        start += length


@pytest.mark.parametrize("lengths", [[320], [1, 100, 5000]])
def test_the_stream_of_a_model_of_codes(lengths):
    processor = tiny_processor()
    generator = np.random.default_rng(0)
    stream = processor.encoding_stream()
    put_in_chunks(stream, np.tile(QUESTION, 3), lambda: generator.choice(lengths))
    settled = stream.settled
    # a block of 4 s
    assert len(settled) == 50
    codes = stream.finish()
    assert codes == processor.encode_audio([np.tile(QUESTION, 3)])[0]
    assert codes[: len(settled)] == settled


@pytest.mark.parametrize("name", ["short", "mid", "long", "tiny"])
@pytest.mark.parametrize("lengths", [[320], [1, 100, 5000]])
@pytest.mark.parametrize("sizes", [{}, {"num_stacked_frames": 3, "stacking_stride": 4, "frame_shift": 30}])
def test_features_come_row_by_row(name, lengths, sizes):
    tensors = plus_tensors()
    normalization = {f"cmvn_{kind}": tensors[f"cmvn.{kind}"].tolist() for kind in ("shift", "scale")}
    extractor = VitaAudioFeatureExtractor(**(sizes or normalization))
    recording = tensors[f"wave.{name}"].numpy()
    expected = extractor(recording)["input_features"][0]
    encoder, generator, num_settled = FeatureEncoder(extractor), np.random.default_rng(0), 0
    start = 0
    while start < len(recording):
        length = generator.choice(lengths)
        encoder.put(recording[start : start + length])
        start += length
        # A row that is there stays
        np.testing.assert_allclose(encoder.settled, expected[: len(encoder.settled)], atol=1e-5)
        assert len(encoder.settled) >= num_settled
        num_settled = len(encoder.settled)
    assert num_settled >= len(expected) - 2
    features = encoder.finish(recording[:0])
    assert features.dtype == np.float32
    np.testing.assert_allclose(features, expected, atol=1e-5)


def test_the_stream_of_a_model_of_features():
    processor = tiny_plus_processor()
    stream = processor.encoding_stream()
    put_in_chunks(stream, QUESTION, lambda: 320)
    features = stream.finish()
    np.testing.assert_allclose(features, processor.feature_extractor(QUESTION)["input_features"][0], atol=1e-5)
    prompt = processor.build_prompt([{"role": "user", "content": [{"type": "audio", "audio": features}]}])
    assert prompt["feature_attention_mask"].sum() == len(features)


def test_a_codec_that_encodes_whole_audios_does_so_at_the_end():
    processor = VitaAudioProcessor.from_codec(tiny_tokenizer(), tiny_dac())
    stream = processor.encoding_stream()
    put_in_chunks(stream, QUESTION, lambda: 3200)
    assert stream.settled == []
    assert stream.finish() == processor.encode_audio([QUESTION])[0]


@pytest.mark.parametrize("make", [tiny_processor, tiny_plus_processor])
@pytest.mark.parametrize(
    "chunks, message",
    [
        ([QUESTION[:800]], "lasts 0.050 s, shorter than the 0.1 s"),
        ([], "empty"),
        ([np.zeros(8000, np.float32)] * 2, "silent"),
        ([QUESTION] * 2, "longer than the limit of max_audio_seconds = 2"),
        ([np.full(8000, np.nan, np.float32)], "NaN"),
        ([np.full(8000, 300, np.float32)], "up to 300"),
        ([np.zeros(8000)], "float64"),
        ([np.zeros((2, 8000), np.float32)], r"float32 of \(2, 8000\)"),
        ([[0.0]], "got list"),
    ],
)
def test_what_the_stream_refuses(make, chunks, message):
    stream = make(max_audio_seconds=2).encoding_stream()
    with pytest.raises(ValueError, match=message):
        for chunk in chunks:
            stream.put(chunk)
        stream.finish()


def test_samples_beyond_1_are_clipped():
    processor = tiny_processor()
    stream = processor.encoding_stream()
    stream.put(QUESTION * np.float32(2))
    assert stream.finish() == processor.encode_audio([QUESTION * np.float32(2)])[0]


def test_a_guess_in_a_pause_is_what_would_come_and_changes_nothing():
    processor = VitaAudioProcessor.from_pretrained(MINI)
    spoken = np.concatenate([QUESTION, np.zeros(4000, np.float32)])
    stream = processor.encoding_stream()
    assert stream.guess() == []
    for start in range(0, len(spoken), 640):
        stream.put(spoken[start : start + 640])
        if start % 6400 == 0 and start:
            stream.guess()
    guess = stream.guess()
    assert guess == processor.encode_audio([spoken])[0]
    stream.put(np.zeros(4000, np.float32))
    codes = stream.finish()
    assert codes == processor.encode_audio([np.concatenate([spoken, np.zeros(4000, np.float32)])])[0]
    # more silence changes few of them
    assert sum(code != other for code, other in zip(codes, guess)) <= len(guess) / 3


def test_a_guess_at_features_is_what_is_settled():
    stream = tiny_plus_processor().encoding_stream()
    stream.put(QUESTION)
    np.testing.assert_array_equal(stream.guess(), stream.settled)
