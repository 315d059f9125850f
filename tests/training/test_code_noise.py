# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Codes that are heard with mistakes."""

import itertools

import pytest
import torch
from tiny_models import tiny_dac
from tiny_trainers import TINY_SETTINGS, build_tiny_start

from processing import VitaAudioProcessor
from training.code_noise import CodeNoise, codebook_of
from training.data import build_training_dataset
from training.trainer import VitaAudioSFTConfig, VitaAudioSFTTrainer


# The points of a grid of 5 times 5
GRID = torch.tensor(list(itertools.product(range(5), range(5))), dtype=torch.float32)
FIRST_ID = 100


def test_heard_codes_become_near_ones_and_nothing_else_changes():
    torch.manual_seed(0)
    ids = torch.randint(FIRST_ID - 30, FIRST_ID + len(GRID) + 30, (4, 50_000))
    labels = torch.where(torch.rand(ids.shape) < 0.5, ids, -100)
    noisy = CodeNoise(GRID, FIRST_ID, 0.2)(ids, labels)
    is_heard = (labels == -100) & (ids >= FIRST_ID) & (ids < FIRST_ID + len(GRID))
    assert torch.equal(noisy[~is_heard], ids[~is_heard])
    before, after = ids[is_heard], noisy[is_heard]
    assert (before != after).float().mean() == pytest.approx(0.2, abs=0.02)
    assert after.min() >= FIRST_ID and after.max() < FIRST_ID + len(GRID)
    # the eight around the centre of the grid, each about as often
    others = after[(before == FIRST_ID + 12) & (after != before)] - FIRST_ID
    assert set(others.tolist()) == {6, 7, 8, 11, 13, 16, 17, 18}
    assert torch.bincount(others)[6] > len(others) / 16


def test_without_a_share_nothing_changes_and_the_input_stays():
    ids, labels = torch.arange(FIRST_ID, FIRST_ID + 25)[None], torch.full((1, 25), -100)
    assert torch.equal(CodeNoise(GRID, FIRST_ID, 0.0)(ids, labels), ids)
    CodeNoise(GRID, FIRST_ID, 0.9)(ids, labels)
    assert torch.equal(ids, torch.arange(FIRST_ID, FIRST_ID + 25)[None])


@pytest.fixture(scope="module")
def start(tmp_path_factory):
    folder = tmp_path_factory.mktemp("code_noise")
    model, processor, conversations = build_tiny_start(folder)
    return model, processor, build_training_dataset(conversations, processor, folder)


def test_training_hears_mistakes_and_evaluation_does_not(start, tmp_path):
    model, processor, examples = start
    args = VitaAudioSFTConfig(output_dir=str(tmp_path), stage=1, heard_code_noise=0.5, **TINY_SETTINGS)
    trainer = VitaAudioSFTTrainer(model, args, train_dataset=examples, processing_class=processor)
    seen = []
    trainer.model.register_forward_pre_hook(
        lambda module, args, kwargs: seen.append(kwargs["input_ids"].clone()), with_kwargs=True
    )
    (batch,) = itertools.islice(trainer.get_train_dataloader(), 1)
    trainer.model.train()
    trainer.compute_loss(trainer.model, dict(batch))
    trainer.model.eval()
    trainer.compute_loss(trainer.model, dict(batch))
    first_id, size = trainer.model.config.speech_token_offset, trainer.model.config.num_speech_tokens
    is_heard = (batch["labels"] == -100) & (batch["input_ids"] >= first_id) & (batch["input_ids"] < first_id + size)
    assert is_heard.sum() > 20
    is_changed = seen[0] != batch["input_ids"]
    assert 0.2 < is_changed[is_heard].float().mean() < 0.8 and not is_changed[~is_heard].any()
    assert torch.equal(seen[1], batch["input_ids"])


def test_a_codec_that_tells_no_vectors_is_refused(start):
    config = start[1].audio_tokenizer.config
    assert codebook_of(start[1]).shape == (config.codebook_size, config.tokenizer_config.latent_dim)
    processor = VitaAudioProcessor.from_codec(start[1].tokenizer, tiny_dac())
    with pytest.raises(ValueError, match="`heard_code_noise` is for models that hear by codes"):
        codebook_of(processor)


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_a_share_has_to_be_one(tmp_path, share):
    with pytest.raises(ValueError, match="`heard_code_noise` must be at least 0 and below 1"):
        VitaAudioSFTConfig(output_dir=str(tmp_path), heard_code_noise=share, **TINY_SETTINGS)
