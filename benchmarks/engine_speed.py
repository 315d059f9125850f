# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
How fast engines write tokens, without codec and network.

    python -m benchmarks.engine_speed --engine transformers vllm --output_dir benchmarks/results

Each engine gets 1, 4 and 16 requests at once in each mode, of prompts that have nothing in common. All modes write
the same number of tokens. The time to the first chunk is the time to the language model's token and the ten after it.
It runs in an environment with vLLM, see `.ci/vllm`.
"""

import argparse
import asyncio
import json
import os
import random
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

import torch

from hub_cards.command_line import ArgumentParser, run_command
from serving.engine import Engine, GenerationRequest
from training.evaluation.report import write_atomically

from .measuring import describe_machine


MODES = ("vanilla", "boost", "turbo")
PROMPT_TOKENS = 64
NEW_TOKENS = 110
# The language model's token and those of ten modules
FIRST_CHUNK_TOKENS = 11


def without_end(model: str, folder: Path) -> Path:
    """A copy of a model whose answers end at their length alone."""
    shutil.copytree(model, folder)
    path = folder / "generation_config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    # the padding, which no answer has
    path.write_text(json.dumps({**config, "eos_token_id": [config["pad_token_id"]]}), encoding="utf-8")
    return folder


def load_engine(name: str, folder: Path) -> Engine:
    if name == "vllm":
        from serving.vllm_engine import VLLMEngine

        return VLLMEngine(str(folder), enforce_eager=True, max_num_seqs=16, enable_prefix_caching=False)
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


def engine_table(results: dict) -> str:
    """Markdown."""
    lines = [
        "| engine | requests at once | mode | tokens/s | against vanilla | first chunk | against vanilla |",
        "|---|---|---|---|---|---|---|",
    ]
    for name, by_number in results["engines"].items():
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


def main(argv: list[str] | None = None) -> int:
    return run_command(run, "benchmarks.engine_speed", sys.argv[1:] if argv is None else argv)


def run(argv: list[str]) -> int:
    parser = ArgumentParser(
        prog="benchmarks.engine_speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pretrained/vita-audio-mini", help="a folder")
    parser.add_argument("--engine", nargs="+", choices=("transformers", "vllm"), default=["transformers", "vllm"])
    parser.add_argument("--requests", type=int, nargs="+", default=[1, 4, 16], help="how many at once")
    parser.add_argument("--rounds", type=int, default=3, help="of which medians are taken")
    parser.add_argument("--output_dir", type=Path, required=True, help="for engine_speed.json")
    args = parser.parse_args(argv)
    torch.set_num_threads(1)
    # for the process that vLLM starts
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    args.output_dir.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as parent:
        folder = without_end(args.model, Path(parent, "model"))
        engines = {name: asyncio.run(measure_engine(name, folder, args.requests, args.rounds)) for name in args.engine}
    results = {"engines": engines, **describe_machine(torch.device("cpu"))}
    write_atomically(args.output_dir / "engine_speed.json", json.dumps(results, indent=2) + "\n")
    print(engine_table(results))
    return 0


if __name__ == "__main__":
    sys.exit(main())
