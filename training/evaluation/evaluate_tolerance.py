# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores a checkpoint at several tolerances of `mctp_verify`: quality against speed, between lossless and unverified.

    python -m training.evaluation.evaluate_tolerance --model pretrained/vita-audio-mini --corpus_dir corpus

It adds `tolerance` to the `results.json` that `evaluate_held_out` has written, and draws `results.png` anew. The sets
are read as there.
"""

import argparse
import json
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch
from tqdm import tqdm

from hub_cards.command_line import ArgumentParser, check_place, no_empty_folder, parse_tolerance, run_command
from hub_cards.model_card import CARD_FILE, RESULTS_FILE, RESULTS_PICTURE, is_ours, read_json, write_model_card
from hub_cards.results import SETS, TEST_SPLIT, tolerance_table
from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor

from .benchmarks import Item
from .dialogues import build_items
from .evaluate_held_out import load_sets, timed_items
from .harness import (
    SPEAKING_TASKS,
    ResponseLog,
    add_device_arguments,
    add_mode_argument,
    build_prompts,
    check_modes,
    check_results_file,
    listen,
    load_for_scoring,
    name_of_mode,
    respond,
    score,
)
from .normalizers import CORPUS
from .recognition import load_recognizer
from .report import TOLERANCE_TABLE, fill_section, plot_results, write_atomically


PROG = "training.evaluation.evaluate_tolerance"
# From lossless to unverified
TOLERANCES = (1.0, 0.7, 0.5, 0.3, 0.1, 0.0)


@torch.no_grad()
def measure_speed(
    model: VitaAudioForConditionalGeneration,
    processor: VitaAudioProcessor,
    items: Sequence[Item],
    points: Sequence[dict],
    max_new_tokens: int,
) -> list[dict[str, float]]:
    """
    Measures one request at a time, of which each goes through all points in turn.

    Returns:
        `list[dict]`: for each point `tokens_per_second` of `generate`, and `tokens_per_forward` of the language model,
        which depends on no machine.
    """
    num_forwards = 0

    def count(*_) -> None:
        nonlocal num_forwards
        num_forwards += 1

    hook = model.model.language_model.register_forward_hook(count)
    sums = [{"tokens": 0, "seconds": 0.0, "forwards": 0} for _ in points]
    for item in tqdm(items, desc="speed"):
        inputs = build_prompts(processor, [item]).to(model.device)
        for point, of_point in zip(points, sums):
            num_forwards, start = 0, time.perf_counter()
            # the copy waits for the device
            sequences = model.generate(**inputs, do_sample=False, max_new_tokens=max_new_tokens, **point).cpu()
            of_point["seconds"] += time.perf_counter() - start
            of_point["tokens"] += sequences.shape[1] - inputs["input_ids"].shape[1]
            of_point["forwards"] += num_forwards
    hook.remove()
    return [
        {
            "tokens_per_second": of_point["tokens"] / of_point["seconds"],
            "tokens_per_forward": of_point["tokens"] / of_point["forwards"],
        }
        for of_point in sums
    ]


def evaluate(args: argparse.Namespace) -> dict:
    """Scores and times the model at all points: what `results.json` has as `tolerance`."""
    rows = load_sets(args.corpus_dir, args.limit, args.sets, args.split)
    sets = {name: build_items(rows_of_set) for name, rows_of_set in rows.items()}
    is_heard = any(SETS[name].task in SPEAKING_TASKS for name in sets)
    recognizer = load_recognizer(args.recognizer) if is_heard else None
    model, processor = load_for_scoring(args.model, dtype=args.dtype, device=args.device)
    check_modes(args.mctp_mode, model)
    points = [{"mctp_mode": "vanilla", "mctp_verify": False}]
    points += [{"mctp_mode": mode, "mctp_verify": verify} for mode in args.mctp_mode for verify in args.mctp_verify]
    figures = []
    # Many points write the same answers, which are listened to once
    heard: dict[tuple, dict] = {}
    for point in points:
        figures.append({"mctp_mode": name_of_mode(point["mctp_mode"]), "mctp_verify": point["mctp_verify"]})
        label = f"{name_of_mode(point['mctp_mode'])} {point['mctp_verify']}"
        for name, items in sets.items():
            responses, transcripts = ResponseLog(), ResponseLog()
            settings = point | {"desc": f"{label} {name}", "max_new_tokens": args.max_new_tokens}
            respond(model, processor, items, responses, args.batch_size, **settings)
            if SETS[name].task in SPEAKING_TASKS:
                codes = {item.id: (item.id, *responses.rows[item.id]["audio_codes"]) for item in items}
                transcripts.append([heard[key] for key in codes.values() if key in heard])
                listen(processor, recognizer, items, responses.rows, transcripts, desc=f"{label} {name}")
                heard |= {codes[item.id]: transcripts.rows[item.id] for item in items}
            figures[-1][name], _ = score(SETS[name].task, items, responses.rows, transcripts.rows)
        print(json.dumps(figures[-1]), flush=True)
    for name, items in sets.items():
        speeds = measure_speed(model, processor, timed_items(items), points, args.max_new_tokens)
        for of_point, speed in zip(figures, speeds):
            of_point[name] |= speed
    results = {"normalizer": CORPUS, "points": figures}
    if recognizer is not None:
        results["recognizer"] = recognizer.name
    return results


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder of a checkpoint with its processor")
    parser.add_argument(*("--corpus_dir", "--dataset_name"), required=True, help="conversations, as evaluate_held_out")
    add_mode_argument(parser, "boost and turbo")
    parser.set_defaults(mctp_mode=["boost", "turbo"])
    parser.add_argument(
        "--mctp_verify",
        nargs="+",
        type=parse_tolerance,
        default=list(TOLERANCES),
        metavar="TOLERANCE",
        help="numbers from 0 to 1, two such as 1,0.3 for text and speech, or three with the first speech (default: "
        f"{TOLERANCES})",
    )
    parser.add_argument("--sets", nargs="+", choices=list(SETS), default=["sqa", "tts"], help="what is scored")
    parser.add_argument("--split", default=TEST_SPLIT, help=f"of the conversations (default: {TEST_SPLIT})")
    parser.add_argument("--limit", type=int, default=150, help="at most so many conversations of each set")
    parser.add_argument("--max_new_tokens", type=int, default=256)
    add_device_arguments(parser)
    parser.add_argument("--recognizer", help="as evaluate_held_out; Whisper base by default")
    parser.add_argument("--output_dir", type=Path, help="whose results.json gets the curve; the model's by default")
    parser.add_argument("--readme", type=Path, help="README whose table is filled from the results")
    args = parser.parse_args(argv)
    for name in ("limit", "max_new_tokens", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    check_place(args.model)
    output_dir = args.output_dir or Path(args.model)
    if args.output_dir is None and not output_dir.is_dir():
        parser.error(f"--output_dir is needed: {args.model} is no folder here that results could be written to.")
    check_results_file(output_dir / RESULTS_FILE)
    with no_empty_folder(output_dir):
        output_dir.mkdir(parents=True, exist_ok=True)
        results = (read_json(output_dir / RESULTS_FILE) or {"modes": {}}) | {"tolerance": evaluate(args)}
    write_atomically(output_dir / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
    plot_results(results, output_dir / RESULTS_PICTURE)
    table = tolerance_table(results["tolerance"])
    print(table)
    if args.readme:
        fill_section(args.readme, TOLERANCE_TABLE, table)
    if output_dir.resolve() == Path(args.model).resolve() and is_ours(output_dir / CARD_FILE):
        write_model_card(output_dir)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
