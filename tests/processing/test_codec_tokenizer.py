# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""How the compact codec hears: by a speech encoder as GLM-4-Voice's, with a grid for a codebook."""

import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from clean_process import BLOCK_OUR_PACKAGES
from places import MINI
from tiny_models import TINY_ENCODER, TRAINABLE_CODEC, spread_codes

from processing import VitaAudioCodec, VitaAudioCodecConfig


LEVELS = [4, 3, 2]
TOKENIZER = TINY_ENCODER | {
    "d_model": 32,
    "encoder_layers": 2,
    "encoder_ffn_dim": 48,
    # short, so that a recording has several blocks and segments
    "max_source_positions": 160,
    "attention_block_size": 40,
    "codebook_size": 24,
    "latent_dim": 3,
}
SIZES = {"codebook_size": 24, "tokenizer_config": TOKENIZER}
QUESTION = np.tile(soundfile.read(MINI / "sample_question.wav", dtype="float32")[0], 3)


@pytest.fixture(scope="module")
def codec():
    torch.manual_seed(0)
    codec = VitaAudioCodec(VitaAudioCodecConfig(**TRAINABLE_CODEC | SIZES)).eval()
    spread_codes(codec, LEVELS)
    return codec


def as_values(waveform):
    return torch.from_numpy(waveform)[None, None]


def test_codes_are_the_rounded_latents(codec):
    captured = {}
    hook = codec.tokenizer.projection.register_forward_hook(lambda *args: captured.setdefault("latents", args[2]))
    codes = codec.encode(as_values(QUESTION[:20000])).audio_codes[0, 0]
    hook.remove()
    # finite scalar quantisation by its formula: each dimension by itself, the first counting most
    expected = torch.zeros_like(codes)
    for dimension, levels in enumerate(LEVELS):
        latents = captured["latents"][0, :, dimension].tanh()
        expected = expected * levels + ((latents + 1) / 2 * (levels - 1)).round().long()
    assert codes.tolist() == expected[: len(codes)].tolist() and len(codes.unique()) > 2


@pytest.mark.parametrize("length", [700, 5000])
def test_in_chunks_as_in_one_piece(codec, length):
    state = codec.init_encoder_state()
    for start in range(0, len(QUESTION), length):
        codec.encode_chunk(as_values(QUESTION[start : start + length]), state)
    codes = codec.encode_chunk(as_values(QUESTION[:0]), state, is_final=True).audio_codes
    assert codes.tolist() == codec.encode(as_values(QUESTION)).audio_codes.tolist()


def test_speech_as_long_as_the_codes(codec):
    codes = codec.encode(as_values(QUESTION[:20000])).audio_codes
    assert codes.shape == (1, 1, 16)
    assert codec.decode(codes).audio_values.shape == (1, 1, 16 * 1280)


@pytest.mark.parametrize("sampling_rate, max_source_positions", [(8000, 160), (24000, 160), (16000, 2000)])
def test_other_rates_and_longer_segments(sampling_rate, max_source_positions):
    sizes = {"sampling_rate": sampling_rate, "max_source_positions": max_source_positions}
    config = VitaAudioCodecConfig(
        **TRAINABLE_CODEC | SIZES | {"sampling_rate": sampling_rate, "tokenizer_config": TOKENIZER | sizes}
    )
    codec = VitaAudioCodec(config).eval()
    # 36 s, which is longer than Whisper hears
    seconds = 36 if max_source_positions == 2000 else 2
    waveform = torch.randn(1, 1, seconds * sampling_rate, generator=torch.Generator().manual_seed(0)) / 10
    codes = codec.encode(waveform).audio_codes
    assert codes.shape[-1] == seconds * 12.5
    assert codec.decode(codes).audio_values.shape == waveform.shape


@pytest.mark.slow
def test_a_saved_codec_needs_none_of_our_packages(codec, tmp_path):
    codec.save_pretrained(tmp_path / "codec")
    assert VitaAudioCodecConfig.from_pretrained(tmp_path / "codec").tokenizer_config.d_model == 32
    np.save(tmp_path / "waveform.npy", QUESTION[:20000])
    script = """
import numpy as np, torch
from transformers import AutoModel
codec = AutoModel.from_pretrained("codec", trust_remote_code=True)
values = torch.from_numpy(np.load("waveform.npy"))[None, None]
print(codec.encode(values).audio_codes[0, 0].tolist())
"""
    command = [sys.executable, "-c", BLOCK_OUR_PACKAGES + script]
    printed = subprocess.run(command, capture_output=True, text=True, cwd=tmp_path, check=True).stdout
    assert printed.strip() == str(codec.encode(as_values(QUESTION[:20000])).audio_codes[0, 0].tolist())


@pytest.mark.parametrize(
    "other, message",
    [
        ({"codebook_size": 25}, "`codebook_size`.* 25, got 24"),
        ({"pooling_kernel_size": 2}, "`hop_length`"),
        ({"attention_block_size": 42}, "must divide `attention_block_size`, got 4 and 42"),
        ({"sampling_rate": 22050}, "multiple of 100 Hz, got 22050"),
    ],
)
def test_parts_that_do_not_fit_are_refused(other, message):
    with pytest.raises(ValueError, match=message):
        VitaAudioCodecConfig(codebook_size=24, tokenizer_config=TOKENIZER | other)


def test_a_codec_of_an_older_version_is_said_to_be_one():
    with pytest.raises(ValueError, match="hears by a convolutional encoder, which is gone"):
        VitaAudioCodecConfig(codebook_size=2048, encoder_hidden_sizes=[8, 8, 8], encoder_depths=[1, 1, 1])
    # one that has hardly an encoder but a tokenizer, with what older versions saved all the same
    config = VitaAudioCodecConfig(
        codebook_size=24, tokenizer_config=TOKENIZER, encoder_hidden_sizes=[8, 8, 8], num_mel_bins=80
    )
    assert not hasattr(config, "encoder_hidden_sizes")
