# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json
import math

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from places import ROOT
from safetensors.torch import load_file
from tiny_models import TRAINABLE_CODEC as TINY

from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from processing.modeling_vita_audio_codec import VitaAudioCodec
from training.codec import train as train_codec
from training.codec import tune as tune_codec
from training.codec.augmentation import change_rhythm, change_voice, morph, random_filters, warp_formants
from training.codec.clips import CodecClips
from training.codec.losses import spectral_loss
from training.codec.pitch import pitch_track
from training.codec.pretraining import VitaAudioCodecForPreTraining, spherical_kmeans
from training.storage import round_to_half


def voiced(f0, seconds, sampling_rate=16000):
    """A buzz with ten harmonics at `f0` Hz."""
    time = np.arange(int(seconds * sampling_rate)) / sampling_rate
    return sum(np.cos(2 * np.pi * k * f0 * time) / k for k in range(1, 11)).astype(np.float32) / 6


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    folder = tmp_path_factory.mktemp("corpus")
    clips = []
    for index in range(12):
        voice, f0 = ("joe", 100 + index) if index % 2 else ("amy", 200 + index)
        path = f"{voice}{index}.flac"
        sf.write(folder / path, voiced(f0, 0.5 + 0.05 * index), 16000)
        split = "test" if index == 11 else "train"
        duration = sf.info(folder / path).duration
        clips.append(
            {
                "path": path,
                "voice": voice,
                "split": split,
                "text": f"text {index}",
                "phonemes": ["a", "b"],
                "duration": duration,
            }
        )
    (folder / "clips.jsonl").write_text("".join(json.dumps(clip) + "\n" for clip in clips))
    return folder


@pytest.mark.slow
def test_pitch_track_is_at_the_time_that_the_vocoder_speaks_it():
    config = VitaAudioCodecConfig(**TINY)
    time = np.arange(32000) / 16000
    f0 = 100 * np.exp(0.5 * time)
    phase = 2 * np.pi * np.cumsum(f0) / 16000
    waveform = sum(np.cos(k * phase) / k for k in range(1, 8)).astype(np.float32)
    log_f0, is_voiced = pitch_track(waveform, config, 400)
    frames = np.arange(20, 360)
    heard_at = (frames * config.synthesis_hop_length + 3.5 * config.synthesis_hop_length) / 16000
    assert is_voiced[frames].mean() > 0.95
    np.testing.assert_allclose(log_f0[frames], math.log(100) + 0.5 * heard_at, atol=0.02)


def test_spectral_loss_is_zero_for_equals_and_grows_with_noise():
    waveform = torch.from_numpy(voiced(120, 0.5))[None]
    noise = torch.randn(1, waveform.shape[1], generator=torch.Generator().manual_seed(0))
    losses = [spectral_loss(waveform + level * noise, waveform).item() for level in (0, 0.001, 0.01, 0.1)]
    assert losses[0] == 0
    assert losses == sorted(losses)
    # a softer copy: half of the magnitudes are missing, and nowhere more than a factor of two
    assert 0.5 < spectral_loss(waveform / 2, waveform).item() < 0.5 + math.log(2)


@pytest.mark.slow
def test_clips_are_those_of_training_at_one_level(corpus_dir):
    config = VitaAudioCodecConfig(**TINY)
    clips = CodecClips(corpus_dir, config, default_voice="joe")
    # five clips of the default voice, twice, and six of the other
    assert len(clips) == 16
    assert clips.voices == ["joe", "amy"]
    batch = clips.collate([clips[5], clips[7]])
    assert batch["input_values"].shape[-1] % config.hop_length == 0
    assert batch["log_f0"].shape[1] == batch["input_values"].shape[-1] // config.synthesis_hop_length
    assert batch["voice_ids"].tolist() == [0, 0]
    for row, length in zip(batch["target_values"], batch["padding_mask"].sum(1)):
        assert row[:length].square().mean().sqrt().item() == pytest.approx(0.07, rel=1e-3)
        assert not row[length:].any()
    torch.testing.assert_close(batch["median_log_f0"].exp()[:, 0], torch.tensor([105.0, 107.0]), rtol=0.01, atol=0)


