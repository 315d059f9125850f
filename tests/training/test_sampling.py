# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The order of examples, as `Trainer` asks for it in a run that goes on."""

from types import SimpleNamespace

import numpy as np
import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from training.sampling import LikeLengthSampler


LENGTHS = list(range(500, 980))


def sampler_of(seed, epoch, lengths=LENGTHS):
    args = SimpleNamespace(train_batch_size=4, gradient_accumulation_steps=1, world_size=2, seed=seed)
    return LikeLengthSampler(lengths, SimpleNamespace(args=args, state=SimpleNamespace(epoch=epoch)))


def batches(rank, seed, epoch, skipped=0):
    loader = DataLoader(LENGTHS, batch_size=4, sampler=sampler_of(seed, epoch))
    loader = prepare_data_loader(loader, device=torch.device("cpu"), num_processes=2, process_index=rank)
    if skipped:
        loader = skip_first_batches(loader, skipped)
    return [batch.tolist() for batch in loader]


def test_two_processes_go_on_with_the_batches_they_would_have_had(monkeypatch):
    # there is one process here, so nothing has to be agreed upon
    monkeypatch.setattr("accelerate.data_loader.synchronize_rng_states", lambda *args: None)
    for rank in range(2):
        whole = batches(rank, 0, epoch=3)
        # in the middle of the epoch
        assert batches(rank, 0, epoch=3.5, skipped=30) == whole[30:]
        assert whole not in (batches(rank, 0, epoch=0), batches(rank, 1, epoch=3))
    both = [batches(rank, 0, epoch=3) for rank in range(2)]
    assert sorted(sum(both[0] + both[1], [])) == LENGTHS
    steps = np.array(both).swapaxes(0, 1).reshape(60, 8)
    # Eight of 480 numbers would differ by 374, on average. Those of both processes are alike.
    assert np.mean(steps.max(1) - steps.min(1)) < 40
    # and long steps do not come before short ones
    assert abs(np.corrcoef(np.arange(60), steps.mean(1))[0, 1]) < 0.3


def test_a_last_step_of_few_examples_comes_last():
    order = list(sampler_of(0, 0, LENGTHS[:101]))
    assert sorted(order) == list(range(101))
    steps = [sorted(order[start : start + 8]) for start in range(0, 96, 8)]
    # eight of 101 numbers would differ by 79, on average
    assert np.mean([step[-1] - step[0] for step in steps]) < 40
    assert list(sampler_of(0, 0, [7])) == [0]
