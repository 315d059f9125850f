# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Batches of packed rows, for attention that needs a mask to keep the samples of a row apart."""

from dataclasses import dataclass
from typing import Any

from trl.trainer.sft_trainer import DataCollatorForLanguageModeling


@dataclass
class PackedRowsCollator(DataCollatorForLanguageModeling):
    """
    Batches rows of packed samples, padded on the right. The position ids restart at each sample; there is no attention
    mask, because the model tells the samples of a row apart by the restarts.

    TRL's collator joins all packed rows into a single one, which flash attention walks through sample by sample.
    Attention under a mask (sdpa, eager) would need time and memory that grow with the square of that row's length.
    """

    # TRL makes position ids beside padding for sequence parallelism only.
    return_position_ids: bool = True

    def torch_call(self, examples: list[dict[str, Any]]) -> dict[str, Any]:
        """
        Args:
            examples: `input_ids` and `labels` of rows and, if these are packed, the `seq_lengths` of their samples.

        Returns:
            `input_ids`, `labels` and `position_ids`, int64 of shape `(batch_size, longest_row)`. Padding has the label
            -100 and the position 0, as if each of its tokens were a sample.
        """
        batch = super().torch_call(examples)
        # With a mask, the model would not look for restarts.
        del batch["attention_mask"]
        # The token before the first one of a sample belongs to another sample and must not be trained to predict it.
        batch["labels"][batch["position_ids"] == 0] = -100
        return batch
