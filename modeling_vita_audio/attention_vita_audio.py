# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Attention of a few new tokens to a long cache on CPUs, where transformers' own repeats the keys and values."""

import torch
from torch import nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask


# The name under which transformers' models find the attention of this file
CACHED_SDPA = "vita_audio_sdpa"
# More new tokens are a part of a prompt: their mask, which is repeated here, outgrows the keys and values
MAX_NEW_TOKENS = 64


def cached_sdpa_forward(
    module: nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    **kwargs,
) -> tuple[torch.Tensor, None]:
    """
    Attention as transformers' `"sdpa"`, equal but for rounding.

    Args:
        query (`torch.Tensor` of shape `(batch_size, num_heads, num_new_tokens, head_dim)`): of the new tokens.
        key, value (`torch.Tensor` of shape `(batch_size, num_key_value_heads, num_columns, head_dim)`): of all.
        attention_mask (`torch.Tensor` of shape `(batch_size or 1, 1, num_new_tokens, num_columns)`, *optional*):
            False or -inf where a new token must not look. Without it the tokens are causal.

    Returns:
        `tuple`: the output `(batch_size, num_new_tokens, num_heads, head_dim)`, and None for the weights.
    """
    num_groups, num_new = query.shape[1] // key.shape[1], query.shape[2]
    if (
        num_groups == 1
        or num_new > MAX_NEW_TOKENS
        or query.device.type != "cpu"
        or torch.is_grad_enabled()
        or torch.compiler.is_compiling()
        or kwargs.get("position_bias") is not None
        or kwargs.get("softcap") is not None
        # Without a mask, several tokens are the beginning of a sequence
        or (attention_mask is None and num_new > 1)
        or (attention_mask is not None and attention_mask.shape[1] > 1)
    ):
        return sdpa_attention_forward(
            module, query, key, value, attention_mask, dropout=dropout, scaling=scaling, **kwargs
        )
    # Heads that share keys and values are as further tokens that look at these, so nothing is repeated but the mask
    grouped = query.reshape(len(query), key.shape[1], num_groups * num_new, -1)
    if attention_mask is not None:
        attention_mask = attention_mask.repeat(1, 1, num_groups, 1)
    output = nn.functional.scaled_dot_product_attention(grouped, key, value, attention_mask, dropout, scale=scaling)
    return output.reshape(*query.shape[:3], -1).transpose(1, 2).contiguous(), None


AttentionInterface.register(CACHED_SDPA, cached_sdpa_forward)
AttentionMaskInterface.register(CACHED_SDPA, sdpa_mask)

__all__ = ["CACHED_SDPA"]