@pytest.mark.slow
def test_another_voice_is_sometimes_played_at_another_rate(corpus_dir):
    torch.manual_seed(0)
    clips = CodecClips(corpus_dir, VitaAudioCodecConfig(**TINY), default_voice="joe")
    items = [clips[0] for _ in range(20)]
    as_recorded = [item for item in items if item["is_reconstructed"]]
    assert 4 < len(as_recorded) < 16
    assert {len(item["waveform"]) for item in as_recorded} == {8000}
    others = [len(item["waveform"]) for item in items if not item["is_reconstructed"]]
    assert 6000 < min(others) < 8000 < max(others) < 10200
    assert all(clips[5]["is_reconstructed"] for _ in range(20))


@pytest.mark.slow
@pytest.mark.parametrize("factor", [0.8, 1.25])
def test_a_changed_voice_is_higher_by_the_factor_and_as_fast(factor):
    """Tone, then a chirp's worth of silence, then another tone: each is moved in pitch and stays where it was."""
    waveform = np.concatenate([voiced(120, 0.6), np.zeros(4800, np.float32), voiced(150, 0.8)])
    changed = change_voice(waveform, factor, 16000)
    assert changed.shape == waveform.shape and changed.dtype == np.float32
    config = VitaAudioCodecConfig(**TINY)
    for start, end, f0 in ((0.1, 0.5, 120), (1.0, 1.6, 150)):
        piece = changed[int(start * 16000) : int(end * 16000)]
        log_f0, _ = pitch_track(piece, config, int(len(piece) / config.synthesis_hop_length) - 40)
        np.testing.assert_allclose(np.exp(np.median(log_f0)), factor * f0, rtol=0.02)
        assert np.sqrt(np.mean(piece**2)) == pytest.approx(np.sqrt(np.mean(voiced(f0, 0.5) ** 2)), rel=0.1)
    is_loud = np.abs(changed) > 0.02
    edges = np.array([np.flatnonzero(is_loud[:12000])[-1], 12000 + np.flatnonzero(is_loud[12000:])[0]]) / 16000
    np.testing.assert_allclose(edges, [0.6, 0.9], atol=0.02)


def test_a_changed_rhythm_moves_sounds_in_time_but_not_in_pitch():
    notes = (120, 150, 180, 210)
    waveform = np.concatenate([voiced(f0, 0.5) for f0 in notes])
    changed, again, other = (change_rhythm(waveform, 40000, torch.Generator().manual_seed(seed)) for seed in (0, 0, 1))
    assert changed.shape == (40000,) and changed.dtype == np.float32
    assert np.array_equal(changed, again) and not np.array_equal(changed, other)
    log_f0, _ = pitch_track(changed, VitaAudioCodecConfig(**TINY), 450)
    nearest = np.abs(log_f0[:, None] - np.log(notes)).argmin(1)
    assert np.abs(log_f0 - np.log(notes)[nearest]).mean() < 0.02
    # all four in their order, and not each for a fourth of the time
    assert (np.diff(nearest) >= 0).mean() > 0.98
    shares = np.bincount(nearest, minlength=4) / len(nearest)
    assert shares.min() > 0.1 and shares.max() - shares.min() > 0.05


def vowel(period, formant):
    """A second of pulses every `period` samples through a resonance at `formant` Hz."""
    pulses = np.zeros(16000)
    pulses[::period] = 1.0
    radius, angle = 0.97, 2 * np.pi * formant / 16000
    samples = np.zeros(16000)
    for n in range(16000):
        samples[n] = pulses[n] + 2 * radius * np.cos(angle) * samples[n - 1] - radius**2 * samples[n - 2]
    return samples.astype(np.float32)


def spectrum_of(samples):
    """Magnitudes, one every 2 Hz."""
    return np.abs(np.fft.rfft(samples[4000:12000] * np.hanning(8000)))


