# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The order of clips, as `Trainer` asks for it in a run that goes on."""

import torch
from accelerate.data_loader import prepare_data_loader, skip_first_batches
from torch.utils.data import DataLoader

from training.codec.sampling import ClipSampler


CLIPS = [{"duration": 0.5 + number / 40} for number in range(48)]


def batches(rank, seed, epoch, skipped=0):
    sampler = ClipSampler(CLIPS, 4, seed, lambda: epoch)
    loader = DataLoader(list(range(len(CLIPS))), batch_size=4, sampler=sampler)
    loader = prepare_data_loader(loader, device=torch.device("cpu"), num_processes=2, process_index=rank)
    if skipped:
        loader = skip_first_batches(loader, skipped)
    return [batch.tolist() for batch in loader]


def test_two_processes_go_on_with_the_batches_they_would_have_had(monkeypatch):
    # there is one process here, so nothing has to be agreed upon
    monkeypatch.setattr("accelerate.data_loader.synchronize_rng_states", lambda *args: None)
    for rank in range(2):
        whole = batches(rank, 0, epoch=3)
        assert batches(rank, 0, epoch=3, skipped=2) == whole[2:]
        assert whole not in (batches(rank, 0, epoch=0), batches(rank, 1, epoch=3))
    both = sum(batches(0, 0, epoch=3) + batches(1, 0, epoch=3), [])
    assert sorted(both) == list(range(48))
    # Clips of like length are together: four of 48 numbers would differ by 29, on average.
    spread = [max(batch) - min(batch) for batch in batches(0, 0, epoch=3)]
    assert sum(spread) / len(spread) < 20
