# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Engines of vLLM for tests. These tests run in the environment of `.ci/vllm`, and only there."""

import os
from importlib.util import find_spec

import pytest
import torch
from places import MINI


collect_ignore_glob = [] if find_spec("vllm") else ["test_*.py"]

# In this process, so that tests can look into the engine
os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"
os.environ["VLLM_CPU_KVCACHE_SPACE"] = "1"
os.environ["VLLM_CPU_OMP_THREADS_BIND"] = "nobind"
os.environ["VLLM_LOGGING_LEVEL"] = "ERROR"
os.environ["OMP_NUM_THREADS"] = "1"

# Small enough for chunked prefill, and for requests that wait for one another
OPTIONS = {
    "enforce_eager": True,
    "dtype": "float32",
    "block_size": 32,
    "max_num_seqs": 8,
    "max_num_batched_tokens": 64,
    "disable_log_stats": True,
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory):
    """Folders of models by their names: the shipped one, and random ones of 4 modules."""
    from vllm_models import save_random_model

    parent = tmp_path_factory.mktemp("models")
    return {"mini": MINI} | {name: save_random_model(parent / name, 4, name) for name in ("qwen2", "qwen3", "llama")}


@pytest.fixture(scope="session")
def model_of(folders):
    """The models on transformers, in float32."""
    from modeling_vita_audio import VitaAudioForConditionalGeneration

    loaded = {}

    def load(name):
        if name not in loaded:
            loaded[name] = VitaAudioForConditionalGeneration.from_pretrained(folders[name], dtype=torch.float32).eval()
        return loaded[name]

    return load


@pytest.fixture
def engine_of(folders):
    """Makes an engine of vLLM; there is one at a time."""
    from vllm import LLM
    from vllm.distributed import cleanup_dist_env_and_memory

    from serving.vllm import engine_arguments

    engines = []

    def make(name, mctp_mode=None, mctp_verify=False, **options):
        options = {"max_model_len": 512, "skip_tokenizer_init": name != "mini", **OPTIONS, **options}
        engines.append(LLM(**engine_arguments(folders[name], mctp_mode, mctp_verify, **options)))
        return engines[-1]

    yield make
    # A traceback may hold an engine, which would otherwise close what the next one uses
    for engine in engines:
        engine.llm_engine.engine_core.shutdown()
    cleanup_dist_env_and_memory()


@pytest.fixture
def write():
    """Lets an engine write for cases (prompt, mode); each answer's tokens."""
    from vllm import SamplingParams

    def write(engine, cases, **options):
        options = {"temperature": 0, "max_tokens": 40, "detokenize": False, "ignore_eos": True, **options}
        outputs = engine.generate(
            [{"prompt_token_ids": ids} for ids, _ in cases],
            [SamplingParams(**options, extra_args={"mctp_mode": mode}) for _, mode in cases],
            use_tqdm=False,
        )
        return [list(output.outputs[0].token_ids) for output in outputs]

    return write


@pytest.fixture
def blocks():
    """How many blocks of its cache an engine has, and how many are free."""

    def count(engine):
        pool = engine.llm_engine.engine_core.engine_core.scheduler.kv_cache_manager.block_pool
        # one block is vLLM's own
        return pool.num_gpu_blocks - 1, pool.get_num_free_blocks()

    return count
