# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Forwards of several sequences at once that are at different places: their new tokens stand side by side in one row of
the batch, so nothing is padded, and in attention each sequence has keys and values of its own.
"""

from collections.abc import Sequence

import torch
from torch import nn
from transformers import AttentionInterface
from transformers.cache_utils import Cache

from modeling_vita_audio.attention_vita_audio import cached_sdpa_forward


# The name under which transformers' models find the attention of this file
ROW_ATTENTION = "vita_audio_rows"


class RowCaches(Cache):
    """
    What a model takes for its cache in one forward: the caches of several sequences, whose new tokens stand side by
    side.

    Args:
        caches (`list[Cache]`): of each sequence, of batch size 1.
        lengths (`list[int]`): how many new tokens each has.
    """

    def __init__(self, caches: Sequence[Cache], lengths: Sequence[int], device: torch.device):
        super().__init__(layers=[])
        self.caches, self.lengths = caches, lengths
        self.states: list[tuple[torch.Tensor, torch.Tensor]] = []
        # Made once for all layers
        self.masks = [
            causal_mask(int(cache.get_seq_length()), length, device) for cache, length in zip(caches, lengths)
        ]

    def update(
        self, key_states: torch.Tensor, value_states: torch.Tensor, layer_idx: int, *args, **kwargs
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """
        Takes the keys and values `(1, num_key_value_heads, num_new_tokens, head_dim)` of a layer. What they are
        together with those of before is different for each sequence, and [`attend_in_rows`] reads it from `states`.
        """
        new = zip(key_states.split(self.lengths, dim=2), value_states.split(self.lengths, dim=2))
        self.states = [cache.update(*states, layer_idx) for cache, states in zip(self.caches, new)]
        return key_states, value_states


def causal_mask(num_past: int, num_new: int, device: torch.device) -> torch.Tensor | None:
    """
    Which columns the new tokens may see, `(1, 1, num_new, num_past + num_new)`; None where that is all of them.
    """
    if num_new == 1:
        return None
    return torch.ones(1, 1, num_new, num_past + num_new, dtype=torch.bool, device=device).tril(num_past)


def attend_in_rows(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float,
    rows: RowCaches,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """
    An attention function of transformers for the forwards of this file, whose `rows` are what they have as the cache.

    Args:
        query (`torch.Tensor` of shape `(1, num_heads, num_new_tokens, head_dim)`): of all sequences.

    Returns:
        `tuple`: the output `(1, num_new_tokens, num_heads, head_dim)`, and None for the weights.
    """
    outputs = [
        cached_sdpa_forward(module, new, keys, values, mask, scaling=scaling)[0]
        for new, (keys, values), mask in zip(query.split(rows.lengths, dim=2), rows.states, rows.masks)
    ]
    return torch.cat(outputs, dim=1), None


AttentionInterface.register(ROW_ATTENTION, attend_in_rows)

__all__ = ["ROW_ATTENTION", "RowCaches"]
