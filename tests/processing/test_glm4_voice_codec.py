# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import itertools
import json
import os
import subprocess
import sys
from pathlib import Path

import librosa
import numpy as np
import pytest
import soundfile
import torch
from clean_process import BLOCK_OUR_PACKAGES
from gpu import DEVICE, needs_gpu
from places import FIXTURES
from safetensors.torch import load_file
from tiny_models import tiny_model, tiny_tokenizer
from transformers import AutoProcessor, EncodecFeatureExtractor

from modeling_vita_audio.convert_vita_audio_to_hf import convert as convert_vita_audio
from modeling_vita_audio.convert_vita_audio_to_hf import main as convert_vita_audio_main
from processing import (
    Glm4VoiceCodec,
    Glm4VoiceCodecConfig,
    VitaAudioPipeline,
    VitaAudioProcessor,
    modeling_glm4_voice_tokenizer,
)
from processing.convert_glm4_voice_to_hf import convert
from processing.convert_glm4_voice_to_hf import main as convert_main
from processing.export import export_repository
from processing.modeling_glm4_voice_speech_encoder import block_causal_mask
from processing.modeling_glm4_voice_vocoder import log_mel_spectrogram
from serving.cli import main


FIXTURE = FIXTURES / "glm4_voice"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return convert(FIXTURE / "tokenizer", FIXTURE / "decoder", tmp_path_factory.mktemp("converted") / "codec")


@pytest.fixture(scope="module")
def codec(folder):
    return Glm4VoiceCodec.from_pretrained(folder).eval()


@pytest.fixture(scope="module")
def expected():
    return load_file(FIXTURE / "expected.safetensors")


def random_codes(num_codes, batch_size=1, seed=0):
    return torch.randint(128, (batch_size, 1, num_codes), generator=torch.Generator().manual_seed(seed))


def stream(codec, codes, sizes, **options):
    """Chunks of samples `(num_samples,)`, one for each chunk of codes."""
    state, audio = codec.init_decoder_state(), []
    for index, chunk in enumerate(codes.split(sizes, dim=-1)):
        is_final = index == len(sizes) - 1
        output = codec.decode(chunk, decoder_state=state, is_final=is_final, **options)
        assert output.decoder_state is (None if is_final else state)
        audio.append(output.audio_values[0, 0])
    return audio


def mel_of(codec, call):
    """The mel frames that a call of `decode` gives to the vocoder."""
    frames = []
    handle = codec.vocoder.register_forward_pre_hook(lambda module, args: frames.append(args[0]))
    call()
    handle.remove()
    return torch.cat(frames, dim=-1)


# The original's outputs


@torch.no_grad()
def test_codes_of_the_fixture(codec, expected):
    codes, mask, _ = codec.tokenizer(expected["input_features"], expected["attention_mask"])
    for row in range(2):
        assert codes[row][mask[row]].equal(expected[f"tokens_{row}"])
    values = torch.nn.utils.rnn.pad_sequence([expected["waveform_0"], expected["waveform_1"]], batch_first=True)
    values[1, len(expected["waveform_1"]) :] = 0.5  # what stands behind the mask is not audio
    padding_mask = torch.arange(values.shape[1]) < torch.tensor([[37920], [14400]])
    output = codec.encode(values[:, None], padding_mask)
    for row in range(2):
        assert output.audio_codes[row, 0][output.audio_codes_mask[row]].equal(expected[f"tokens_{row}"])
        alone = codec.encode(expected[f"waveform_{row}"][None, None])
        assert alone.audio_codes[0, 0].equal(expected[f"tokens_{row}"]) and alone.audio_codes_mask.all()
    assert output.audio_codes.dtype == torch.long and not output.audio_codes[1, 0, 12:].any()


