# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
from types import SimpleNamespace

import pytest
import torch
from modeling_fixtures import random_model, random_prompt
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from modeling_vita_audio import attention_vita_audio
from modeling_vita_audio.attention_vita_audio import CACHED_SDPA, cached_sdpa_forward


@pytest.fixture
def repeated(monkeypatch):
    """How many calls went to transformers' function."""
    calls = []

    def count(*args, **kwargs):
        calls.append(args)
        return sdpa_attention_forward(*args, **kwargs)

    monkeypatch.setattr(attention_vita_audio, "sdpa_attention_forward", count)
    return calls


def inputs(num_new, num_columns, num_key_value_heads=2, batch_size=2):
    torch.manual_seed(0)
    query = torch.randn(batch_size, num_new, 4, 8).transpose(1, 2)
    key, value = torch.randn(2, batch_size, num_key_value_heads, 64, 8)[:, :, :, :num_columns]
    return query, key, value


def module(num_groups):
    return SimpleNamespace(num_key_value_groups=num_groups, is_causal=True)


MASKS = {
    "none": lambda num_new, num_columns: None,
    "bool": lambda num_new, num_columns: torch.ones(num_new, num_columns, dtype=torch.bool).tril(
        num_columns - num_new
    )[None, None],
    "padded": lambda num_new, num_columns: (
        MASKS["bool"](num_new, num_columns)
        & (torch.arange(num_columns) >= torch.tensor([0, 5])[:, None])[:, None, None]
    ),
    "float": lambda num_new, num_columns: torch.zeros(1, 1, num_new, num_columns).masked_fill(
        ~MASKS["bool"](num_new, num_columns), -torch.inf
    ),
}


@pytest.mark.parametrize("num_new, num_columns", [(1, 1), (1, 40), (5, 40), (11, 11)])
@pytest.mark.parametrize("num_key_value_heads", [1, 2])
@pytest.mark.parametrize("mask", MASKS)
@torch.no_grad()
def test_it_is_the_attention_of_transformers(num_new, num_columns, num_key_value_heads, mask, repeated):
    states = inputs(num_new, num_columns, num_key_value_heads)
    attention_mask = MASKS[mask](num_new, num_columns)
    if mask == "padded" and num_columns < 6:
        pytest.skip("a row would have nothing to look at")
    arguments = (module(4 // num_key_value_heads), *states, attention_mask)
    output, weights = cached_sdpa_forward(*arguments, scaling=0.3)
    expected, _ = sdpa_attention_forward(*arguments, scaling=0.3)
    if mask == "padded" and num_new == num_columns:
        # The first tokens of a padded row see nothing, and what they give means nothing
        output, expected = output[:, 6:], expected[:, 6:]
    torch.testing.assert_close(output, expected)
    assert weights is None
    # Without a mask the beginning of a sequence is causal, which transformers does best
    assert len(repeated) == (num_new > 1 and mask == "none")


def test_what_else_there_is_goes_to_transformers(repeated):
    states = inputs(5, 40)
    mask = MASKS["bool"](5, 40)
    with torch.enable_grad():
        cached_sdpa_forward(module(2), *states, mask)
    assert len(repeated) == 1
    with torch.no_grad():
        cached_sdpa_forward(module(1), *inputs(5, 40, 4), mask)
        of_heads = cached_sdpa_forward(module(2), *states, mask.expand(1, 4, 5, 40))[0]
        cached_sdpa_forward(module(2), *states, mask, position_bias=torch.zeros(1, 4, 5, 40))
        assert len(repeated) == 4
        torch.testing.assert_close(of_heads, cached_sdpa_forward(module(2), *states, mask)[0])
        assert len(repeated) == 4


def test_models_have_it_in_the_place_of_sdpa_alone(repeated):
    model, tokens = random_model(1), random_prompt(9)
    assert model.model.language_model.config._attn_implementation == CACHED_SDPA
    generate = {"max_new_tokens": 8, "mctp_mode": [1, 1], "do_sample": False, "pad_token_id": 0}
    expected = model.generate(tokens, **generate)
    # The prompt, in two layers and the module
    assert len(repeated) == 3
    for implementation in ("sdpa", "eager"):
        model.set_attn_implementation(implementation)
        assert model.model.language_model.config._attn_implementation == implementation
        assert torch.equal(model.generate(tokens, **generate), expected)
    assert len(repeated) == 3


@torch.no_grad()
def test_long_parts_of_a_prompt_go_to_transformers(repeated, monkeypatch):
    monkeypatch.setattr(attention_vita_audio, "MAX_NEW_TOKENS", 4)
    cached_sdpa_forward(module(2), *inputs(5, 40), MASKS["bool"](5, 40))
    assert len(repeated) == 1
