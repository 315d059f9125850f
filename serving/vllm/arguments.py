# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The arguments of a vLLM engine for a folder of ours. Importing this file imports nothing of vLLM."""

import json
import shlex
from pathlib import Path
from typing import Any

from transformers import GenerationConfig, PreTrainedConfig

from modeling_vita_audio.generation_vita_audio import resolve_mctp_mode
from modeling_vita_audio.verification_vita_audio import resolve_mctp_verify


PROPOSER = "serving.vllm.proposer.MCTPProposer"


def is_lossless(mctp_verify: bool | float | list[float]) -> bool:
    """
    Whether drafts are verified; vLLM does it losslessly or not at all.

    Raises:
        ValueError: it is no tolerance, or one between 0 and 1.
    """
    tolerances = set(resolve_mctp_verify(mctp_verify))
    if tolerances not in ({0}, {1}):
        raise ValueError(
            f"vLLM's rejection sampler compares drafts with the likeliest token or draws exactly, so it knows no "
            f"tolerance as `mctp_verify` {mctp_verify}. Give 1.0 (lossless) or 0.0, or use the engine on transformers."
        )
    return tolerances == {1}


def engine_arguments(
    folder: str | Path,
    mctp_mode: str | list[int] | None = None,
    mctp_verify: bool | float | None = None,
    **options: Any,
) -> dict[str, Any]:
    """
    The keyword arguments of `vllm.LLM(**...)` and `vllm.AsyncEngineArgs(**...)` for a model.

    Args:
        folder (`str` or `Path`): a folder or Hub id of a VITA-Audio model.
        mctp_mode (`str` or `list[int]`, *optional*):
            The mode of requests that name none (`SamplingParams(extra_args={"mctp_mode": ...})`); the model's by
            default.
        mctp_verify (`bool` or `float`, *optional*):
            1.0 or `True` for an engine that decodes all requests losslessly, which vLLM calls speculation, and 0.0 or
            `False` for one that verifies nothing. By default it is lossless if the model's own `mctp_verify`, of any
            tolerance, is above 0.
        options: further arguments of vLLM, such as `tensor_parallel_size`.

    Raises:
        ValueError: it is no VITA-Audio model, or one without the modules that the mode needs, or `mctp_verify` is a
            tolerance between 0 and 1.
    """
    is_verified = None if mctp_verify is None else is_lossless(mctp_verify)
    revision = options.get("revision")
    config, _ = PreTrainedConfig.get_config_dict(str(folder), revision=revision)
    if config.get("model_type") != "vita_audio":
        raise ValueError(f"{folder} has a model of the type {config.get('model_type')!r}, not 'vita_audio'.")
    num_modules = config.get("num_mctp_modules", 10)
    try:
        defaults = GenerationConfig.from_pretrained(str(folder), revision=revision).to_dict()
    except OSError:  # a folder need not have one
        defaults = {}
    schedule = resolve_mctp_mode(mctp_mode or defaults.get("mctp_mode") or "vanilla", num_modules)
    if is_verified is None:
        is_verified = max(resolve_mctp_verify(defaults.get("mctp_verify") or 0)) > 0
    # vLLM's own default rounds float32 weights to bfloat16
    arguments = {"model": str(folder), "dtype": config.get("dtype") or "auto", **options}
    arguments["additional_config"] = {**options.get("additional_config", {}), "mctp_mode": schedule}
    # Without modules nothing is to be verified
    if is_verified and num_modules > 0:
        arguments["speculative_config"] = {
            "method": "custom_class",
            "model": PROPOSER,
            "num_speculative_tokens": num_modules,
        }
    return arguments


def serve_arguments(
    folder: str | Path,
    mctp_mode: str | list[int] | None = None,
    mctp_verify: bool | float | None = None,
    **options: Any,
) -> str:
    """The command line of vLLM's server, with the arguments of [`engine_arguments`]."""
    arguments = engine_arguments(folder, mctp_mode, mctp_verify, **options)
    words = ["vllm", "serve", arguments.pop("model")]
    for name, value in arguments.items():
        option = f"--{name.replace('_', '-')}"
        if value is None:
            continue
        if isinstance(value, bool):
            words.append(option if value else f"--no-{option[2:]}")
        else:
            words += [option, json.dumps(value) if isinstance(value, dict | list) else str(value)]
    return shlex.join(words)


__all__ = ["PROPOSER", "engine_arguments", "serve_arguments"]
