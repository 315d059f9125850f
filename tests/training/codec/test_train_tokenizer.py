# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The speech tokenizer that starts from Whisper: its weights, its grid, its losses and its runs."""

import json
import math
import random
import re
from functools import partial

import numpy as np
import pytest
import soundfile as sf
import torch
import yaml
from faster_whisper import WhisperModel
from places import MINI, ROOT
from safetensors.torch import load_file
from transformers import AutoModel, WhisperFeatureExtractor

from processing.codec_vita_audio import encode
from processing.configuration_glm4_voice_tokenizer import Glm4VoiceTokenizerConfig
from training.augmentation import keep_alignment, other_places, other_voices
from training.codec import tokenizer
from training.codec.recordings import read_clips
from training.codec.tokenizer_clips import TokenizerClips, read_phonemes
from training.codec.tokenizer_model import Glm4VoiceTokenizerForPreTraining, normalize_over_time, quantization_grid
from training.codec.whisper import SIZES, encode_unpadded, start_from_whisper, whisper_encoder
from training.evaluation.recognition import whisper_tiny


PHONEMES = {"joe": list("tɛl miː"), "amy": list("ðə sʌm"), "noise": []}


@pytest.fixture(scope="module")
def speech():
    waveform, sampling_rate = sf.read(MINI / "sample_question.wav", dtype="float32")
    assert sampling_rate == 16000
    return waveform


@pytest.fixture(scope="module")
def teacher():
    return whisper_encoder()


