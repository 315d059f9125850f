# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The order in which examples of different lengths are trained on."""

from collections.abc import Iterator

import torch
from transformers import Trainer
from transformers.trainer_pt_utils import LengthGroupedSampler


class LikeLengthSampler(LengthGroupedSampler):
    """
    Steps of examples of like length. The order of an epoch depends on its number and the seed alone, so that a run
    that goes on in the middle of one has the steps that it would have had.

    transformers' own sampler has the longest examples first, and in every 50 batches the longer ones before the
    shorter, where a task with short examples would come many steps on end. Here steps come in any order.

    Args:
        lengths: of the examples, in whatever unit.
        trainer: says how many examples a step has, the seed, and which epoch begins. What accelerate wraps around a
            sampler does not always pass that on.
    """

    def __init__(self, lengths: list[int], trainer: Trainer):
        args = trainer.args
        examples_per_step = args.train_batch_size * args.gradient_accumulation_steps * args.world_size
        super().__init__(examples_per_step, lengths=lengths, generator=torch.Generator())
        self.trainer = trainer

    def __iter__(self) -> Iterator[int]:
        self.generator.manual_seed(hash((self.trainer.args.seed, int(self.trainer.state.epoch or 0))))
        indices = list(super().__iter__())
        steps = [indices[start : start + self.batch_size] for start in range(0, len(indices), self.batch_size)]
        # The last one may have fewer examples
        order = torch.randperm(len(steps) - 1, generator=self.generator).tolist() + [len(steps) - 1]
        return iter([index for number in order for index in steps[number]])
