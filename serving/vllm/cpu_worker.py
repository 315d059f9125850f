# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The worker on CPUs."""

# First, because it prepares the process's memory before torch does
from vllm.v1.worker.cpu_worker import CPUWorker  # isort: skip

import torch
from vllm.v1.sample import rejection_sampler

from .workers import VitaAudioWorkerMixin


# The rejection sampler of vLLM 0.32 has two faults on CPUs, and neither function has a hook.
# tests/serving/vllm/test_faults.py says when they are gone
apply_sampling_constraints = rejection_sampler.apply_sampling_constraints


class VitaAudioCPUWorker(VitaAudioWorkerMixin, CPUWorker):
    def load_model(self, **kwargs) -> None:
        rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens
        rejection_sampler.apply_sampling_constraints = apply_constraints_to_drafts
        super().load_model(**kwargs)

    def sample_tokens(self, *args):
        # vLLM takes the generator of a prompt that is not read to its end one draw back, which generators on CPUs
        # cannot; so such a row has none while it samples
        runner = self.model_runner
        generators, withheld = runner.input_batch.generators, {}
        for row in runner.discard_request_mask.np[: runner.input_batch.num_reqs].nonzero()[0].tolist():
            if row in generators:
                withheld[row] = generators.pop(row)
        try:
            return super().sample_tokens(*args)
        finally:
            generators.update(withheld)


def expand_batch_to_tokens(
    x: torch.Tensor, cu_num_tokens: torch.Tensor, num_tokens: int, replace_from: int = 0, replace_to: int = 0
) -> torch.Tensor:
    """
    As vLLM's function of this name: repeats each value of `x` `(batch_size,)` for the tokens of its request, of which
    `cu_num_tokens` `(batch_size,)` has the running sums. vLLM's writes temperatures into a copy, and so samples with
    what happened to be in the memory.
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1)).long()
    return torch.where(x == replace_from, torch.full_like(x, replace_to), x).repeat_interleave(counts)


def apply_constraints_to_drafts(logits: torch.Tensor, *args) -> torch.Tensor:
    """As vLLM's `apply_sampling_constraints`, which fails with `top_k` where a batch has no drafts."""
    return apply_sampling_constraints(logits, *args) if len(logits) > 0 else logits


__all__ = ["VitaAudioCPUWorker"]
