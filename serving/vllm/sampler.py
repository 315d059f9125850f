# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Unverified decoding *at once*: when vLLM samples the language model's token, the modules write theirs, and all leave in
the same step. The scheduler takes them as tokens that were accepted, and lets the language model read them next. As
drafts of a speculation they would come one step late, and the first chunk of speech with them.
"""

from dataclasses import replace

import torch
from vllm.v1.outputs import LogprobsTensors, SamplerOutput
from vllm.v1.sample.metadata import SamplingMetadata
from vllm.v1.sample.sampler import Sampler

from .decoder import ModuleDecoder


# What vLLM takes for no token in a row of sampled ones
NO_TOKEN = -1


class AtOnceSampler(Sampler):
    """
    Takes the place of a runner's sampler.

    Args:
        sampler (`Sampler`): the runner's.
        decoder ([`ModuleDecoder`]): that runs the modules.
    """

    def __init__(self, sampler: Sampler, decoder: ModuleDecoder):
        super().__init__(sampler.logprobs_mode, sampler.use_fp64_gumbel)
        self.decoder = decoder

    def forward(self, logits: torch.Tensor, sampling_metadata: SamplingMetadata, *args, **kwargs) -> SamplerOutput:
        output = super().forward(logits, sampling_metadata, *args, **kwargs)
        # vLLM tries the sampler without requests, too, to learn how much memory it takes
        if not self.decoder.has_batch:
            return output
        runner = self.decoder.runner
        batch, num_rows = runner.input_batch, runner.input_batch.num_reqs
        # a prompt that is not read to its end gets no token
        is_writing = (~runner.discard_request_mask.np[:num_rows]).tolist()
        tokens = output.sampled_token_ids[:, 0].tolist()
        bursts = [[token] if is_new else [] for token, is_new in zip(tokens, is_writing)]
        steps = [output]
        written = [runner.requests[request_id].output_token_ids for request_id in batch.req_ids[:num_rows]]
        num_written = [len(ids) for ids in written]

        def choose(
            module_idx: int, rows: list[int], module_logits: torch.Tensor, bursts: list[list[int]]
        ) -> list[int]:
            # Penalties and processors see tokens as they are written
            for ids, number, burst in zip(written, num_written, bursts):
                ids[number:] = burst
            for processor in sampling_metadata.logitsprocs.non_argmax_invariant:
                processor.update_state(None)
            # All that a request may ask for is kept by its row in the whole batch
            if len(rows) < num_rows:
                all_logits = module_logits.new_zeros(num_rows, module_logits.shape[1])
                all_logits[rows] = module_logits
            else:
                all_logits = module_logits
            generators = {
                row: sampling_metadata.generators[row] for row in rows if row in sampling_metadata.generators
            }
            step = super(AtOnceSampler, self).forward(
                all_logits, replace(sampling_metadata, generators=generators), *args, **kwargs
            )
            steps.append(step)
            chosen = step.sampled_token_ids[:, 0].tolist()
            return [chosen[row] for row in rows]

        bursts = self.decoder.write(is_writing, bursts, choose)
        for ids, number in zip(written, num_written):
            # vLLM writes them itself
            del ids[number:]
        if len(steps) == 1:
            return output
        # vLLM throws the token of a prompt away that it has not read to its end
        rows = [burst or [token] for burst, token in zip(bursts, tokens)]
        padded = [row + [NO_TOKEN] * (len(steps) - len(row)) for row in rows]
        output.sampled_token_ids = torch.tensor(
            padded, dtype=output.sampled_token_ids.dtype, device=output.sampled_token_ids.device
        )
        if output.logprobs_tensors is not None:
            output.logprobs_tensors = interleave_logprobs([step.logprobs_tensors for step in steps])
        return output


def interleave_logprobs(steps: list[LogprobsTensors]) -> LogprobsTensors:
    """Puts the log probabilities of each step `(num_rows, ...)` into the order of vLLM: row by row, step by step."""
    fields = ("logprob_token_ids", "logprobs", "selected_token_ranks")
    return LogprobsTensors(
        **{name: torch.stack([getattr(step, name) for step in steps], dim=1).flatten(0, 1) for name in fields}
    )


__all__ = ["AtOnceSampler"]
