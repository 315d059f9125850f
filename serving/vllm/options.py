# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What VITA-Audio needs of an engine and what it refuses, which vLLM asks before it begins (`MODELS_CONFIG_MAP`)."""

import os

from vllm.config import ModelConfig, VllmConfig
from vllm.model_executor.models.config import VerifyAndUpdateConfig
from vllm.platforms import current_platform

from .arguments import PROPOSER
from .model import BACKBONES


class VitaAudioOptions(VerifyAndUpdateConfig):
    """Sets what users would have to give as flags otherwise."""

    @staticmethod
    def verify_and_update_model_config(model_config: ModelConfig) -> None:
        check_model(model_config)

    @staticmethod
    def verify_and_update_config(vllm_config: VllmConfig) -> None:
        num_modules = vllm_config.model_config.hf_config.num_mctp_modules
        check_engine(vllm_config)
        # tokens that modules write are on the CPU before the next step is planned
        vllm_config.scheduler_config.async_scheduling = False
        vllm_config.scheduler_config.scheduler_cls = f"{__package__}.scheduler.VitaAudioScheduler"
        worker = "VitaAudioCPUWorker" if current_platform.is_cpu() else "VitaAudioGPUWorker"
        module = "cpu_worker" if current_platform.is_cpu() else "gpu_worker"
        vllm_config.parallel_config.worker_cls = f"{__package__}.{module}.{worker}"
        # The second version of vLLM's runner has another sampler. Workers inherit the environment
        os.environ["VLLM_USE_V2_MODEL_RUNNER"] = "0"
        if vllm_config.speculative_config is None:
            # vLLM asks it whether it takes a request's options; with speculation vLLM takes no such class
            vllm_config.model_config.logits_processors = [f"{__package__}.requests:RequestCheckOf{num_modules}Modules"]


def check_model(model_config: ModelConfig) -> None:
    """
    Raises:
        ValueError: the model has something that this code does not run.
    """
    config = model_config.hf_config
    text_config = config.text_config
    if text_config.model_type not in BACKBONES:
        raise ValueError(
            f"VITA-Audio on vLLM has the language models {', '.join(BACKBONES)}; this folder has "
            f"'{text_config.model_type}'."
        )
    if config.audio_config is not None:
        raise ValueError(
            "VITA-Audio on vLLM hears codes; this folder has a model that hears by continuous features "
            "(VITA-Audio-Plus)."
        )
    layer_types = set(getattr(text_config, "layer_types", None) or ["full_attention"])
    if layer_types != {"full_attention"}:
        raise ValueError(f"VITA-Audio on vLLM has full attention alone; this folder has {', '.join(layer_types)}.")
    head_dim = getattr(text_config, "head_dim", None)
    if text_config.model_type == "qwen2" and head_dim not in (
        None,
        text_config.hidden_size // text_config.num_attention_heads,
    ):
        raise ValueError(f"vLLM's Qwen2 has no heads of a size of their own; this folder has `head_dim` {head_dim}.")


def check_engine(vllm_config: VllmConfig) -> None:
    """
    Raises:
        ValueError: an option of the engine does not go with MCTP modules.
    """
    parallel, cache, speculative = (
        vllm_config.parallel_config,
        vllm_config.cache_config,
        vllm_config.speculative_config,
    )
    refused = {
        "pipeline_parallel_size": parallel.pipeline_parallel_size > 1,
        "decode_context_parallel_size": parallel.decode_context_parallel_size > 1,
        "prefill_context_parallel_size": parallel.prefill_context_parallel_size > 1,
        "enable_dbo": parallel.use_ubatching,
        "enable_lora": vllm_config.lora_config is not None,
        "quantization": vllm_config.quant_config is not None,
        "kv_cache_dtype": cache.cache_dtype != "auto",
        "kv_transfer_config": vllm_config.kv_transfer_config is not None,
        "enable_prompt_embeds": vllm_config.model_config.enable_prompt_embeds,
        "logits_processors": bool(vllm_config.model_config.logits_processors),
        "async_scheduling": vllm_config.scheduler_config.async_scheduling is True,
        "scheduler_cls": vllm_config.scheduler_config.scheduler_cls is not None,
        "worker_cls": parallel.worker_cls != "auto",
        "runner": vllm_config.model_config.runner_type != "generate",
        "VLLM_USE_V2_MODEL_RUNNER": os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1",
    }
    if names := [name for name, is_given in refused.items() if is_given]:
        raise ValueError(f"VITA-Audio on vLLM does not take {', '.join(names)}: its MCTP modules cannot go along.")
    if speculative is not None and speculative.model != PROPOSER:
        raise ValueError(
            f"VITA-Audio has MCTP modules for speculation and takes no `speculative_config` of the method "
            f"'{speculative.method}'. `serving.vllm.engine_arguments(folder, mctp_verify=True)` gives theirs."
        )


__all__ = ["VitaAudioOptions"]