@pytest.mark.slow
@torch.no_grad()
def test_mel_of_the_fixture(codec, expected):
    mel = codec.flow(expected["tokens_0"][None], expected["flow_noise"])
    torch.testing.assert_close(mel, expected["flow_mel"], atol=1e-4, rtol=0)
    # the noise is that of the default seed
    mel = mel_of(codec, lambda: codec.decode(expected["tokens_0"][None, None]))
    torch.testing.assert_close(mel, expected["flow_mel"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_mel_of_the_fixture_with_a_mel_prompt(codec, expected):
    codes = torch.cat([expected["tokens_1"], expected["tokens_0"][:10]])[None]
    noise = torch.randn(1, 80, 151, generator=torch.Generator().manual_seed(42))
    mel = codec.flow(codes, noise, expected["flow_prompt_mel_in"].transpose(1, 2))
    torch.testing.assert_close(mel, expected["flow_prompt_mel_out"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_pitch_and_waveform_of_the_fixture(codec, expected):
    f0 = codec.vocoder.pitch_predictor(expected["flow_mel"])
    torch.testing.assert_close(f0, expected["hift_f0"], atol=1e-4, rtol=0)
    waveform = codec.vocoder.synthesize(expected["flow_mel"], expected["hift_source"][:, 0])
    torch.testing.assert_close(waveform, expected["hift_waveform"], atol=1e-4, rtol=0)


@torch.no_grad()
def test_source_is_made_as_the_fixtures_was(codec, expected):
    """Both are harmonics of the pitch with the same amplitudes and the same noise; phases and noise are drawn."""

    def fit(source):
        f0 = expected["hift_f0"][0].double().repeat_interleave(256)
        angles = 2 * torch.pi * torch.arange(1, 10) * (f0 / 22050).cumsum(0)[:, None]
        waves = torch.cat([angles.sin(), angles.cos()], dim=1)
        flat = source.double().atanh() - codec.vocoder.source_proj.bias
        weights = torch.linalg.lstsq(waves, flat[:, None]).solution
        return weights.view(2, 9), (flat - (waves @ weights)[:, 0]).std()

    theirs, their_noise = fit(expected["hift_source"][0, 0])
    state = codec.vocoder.init_state(torch.Generator().manual_seed(1))
    pieces = [codec.vocoder.make_source(piece, state) for piece in expected["hift_f0"].split(37, dim=1)]
    ours, our_noise = fit(torch.cat(pieces, dim=1)[0])
    torch.testing.assert_close(ours.norm(dim=0), theirs.norm(dim=0), atol=2e-4, rtol=0)
    torch.testing.assert_close(ours[:, 0], theirs[:, 0], atol=2e-4, rtol=0)  # the fundamental's phase is not drawn
    torch.testing.assert_close(our_noise, their_noise, atol=0, rtol=0.05)
    silent = codec.vocoder.make_source(torch.zeros(1, 50), state).double().atanh() - codec.vocoder.source_proj.bias
    amplitude = 0.1 / 3 * codec.vocoder.source_proj.weight.norm().double()
    torch.testing.assert_close(silent.std(), amplitude, atol=0, rtol=0.05)


# Audio to codes


@pytest.mark.parametrize("num_samples, num_codes", [(1, 1), (1280, 1), (1281, 2), (32000, 25)])
def test_a_code_stands_for_80_ms(codec, num_samples, num_codes):
    assert codec.encode(torch.rand(1, 1, num_samples)).audio_codes.shape == (1, 1, num_codes)
    assert codec.config.frame_rate == 12.5 and codec.config.sampling_rate == 16000
    assert codec.config.output_sampling_rate == 22050


def test_long_audio_is_cut_in_segments(codec, expected, monkeypatch):
    first = expected["waveform_0"].repeat(13)[: 30 * 16000]
    waveform = torch.cat([first, 0.5 * first[:20000]])[None, None]
    codes = codec.encode(waveform).audio_codes
    parts = [codec.encode(part).audio_codes for part in (waveform[..., : 30 * 16000], waveform[..., 30 * 16000 :])]
    assert [part.shape[2] for part in parts] == [375, 16]
    assert codes.equal(torch.cat(parts, dim=-1))
    monkeypatch.setattr(modeling_glm4_voice_tokenizer, "SEGMENTS_PER_FORWARD", 1)
    assert codes.equal(codec.encode(waveform).audio_codes)


def test_attention_is_to_earlier_frames_and_the_own_block(codec):
    mask = block_causal_mask(7, 3, torch.device("cpu"))
    assert mask.int().tolist() == [[1] * 3 + [0] * 4] * 3 + [[1] * 6 + [0]] * 3 + [[1] * 7]
    # in the tokenizer a block is 4 s: 400 frames, 50 codes; the last frame of an odd number is read by the next block
    features = torch.randn(1, 128, 960, generator=torch.Generator().manual_seed(0)).requires_grad_()
    _, _, latents = codec.tokenizer(features, torch.ones(1, 960))
    reached = []
    for code in (0, 49, 50, 119):
        (gradient,) = torch.autograd.grad(latents[0, code].sum(), features, retain_graph=True)
        frames = gradient.abs().sum((0, 1)).nonzero()
        reached.append((int(frames.min()), int(frames.max())))
    assert reached == [(0, 398), (0, 398), (0, 798), (0, 958)]


# Codes to audio


@pytest.mark.parametrize("num_codes, num_frames", [(1, 6), (2, 13), (30, 206), (64, 441)])
def test_whole_mel_frames_are_spoken(codec, num_codes, num_frames):
    output = codec.decode(random_codes(num_codes), num_inference_steps=1)
    assert output.audio_values.shape == (1, 1, 256 * num_frames) and output.audio_values.dtype == torch.float32
    assert output.decoder_state is None


@pytest.mark.slow
def test_seed_and_generator(codec):
    codes = random_codes(6)

    def decode(**options):
        return codec.decode(codes, num_inference_steps=2, **options).audio_values

    default, seeded = decode(), decode(seed=7)
    torch.random.manual_seed(0)
    assert decode().equal(default) and decode(seed=42).equal(default)
    assert decode(seed=7).equal(seeded) and not seeded.equal(default)
    first, second = (decode(generator=torch.Generator().manual_seed(3)) for _ in range(2))
    assert first.equal(second) and not first.equal(default)
    generator = torch.Generator().manual_seed(3)
    assert decode(generator=generator).equal(first) and not decode(generator=generator).equal(first)


def test_batches_give_what_single_utterances_give(codec):
    codes = random_codes(9, batch_size=3)
    batch = codec.decode(codes, num_inference_steps=2).audio_values
    for row in range(3):
        alone = codec.decode(codes[row : row + 1], num_inference_steps=2).audio_values
        torch.testing.assert_close(batch[row : row + 1], alone, atol=1e-5, rtol=0)


def test_steps_and_guidance(codec):
    """Euler steps at `1 - cos(pi t / 2)` and guidance, once more, with the U-Net as it is."""
    codes, steps, scale = random_codes(5), 3, 1.5
    noise = torch.randn(1, 80, 34, generator=torch.Generator().manual_seed(42))
    with torch.no_grad():
        encoded = codec.flow.length_regulator(codec.flow.encoder(codes[0]), 34)
        speaker = codec.flow.speaker_proj.bias[None, :, None].expand(1, 80, 34)
        mel, zeros = noise, torch.zeros(1, 80, 34)
        for step in range(steps):
            start, end = (1 - np.cos(np.pi / 2 * t / steps) for t in (step, step + 1))
            time = torch.tensor([start]).float()
            conditional = codec.flow.unet(torch.cat([mel, encoded, speaker, zeros], dim=1), time)
            unconditional = codec.flow.unet(torch.cat([mel, zeros, zeros, zeros], dim=1), time)
            mel = mel + (end - start) * (conditional + scale * (conditional - unconditional))
    got = mel_of(codec, lambda: codec.decode(codes, num_inference_steps=steps, guidance_scale=scale))
    torch.testing.assert_close(got, mel, atol=1e-4, rtol=0)


@pytest.mark.slow
def test_voice_prompt(codec):
    prompt_codes, codes = random_codes(12, seed=1), random_codes(10)
    prompt_mel = torch.randn(1, 84, 80, generator=torch.Generator().manual_seed(0))
    both = torch.cat([prompt_codes, codes], dim=-1)[0]
    noise = torch.randn(1, 80, 151, generator=torch.Generator().manual_seed(42))
    with torch.no_grad():
        expected = codec.flow(both, noise, prompt_mel[:, :82].transpose(1, 2))
    mel = mel_of(codec, lambda: codec.decode(codes, prompt_codes=prompt_codes, prompt_mel=prompt_mel))
    torch.testing.assert_close(mel, expected, atol=1e-4, rtol=0)
    # in streaming it stays in front of every block, however many have been dropped
    seen = []
    handle = codec.flow.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    state = codec.init_decoder_state(prompt_codes=prompt_codes, prompt_mel=prompt_mel)
    codes = random_codes(96)
    audio = [
        codec.decode(chunk, decoder_state=state, is_final=index == 11, num_inference_steps=1).audio_values
        for index, chunk in enumerate(codes.split(8, dim=-1))
    ]
    handle.remove()
    assert sum(chunk.shape[-1] for chunk in audio) == 256 * (codec.config.num_mel_frames(108) - 82)
    assert state.num_dropped == 30
    for index, call in enumerate(seen):
        assert call["codes"][:, :12].equal(prompt_codes[0])
        assert call["codes"][0, -8:].equal(codes[0, 0, 8 * index : 8 * index + 8])
        assert call["given_mel"][..., :82].equal(prompt_mel[:, :82].transpose(1, 2))
    speaker = torch.randn(1, 192, generator=torch.Generator().manual_seed(0))
    default = codec.decode(codes[..., :5], num_inference_steps=1).audio_values
    assert not codec.decode(codes[..., :5], num_inference_steps=1, speaker_embedding=speaker).audio_values.equal(
        default
    )


@pytest.mark.slow
def test_log_mel_against_librosa(codec):
    waveform = np.random.default_rng(0).normal(0, 0.1, 5000).astype(np.float32)
    mel = librosa.feature.melspectrogram(
        y=np.pad(waveform, 384, mode="reflect"),
        sr=22050,
        n_fft=1024,
        hop_length=256,
        center=False,
        power=1.0,
        n_mels=80,
        fmax=8000,
    )
    got = log_mel_spectrogram(torch.from_numpy(waveform)[None], codec.config.vocoder_config)
    assert got.shape == (1, 19, 80)
    np.testing.assert_allclose(got[0].T.numpy(), np.log(np.maximum(mel, 1e-5)), atol=1e-3)


# Streaming


@pytest.mark.slow
@torch.no_grad()
def test_vocoder_pieces_are_the_whole(codec, expected):
    mel = expected["flow_mel"]

    def speak(sizes):
        state = codec.vocoder.init_state(torch.Generator().manual_seed(0))
        pieces = mel.split(sizes, dim=-1)
        return [codec.vocoder(piece, state, index == len(pieces) - 1) for index, piece in enumerate(pieces)]

    whole = speak([206])[0]
    assert whole.shape == (1, 206 * 256)
    for sizes in ([1] * 206, [50, 3, 100, 53], [10, 196]):
        torch.testing.assert_close(torch.cat(speak(sizes), dim=1), whole, atol=1e-5, rtol=0)
    # frames wait for the 14 behind them, and the pitch of these for 5 more
    assert [piece.shape[1] // 256 for piece in speak([50, 3, 100, 53])] == [31, 3, 100, 72]


@torch.no_grad()
def test_vocoder_context_is_all_that_a_frame_reaches(codec, expected):
    mel, source = expected["flow_mel"], expected["hift_source"][:, 0]

    def reach(mel, source):
        changed = (codec.vocoder.synthesize(mel, source) != expected_audio).nonzero()[:, 1] // 256
        return 100 - int(changed.min()), int(changed.max()) - 100

    expected_audio = codec.vocoder.synthesize(mel, source)
    other_mel, other_source = mel.clone(), source.clone()
    other_mel[..., 100] += 50
    other_source[:, 100 * 256 : 101 * 256] = 0
    reaches = [*reach(other_mel, source), *reach(mel, other_source)]
    assert codec.vocoder.context - 1 <= max(reaches) <= codec.vocoder.context == 14


def test_one_chunk_is_what_offline_decoding_gives(codec):
    codes = random_codes(20)
    (audio,) = stream(codec, codes, [20], num_inference_steps=2)
    assert audio.equal(codec.decode(codes, num_inference_steps=2).audio_values[0, 0])


@pytest.mark.slow
def test_first_audio_comes_after_the_first_8_codes(codec):
    audio = stream(codec, random_codes(40), [1] * 40, num_inference_steps=1)
    lengths = [len(samples) for samples in audio]
    assert not any(lengths[:7]) and lengths[7] == 15 * 256
    assert [index for index, length in enumerate(lengths) if length] == [7, 15, 23, 31, 39]
    assert sum(lengths) == 256 * codec.config.num_mel_frames(40)


@pytest.mark.slow
@pytest.mark.parametrize("sizes", [[4] * 7 + [2], [8, 8, 8, 6, 0], [1] * 30])
def test_audio_depends_on_the_blocks_alone(codec, sizes):
    codes = random_codes(30)
    expected = torch.cat(stream(codec, codes, [8, 8, 8, 6], num_inference_steps=2))
    assert len(expected) == 206 * 256
    audio = torch.cat(stream(codec, codes, sizes, num_inference_steps=2))
    torch.testing.assert_close(audio, expected, atol=1e-5, rtol=0)


def test_nothing_said_is_nothing_heard(codec):
    state = codec.init_decoder_state()
    output = codec.decode(torch.zeros(1, 1, 0, dtype=torch.long), decoder_state=state)
    assert output.audio_values.shape == (1, 1, 0) and output.decoder_state is None


@pytest.mark.slow
def test_blocks_are_decoded_from_the_same_noise_and_the_finished_frames(codec):
    seen = []
    handle = codec.flow.register_forward_pre_hook(lambda _, args, kwargs: seen.append(kwargs), with_kwargs=True)
    mel = mel_of(codec, lambda: stream(codec, random_codes(88), [8] * 11, num_inference_steps=1))
    handle.remove()
    frames = codec.config.num_mel_frames
    for index, call in enumerate(seen):
        # all there is up to 50 codes before the block, then whole blocks of 10 are left out
        first = max(0, (8 * index - 50) // 10 * 10)
        start, finished, end = frames(first), frames(max(0, 8 * index - 3)), frames(8 * index + 8)
        assert call["noise"].shape[-1] == end - start and call["codes"].shape[1] == 8 * index + 8 - first
        torch.testing.assert_close(call["given_mel"], mel[..., start:finished])
        if index:
            before = seen[index - 1]["noise"]
            common = frames(8 * index) - start
            assert call["noise"][..., :common].equal(before[..., before.shape[-1] - common :])


def test_overlapping_frames_are_faded_over(codec):
    made = []
    handle = codec.flow.register_forward_hook(lambda module, args, output: made.append(output.clone()))
    mel = mel_of(codec, lambda: stream(codec, random_codes(16), [8, 8], num_inference_steps=1))
    handle.remove()
    # frames 34 to 54 are those of the first block's last three codes
    weight = torch.arange(1, 22) / 22
    faded = (1 - weight) * made[0][..., 34:] + weight * made[1][..., :21]
    torch.testing.assert_close(mel, torch.cat([made[0][..., :34], faded, made[1][..., 21:]], dim=-1))


def spectral_flux(samples):
    spectrum = torch.stft(samples, 512, 128, window=torch.hann_window(512), center=False, return_complex=True).abs()
    return spectrum.diff(dim=1).clamp(min=0).sum(0)


def flux_at(samples, seams):
    """Largest spectral flux of windows that touch a seam, and of the others."""
    flux = spectral_flux(samples)
    touches = torch.zeros(len(flux), dtype=torch.bool)
    for seam in seams:
        touches[max(0, seam // 128 - 4) : seam // 128 + 2] = True
    return flux[touches].max(), flux[~touches].max()


@pytest.mark.slow
def test_seams_are_not_heard(codec):
    codes = random_codes(72, seed=3)
    audio = stream(codec, codes, [8] * 9)
    offline = codec.decode(codes).audio_values[0, 0]
    # where chunks of audio meet, and where mel frames of two blocks do
    seams = list(itertools.accumulate(len(samples) for samples in audio[:-1]))
    seams += [256 * codec.config.num_mel_frames(8 * block - 3) for block in range(1, 9)]
    at_seams, elsewhere = flux_at(torch.cat(audio), seams)
    assert at_seams <= max(elsewhere, spectral_flux(offline).max())
    # blocks that know nothing of one another are heard
    alone = [codec.decode(chunk).audio_values[0, 0] for chunk in codes.split(8, dim=-1)]
    at_seams, elsewhere = flux_at(torch.cat(alone), list(itertools.accumulate(len(part) for part in alone[:-1])))
    assert at_seams > 1.3 * max(elsewhere, spectral_flux(offline).max())


@pytest.mark.slow
def test_a_minute_streams_in_flat_memory(codec):
    frames, sizes, num_samples = [], [], 0
    handle = codec.flow.unet.register_forward_pre_hook(lambda module, args: frames.append(args[0].shape[-1]))
    state = codec.init_decoder_state()
    for index, chunk in enumerate(random_codes(752).split(8, dim=-1)):
        output = codec.decode(chunk, decoder_state=state, is_final=index == 93, num_inference_steps=1)
        num_samples += output.audio_values.shape[-1]
        tensors = [value for part in (state, state.vocoder) for value in vars(part).values() if torch.is_tensor(value)]
        # of the storages, as a small slice may keep a large tensor alive
        sizes.append(sum(tensor.untyped_storage().nbytes() for tensor in tensors))
    handle.remove()
    assert num_samples == 256 * codec.config.num_mel_frames(752) > 60 * 22050
    assert len(frames) == 94 and max(frames) <= codec.config.num_mel_frames(68)
    # blocks are left out every 5, and 64 codes are whole frames, so that all sizes come round every 40 blocks
    assert max(frames[10:50]) == max(frames[-40:]) and max(sizes[10:50]) == max(sizes[-41:-1])


@pytest.mark.slow
def test_utterances_do_not_know_of_one_another(codec):
    codes = random_codes(24, batch_size=2)
    expected = [torch.cat(stream(codec, row[None], [8, 8, 8], num_inference_steps=1)) for row in codes]
    states = [codec.init_decoder_state() for _ in codes]
    audio = [[], []]
    for start in (0, 8, 16):
        # dropped half-way
        codec.decode(random_codes(9), decoder_state=codec.init_decoder_state(), is_final=False, num_inference_steps=1)
        for row, (state, chunks) in enumerate(zip(states, audio)):
            chunk = codes[row : row + 1, :, start : start + 8]
            output = codec.decode(chunk, decoder_state=state, is_final=start == 16, num_inference_steps=1)
            chunks.append(output.audio_values[0, 0])
    for chunks, samples in zip(audio, expected):
        assert torch.cat(chunks).equal(samples)
    state = codec.init_decoder_state(batch_size=2)
    batch = [
        codec.decode(chunk, decoder_state=state, is_final=index == 2, num_inference_steps=1).audio_values[:, 0]
        for index, chunk in enumerate(codes.split(8, dim=-1))
    ]
    torch.testing.assert_close(torch.cat(batch, dim=1), torch.stack(expected), atol=1e-5, rtol=0)


# Saving, loading, other types


@pytest.mark.slow
def test_save_and_load(codec, expected, tmp_path):
    codec.save_pretrained(tmp_path)
    assert {path.name for path in tmp_path.iterdir() if path.suffix != ".py"} == {"config.json", "model.safetensors"}
    loaded = Glm4VoiceCodec.from_pretrained(tmp_path)
    assert loaded.config.to_dict() == {**codec.config.to_dict(), "_name_or_path": loaded.config.name_or_path}
    assert all(tensor.equal(codec.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    assert loaded.encode(expected["waveform_0"][None, None]).audio_codes[0, 0].equal(expected["tokens_0"])


def test_random_initialization_speaks():
    config = Glm4VoiceCodecConfig(
        tokenizer_config={"d_model": 16, "encoder_layers": 1, "encoder_attention_heads": 2, "encoder_ffn_dim": 16},
        flow_config={
            "hidden_size": 16,
            "num_hidden_layers": 1,
            "num_attention_heads": 2,
            "intermediate_size": 16,
            "unet_hidden_sizes": [8, 16, 24],
            "unet_blocks_per_level": 1,
            "unet_num_mid_levels": 1,
            "unet_num_attention_heads": 1,
            "unet_head_dim": 8,
        },
        vocoder_config={"base_channels": 8, "f0_channels": 8},
    )
    output = Glm4VoiceCodec(config).eval()(torch.rand(1, 1, 4000))
    assert output.audio_values.shape == (1, 1, 27 * 256) and output.audio_values.isfinite().all()


@pytest.mark.slow
@torch.no_grad()
def test_bfloat16(folder, codec, expected):
    half = Glm4VoiceCodec.from_pretrained(folder, dtype=torch.bfloat16)
    assert half.dtype == torch.bfloat16 and half.vocoder.conv_pre.weight.dtype == torch.float32
    _, _, latents = half.tokenizer(expected["input_features"].bfloat16(), expected["attention_mask"])
    _, _, reference = codec.tokenizer(expected["input_features"], expected["attention_mask"])
    assert (latents.float() - reference).norm() < 0.05 * reference.norm()
    codes = half.encode(expected["waveform_0"][None, None]).audio_codes[0, 0]
    assert (codes == expected["tokens_0"]).float().mean() > 0.7
    mel = mel_of(half, lambda: half.decode(expected["tokens_0"][None, None]))
    assert (mel - expected["flow_mel"]).norm() < 0.05 * expected["flow_mel"].norm()
    # also where the vocoder has been converted, too
    audio = torch.cat(
        stream(half.to(torch.bfloat16), expected["tokens_0"][None, None], [8, 22], num_inference_steps=1)
    )
    assert audio.shape == (206 * 256,) and audio.dtype == torch.float32 and audio.isfinite().all()


@needs_gpu
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_gpu(folder, codec, expected, dtype):
    on_gpu = Glm4VoiceCodec.from_pretrained(folder, dtype=dtype).to(DEVICE)
    codes = on_gpu.encode(expected["waveform_0"][None, None].to(DEVICE)).audio_codes
    assert (codes[0, 0].cpu() == expected["tokens_0"]).float().mean() > (0.99 if dtype == torch.float32 else 0.7)
    mel = mel_of(on_gpu, lambda: on_gpu.decode(expected["tokens_0"][None, None].to(DEVICE))).cpu()
    assert (mel - expected["flow_mel"]).norm() < 0.05 * expected["flow_mel"].norm()
    audio = torch.cat(stream(on_gpu, codes, [8, 8, 14]))
    assert audio.device.type == DEVICE and audio.shape == (206 * 256,) and audio.isfinite().all()


# Errors


@pytest.mark.slow
@pytest.mark.parametrize(
    "call, message",
    [
        (lambda codec: codec.encode(torch.zeros(1, 2, 1600)), "must be \\(batch_size, 1, num_samples\\)"),
        (lambda codec: codec.encode(torch.zeros(1, 1, 0)), "without a single sample"),
        (lambda codec: codec.encode(torch.zeros(1, 1, 9), torch.zeros(1, 9)), "without a single sample"),
        (lambda codec: codec.encode(torch.zeros(1, 1, 9), torch.ones(1, 8)), "`padding_mask` must be"),
        (lambda codec: codec.encode(torch.zeros(1, 1, 2), torch.tensor([[0, 1]])), "padding is on the right"),
        (lambda codec: codec.encode(torch.zeros(1, 1, 9), sampling_rate=22050), "at 16000 Hz, got 22050 Hz"),
        (lambda codec: codec.tokenizer(torch.zeros(1, 80, 8), torch.ones(1, 8)), "128 mel bins.* \\(1, 80, 8\\)"),
        (lambda codec: codec.tokenizer(torch.zeros(1, 128, 12), torch.ones(1, 12)), "multiple of 8, got 12"),
        (lambda codec: codec.tokenizer(torch.zeros(1, 128, 3008), torch.ones(1, 3008)), "1 to 3000 frames"),
        (lambda codec: codec.decode(torch.zeros(1, 3, dtype=torch.long)), "must be \\(batch_size, 1, num_codes\\)"),
        (lambda codec: codec.decode(torch.full((1, 1, 3), 128)), "must be in \\[0, 128\\), got values from 128"),
        (lambda codec: codec.decode(torch.full((1, 1, 3), -1)), "must be in \\[0, 128\\), got values from -1"),
        (lambda codec: codec.decode(torch.zeros(1, 1, 3)), "must be integers, got torch.float32"),
        (lambda codec: codec.decode(random_codes(3), num_inference_steps=0), "`num_inference_steps`"),
        (lambda codec: codec.decode(random_codes(3), seed=1, generator=torch.Generator()), "not both"),
        (
            lambda codec: codec.decode(random_codes(3), decoder_state=codec.init_decoder_state(), seed=1),
            "`seed` is for",
        ),
        (lambda codec: codec.decode(random_codes(3), decoder_state=codec.init_decoder_state(2)), "of a batch of 2"),
        (lambda codec: codec.decode(random_codes(3), prompt_codes=random_codes(3)), "only one of them"),
        (
            lambda codec: codec.decode(
                random_codes(3), prompt_codes=random_codes(3), prompt_mel=torch.zeros(1, 20, 100)
            ),
            "80 mel bins\\), got \\(1, 20, 100\\)",
        ),
        (
            lambda codec: codec.decode(
                random_codes(3), prompt_codes=random_codes(3), prompt_mel=torch.zeros(1, 50, 80)
            ),
            "3 codes stand for 20 mel frames, and there are 50",
        ),
        (
            lambda codec: codec.decode(
                random_codes(3), prompt_codes=random_codes(9), prompt_mel=torch.zeros(1, 40, 80)
            ),
            "9 codes stand for 62 mel frames, and there are 40",
        ),
        (
            lambda codec: codec.decode(
                random_codes(3), prompt_codes=random_codes(1) + 128, prompt_mel=torch.zeros(1, 6, 80)
            ),
            "`prompt_codes` must be in",
        ),
        (lambda codec: codec.decode(random_codes(3), speaker_embedding=torch.zeros(1, 5)), "\\(1 or 1, 192\\)"),
        (lambda codec: Glm4VoiceCodecConfig(flow_config={"vocab_size": 5}), "16384 codes.* only 5"),
        (lambda codec: Glm4VoiceCodecConfig(vocoder_config={"num_mel_bins": 100}), "writes 80 mel bins.* reads 100"),
        (lambda codec: Glm4VoiceCodecConfig(streaming_block_size=0), "streaming_block_size"),
        (lambda codec: Glm4VoiceCodecConfig(streaming_context=2), "streaming_context"),
        (
            lambda codec: Glm4VoiceCodecConfig(tokenizer_config={"encoder_attention_heads": 3}),
            "encoder_attention_heads",
        ),
        (lambda codec: Glm4VoiceCodecConfig(tokenizer_config={"pooling_kernel_size": 7}), "pooling_kernel_size"),
        (lambda codec: Glm4VoiceCodecConfig(flow_config={"num_attention_heads": 7}), "num_attention_heads"),
        (lambda codec: Glm4VoiceCodecConfig(flow_config={"unet_hidden_sizes": [12]}), "unet_hidden_sizes"),
        (lambda codec: Glm4VoiceCodecConfig(vocoder_config={"upsample_rates": [8]}), "upsample_kernel_sizes"),
        (lambda codec: Glm4VoiceCodecConfig(vocoder_config={"resblock_kernel_sizes": [3]}), "resblock_dilation_sizes"),
        (
            lambda codec: Glm4VoiceCodecConfig(vocoder_config={"upsample_kernel_sizes": [16, 7]}),
            "wider than its rate 8",
        ),
        (lambda codec: Glm4VoiceCodecConfig(vocoder_config={"base_channels": 6}), "multiple of 4"),
    ],
)
def test_refuses_by_name(codec, call, message):
    with pytest.raises(Exception, match=message):
        call(codec)


# In a processor, a pipeline and an exported folder


@pytest.fixture(scope="module")
def pipe(folder):
    codec = Glm4VoiceCodec.from_pretrained(folder)
    processor = VitaAudioProcessor(EncodecFeatureExtractor(sampling_rate=16000), tiny_tokenizer(128), codec)
    return VitaAudioPipeline(tiny_model(processor), processor=processor, device="cpu")


@pytest.fixture
def question(tmp_path, expected):
    path = tmp_path / "question.wav"
    soundfile.write(path, expected["waveform_0"].numpy(), 16000, subtype="FLOAT")
    return str(path)


@pytest.mark.slow
def test_processor_carries_the_codec(pipe, question, expected, tmp_path):
    pipe.processor.save_pretrained(tmp_path / "processor")
    for loaded in (pipe.processor, AutoProcessor.from_pretrained(tmp_path / "processor")):
        assert type(loaded.audio_tokenizer) is Glm4VoiceCodec and loaded.output_sampling_rate == 22050
        assert loaded.encode_audio([question]) == [expected["tokens_0"].tolist()]
        (samples,) = loaded.decode_audio([[1, 2, 3]])
        assert samples.shape == (20 * 256,)
    # a recording at the rate that it speaks at is resampled to the rate that it hears at
    (codes,) = pipe.processor.encode_audio([0.1 * np.sin(np.arange(22050, dtype=np.float32))], sampling_rate=22050)
    assert len(codes) == 13
    with pytest.raises(ValueError, match="takes audio at 16000 Hz, but the feature extractor makes it at 22050 Hz"):
        VitaAudioProcessor(
            EncodecFeatureExtractor(sampling_rate=22050), pipe.processor.tokenizer, pipe.processor.audio_tokenizer
        )


LOAD_AND_ANSWER = """
import numpy as np
import torch
from transformers import AutoModel, pipeline

folder, question, out = sys.argv[1:]
pipe = pipeline("audio-to-audio", model=folder, trust_remote_code=True, device="cpu")
codec = AutoModel.from_pretrained(folder, subfolder="audio_tokenizer", trust_remote_code=True)
for item in (pipe, pipe.model, pipe.processor, pipe.processor.audio_tokenizer, codec):
    assert type(item).__module__.startswith("transformers_modules."), type(item)
answer = pipe(question)
chunks = list(pipe.stream(question))
rates = {chunk["sampling_rate"] for chunk in [answer, *chunks] if "audio" in chunk}
assert rates == {22050}, rates
audio = [chunk["audio"] for chunk in chunks if "audio" in chunk]
text = "".join(chunk.get("text", "") for chunk in chunks)
np.savez(out, audio=answer["audio"], text=answer["text"], stream=np.concatenate(audio), stream_text=text, n=len(audio))
"""


def run_without_our_packages(code, folder, question, tmp_path):
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", BLOCK_OUR_PACKAGES + code, str(folder), question, str(tmp_path / "out.npz")]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr[-3000:]
    return np.load(tmp_path / "out.npz")


@pytest.mark.slow
def test_exported_folder_answers_where_our_packages_are_not(pipe, question, tmp_path):
    folder = export_repository(pipe.model, pipe.processor, tmp_path / "glm4.voice")
    got, expected = run_without_our_packages(LOAD_AND_ANSWER, folder, question, tmp_path), pipe(question)
    assert str(got["text"]) == str(got["stream_text"]) == expected["text"]
    assert len(expected["audio"]) > 10000 and got["n"] > 1
    np.testing.assert_allclose(got["audio"], expected["audio"], atol=1e-3)
    assert got["stream"].shape == expected["audio"].shape
    # where our packages are, the folder's code is not asked for
    assert type(AutoProcessor.from_pretrained(folder).audio_tokenizer) is Glm4VoiceCodec


CANCEL = """
import threading
import time

tokens = []
pipe.model.lm_head.register_forward_hook(lambda *_: tokens.append(1))
threads = set(threading.enumerate())
with pipe.stream(question, max_new_tokens=400, min_new_tokens=400) as stream:
    first = next(chunk for chunk in stream if "audio" in chunk)
    canceller = threading.Thread(target=stream.cancel)
    canceller.start()
    late = list(stream)
canceller.join(30)
assert set(threading.enumerate()) <= threads and len(tokens) < 400, (threading.enumerate(), len(tokens))
assert len(late) <= 16, len(late)
"""


@pytest.mark.slow
def test_converted_language_model_with_this_codec_is_one_folder(pipe, folder, question, tmp_path, capsys):
    """Our model to the released layout, back from there, and exported with the converted codec by the command line."""
    released, converted, exported = (tmp_path / name for name in ("released", "converted", "exported"))
    pipe.model.save_pretrained(tmp_path / "ours")
    pipe.processor.tokenizer.save_pretrained(tmp_path / "ours")
    convert_vita_audio(tmp_path / "ours", released, to_released=True)
    convert_vita_audio(released, converted)
    assert not (converted / "processor_config.json").exists()
    assert main(["export", "--model", str(converted), "--codec", str(folder), str(exported)]) == 0
    processor = AutoProcessor.from_pretrained(exported)
    assert processor.interleave_pattern == [1, 10, 4, 10] and type(processor.audio_tokenizer) is Glm4VoiceCodec
    got = run_without_our_packages(LOAD_AND_ANSWER + CANCEL, exported, question, tmp_path)
    expected = pipe(question)
    assert got["n"] > 1 and got["stream"].shape == got["audio"].shape
    assert str(got["text"]) == str(got["stream_text"]) == expected["text"]
    np.testing.assert_allclose(got["audio"], expected["audio"], atol=1e-3)
    assert main(["export", "--model", str(exported), "--codec", str(folder), str(tmp_path / "again")]) == 1
    assert "leave --codec out" in capsys.readouterr().err


@pytest.mark.slow
def test_from_released_folders_to_a_spoken_answer_by_the_command_line(pipe, tmp_path, capsys):
    """README's commands, and what is said where one was left out."""
    pipe.model.save_pretrained(tmp_path / "ours")
    pipe.processor.tokenizer.save_pretrained(tmp_path / "ours")
    released, boost, codec, whole, speech = (
        str(tmp_path / name) for name in ("released", "boost", "glm4-voice", "vita-audio-boost", "answer.wav")
    )
    convert_vita_audio(tmp_path / "ours", released, to_released=True)
    convert_vita_audio_main(["--input_dir", released, "--output_dir", boost])
    published = FIXTURES / "glm4_voice"
    convert_main(
        [
            f"--tokenizer_dir={published / 'tokenizer'}",
            f"--decoder_dir={published / 'decoder'}",
            f"--output_dir={codec}",
        ]
    )
    capsys.readouterr()
    for argv in (["answer"], ["export", whole]):
        assert main([*argv, "--model", boost]) == 1
        (line,) = capsys.readouterr().err.splitlines()
        assert f"`vita-audio export --model {boost} --codec CODEC FOLDER` puts both into one folder" in line
    assert main(["export", "--model", boost, "--codec", str(tmp_path / "nothing"), whole]) == 1
    assert "There is no folder" in capsys.readouterr().err and not Path(whole).exists()
    assert main(["export", "--model", boost, "--codec", codec, whole]) == 0
    for mode in ([], ["--mode", "turbo"]):
        capsys.readouterr()
        assert main(["answer", "--model", whole, "--output", speech, "--force", "--json", *mode]) == 0
        report = json.loads(capsys.readouterr().out)
        assert soundfile.info(speech).duration == pytest.approx(report["audio_seconds"], abs=0.001)
        assert soundfile.info(speech).samplerate == 22050 and report["audio_seconds"] > 0.5


@pytest.mark.parametrize(
    "part, name, value",
    [
        ("tokenizer_config", "d_model", 10**9),
        ("tokenizer_config", "pooling_kernel_size", 0),
        ("flow_config", "num_inference_steps", -1),
        ("flow_config", "unet_hidden_sizes", [8, -8]),
        ("vocoder_config", "upsample_rates", [0, 8]),
        ("vocoder_config", "resblock_dilation_sizes", [[1], [3], [10**6]]),
    ],
)
def test_sizes_that_make_no_sense_are_refused(part, name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be"):
        Glm4VoiceCodecConfig(**{part: {name: value}})
