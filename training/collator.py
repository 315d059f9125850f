# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches of packed rows, for attention that knows the samples of a row by a mask."""

from dataclasses import dataclass
from typing import Any

from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


@dataclass
class PackedRowsCollator(DataCollatorForLanguageModeling):
    """
    Batches rows of packed samples, padded on the right, with position ids that restart at each sample and no attention
    mask: by the restarts, the model keeps the samples of a row apart.

    TRL's own way with packed rows is to join them all into a single one, which flash attention walks through sample by
    sample. Under a mask, as sdpa and eager attention need it, the cost of that row would grow with its length squared.
    """

    return_position_ids: bool = True

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Args:
            examples: `input_ids` and `labels` of rows, and where these are packed the `seq_lengths` of their samples.

        Returns:
            `input_ids`, `labels` and `position_ids`, int64 of shape `(batch_size, longest_row)`. At the padding the
            positions are 0, as if every token of it were a sample, and the labels -100.
        """
        batch = super().torch_call(examples)
        del batch["attention_mask"]
        # nothing predicts the first token of a sample
        batch["labels"][batch["position_ids"] == 0] = -100
        return batch
