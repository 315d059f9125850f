# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Speed of verified decoding of a batch, next to the way it was when all rows waited for the one that keeps fewest.

    python -m benchmarks.batch_speed --corpus_dir corpus --output_dir benchmarks/results/cpu

The prompts are held-out ones of the corpus: sentences to be spoken, spoken questions, and batches of half and half,
whose rows agree least. Both ways write the same tokens, which is checked, and take turns, so that other work of the
machine slows both.

The old way is that of the releases before rows could part: the code for rows that stay together, which a batch with a
streamer still takes, with as many drafts as the schedule has.
"""

import argparse
import json
import statistics
from pathlib import Path
from unittest.mock import patch

import torch
from tqdm import tqdm

from hub_cards.command_line import ArgumentParser
from modeling_vita_audio import generation_vita_audio, verification_vita_audio
from training.evaluation.benchmarks import build_item
from training.evaluation.evaluate_held_out import load_sets
from training.evaluation.harness import build_prompts, load_for_scoring
from training.evaluation.report import fill_section, write_atomically

from .measuring import add_output_dir, describe_machine, now


CAN_PART, SURE = generation_vita_audio.can_part, verification_vita_audio.SURE_PROBABILITY


def batches_of(corpus_dir: Path, num_rows: int, num_batches: int) -> dict[str, list[list]]:
    """Items of batches, by what is in them."""
    sets = load_sets(corpus_dir, num_rows * num_batches, ["tts", "sqa"])
    items = {name: list(map(build_item, rows)) for name, rows in sets.items()}
    for name, of_set in items.items():
        if len(of_set) < num_rows * num_batches:
            raise ValueError(f"{corpus_dir} has {len(of_set)} {name} conversations of {num_rows * num_batches}.")
    half = num_rows // 2

    def cut(of_set: list, size: int) -> list[list]:
        return [of_set[index * size : (index + 1) * size] for index in range(num_batches)]

    return {
        "sentences to speak": cut(items["tts"], num_rows),
        "spoken questions": cut(items["sqa"], num_rows),
        "half and half": [a + b for a, b in zip(cut(items["tts"], half), cut(items["sqa"], num_rows - half))],
    }


class Counter:
    """Counts forwards of the language model and of the modules."""

    def __init__(self, model: torch.nn.Module):
        self.language_model = self.modules = 0
        model.model.language_model.register_forward_hook(self.count_language_model)
        for module in model.model.mctp_modules:
            module.register_forward_hook(self.count_module)

    def count_language_model(self, *_) -> None:
        self.language_model += 1

    def count_module(self, *_) -> None:
        self.modules += 1

    def reset(self) -> None:
        self.language_model = self.modules = 0


@torch.inference_mode()
def measure(args: argparse.Namespace) -> dict:
    device = torch.device(args.device)
    model, processor = load_for_scoring(args.model, dtype=torch.float32, device=args.device)
    counter, results = Counter(model), []
    for content, batches in batches_of(args.corpus_dir, args.num_rows, args.num_batches).items():
        prompts = [build_prompts(processor, batch).to(device) for batch in batches]
        for mode in args.mctp_mode:
            runs = {"together": [], "apart": []}
            for round_index in tqdm(range(args.rounds + 1), desc=f"{content}, {mode}"):
                tokens = {}
                for way, of_way in runs.items():
                    is_old = way == "together"
                    counter.reset()
                    with (
                        patch.object(verification_vita_audio, "SURE_PROBABILITY", 0 if is_old else SURE),
                        patch.object(generation_vita_audio, "can_part", (lambda *_: False) if is_old else CAN_PART),
                    ):
                        start = now(device)
                        outputs = [
                            model.generate(
                                **inputs,
                                mctp_mode=mode,
                                mctp_verify=args.mctp_verify,
                                do_sample=False,
                                max_new_tokens=args.max_new_tokens,
                            )[:, inputs["input_ids"].shape[1] :]
                            for inputs in prompts
                        ]
                        seconds = now(device) - start
                    tokens[way] = [output.tolist() for output in outputs]
                    pad = model.generation_config.pad_token_id
                    num_tokens = sum(int((output != pad).sum()) for output in outputs)
                    # the first round warms up
                    if round_index > 0:
                        of_way.append(
                            {
                                "tokens_per_second": num_tokens / seconds,
                                "language_model_forwards": counter.language_model,
                                "module_forwards": counter.modules,
                            }
                        )
                if args.mctp_verify == 1 and tokens["together"] != tokens["apart"]:
                    raise RuntimeError(f"{content}, {mode}: both ways are lossless, but their tokens differ.")
            row = {"batches": content, "mctp_mode": mode, "num_tokens": num_tokens}
            for way, of_way in runs.items():
                row[way] = {key: statistics.median(run[key] for run in of_way) for key in of_way[0]}
            row["ratio"] = statistics.median(
                new["tokens_per_second"] / old["tokens_per_second"] for old, new in zip(*runs.values())
            )
            results.append(row)
            print(json.dumps(row), flush=True)
    return {
        **describe_machine(device),
        "model": Path(args.model).name,
        "num_rows": args.num_rows,
        "num_batches": args.num_batches,
        "mctp_verify": args.mctp_verify,
        "rounds": args.rounds,
        "results": results,
    }


def speed_table(results: dict) -> str:
    """Markdown, a row for each kind of batch and mode."""
    lines = [
        "| batch | mode | waiting for one another, tokens/s | each row on its own, tokens/s | ratio |",
        "|---|---|---|---|---|",
    ]
    for row in results["results"]:
        old, new = (row[way]["tokens_per_second"] for way in ("together", "apart"))
        lines.append(f"| {row['batches']} | {row['mctp_mode']} | {old:.0f} | {new:.0f} | {row['ratio']:.2f} |")
    return "\n".join(lines)


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="pretrained/vita-audio-mini")
    parser.add_argument("--corpus_dir", type=Path, required=True, help="the rendered corpus, or a part of it")
    parser.add_argument("--device", default="cuda" if torch.cuda.is_available() else "cpu")
    parser.add_argument("--mctp_mode", nargs="+", default=["boost", "turbo"])
    parser.add_argument("--mctp_verify", type=float, default=1.0)
    parser.add_argument("--num_rows", type=int, default=8, help="rows of a batch")
    parser.add_argument("--num_batches", type=int, default=4)
    parser.add_argument("--max_new_tokens", type=int, default=256)
    parser.add_argument("--rounds", type=int, default=5, help="Measured rounds; one more warms up.")
    parser.add_argument("--num_threads", type=int, default=None, help="CPU threads; all by default.")
    add_output_dir(parser, "batch_speed.json")
    parser.add_argument("--readme", type=Path, default=None, help="README whose section on batches is filled in.")
    args = parser.parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.num_threads is not None:
        torch.set_num_threads(args.num_threads)
    results = measure(args)
    write_atomically(args.output_dir / "batch_speed.json", json.dumps(results, indent=2) + "\n")
    print(speed_table(results))
    if args.readme is not None:
        fill_section(args.readme, "batch speed", speed_table(results))


if __name__ == "__main__":
    main()
