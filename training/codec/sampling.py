# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The order in which clips of a corpus are trained on."""

from collections.abc import Callable, Iterator

import torch
from transformers.trainer_pt_utils import LengthGroupedSampler


class ClipSampler(LengthGroupedSampler):
    """
    Batches of clips of like length. The order of an epoch depends on its number and the seed alone, so that a run that
    goes on in the middle of one has the batches that it would have had.

    Args:
        clips: rows of `clips.jsonl`.
        batch_size: of one process.
        seed: another one gives other orders.
        epoch: gives the number of the epoch that begins. What accelerate wraps around a sampler does not always pass
            it on.
    """

    def __init__(self, clips: list[dict], batch_size: int, seed: int, epoch: Callable[[], int]):
        lengths = [round(100 * clip["duration"]) for clip in clips]
        super().__init__(batch_size, lengths=lengths, generator=torch.Generator())
        self.seed, self.epoch = seed, epoch

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(hash((self.seed, self.epoch())))
        return super().__iter__()
