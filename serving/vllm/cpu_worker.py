# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The worker on CPUs."""

# First, because it prepares the process's memory before torch does
from vllm.v1.worker.cpu_worker import CPUWorker  # isort: skip

import torch
from vllm.v1.sample import rejection_sampler

from .workers import VitaAudioWorkerMixin


class VitaAudioCPUWorker(VitaAudioWorkerMixin, CPUWorker):
    def load_model(self, **kwargs) -> None:
        # vLLM 0.32 writes the temperatures of speculative sampling into a copy, so that it samples with what happened
        # to be in the memory. There is no hook for this function
        rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens
        super().load_model(**kwargs)


def expand_batch_to_tokens(
    x: torch.Tensor, cu_num_tokens: torch.Tensor, num_tokens: int, replace_from: int = 0, replace_to: int = 0
) -> torch.Tensor:
    """
    As vLLM's function of this name: repeats each value of `x` `(batch_size,)` for the tokens of its request, of which
    `cu_num_tokens` `(batch_size,)` has the running sums.
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1)).long()
    return torch.where(x == replace_from, torch.full_like(x, replace_to), x).repeat_interleave(counts)


__all__ = ["VitaAudioCPUWorker"]
