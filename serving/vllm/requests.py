# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The options that a request has for VITA-Audio, in `SamplingParams.extra_args`, and what requests may not ask for."""

import re
from typing import Any

import torch
from vllm import SamplingParams
from vllm.config import VllmConfig
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor

from modeling_vita_audio.generation_vita_audio import resolve_mctp_mode
from modeling_vita_audio.verification_vita_audio import resolve_mctp_verify


class DecodingOptions:
    """
    Which mode each request has, and which tokens modules may write.

    Attributes:
        num_modules (`int`): K.
        is_verified (`bool`): whether the engine verifies what modules write.
    """

    def __init__(self, vllm_config: VllmConfig):
        model_config = vllm_config.model_config
        config = model_config.hf_config
        self.num_modules = config.num_mctp_modules
        self.is_verified = vllm_config.speculative_config is not None
        # the model's defaults, as `generate` takes them
        defaults = model_config.try_get_generation_config()
        given = vllm_config.additional_config or {}
        mode = given.get("mctp_mode") or defaults.get("mctp_mode") or "vanilla"
        self.schedule = resolve_mctp_mode(mode, self.num_modules)
        self.layout = config.interleave_pattern if defaults.get("mctp_speech_only_head") else None
        eos_token_ids = defaults.get("eos_token_id") or []
        self.is_speech = torch.zeros(config.text_config.vocab_size, dtype=torch.bool)
        self.is_speech[config.speech_token_offset : config.speech_token_offset + config.num_speech_tokens] = True
        # a place for speech may have its delimiters and the tokens that end an answer as well
        self.is_speech[[config.begin_audio_token_id, config.end_audio_token_id]] = True
        self.is_speech[eos_token_ids] = True

    def schedule_of(self, params: SamplingParams) -> list[int]:
        """The schedule of a request. One that the model cannot run is the engine's: see [`RequestCheck`]."""
        mode = (params.extra_args or {}).get("mctp_mode")
        if mode is None:
            return self.schedule
        try:
            return resolve_mctp_mode(mode, self.num_modules)
        except ValueError:
            return self.schedule


class RequestCheck(LogitsProcessor):
    """
    Changes no scores: vLLM asks these classes whether they take a request's options, before the request comes into the
    engine, and tells the client if one does not.
    """

    num_modules: int

    @classmethod
    def validate_params(cls, sampling_params: SamplingParams) -> None:
        options: dict[str, Any] = sampling_params.extra_args or {}
        if (mode := options.get("mctp_mode")) is not None:
            resolve_mctp_mode(mode, cls.num_modules)
        if (mctp_verify := options.get("mctp_verify")) is not None and max(resolve_mctp_verify(mctp_verify)) > 0:
            raise ValueError(
                "This engine does not verify what modules write. `serving.vllm.engine_arguments(folder, "
                "mctp_verify=True)` makes one that does, losslessly: vLLM knows no tolerance."
            )
        if sampling_params.logprobs == -1:
            raise ValueError("`logprobs` of all tokens need an engine that verifies what modules write.")
        if sampling_params.structured_outputs is not None:
            raise ValueError("Structured outputs need an engine that verifies what modules write (`mctp_verify`).")

    def __init__(self, vllm_config: VllmConfig, device: torch.device, is_pin_memory: bool):
        pass

    def apply(self, logits: torch.Tensor) -> torch.Tensor:
        return logits

    def is_argmax_invariant(self) -> bool:
        return True

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        pass


def __getattr__(name: str) -> type[RequestCheck]:
    """
    `RequestCheckOf10Modules`: vLLM takes such classes by their names alone, and gives `validate_params` nothing of the
    model, so the name says how many modules it has.
    """
    if match := re.fullmatch(r"RequestCheckOf(\d+)Modules", name):
        return type(name, (RequestCheck,), {"num_modules": int(match[1])})
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = ["DecodingOptions", "RequestCheck"]
