# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The head where only speech can come next: its rows for all other tokens need not be read."""

import torch
from torch import nn

from .quantization_vita_audio import QuantizedLinear


def is_plain_linear(module: nn.Module) -> bool:
    """Whether calling the layer is multiplying with its weight and nothing else: no hook, adapter or quantisation."""
    # Quantised layers such as those of bitsandbytes are subclasses, whose weight is not what they multiply with
    return type(module) is nn.Linear and type(module.weight) is nn.Parameter and is_unhooked(module)


def is_unhooked(layer: nn.Linear) -> bool:
    return (
        not layer.weight.is_meta
        # accelerate's hooks replace `forward` on the object
        and "forward" not in vars(layer)
        and not layer._forward_pre_hooks
        and not layer._forward_hooks
    )


def scores_of_rows(
    head: nn.Module, hidden_states: torch.Tensor, start: int, end: int, token_ids: torch.LongTensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """
    The scores of some tokens alone.

    Args:
        head (`nn.Module`): gives `(..., vocab_size)` scores of hidden states. If it is a plain linear layer, or one of
            our quantised ones on a CPU, only its rows for these tokens are read.
        hidden_states (`torch.Tensor` of shape `(batch_size, num_columns, hidden_size)`): of the model.
        start, end (`int`): the tokens from `start` to before `end`.
        token_ids (`torch.LongTensor` of shape `(num_tokens,)`): other tokens.

    Returns:
        `tuple(torch.Tensor)` of shapes `(batch_size, num_columns, end - start)` and `(batch_size, num_columns,
        num_tokens)`.
    """
    token_ids = token_ids.to(hidden_states.device)
    if is_plain_linear(head):
        # A slice is a view, so no other row is read
        contiguous, others = head.weight[start:end], head.weight[token_ids]
        return nn.functional.linear(hidden_states, contiguous), nn.functional.linear(hidden_states, others)
    if isinstance(head, QuantizedLinear) and head.weight.is_cpu and is_unhooked(head):
        others = head.weight_rows(token_ids, hidden_states.dtype)
        return head.part(start, end)(hidden_states), nn.functional.linear(hidden_states, others)
    # Flat, as in the model's own call of the head
    logits = head(hidden_states.flatten(0, 1)).unflatten(0, hidden_states.shape[:2])
    return logits[..., start:end], logits[..., token_ids]


__all__ = ["is_plain_linear", "scores_of_rows"]