@pytest.mark.parametrize("factor", [0.85, 1.0, 1.18])
def test_warped_formants_are_moved_and_the_pitch_is_not(factor):
    original = vowel(125, 1500)
    warped = warp_formants(original, factor)
    assert warped.shape == original.shape and warped.dtype == np.float32
    # its harmonics are where they were, 128 Hz apart, and the strongest is next to where the formant now is
    strongest = 2 * spectrum_of(warped).argmax()
    assert strongest % 128 in (0, 2, 126) and abs(strongest - factor * 1500) <= 128
    if factor == 1.0:
        np.testing.assert_allclose(warped, original, atol=1e-4)


def test_a_morphed_voice_has_its_own_pitch_and_formants_between_both():
    original, other = vowel(125, 1500), vowel(80, 2600)
    np.testing.assert_allclose(morph(original, other, 0.0), original, atol=1e-4)
    # decibels by which the harmonic at 2560 Hz is above the one at 1536 Hz
    ratios = []
    for share in (-0.2, 0.0, 0.5, 1.0):
        morphed = morph(original, other, share)
        assert morphed.shape == original.shape and morphed.dtype == np.float32
        spectrum = spectrum_of(morphed)
        assert all(spectrum[64 * k] > 5 * spectrum[64 * k + 32] for k in (11, 12, 13, 19, 20, 21))
        ratios.append(20 * np.log10(spectrum[1280] / spectrum[768]))
    assert ratios == sorted(ratios) and ratios[1] < -12 and ratios[3] > 12
    assert ratios[2] == pytest.approx((ratios[1] + ratios[3]) / 2, abs=1.5)


def test_half_of_the_reconstructed_clips_are_encoded_in_another_voice(corpus_dir):
    torch.manual_seed(0)
    clips = CodecClips(corpus_dir, VitaAudioCodecConfig(**TINY), default_voice="joe")
    items = [clips[5] for _ in range(30)]
    changed = [item for item in items if not item["inputs"].equal(item["waveform"])]
    assert 8 < len(changed) < 22
    assert all(item["inputs"].shape == item["waveform"].shape for item in items)
    assert all(item["waveform"].equal(items[0]["waveform"]) for item in items)
    assert all(
        item["inputs"].equal(item["waveform"])
        for item in map(clips.__getitem__, [0] * 10)
        if not item["is_reconstructed"]
    )


def test_filters_are_those_of_microphones_and_rooms():
    torch.manual_seed(0)
    impulses = torch.fft.irfft(random_filters(400, 8000, 16000), 8000)
    gains = torch.fft.rfft(impulses).abs().log10() * 20
    assert 3 < gains[:, 1000].std() < 9
    # echoes long after the direct sound, in the rooms alone
    has_echoes = impulses[:, 400:1600].square().sum(-1) > 1e-3 * impulses.square().sum(-1)
    assert 0.12 < has_echoes.float().mean() < 0.35
    assert (impulses[:, 4200:6000].square().sum(-1) < 1e-3 * impulses.square().sum(-1)).all()


@pytest.mark.slow
def test_a_codec_learns_from_a_few_clips(corpus_dir):
    torch.manual_seed(0)
    config = VitaAudioCodecConfig(num_voices=2, **TINY)
    clips = CodecClips(corpus_dir, config, default_voice="joe")
    model = VitaAudioCodecForPreTraining(config, len(clips.phonemes)).train()
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    losses = []
    for _ in range(25):
        output = model(**clips.collate([clips[i] for i in range(6)]))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append([output.spectral_loss.item(), output.phoneme_loss.item()])
    first, last = np.mean(losses[:3], axis=0), np.mean(losses[-3:], axis=0)
    assert (last < 0.6 * first).all()