@pytest.fixture(scope="module")
def corpus_dir(tmp_path_factory, speech):
    folder, rows, noise = tmp_path_factory.mktemp("corpus"), [], np.random.default_rng(0)
    for index in range(12):
        voice = list(PHONEMES)[index % 3]
        clip = speech[800 * index : 800 * index + 12000] if voice != "noise" else noise.normal(0, 0.02, 6000)
        split = {10: "test", 11: "test_voice"}.get(index, "train")
        sf.write(folder / f"{index}.flac", clip, 16000)
        rows.append(
            {
                **{"id": str(index), "path": f"{index}.flac", "text": "x", "voice": voice, "split": split},
                **{"duration": len(clip) / 16000, "phonemes": PHONEMES[voice] if split == "train" else list("tɛ")},
            }
        )
    (folder / "clips.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


def test_a_voice_has_no_more_clips_than_it_may():
    clips = [{"id": number, "voice": voice} for number, voice in enumerate(["joe", "amy", "joe", "joe", "amy"])]
    assert [clip["id"] for clip in tokenizer.limit_voices(clips, 2)] == [0, 1, 2, 4]
    assert tokenizer.limit_voices(clips, None) == clips


@pytest.mark.parametrize("name, value", [("levels", [3, 1]), ("num_clips", 0), ("max_clips_of_voice", 0)])
def test_bad_settings_are_named(name, value):
    with pytest.raises(ValueError, match=f"`{name}` must be .*, got {re.escape(str(value))}"):
        tokenizer.TokenizerArguments("corpus", **{name: value})


@pytest.fixture
def settings(corpus_dir, tmp_path):
    # the shipped recipe, but for its length
    settings = yaml.safe_load((ROOT / "training/configs/mini/tokenizer.yaml").read_text())
    short = {"max_steps": 4, "save_steps": 2, "eval_steps": 2, "logging_steps": 1, "quantize_after": 2}
    short |= {"per_device_train_batch_size": 2, "warmup_steps": 1, "bf16": False, "dataloader_num_workers": 0}
    short |= {"dataloader_persistent_workers": False, "dataloader_prefetch_factor": None}
    short |= {"num_clips": 7, "corpus_dir": str(corpus_dir), "output_dir": str(tmp_path / "run")}
    path = tmp_path / "settings.yaml"
    path.write_text(yaml.safe_dump(settings | short))
    return path


def test_whispers_encoder_is_that_of_ctranslate2(teacher, speech):
    features = WhisperFeatureExtractor()(speech, sampling_rate=16000, return_tensors="pt")["input_features"]
    with torch.no_grad():
        ours = teacher(features).last_hidden_state
    model = WhisperModel(**whisper_tiny(), device="cpu", compute_type="float32")
    theirs = torch.from_numpy(np.array(model.encode(features[0].numpy())))
    torch.testing.assert_close(ours, theirs, atol=1e-4, rtol=0)


def test_unpadded_speech_has_the_states_of_padded_speech(teacher, speech):
    extractor = WhisperFeatureExtractor()
    padded = extractor(speech, sampling_rate=16000, return_tensors="pt")["input_features"]
    num_frames = len(speech) // 160
    short = padded[..., : num_frames - num_frames % 8]
    with torch.no_grad():
        states = encode_unpadded(teacher, short, torch.ones(1, short.shape[2]))[0]
        whole = teacher(padded).last_hidden_state[0, : len(states)]
        # a longer neighbour in the batch changes nothing
        batch = torch.cat([torch.nn.functional.pad(short, (0, 400)), padded[..., : short.shape[2] + 400]])
        mask = torch.ones(2, batch.shape[2])
        mask[0, short.shape[2] :] = 0
        # but for the frames at the end, whose convolutions reach into the padding
        among = encode_unpadded(teacher, batch, mask)[0, : len(states) - 2]
    assert torch.cosine_similarity(states, whole).mean() > 0.9
    assert torch.cosine_similarity(states[:-2], among).mean() > 0.99


def test_the_codebook_is_a_grid():
    grid = quantization_grid([3, 2])
    assert grid.tolist() == [[-1, -1], [-1, 1], [0, -1], [0, 1], [1, -1], [1, 1]]
    assert quantization_grid([3] * 7).shape == (3**7, 7)


def test_states_are_normalized_over_the_frames_of_a_row():
    states, mask = torch.randn(2, 6, 3) * 4 + 7, torch.tensor([[1.0] * 6, [1.0] * 4 + [0.0] * 2])
    normalized = normalize_over_time(states, mask)
    expected = (states[1, :4] - states[1, :4].mean(0)) / states[1, :4].std(0, correction=0)
    torch.testing.assert_close(normalized[1, :4], expected)
    torch.testing.assert_close(normalized[0].mean(0), torch.zeros(3), atol=1e-5, rtol=0)


def test_other_sizes_than_whispers_are_refused():
    config = Glm4VoiceTokenizerConfig(**SIZES | {"encoder_layers": 2}, codebook_size=9, latent_dim=2)
    model = Glm4VoiceTokenizerForPreTraining(config, [3, 3], 5, 384, 1.0)
    with pytest.raises(ValueError, match="encoder_layers': 2"):
        start_from_whisper(model.tokenizer)


def test_disturbed_speech_stays_where_it_is(speech):
    random.seed(0)
    np.random.seed(0)
    for _ in range(20):
        heard = keep_alignment(other_places()(speech, 16000), len(speech))
        assert heard.shape == speech.shape and heard.dtype == np.float32 and np.isfinite(heard).all()
        # loud where the speech is loud
        loudness = [np.sqrt(np.mean(x[: len(x) // 400 * 400].reshape(-1, 400) ** 2, axis=1)) for x in (heard, speech)]
        assert np.corrcoef(loudness)[0, 1] > 0.3
    lengths = {len(other_voices()(speech, 16000)) for _ in range(20)}
    assert len(lengths) > 2 and 0.75 * len(speech) < min(lengths) and max(lengths) < 1.3 * len(speech)


@pytest.mark.slow
def test_losses_fall_and_gradients_reach_the_encoder(corpus_dir, teacher):
    torch.manual_seed(0)
    clips = read_clips(corpus_dir, 8.0)
    phonemes = read_phonemes(clips)
    config = Glm4VoiceTokenizerConfig(**SIZES, codebook_size=81, latent_dim=4)
    model = Glm4VoiceTokenizerForPreTraining(config, [3] * 4, len(phonemes), 384, 1.0)
    start_from_whisper(model.tokenizer)
    dataset = TokenizerClips(corpus_dir, clips, phonemes, 80, is_disturbed=False)
    batch = dataset.collate([dataset[index] for index in range(len(dataset))])
    # noise has no phonemes, which is a text as others are
    assert (batch["labels"] == 0).all(1).any()
    with torch.no_grad():
        batch["teacher_states"] = encode_unpadded(teacher, batch.pop("teacher_features"), batch["attention_mask"])
    optimizer = torch.optim.AdamW([weight for weight in model.parameters() if weight.requires_grad], 1e-3)
    losses = []
    for _ in range(12):
        output = model(**batch)
        output.loss.backward()
        assert model.tokenizer.conv1.weight.grad.abs().sum() > 0
        optimizer.step()
        optimizer.zero_grad()
        losses.append((output.phoneme_loss.item(), output.distillation_loss.item()))
    assert losses[-1][0] < 0.6 * losses[0][0] and losses[-1][1] < losses[0][1]
    assert model.tokenizer.codebook.weight.equal(quantization_grid([3] * 4))
    assert 1 <= output.used_codes <= 81


@pytest.mark.slow
def test_a_run_resumes_and_ends_as_a_codec(settings, tmp_path, speech, capsys, monkeypatch):
    # batches are fetched ahead, so what they are disturbed by is drawn anew
    monkeypatch.setattr(tokenizer, "TokenizerClips", partial(TokenizerClips, is_disturbed=False))
    tokenizer.main(["--config", str(settings)])
    run = tmp_path / "run"
    whole = load_file(run / "codec" / "model.safetensors")
    log = json.loads((run / "checkpoint-4" / "trainer_state.json").read_text())["log_history"]
    assert all(math.isfinite(entry["phoneme_loss"]) for entry in log if "loss" in entry)
    assert {"eval_test_phoneme_error_rate", "eval_test_voice_used_codes"} <= set().union(*log)
    # of the first seven clips, by their ids as texts, which are of both voices
    assert json.loads((run / "checkpoint-4" / "phonemes.json").read_text()) == sorted(set("tɛl miːðə sʌm"))
    record = json.loads((run / "checkpoint-4" / "training_args.json").read_text())
    assert record["settings"]["num_clips"] == 7 and record["settings"]["levels"] == [3] * 7

    # stopped after the first checkpoint
    for name in ("checkpoint-4", "codec"):
        (run / name).rename(tmp_path / name)
    capsys.readouterr()
    tokenizer.main(["--config", str(settings)])
    assert "after step 2 of 4" in capsys.readouterr().out
    resumed = load_file(run / "codec" / "model.safetensors")
    assert set(resumed) == set(whole)
    # the rest is the decoder, random so far
    heard = [name for name in whole if name.startswith("tokenizer.")]
    assert len(heard) > 60 and all(resumed[name].equal(whole[name]) for name in heard)

    codec = AutoModel.from_pretrained(run / "codec", trust_remote_code=True)
    codes = encode(codec, speech)
    assert len(codes) == math.ceil(len(speech) / 1280) and 0 <= min(codes) and max(codes) < 3**7
    assert codec.config.codebook_size == 3**7 and codec.config.storage_dtype == "float16"
    assert not codec.config.tokenizer_config.architectures
    assert not any(name.startswith("encoder.") for name in whole)
    # Codes are the nearest points of the grid, which float16 has exactly
    assert codec.tokenizer.codebook.weight.equal(quantization_grid([3] * 7))
