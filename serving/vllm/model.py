# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""VITA-Audio in the layers of vLLM. Weights come straight from our folders."""

from collections.abc import Iterable

import torch
from torch import nn
from transformers import PreTrainedConfig
from vllm.config import VllmConfig
from vllm.model_executor.layers.layernorm import RMSNorm
from vllm.model_executor.layers.linear import ReplicatedLinear
from vllm.model_executor.models.llama import LlamaDecoderLayer
from vllm.model_executor.models.utils import (
    AutoWeightsLoader,
    WeightsMapper,
    init_vllm_registered_model,
    maybe_prefix,
)


# The language models that were tested, by their types, as vLLM calls them
BACKBONES = {"qwen2": "Qwen2ForCausalLM", "qwen3": "Qwen3ForCausalLM", "llama": "LlamaForCausalLM"}


class VitaAudioMCTPModule(nn.Module):
    """One MCTP module, with a layer of the class that the language model has and keys and values of its own."""

    def __init__(self, config: PreTrainedConfig, layer: nn.Module, mapper: WeightsMapper, prefix: str):
        super().__init__()
        self.embed_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        self.hidden_norm = RMSNorm(config.hidden_size, eps=config.rms_norm_eps)
        # every process has all of it: what it joins is whole in each
        self.proj = ReplicatedLinear(
            2 * config.hidden_size, config.hidden_size, bias=False, prefix=maybe_prefix(prefix, "proj")
        )
        self.layer = layer
        self.mapper = mapper

    @property
    def attention_name(self) -> str:
        """By which vLLM knows the keys and values of the module."""
        return self.layer.self_attn.attn.layer_name

    def forward(
        self, inputs_embeds: torch.Tensor, hidden_states: torch.Tensor, positions: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        joined = torch.cat([self.embed_norm(inputs_embeds), self.hidden_norm(hidden_states)], dim=-1)
        return self.layer(positions, self.proj(joined)[0], None)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        # a loader does not ask its children for the mapper, which puts projections together
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.mapper)


class VitaAudioForConditionalGeneration(nn.Module):
    """
    A language model of vLLM, and the MCTP modules beside it. vLLM runs the language model; the modules are run by
    [`ModuleDecoder`].
    """

    hf_to_vllm_mapper = WeightsMapper(
        orig_to_new_prefix={
            "model.language_model.": "language_model.model.",
            "model.mctp_modules.": "mctp_modules.",
            "lm_head.": "language_model.lm_head.",
        }
    )

    def __init__(self, *, vllm_config: VllmConfig, prefix: str = ""):
        super().__init__()
        self.config = vllm_config.model_config.hf_config
        text_config = self.config.text_config
        self.language_model = init_vllm_registered_model(
            vllm_config,
            hf_config=text_config,
            architectures=[BACKBONES[text_config.model_type]],
            prefix=maybe_prefix(prefix, "language_model"),
        )
        self.make_empty_intermediate_tensors = self.language_model.make_empty_intermediate_tensors
        # vLLM puts keys and values in the order of the numbers in names, so the modules go on counting
        names = [
            maybe_prefix(prefix, f"mctp_modules.{text_config.num_hidden_layers + index}")
            for index in range(self.config.num_mctp_modules)
        ]
        self.mctp_modules = nn.ModuleList(
            VitaAudioMCTPModule(
                text_config,
                self._new_layer(vllm_config, maybe_prefix(name, "layer")),
                self.language_model.hf_to_vllm_mapper,
                name,
            )
            for name in names
        )

    def _new_layer(self, vllm_config: VllmConfig, prefix: str) -> nn.Module:
        layer_class = type(self.language_model.model.layers[-1])
        if layer_class is LlamaDecoderLayer:
            return layer_class(vllm_config, prefix=prefix, config=self.config.text_config)
        return layer_class(self.config.text_config, vllm_config.cache_config, prefix=prefix)

    def embed_input_ids(self, input_ids: torch.Tensor) -> torch.Tensor:
        return self.language_model.model.embed_input_ids(input_ids)

    def forward(
        self,
        input_ids: torch.Tensor | None,
        positions: torch.Tensor,
        intermediate_tensors: None = None,
        inputs_embeds: torch.Tensor | None = None,
    ) -> torch.Tensor:
        return self.language_model(input_ids, positions, intermediate_tensors, inputs_embeds)

    def run_module(
        self, module_idx: int, input_ids: torch.Tensor, hidden_states: torch.Tensor, positions: torch.Tensor
    ) -> torch.Tensor:
        """
        Runs module `module_idx`, counted from 1, and the final norm.

        Args:
            input_ids (`torch.Tensor` of shape `(num_columns,)`): for each column i the token i + `module_idx`.
            hidden_states (`torch.Tensor` of shape `(num_columns, hidden_size)`): of the level before.
            positions (`torch.Tensor` of shape `(num_columns,)`): of the tokens.

        Returns:
            `torch.Tensor` of shape `(num_columns, hidden_size)`.
        """
        embeds = self.embed_input_ids(input_ids)
        states, residual = self.mctp_modules[module_idx - 1](embeds, hidden_states, positions)
        return self.language_model.model.norm(states, residual)[0]

    def compute_logits(self, hidden_states: torch.Tensor) -> torch.Tensor | None:
        return self.language_model.compute_logits(hidden_states)

    def load_weights(self, weights: Iterable[tuple[str, torch.Tensor]]) -> set[str]:
        return AutoWeightsLoader(self).load_weights(weights, mapper=self.hf_to_vllm_mapper)


__all__ = ["BACKBONES", "VitaAudioForConditionalGeneration"]