@pytest.mark.slow
def test_the_command_trains_resumes_and_saves(corpus_dir, tmp_path, monkeypatch):
    config = tmp_path / "codec.yaml"
    config.write_text(
        f"corpus_dir: {corpus_dir}\noutput_dir: {tmp_path / 'run'}\ndefault_voice: joe\nuse_cpu: "
        "true\nquantize_after: 1\nmax_steps: 2\nsave_steps: 2\nlogging_steps: 1\nper_device_train_batch_size: "
        f"4\nlearning_rate: 1.0e-3\nreport_to: none\ncodec_config: {TINY}\n"
    )
    train_codec.main(["--config", str(config)])
    history = json.loads((tmp_path / "run" / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    assert {"loss", "spectral_loss", "pitch_loss", "phoneme_loss"} <= set(history[0])
    assert history[0]["codebook_loss"] == 0 < history[1]["codebook_loss"]
    # one whose writing was cut off is passed over
    (tmp_path / "run" / "checkpoint-9").mkdir()
    (tmp_path / "run" / "checkpoint-9" / "model.safetensors").write_bytes(b"cut off")
    # what only a run from the start does
    monkeypatch.delattr(train_codec, "measure_voice_pitch")
    train_codec.main(["--config", str(config), "--max_steps", "3"])
    codec = VitaAudioCodec.from_pretrained(tmp_path / "run" / "codec")
    assert codec.dtype == torch.float32
    assert codec.config.num_voices == 2
    assert codec.config.voice_names == ["joe", "amy"]
    torch.testing.assert_close(codec.voice_log_f0.exp(), torch.tensor([105.0, 205.0]), rtol=0.03, atol=0)


def test_one_voice_can_be_learnt_alone_and_undisturbed(corpus_dir):
    torch.manual_seed(0)
    clips = CodecClips(corpus_dir, VitaAudioCodecConfig(**TINY), "joe", voices=["joe"], is_disturbed=False)
    assert clips.voices == ["joe"] and len(clips) == 5
    batch = clips.collate([clips[index] for index in range(5)])
    assert batch["is_reconstructed"].all()
    assert batch["input_values"][:, 0].equal(batch["target_values"])
    with pytest.raises(ValueError, match="no training clips of bob, but of \\['amy', 'joe'\\]"):
        CodecClips(corpus_dir, VitaAudioCodecConfig(**TINY), "joe", voices=["joe", "bob"])


@pytest.mark.slow
def test_a_warm_start_matches_voices_and_phonemes_by_name(corpus_dir, tmp_path):
    config = tmp_path / "codec.yaml"
    config.write_text(
        f"default_voice: joe\nuse_cpu: true\nmax_steps: 1\nsave_steps: 1\nper_device_train_batch_size: 4\n"
        f"learning_rate: 0.0\nreport_to: none\ncodec_config: {TINY}\n"
    )
    rows = [json.loads(line) for line in (corpus_dir / "clips.jsonl").read_text().splitlines()]
    for row, voice in zip(rows, ["joe", "amy", "joe", "ada"] * 3):
        row |= {"voice": voice, "phonemes": ["b", "c", "a", "d"], "path": str(corpus_dir / row["path"])}
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    first = ["--config", str(config), "--corpus_dir", str(corpus_dir), "--output_dir", str(tmp_path / "a")]
    train_codec.main([*first, "--quantize_after", "0"])
    old = load_file(tmp_path / "a" / "checkpoint-1" / "model.safetensors")
    command = [
        "--config",
        str(config),
        "--corpus_dir",
        str(tmp_path),
        "--warm_start_from",
        str(tmp_path / "a" / "checkpoint-1"),
    ]
    train_codec.main([*command, "--output_dir", str(tmp_path / "b")])
    new = load_file(tmp_path / "b" / "checkpoint-1" / "model.safetensors")
    changed = {name for name in new if not new[name].equal(old[name])}
    assert changed == {
        "codec.decoder.voice_embedding.weight",
        "codec.voice_log_f0",
        "phoneme_head.out_proj.weight",
        "phoneme_head.out_proj.bias",
    }
    voices, old_voices = (tensors["codec.decoder.voice_embedding.weight"] for tensors in (new, old))
    torch.testing.assert_close(voices[[0, 2]], old_voices)  # joe, ada, amy; joe, amy
    torch.testing.assert_close(voices[1], old_voices.mean(0))
    head, old_head = (tensors["phoneme_head.out_proj.weight"] for tensors in (new, old))
    torch.testing.assert_close(head.unflatten(0, (4, 5))[:, :3], old_head.unflatten(0, (4, 3)))

    (tmp_path / "a" / "checkpoint-1" / "phonemes.json").unlink()
    model = train_codec.VitaAudioCodecForPreTraining(
        VitaAudioCodecConfig(num_voices=2, voice_names=["joe", "amy"], **TINY), 2
    )
    new = train_codec.warm_start(model, tmp_path / "a" / "checkpoint-1", ["a", "b"])
    assert new == ["phoneme_head.out_proj.weight", "phoneme_head.out_proj.bias"]
    with pytest.raises(FileNotFoundError, match="no config.json"):
        train_codec.main([*command, "--warm_start_from", str(tmp_path), "--output_dir", str(tmp_path / "c")])
    assert not (tmp_path / "c").exists()


def test_kmeans_finds_separate_clusters():
    torch.manual_seed(0)
    centers = torch.nn.functional.normalize(torch.randn(5, 16), dim=-1)
    points = centers.repeat(40, 1) + 0.02 * torch.randn(200, 16)
    found = spherical_kmeans(torch.nn.functional.normalize(points, dim=-1), 12)
    assert (centers @ found.T).amax(-1).min() > 0.99


def test_half_stored_weights_load_as_they_were_rounded(tmp_path):
    codec = VitaAudioCodec(VitaAudioCodecConfig(**TINY))
    codec.save_pretrained(tmp_path / "whole")
    round_to_half(codec).save_pretrained(tmp_path / "half")
    whole, half = ((tmp_path / name / "model.safetensors").stat().st_size for name in ("whole", "half"))
    assert half < 0.6 * whole
    loaded = VitaAudioCodec.from_pretrained(tmp_path / "half")
    assert loaded.dtype == torch.float32
    assert all(tensor.equal(codec.state_dict()[name]) for name, tensor in loaded.state_dict().items())


@pytest.mark.slow
def test_a_codec_run_says_what_was_changed(corpus_dir, tmp_path, capsys):
    config = tmp_path / "codec.yaml"
    config.write_text(
        f"corpus_dir: {corpus_dir}\noutput_dir: {tmp_path / 'run'}\ndefault_voice: joe\nuse_cpu: true\nmax_steps: "
        f"1\nsave_steps: 1\nper_device_train_batch_size: 4\nreport_to: none\ncodec_config: {TINY}\n"
    )
    train_codec.main(["--config", str(config)])
    with pytest.raises(ValueError, match="is over since step 1, .* phoneme_loss_weight from 1.0 to 0.5"):
        train_codec.main(["--config", str(config), "--phoneme-loss-weight", "0.5"])
    larger = json.dumps(TINY | {"codebook_size": 2 * VitaAudioCodecConfig(**TINY).codebook_size})
    with pytest.raises(ValueError, match="(?s)for a model of other sizes, give another `output_dir`.*size mismatch"):
        train_codec.main(["--config", str(config), "--max_steps", "2", "--codec_config", larger])
    assert "Going on from" in capsys.readouterr().out


@pytest.mark.parametrize(
    "module, arguments", [(train_codec, []), (tune_codec, ["--parts", "encoder", "--start_from", "codec"])]
)
def test_the_default_voice_is_named_by_the_settings(module, arguments, capsys):
    with pytest.raises(SystemExit) as exit:
        module.main([*arguments, "--corpus_dir", "corpus", "--output_dir", "out"])
    assert exit.value.code == 2 and "required: --default_voice" in capsys.readouterr().err
    for path in (ROOT / "training" / "configs" / "mini").glob("codec*.yaml"):
        assert "default_voice" in yaml.safe_load(path.read_text())
