# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What a model from nothing begins with."""

import pytest
import torch
from tiny_corpus import TINY_TEXT_CONFIG
from tiny_models import TRAINABLE_CODEC, spread_codes, tiny_dac

from processing.configuration_vita_audio_codec import VitaAudioCodecConfig
from processing.modeling_vita_audio_codec import VitaAudioCodec
from training.initialize import build_from_nothing


TEXTS = ["One two three four.", "Red, blue and green."]


def speech_and_other_rows(codec):
    torch.manual_seed(0)
    model, _ = build_from_nothing(TINY_TEXT_CONFIG | {"hidden_size": 256}, TEXTS, 300, codec)
    rows, start = model.get_input_embeddings().weight.detach(), model.config.speech_token_offset
    end = start + model.config.num_speech_tokens
    return rows[start:end], torch.cat([rows[:start], rows[end:]])


def likeness(rows):
    """Distances between all pairs of rows, as a list of numbers around 0 of deviation 1."""
    distances = torch.pdist(rows.double())
    return (distances - distances.mean()) / distances.std()


def test_codes_that_are_near_each_other_begin_alike():
    codec = VitaAudioCodec(VitaAudioCodecConfig(**TRAINABLE_CODEC))
    spread_codes(codec, [2] * 5)
    speech, others = speech_and_other_rows(codec)
    grid = likeness(codec.tokenizer.codebook.weight)
    assert (likeness(speech) * grid).mean() > 0.95
    assert speech.std() == pytest.approx(0.08, rel=0.1) and others.std() == pytest.approx(0.02, rel=0.1)


def test_codes_of_a_codec_that_tells_no_vectors_begin_at_random():
    speech, others = speech_and_other_rows(tiny_dac())
    assert speech.std() == pytest.approx(others.std().item(), rel=0.1)
    # no two are more alike than others
    assert likeness(speech).abs().max() < 6
