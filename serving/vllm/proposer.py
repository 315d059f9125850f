# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Verified decoding: the modules' tokens are drafts of vLLM's speculation, and its rejection sampler decides."""

import numpy as np
import torch
from torch import nn
from vllm.config import VllmConfig
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_top_p

from .decoder import ModuleDecoder


# Below it, vLLM takes a temperature for greedy search
GREEDY_TEMPERATURE = 1e-5


class MCTPProposer:
    """
    Named as the `model` of a `speculative_config` of the method `custom_class`.

    Attributes:
        decoder ([`ModuleDecoder`]): set by the worker, when the model is loaded.
    """

    decoder: ModuleDecoder

    def __init__(self, vllm_config: VllmConfig):
        self.vocab_size = vllm_config.model_config.get_vocab_size()
        self.draft_probs: torch.Tensor | None = None

    def load_model(self, model: nn.Module) -> None:
        """vLLM asks for it; the modules are loaded with the language model."""

    @torch.inference_mode()
    def propose(
        self, sampled_token_ids: list[list[int]], num_tokens_no_spec: np.ndarray, token_ids_cpu: np.ndarray, **kwargs
    ) -> list[list[int]]:
        """The drafts of each request of the batch; see vLLM's `custom_class_proposer`."""
        runner, self.draft_probs = self.decoder.runner, None
        metadata = runner.input_batch.sampling_metadata
        if not metadata.all_greedy:
            self.draft_probs = torch.zeros(
                len(sampled_token_ids), self.decoder.options.num_modules, self.vocab_size, device=runner.device
            )
        is_writing = [len(tokens) > 0 for tokens in sampled_token_ids]
        # the sampled tokens are in the batch already
        bursts = self.decoder.write(is_writing, [[] for _ in sampled_token_ids], self.choose)
        if self.draft_probs is not None:
            # The runner has reset both, and reads them in its next step
            runner._draft_probs, runner._draft_prob_req_ids = self.draft_probs, runner.input_batch.req_ids.copy()
        return bursts

    def choose(self, module_idx: int, rows: list[int], logits: torch.Tensor, bursts: list[list[int]]) -> list[int]:
        """
        Drafts by scores `(num_rows, vocab_size)`, with the temperature and the cuts of each request. What else changes
        scores is left to the rejection sampler.
        """
        metadata = self.decoder.runner.input_batch.sampling_metadata
        greedy = logits.argmax(dim=-1)
        if self.draft_probs is None:
            return greedy.tolist()
        temperature = metadata.temperature[rows]
        is_greedy = temperature < GREEDY_TEMPERATURE
        scores = logits.float() / torch.where(is_greedy, 1.0, temperature)[:, None]
        top_k, top_p = (None if cut is None else cut[rows] for cut in (metadata.top_k, metadata.top_p))
        probs = apply_top_k_top_p(scores, top_k, top_p).softmax(dim=-1)
        self.draft_probs[rows, module_idx - 1] = probs
        noise = torch.empty_like(probs).exponential_()
        for index, row in enumerate(rows):
            if row in metadata.generators:
                noise[index].exponential_(generator=metadata.generators[row])
        return torch.where(is_greedy, greedy, (probs / noise).argmax(dim=-1)).tolist()


__all__ = ["MCTPProposer"]
