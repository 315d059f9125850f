# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The loss of the language model and of each MCTP module: what a column is to predict, and the cross entropy of it."""

import torch
from torch import nn
from transformers.integrations import is_deepspeed_zero3_enabled
from transformers.masking_utils import find_packed_sequence_indices


# Columns whose logits are in memory at once in training with gradient checkpointing, and without gradients. For the
# 168072 words of the released models these are 0.6 GB in bfloat16 and float32; fewer columns would leave a GPU idle
LOSS_COLUMNS = 512


def samples_of_columns(
    labels: torch.LongTensor, attention_mask: torch.Tensor | None, position_ids: torch.LongTensor | None
) -> torch.LongTensor:
    """
    Numbers the columns of each row by the sample that they belong to.

    Returns:
        `torch.LongTensor` of shape `(batch_size, sequence_length)`: the attention mask, which tells a sample from its
        padding, or without one the numbers of packed samples, each of which begins where `position_ids` restart.
    """
    if isinstance(attention_mask, torch.Tensor) and attention_mask.ndim == 2:
        # With a filled cache the mask also covers the columns before
        return attention_mask[:, -labels.shape[1] :].long()
    packed_ids = None
    if attention_mask is None and position_ids is not None:
        packed_ids = find_packed_sequence_indices(position_ids)
    return torch.zeros_like(labels) if packed_ids is None else packed_ids.expand_as(labels)


def targets_of_columns(labels: torch.LongTensor, sample_ids: torch.LongTensor, num_ahead: int) -> torch.LongTensor:
    """
    Finds the token that each column is to predict. Column i of the language model has read token i and predicts token
    i + 1; column i of MCTP module k has read token i + k too and predicts token i + k + 1, if that is in the same
    sample.

    An example of six tokens, two packed samples a b c and d e f, where a and d have no label:

        labels                        -100    b     c   -100    e     f
        sample_ids                      0     0     0     1     1     1
        targets of the language model   b     c   -100    e     f   -100
        targets of module 1             c   -100  -100    f   -100  -100

    Args:
        labels (`torch.LongTensor` of shape `(batch_size, sequence_length)`): token ids, -100 where there is no loss.
        sample_ids (`torch.LongTensor` of shape `(batch_size, sequence_length)`): see [`samples_of_columns`].
        num_ahead (`int`): 0 for the language model, k for module k.

    Returns:
        `torch.LongTensor` of shape `(batch_size, sequence_length)`: token ids, -100 where there is nothing to predict.
    """
    shift = num_ahead + 1
    targets = torch.full_like(labels, -100)
    is_same_sample = sample_ids[:, shift:] == sample_ids[:, :-shift]
    targets[:, :-shift] = labels[:, shift:].where(is_same_sample, -100)
    return targets


class VitaAudioLossMixin:
    """Of a model with the head `lm_head`, which the language model and its MCTP modules share."""

    def _loss(
        self,
        hidden_states: torch.Tensor,
        labels: torch.LongTensor,
        sample_ids: torch.LongTensor,
        num_ahead: int,
        num_items_in_batch: torch.Tensor | int | None,
    ) -> torch.Tensor:
        """
        Computes the loss, a scalar, of the language model or of an MCTP module from its hidden states
        `(batch_size, sequence_length, hidden_size)`. For the other arguments see [`targets_of_columns`].
        """
        # On the device of the head, which with a `device_map` need not be that of the inputs
        targets = targets_of_columns(labels, sample_ids, num_ahead).to(hidden_states.device)
        has_target = targets != -100
        # The head is the largest matrix of the model, so it reads no column without a target
        # `(num_targets, hidden_size)` and `(num_targets,)`
        hidden_states, targets = hidden_states[has_target], targets[has_target]
        loss = self._summed_cross_entropy(hidden_states, targets)
        if num_items_in_batch is None:
            # Without any target the loss is 0, and not NaN
            num_items_in_batch = max(len(targets), 1)
        elif isinstance(num_items_in_batch, torch.Tensor):
            num_items_in_batch = num_items_in_batch.to(loss.device)
        return loss / num_items_in_batch

    def _summed_cross_entropy(self, hidden_states: torch.Tensor, targets: torch.LongTensor) -> torch.Tensor:
        """Takes hidden states `(num_targets, hidden_size)` and targets `(num_targets,)`; trainers may replace it."""
        needs_grad = torch.is_grad_enabled()
        if needs_grad and not (self.gradient_checkpointing and self.training):
            return self._cross_entropy_of_part(hidden_states, targets)
        # The logits of a large vocabulary take much memory, so they are computed part by part, and again in the
        # backward pass, if there is one. With ZeRO-3, all processes have to call the head equally often, however many
        # targets they have
        num_columns = len(targets) if is_deepspeed_zero3_enabled() else LOSS_COLUMNS
        parts = zip(hidden_states.split(num_columns or 1), targets.split(num_columns or 1))
        if needs_grad:
            losses = [self._gradient_checkpointing_func(self._cross_entropy_of_part, *part) for part in parts]
        else:
            losses = [self._cross_entropy_of_part(*part) for part in parts]
        return torch.stack(losses).sum()

    def _cross_entropy_of_part(self, hidden_states: torch.Tensor, targets: torch.LongTensor) -> torch.Tensor:
        return nn.functional.cross_entropy(self.lm_head(hidden_states).float(), targets, reduction="sum")
