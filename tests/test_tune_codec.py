# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file
from tiny_models import TRAINABLE_CODEC as TINY

from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from processing.modeling_vita_audio_codec import VitaAudioCodec
from training import codec_tuning, train_codec, tune_codec
from training.codec import read_clip, read_clips
from training.codec_tuning import (
    CODE_SCALE,
    IGNORED,
    DecoderTuningClips,
    EncoderTuningClips,
    align_codes,
    follow_timing,
)


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory):
    """Two voices that say six texts, the other one at another tempo, and a text that only the other one says."""
    folder = tmp_path_factory.mktemp("corpus")
    clips = []
    for index in range(13):
        voice, f0, seconds = ("joe", 100.0, 0.6) if index % 2 else ("amy", 210.0, 0.8)
        time = np.arange(int(seconds * 16000)) / 16000
        melody = f0 * (1 + 0.1 * (index // 2)) * (1 + 0.3 * (time > seconds / 2))
        phase = 2 * np.pi * np.cumsum(melody) / 16000
        path = f"{voice}{index}.flac"
        sf.write(folder / path, sum(np.cos(k * phase) / k for k in range(1, 9)) / 6, 16000)
        clip = {"path": path, "voice": voice, "text": f"text {index // 2}", "split": "train", "duration": seconds}
        clips.append({**clip, "phonemes": ["a", "b"]})
    (folder / "clips.jsonl").write_text("".join(json.dumps(clip) + "\n" for clip in clips))
    return folder


@pytest.fixture(scope="module")
def command(corpus_dir, tmp_path_factory):
    """What both parts are tuned with, from a codec of two steps."""
    folder = tmp_path_factory.mktemp("tuning")
    config = folder / "config.yaml"
    config.write_text(
        f"corpus_dir: {corpus_dir}\nuse_cpu: true\nmax_steps: 2\nsave_steps: 1\nper_device_train_batch_size: 4\n"
        "logging_steps: 1\nlearning_rate: 3.0e-3\nreport_to: none\n"
    )
    first = folder / "first.yaml"
    first.write_text(f"{config.read_text()}quantize_after: 0\ncodec_config: {TINY}\n")
    train_codec.main(["--config", str(first), "--output_dir", str(folder / "first")])
    return ["--config", str(config), "--start_from", str(folder / "first" / "checkpoint-2")]


def test_codes_are_aligned_to_slower_and_faster_speech():
    codes = torch.tensor([3, 1, 4, 1, 5])
    slower = torch.tensor([3, 3, 1, 4, 4, 4, 1, 5, 5])
    logits = CODE_SCALE * torch.nn.functional.one_hot(slower, 8).bfloat16().requires_grad_()
    assert align_codes(logits, codes).equal(slower)
    faster = align_codes(CODE_SCALE * torch.nn.functional.one_hot(codes[[0, 2, 4]], 8), codes)
    assert faster.equal(codes[[0, 2, 4]])


def vowels(f0, seconds):
    """Three vowels of a buzz at `f0` Hz, with one formant each, at 600, 3000 and 1500 Hz."""
    pieces = []
    for duration, formant in zip(seconds, (600, 3000, 1500)):
        time = np.arange(int(duration * 16000)) / 16000
        harmonics = np.arange(f0, 5000, f0)
        gains = 1 / (1 + ((harmonics - formant) / 150) ** 2)
        pieces.append((gains[:, None] * np.cos(2 * np.pi * harmonics[:, None] * time)).sum(0))
    return (0.1 * np.concatenate(pieces)).astype(np.float32)


def test_a_recording_gets_the_timing_of_another():
    torch.manual_seed(0)
    codec = VitaAudioCodec(VitaAudioCodecConfig(**TINY)).eval()
    leader, follower = vowels(180, (0.3, 0.8, 0.3)), vowels(100, (0.6, 0.3, 0.6))
    with torch.no_grad():
        warped = follow_timing(codec, leader, follower)
    assert warped.shape == leader.shape and warped.dtype == np.float32
    for start, end, formant in ((0.05, 0.25, 600), (0.35, 0.55, 3000), (0.85, 1.05, 3000), (1.15, 1.35, 1500)):
        piece = warped[int(start * 16000) : int(end * 16000)]
        spectrum = np.abs(np.fft.rfft(piece * np.hanning(len(piece))))
        # the pitch is its own
        assert abs(spectrum.argmax() * 16000 / len(piece) - formant) < 20
        assert np.sqrt(np.mean(piece**2)) > 0.05


def test_the_decoder_speaks_what_other_voices_say_when_they_say_it(corpus_dir, monkeypatch):
    monkeypatch.setattr(codec_tuning, "RARE_WORD_CLIPS", 1)
    monkeypatch.setattr(codec_tuning, "OTHER_TEMPO_SHARE", 0)
    torch.manual_seed(0)
    codec = VitaAudioCodec(VitaAudioCodecConfig(**TINY)).eval()
    clips = DecoderTuningClips(corpus_dir, codec, read_clips(corpus_dir), "joe", ["a", "b"])
    assert [clip["voice"] for clip in clips.clips] == 6 * ["joe"] + 3 * ["amy"]
    batch = clips.collate([clips[0], clips[6]])
    assert batch["padding_mask"].sum(1).tolist() == [9600, 12800]
    recorded, _ = read_clip(corpus_dir, clips.clips[6])
    expected = codec.encode(torch.from_numpy(recorded)[None, None]).audio_codes[0, 0]
    assert batch["audio_codes"][1].equal(expected)
    # in the default voice: its pitch, not the other one's
    assert batch["log_f0"][1, 5:60].exp().median().item() == pytest.approx(100, rel=0.05)


@pytest.mark.parametrize("dataset_class", (EncoderTuningClips, DecoderTuningClips))
def test_other_voices_are_heard_faster_and_slower_but_each_clip_always_alike(corpus_dir, monkeypatch, dataset_class):
    monkeypatch.setattr(codec_tuning, "OTHER_TEMPO_SHARE", 1)
    codec = VitaAudioCodec(VitaAudioCodecConfig(**TINY)).eval()
    runs = [dataset_class(corpus_dir, codec, read_clips(corpus_dir), "joe", ["a", "b"]) for _ in range(2)]
    voices = [clip["voice"] for clip in runs[0].clips]
    others = [index for index, voice in enumerate(voices) if voice == "amy"]
    lengths = [[len(run[index]["waveform"]) for index in order] for run, order in zip(runs, (others, others[::-1]))]
    assert lengths[0] == lengths[1][::-1]
    assert len(set(lengths[0])) == len(others) and all(0.85 * 12800 <= x <= 1.4 * 12800 for x in lengths[0])
    assert len(runs[0][voices.index("joe")]["waveform"]) == 9600


def test_the_decoder_hears_rare_words_more_often(corpus_dir, monkeypatch):
    monkeypatch.setattr(codec_tuning, "RARE_WORD_CLIPS", 3)
    codec = VitaAudioCodec(VitaAudioCodecConfig(**TINY)).eval()
    texts = ("A red dog.", "A red hen!", "A red dog now.", "A red cat.", "The red dog.", "A red cat, now.")
    rows = [row for row in read_clips(corpus_dir) if row["voice"] == "joe"]
    rows = [{**row, "text": text} for row, text in zip(rows, texts)]
    clips = DecoderTuningClips(corpus_dir, codec, rows, "joe", ["a", "b"])
    drawn = [clip["text"] for clip in clips.clips]
    assert {text: drawn.count(text) for text in texts} == dict(zip(texts, (1, 4, 4, 4, 4, 4)))
    # but prepared once
    assert all(clips[index] is clips[drawn.index(text)] for index, text in enumerate(drawn))


def test_other_voices_have_the_default_ones_codes_at_their_own_time(corpus_dir, monkeypatch):
    monkeypatch.setattr(codec_tuning, "OTHER_TEMPO_SHARE", 0)
    torch.manual_seed(0)
    codec = VitaAudioCodec(VitaAudioCodecConfig(**TINY)).eval()
    clips = EncoderTuningClips(corpus_dir, codec, read_clips(corpus_dir), "joe", ["a", "b"])
    # what the default voice never says has no codes to be written, and of its own six clips two are enough
    assert [clip["voice"] for clip in clips.clips] == 6 * ["amy"] + 2 * ["joe"]
    first = [index for index, clip in enumerate(clips.clips) if clip["text"] == "text 0"]
    batch = clips.collate([clips[index] for index in first])
    assert batch["is_default_voice"].tolist() == [False, True]
    own, other = (read_clip(corpus_dir, clips.clips[index])[0] for index in first[::-1])
    with torch.no_grad():
        timed = follow_timing(codec, other, own)
    for row, spoken in zip(batch["target_codes"], (timed, own)):
        assert row[row != IGNORED].equal(codec.encode(torch.from_numpy(spoken)[None, None]).audio_codes[0, 0])
    # they stay what they are while the encoder that is trained changes
    with torch.no_grad():
        codec.encoder.out_proj.weight.normal_()
    assert clips.encode(own).equal(batch["target_codes"][1][batch["target_codes"][1] != IGNORED])


def test_half_of_what_the_encoder_hears_is_as_it_was_recorded(corpus_dir, monkeypatch):
    monkeypatch.setattr(codec_tuning, "OTHER_TEMPO_SHARE", 0)
    torch.manual_seed(0)
    codec = VitaAudioCodec(VitaAudioCodecConfig(**TINY)).eval()
    clips = EncoderTuningClips(corpus_dir, codec, read_clips(corpus_dir), "joe", ["a", "b"])
    items = [clips[7] for _ in range(60)]
    recorded, _ = read_clip(corpus_dir, clips.clips[7])
    changed = [item for item in items if not np.array_equal(item["waveform"], recorded)]
    assert 30 < len(changed) < 50
    heard = clips.collate(items)["input_values"][:, 0]
    as_they_are = [row[:9600].equal(torch.from_numpy(item["waveform"])) for row, item in zip(heard, items)]
    assert 18 < sum(as_they_are) < 42


@pytest.mark.parametrize("part", ["encoder", "decoder"])
def test_a_part_is_tuned_alone_and_resumes(command, tmp_path, part):
    run = [*command, "--part", part, "--output_dir", str(tmp_path)]
    tune_codec.main(run)
    history = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    parts = {"code_loss", "phoneme_loss"} if part == "encoder" else {"spectral_loss", "pitch_loss"}
    assert {"loss", *parts} <= set(history[0])
    weights = load_file(Path(command[3]) / "model.safetensors")
    before = {name.removeprefix("codec."): tensor for name, tensor in weights.items()}
    codec = VitaAudioCodec.from_pretrained(tmp_path / "codec")
    assert codec.config.voice_names == (["joe", "amy"] if part == "encoder" else ["joe"])
    after = codec.state_dict()
    moved = {name for name in after if after[name].shape == before[name].shape}
    moved = {name for name in moved if not torch.allclose(after[name], before[name], atol=2e-3, rtol=2e-3)}
    assert moved and all(name.startswith(f"{part}.") for name in moved)

    whole = after
    for name in ("checkpoint-2", "codec"):
        (tmp_path / name).rename(tmp_path / f"old-{name}")
    first = tmp_path / "checkpoint-1" / "model.safetensors"
    written = first.stat().st_mtime_ns
    tune_codec.main(run)
    resumed = VitaAudioCodec.from_pretrained(tmp_path / "codec").state_dict()
    # a run that began again would have written its first checkpoint again
    assert first.stat().st_mtime_ns == written
    # what the encoder hears is disturbed at random, otherwise when resumed
    if part == "decoder":
        assert all(tensor.equal(whole[name]) for name, tensor in resumed.items())


def test_a_decoder_grows_new_blocks(command, tmp_path):
    tune_codec.main([*command, "--part", "decoder", "--decoder_depths", "1", "3", "--output_dir", str(tmp_path)])
    codec = VitaAudioCodec.from_pretrained(tmp_path / "codec")
    assert len(codec.decoder.coarse_blocks) == 1 and len(codec.decoder.fine_blocks) == 3
    run = [*command, "--part", "encoder", "--output_dir", str(tmp_path / "encoder")]
    with pytest.raises(ValueError, match="can not be trained from .* it has no phoneme_head"):
        tune_codec.main([*run, "--start_from", str(tmp_path / "checkpoint-2")])


def test_an_encoder_learns_the_default_ones_codes_of_another_voice(command, corpus_dir):
    """Also checks that what the phoneme head and the codebook are does not move."""
    torch.manual_seed(0)
    model, phonemes = tune_codec.load_checkpoint(Path(command[3]), "encoder", "joe")
    clips = EncoderTuningClips(corpus_dir, model.codec, read_clips(corpus_dir), "joe", phonemes)
    frozen = {name: tensor.clone() for name, tensor in model.state_dict().items() if "encoder" not in name}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=3e-3)
    losses = []
    for _ in range(40):
        output = model(**clips.collate([clips[index] for index in range(8)]))
        optimizer.zero_grad()
        output.loss.backward()
        optimizer.step()
        losses.append(output.code_loss.item())
    assert np.mean(losses[-5:]) < 0.7 * np.mean(losses[:5])
    assert all(tensor.equal(frozen[name]) for name, tensor in model.state_dict().items() if name in frozen)


def test_what_is_missing_is_named_before_any_work(command, corpus_dir, tmp_path):
    run = [*command, "--part", "encoder", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(FileNotFoundError, match="no config.json"):
        tune_codec.main([*run, "--start_from", str(tmp_path)])
    with pytest.raises(ValueError, match="`decoder_depths` must be at least \\[1, 1\\] each, got \\[2, 0\\]"):
        tune_codec.main([*run, "--part", "decoder", "--decoder_depths", "2", "0"])
    with pytest.raises(ValueError, match="no voice bob, but"):
        tune_codec.main([*run, "--default_voice", "bob"])
    rows = [json.loads(line) for line in (corpus_dir / "clips.jsonl").read_text().splitlines()]
    rows[0]["phonemes"] = ["a", "z"]
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="does not know the corpus's phonemes z"):
        tune_codec.main([*run, "--corpus_dir", str(tmp_path)])
    assert not (tmp_path / "run").exists()
