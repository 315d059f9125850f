# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
How fast engines write tokens, without codec and network, for `benchmarks.serving_speed --engine`.

Each engine gets 1, 4 and 16 requests at once in each mode, of prompts that have nothing in common. All modes write
the same number of tokens. The time to the first chunk is the time to the language model's token and the ten after it.
"""

import asyncio
import json
import os
import random
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import torch
from huggingface_hub import snapshot_download

from serving.engine import Engine, GenerationRequest


MODES = ("vanilla", "boost", "turbo")
# Of vLLM's engine: compiling takes longer than it saves here, and a CPU's cache of keys and values would take all of
# the memory otherwise. Threads are the caller's to bind
VLLM_OPTIONS = {"enforce_eager": True, "max_num_seqs": 16}
VLLM_ENVIRONMENT = {"VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "OMP_NUM_THREADS": "1"}
PROMPT_TOKENS = 64
NEW_TOKENS = 110
# The language model's token and those of ten modules
FIRST_CHUNK_TOKENS = 11


def without_end(model: str, folder: Path) -> Path:
    """A copy of a model whose answers end with their length alone."""
    shutil.copytree(model if Path(model).is_dir() else snapshot_download(model), folder)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # the padding, which no answer has; and engines check drafts in different ways, so here they check none
    config |= {"eos_token_id": [config["pad_token_id"]], "mctp_verify": False}
    path.write_text(json.dumps(config), encoding="utf-8")
    return folder


def load_engine(name: str, folder: Path) -> Engine:
    if name == "vllm":
        from serving.vllm_engine import VLLMEngine

        return VLLMEngine(str(folder), **VLLM_OPTIONS)
    from modeling_vita_audio import VitaAudioForConditionalGeneration
    from serving.loading import lay_out_weights
    from serving.transformers_engine import TransformersEngine

    model = VitaAudioForConditionalGeneration.from_pretrained(folder)
    lay_out_weights(model)
    return TransformersEngine(model)


async def measure_requests(engine: Engine, mode: str, number: int, source: random.Random) -> dict:
    """Submits so many requests at once."""
    firsts, start = [], time.perf_counter()

    async def one() -> int:
        ids = [source.randrange(1000) for _ in range(PROMPT_TOKENS)]
        request = GenerationRequest(input_ids=ids, mctp_mode=mode, max_new_tokens=NEW_TOKENS)
        num_tokens = 0
        async for tokens in engine.generate(request):
            if num_tokens < FIRST_CHUNK_TOKENS <= num_tokens + len(tokens):
                firsts.append(time.perf_counter() - start)
            num_tokens += len(tokens)
        return num_tokens

    num_tokens = sum(await asyncio.gather(*(one() for _ in range(number))))
    seconds = time.perf_counter() - start
    return {"tokens_per_second": num_tokens / seconds, "first_chunk_seconds": statistics.median(firsts)}


async def measure_engine(name: str, folder: Path, numbers: list[int], rounds: int) -> dict:
    engine, source = load_engine(name, folder), random.Random(0)
    try:
        for mode in MODES:
            await measure_requests(engine, mode, 2, source)
        measured = {number: {mode: [] for mode in MODES} for number in numbers}
        # what else the machine does hits all modes alike
        for _ in range(rounds):
            for number in numbers:
                for mode in MODES:
                    measured[number][mode].append(await measure_requests(engine, mode, number, source))
    finally:
        await engine.close()
    return {
        str(number): {
            mode: {key: statistics.median(run[key] for run in runs) for key in runs[0]}
            for mode, runs in by_mode.items()
        }
        for number, by_mode in measured.items()
    }


def measure_engines(names: list[str], model: str, numbers: list[int], rounds: int) -> dict:
    """By the names of engines, numbers of requests at once, and modes: medians of so many rounds."""
    torch.set_num_threads(1)
    for name, value in VLLM_ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    with tempfile.TemporaryDirectory() as parent:
        folder = without_end(model, Path(parent, "model"))
        return {name: asyncio.run(measure_engine(name, folder, numbers, rounds)) for name in names}


def engine_table(engines: dict) -> str:
    """Markdown, of what [`measure_engines`] returns."""
    lines = [
        "| engine | requests at once | mode | tokens/s | against vanilla | first chunk | against vanilla |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, by_number in engines.items():
        for number, by_mode in by_number.items():
            plain = by_mode["vanilla"]
            for mode, row in by_mode.items():
                lines.append(
                    f"| {name} | {number} | {mode} | {row['tokens_per_second']:.0f} "
                    f"| {row['tokens_per_second'] / plain['tokens_per_second']:.2f} "
                    f"| {1000 * row['first_chunk_seconds']:.0f} ms "
                    f"| {row['first_chunk_seconds'] / plain['first_chunk_seconds']:.2f} |"
                )
    return "\n".join(lines)
