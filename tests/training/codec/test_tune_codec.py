# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json
from pathlib import Path

import numpy as np
import pytest
import soundfile as sf
import torch
from safetensors.torch import load_file, save_file
from tiny_models import TRAINABLE_CODEC as TINY

from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from processing.modeling_vita_audio_codec import VitaAudioCodec
from training.codec import train as train_codec
from training.codec import tune as tune_codec
from training.codec import tuning
from training.codec.clips import read_answers
from training.codec.recordings import read_clip, read_clips
from training.codec.tuning import (
    CODE_SCALE,
    IGNORED,
    OTHER_CODE_WEIGHT,
    TuningClips,
    VitaAudioCodecForTuning,
    align_codes,
    code_logits,
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
    rows = [("sqa", "train", "joe3.flac"), ("sqa", "test", "joe5.flac"), ("tts", "train", "joe7.flac")]
    rows = [{"task": task, "split": split, "audios": ["amy0.flac", path]} for task, split, path in rows]
    (folder / "conversations.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def command(corpus_dir, tmp_path_factory):
    """What both parts are tuned with, from a codec of two steps."""
    folder = tmp_path_factory.mktemp("tuning")
    config = folder / "config.yaml"
    config.write_text(
        f"corpus_dir: {corpus_dir}\ndefault_voice: joe\nuse_cpu: true\nmax_steps: 2\nsave_steps: "
        "1\nper_device_train_batch_size: 4\nlogging_steps: 1\nlearning_rate: 3.0e-3\nreport_to: none\n"
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


@pytest.fixture
def as_recorded(monkeypatch):
    for name in ("OTHER_RHYTHM_SHARE", "DEFAULT_RHYTHM_SHARE"):
        monkeypatch.setattr(tuning, name, 0)


def prepared_clips(corpus_dir, folder, **kwargs):
    torch.manual_seed(0)
    codec = VitaAudioCodec(VitaAudioCodecConfig(**TINY)).eval()
    kwargs = {"clips": read_clips(corpus_dir), "default_voice": "joe", "phonemes": ["a", "b"], **kwargs}
    clips = TuningClips(corpus_dir, folder, codec, **kwargs)
    clips.prepare()
    return codec, clips


@pytest.mark.slow
def test_other_voices_are_to_get_the_default_ones_speech_at_their_own_time(
    corpus_dir, tmp_path, monkeypatch, as_recorded
):
    monkeypatch.setattr(tuning, "RARE_WORD_CLIPS", 1)
    codec, clips = prepared_clips(corpus_dir, tmp_path, is_disturbed=False)
    # what the default voice never says cannot be learnt
    assert [clip["voice"] for clip in clips.clips] == 6 * ["amy"] + 6 * ["joe"]
    batch = clips.collate([clips[0], clips[6]])
    assert batch["padding_mask"].sum(1).tolist() == [12800, 9600]
    assert batch["keeps_codes"].tolist() == [False, True]
    own, other = (torch.from_numpy(read_clip(corpus_dir, clips.clips[index])[0]) for index in (6, 0))
    assert batch["input_values"][0, 0, :12800].equal(other) and batch["input_values"][1, 0, :9600].equal(own)
    with torch.no_grad():
        timed = torch.from_numpy(follow_timing(codec, other.numpy(), own.numpy()))
        for row, target in enumerate((timed, own)):
            assert torch.allclose(batch["target_values"][row, : len(target)], target, atol=1e-3)
            codes = batch["target_codes"][row]
            assert codes[codes != IGNORED].equal(codec.encode(target[None, None]).audio_codes[0, 0])
    # in the default voice: its pitch, not the other one's
    assert batch["log_f0"][0, 5:60].exp().median().item() == pytest.approx(100, rel=0.05)


@pytest.mark.slow
def test_targets_stay_what_they_are_while_the_codec_is_trained(corpus_dir, tmp_path, as_recorded):
    codec, clips = prepared_clips(corpus_dir, tmp_path)
    first = clips[6]["codes"]
    (tmp_path / "6.npz").unlink()
    others = {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    with torch.no_grad():
        codec.encoder.out_proj.weight.normal_()
    clips.prepare()
    assert clips[6]["codes"].equal(first)
    # what is there is not computed again
    assert {path.name: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path.name != "6.npz"} == others


@pytest.mark.slow
def test_half_of_the_clips_of_other_voices_have_another_rhythm_which_is_always_the_same(
    corpus_dir, tmp_path, monkeypatch
):
    monkeypatch.setattr(tuning, "OTHER_RHYTHM_SHARE", 1)
    monkeypatch.setattr(tuning, "DEFAULT_RHYTHM_SHARE", 0)
    _, clips = prepared_clips(corpus_dir, tmp_path, is_disturbed=False)
    items = [clips[index] for index in range(6)]
    lengths = [len(item["waveform"]) for item in items]
    assert len(set(lengths)) == 6 and all(0.85 * 12800 <= x <= 1.4 * 12800 for x in lengths)
    assert lengths == [len(item["target"]) for item in items]
    assert all(clips[index]["waveform"].equal(items[index]["waveform"]) for index in reversed(range(6)))
    assert len(clips[6]["waveform"]) == 9600
    # codes of the default voice in another rhythm than its own are not those to be kept
    monkeypatch.setattr(tuning, "DEFAULT_RHYTHM_SHARE", 1)
    waveform, keeps_codes = clips.read(6)
    assert len(waveform) != 9600 and not keeps_codes


@pytest.mark.slow
def test_rare_words_are_drawn_more_often(corpus_dir, tmp_path, monkeypatch, as_recorded):
    monkeypatch.setattr(tuning, "RARE_WORD_CLIPS", 3)
    texts = ("A red dog.", "A red hen!", "A red dog now.", "A red cat.", "The red dog.", "A red cat, now.")
    rows = [row for row in read_clips(corpus_dir) if row["voice"] == "joe"]
    rows = [{**row, "text": text} for row, text in zip(rows, texts)]
    _, clips = prepared_clips(corpus_dir, tmp_path, clips=rows, is_disturbed=False)
    drawn = [clip["text"] for clip in clips.clips]
    assert {text: drawn.count(text) for text in texts} == dict(zip(texts, (1, 4, 4, 4, 4, 4)))
    # but prepared once
    assert len(list(tmp_path.iterdir())) == 6
    assert all(clips[i]["target"].equal(clips[drawn.index(text)]["target"]) for i, text in enumerate(drawn))


@pytest.mark.slow
def test_answers_are_drawn_more_often(corpus_dir, tmp_path, monkeypatch, as_recorded):
    monkeypatch.setattr(tuning, "RARE_WORD_CLIPS", 1)
    kwargs = {"answers": read_answers(corpus_dir), "answer_times": 5, "is_disturbed": False}
    _, clips = prepared_clips(corpus_dir, tmp_path, **kwargs)
    drawn = [clip["path"] for clip in clips.clips if clip["voice"] == "joe"]
    assert {path: drawn.count(path) for path in set(drawn)} == {
        f"joe{index}.flac": 5 if index == 3 else 1 for index in (1, 3, 5, 7, 9, 11)
    }


@pytest.mark.slow
def test_a_decoder_speaks_the_codes_of_another_codec(command, tmp_path, as_recorded):
    """What a language model writes are the codes that it was trained with, whatever the encoder writes by now."""
    before, _ = tune_codec.load_checkpoint(Path(command[3]), ["decoder"], "joe")
    torch.manual_seed(5)
    other = VitaAudioCodec(before.config).eval()
    other.quantizer.load_state_dict(before.codec.quantizer.state_dict())
    other.save_pretrained(tmp_path / "other")
    run = [
        *command,
        "--parts",
        "decoder",
        "--output_dir",
        str(tmp_path / "run"),
        "--codes_of",
        str(tmp_path / "other"),
    ]
    tune_codec.main([*run, "--answer_times", "2"])
    with np.load(tmp_path / "run" / "prepared" / "6.npz") as file:
        target, codes = file["target"], torch.from_numpy(file["codes"])
    with torch.no_grad():
        waveform = torch.from_numpy(target).float()[None, None]
        of_other, of_start = (codec.encode(waveform).audio_codes[0, 0] for codec in (other, before.codec.eval()))
    # targets are stored in half precision, which may change a code
    assert (codes == of_other).float().mean() > 0.8 > (codes == of_start).float().mean()
    with torch.no_grad():
        other.quantizer.codebook.weight.normal_()
    other.save_pretrained(tmp_path / "other")
    with pytest.raises(ValueError, match="`codes_of`, .*other`, has another codebook than"):
        tune_codec.main(run)


@pytest.mark.slow
def test_kept_codes_are_spoken_and_others_written(corpus_dir, tmp_path, as_recorded):
    codec, clips = prepared_clips(corpus_dir, tmp_path, is_disturbed=False)
    model = VitaAudioCodecForTuning(codec.config, 2, ["decoder"])
    for index, is_kept in ((0, False), (6, True)):
        batch = clips.collate([clips[index]])
        other = {"target_codes": (batch["target_codes"] + 5) % codec.config.codebook_size}
        losses = [model(**inputs).spectral_loss.item() for inputs in (batch, batch | other)]
        assert (losses[0] != losses[1]) == is_kept


@pytest.mark.slow
def test_half_of_what_the_encoder_hears_is_as_it_was_recorded(corpus_dir, tmp_path, as_recorded):
    _, clips = prepared_clips(corpus_dir, tmp_path)
    items = [clips[7] for _ in range(60)]
    recorded = torch.from_numpy(read_clip(corpus_dir, clips.clips[7])[0])
    changed = [item for item in items if not item["waveform"].equal(recorded)]
    assert 30 < len(changed) < 50
    heard = clips.collate(items)["input_values"][:, 0]
    as_they_are = [row[:9600].equal(item["waveform"]) for row, item in zip(heard, items)]
    assert 18 < sum(as_they_are) < 42


@pytest.mark.slow
def test_own_codes_are_kept_and_others_aligned(corpus_dir, tmp_path, as_recorded):
    """The code loss from its formula: the cross-entropy of every code, those of other voices moved in time, at 0.3."""
    codec, clips = prepared_clips(corpus_dir, tmp_path, is_disturbed=False)
    batch = clips.collate([clips[0], clips[6]])
    losses = {}
    for parts in (["encoder"], ["encoder", "decoder"]):
        model = VitaAudioCodecForTuning(codec.config, 2, parts)
        model.codec.load_state_dict(codec.state_dict())
        losses[len(parts)] = model(**batch).code_loss.item()
    with torch.no_grad():
        encoded = codec.encode(batch["input_values"], batch["padding_mask"])
        logits = code_logits(codec, encoded.latents)
    own = batch["target_codes"][1, :8]
    other = align_codes(logits[0], batch["target_codes"][0])
    own, other = (
        torch.nn.functional.cross_entropy(row, codes, reduction="sum").item()
        for row, codes in ((logits[1, :8], own), (logits[0], other))
    )
    assert losses[1] == pytest.approx((own + other) / 18, rel=1e-4)
    assert losses[2] == pytest.approx((own + OTHER_CODE_WEIGHT * other) / 18, rel=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("parts", [["encoder"], ["decoder"], ["encoder", "decoder"]], ids="-".join)
def test_parts_are_tuned_alone_or_together_and_resume(command, tmp_path, parts):
    run = [*command, "--parts", *parts, "--output_dir", str(tmp_path)]
    tune_codec.main(run)
    history = json.loads((tmp_path / "checkpoint-2" / "trainer_state.json").read_text())["log_history"]
    names = {"encoder": {"code_loss", "phoneme_loss"}, "decoder": {"spectral_loss", "pitch_loss"}}
    assert {name for name in history[0] if name.endswith("_loss")} == set().union(*(names[part] for part in parts))
    weights = load_file(Path(command[3]) / "model.safetensors")
    before = {name.removeprefix("codec."): tensor for name, tensor in weights.items()}
    codec = VitaAudioCodec.from_pretrained(tmp_path / "codec")
    assert codec.config.voice_names == (["joe"] if "decoder" in parts else ["joe", "amy"])
    after = codec.state_dict()
    moved = {name for name in after if after[name].shape == before[name].shape}
    moved = {name for name in moved if not torch.allclose(after[name], before[name], atol=2e-3, rtol=2e-3)}
    assert {name.split(".")[0] for name in moved} == set(parts)

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
    if parts == ["decoder"]:
        assert all(tensor.equal(whole[name]) for name, tensor in resumed.items())


@pytest.mark.slow
def test_a_decoder_grows_new_blocks_and_can_be_trained_further(command, tmp_path):
    run = [*command, "--parts", "decoder", "--decoder_depths", "1", "3", "--output_dir", str(tmp_path)]
    tune_codec.main(run)
    codec = VitaAudioCodec.from_pretrained(tmp_path / "codec")
    assert len(codec.decoder.coarse_blocks) == 1 and len(codec.decoder.fine_blocks) == 3
    checkpoint = tmp_path / "checkpoint-2"
    model, _ = tune_codec.load_checkpoint(checkpoint, ["encoder", "decoder"], "joe")
    assert len(model.codec.decoder.fine_blocks) == 3
    weights = load_file(checkpoint / "model.safetensors")
    kept = {name: tensor for name, tensor in weights.items() if not name.startswith("phoneme_head.")}
    save_file(kept, checkpoint / "model.safetensors")
    with pytest.raises(ValueError, match="cannot be trained further: it has no phoneme_head"):
        tune_codec.load_checkpoint(checkpoint, ["encoder"], "joe")


@pytest.mark.slow
def test_an_encoder_learns_the_default_ones_codes_of_another_voice(command, corpus_dir, tmp_path):
    """Also checks that what the phoneme head and the codebook are does not move."""
    torch.manual_seed(0)
    model, phonemes = tune_codec.load_checkpoint(Path(command[3]), ["encoder"], "joe")
    clips = TuningClips(corpus_dir, tmp_path, model.codec, read_clips(corpus_dir), "joe", phonemes)
    clips.prepare()
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


@pytest.mark.slow
def test_what_is_spoken_changes_what_is_written(command, corpus_dir, tmp_path, as_recorded):
    """Gradients of the decoder's losses reach the encoder for other voices' codes, not for those that are kept."""
    model, phonemes = tune_codec.load_checkpoint(Path(command[3]), ["encoder", "decoder"], "joe")
    clips = TuningClips(corpus_dir, tmp_path, model.codec, read_clips(corpus_dir), "joe", phonemes)
    clips.prepare()
    for index, expected in ((0, True), (6, False)):
        batch = clips.collate([clips[index]])
        gradients = []
        for level in (1, 0.1):
            model.zero_grad()
            model(**batch | {"target_values": level * batch["target_values"]}).loss.backward()
            gradients.append(model.codec.encoder.out_proj.weight.grad.clone())
        assert gradients[0].equal(gradients[1]) != expected


@pytest.mark.slow
def test_what_is_missing_is_named_before_any_work(command, corpus_dir, tmp_path):
    run = [*command, "--parts", "encoder", "--output_dir", str(tmp_path / "run")]
    with pytest.raises(FileNotFoundError, match="no config.json"):
        tune_codec.main([*run, "--start_from", str(tmp_path)])
    with pytest.raises(ValueError, match="`parts` must be some of encoder, decoder, got \\['vocoder'\\]"):
        tune_codec.main([*run, "--parts", "vocoder"])
    with pytest.raises(ValueError, match="`decoder_depths` must be at least \\[1, 1\\] each, got \\[2, 0\\]"):
        tune_codec.main([*run, "--parts", "decoder", "--decoder_depths", "2", "0"])
    with pytest.raises(ValueError, match="no voice bob, but"):
        tune_codec.main([*run, "--default_voice", "bob"])
    rows = [json.loads(line) for line in (corpus_dir / "clips.jsonl").read_text().splitlines()]
    rows[0]["phonemes"] = ["a", "z"]
    (tmp_path / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(ValueError, match="does not know the corpus's phonemes z"):
        tune_codec.main([*run, "--corpus_dir", str(tmp_path)])
    assert not (tmp_path / "run").exists()
