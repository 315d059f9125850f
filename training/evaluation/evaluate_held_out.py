# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores a checkpoint on held-out conversations in every decoding mode, with an independent recogniser for its speech.

    python -m training.evaluation.evaluate_held_out --model pretrained/vita-audio-mini --corpus_dir corpus

It writes `results.json` and the picture `results.png`, by default into the model's folder, whose card then shows them.
What it scores of the rendered corpus was not trained on: sentences, (fact, wording) pairs and one whole voice are held
out. Of conversations of your own it scores those of the split `test` and those without a split.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import torch
from tqdm import tqdm

from hub_cards.command_line import ArgumentParser, check_place, name_as_typed, no_empty_folder, run_command
from hub_cards.model_card import CARD_FILE, RESULTS_FILE, RESULTS_PICTURE, is_ours, write_model_card
from hub_cards.results import SETS, TEST_SPLIT, UNSEEN_VOICE_SPLIT
from modeling_vita_audio import MCTP_MODES, VitaAudioForConditionalGeneration
from modeling_vita_audio.generation_vita_audio import resolve_mctp_mode
from processing import VitaAudioProcessor

from .benchmarks import Item, build_item
from .harness import (
    SPEAKING_TASKS,
    ResponseLog,
    add_mode_argument,
    build_prompts,
    check_modes,
    listen,
    load_for_scoring,
    name_of_mode,
    read_sets,
    respond,
    score,
)
from .normalizers import CORPUS
from .recognition import load_recognizer
from .report import RESULTS_TABLE, fill_section, plot_results, results_table, write_atomically
from .scoring import real_time_factor, word_error_rate


PROG = "training.evaluation.evaluate_held_out"
# Speed is measured with the first of these sets that is scored. Spoken ones come first, because only they show how
# fast the codec is as well.
SPEED_SETS = ("sqa", "tts", "sqa_unseen_voice", "tqa", "asr", "asr_unseen_voice")
NUM_SPEED_ITEMS = 20


def load_sets(
    corpus_dir: str | Path, limit: int | None = None, names: Iterable[str] | None = None, split: str = TEST_SPLIT
) -> dict[str, list[dict]]:
    """
    Reads the conversations of every set.

    Args:
        corpus_dir: What [`~training.conversations.read_conversations`] reads.
        limit: At most this many of each set, drawn with a fixed seed; all by default.
        names: The sets to read; by default all that have conversations.
        split: Takes the place of `test` in the sets of that split.

    Raises:
        FileNotFoundError, ValueError: As [`~training.evaluation.harness.read_sets`], or one of `names` has no
            conversations.
    """
    of_split = {split: read_sets(corpus_dir, split, limit)}
    if names is None or any(SETS[name].split == UNSEEN_VOICE_SPLIT for name in names):
        try:
            of_split[UNSEEN_VOICE_SPLIT] = read_sets(corpus_dir, UNSEEN_VOICE_SPLIT, limit, with_others=False)
        # Conversations of one's own have no voice that was held out.
        except ValueError:
            if names is not None:
                raise
    sets = {
        name: of_split.get(split if set_split == TEST_SPLIT else set_split, {}).get(task, [])
        for name, (task, _, set_split) in SETS.items()
    }
    if empty := [name for name in names or () if not sets[name]]:
        raise ValueError(f"{corpus_dir} has no conversations for the sets {', '.join(empty)}.")
    return {name: rows for name, rows in sets.items() if rows and (names is None or name in names)}


@torch.no_grad()
def measure_speed(
    model: VitaAudioForConditionalGeneration,
    processor: VitaAudioProcessor,
    items: list[Item],
    modes: Iterable[str | list[int]],
    **generate_kwargs,
) -> dict[str, dict[str, float]]:
    """
    Measures one request at a time. Each goes through all modes in turn, so that other work of the machine slows all of
    them.

    Returns:
        `dict`: for each mode `tokens_per_second` of `generate` and, where there is speech, `real_time_factor`, which
        is seconds of work per second of it.
    """
    modes = {name_of_mode(mode): mode for mode in modes}
    num_tokens, generate_seconds = dict.fromkeys(modes, 0), dict.fromkeys(modes, 0.0)
    work_seconds, speech_seconds = {mode: [] for mode in modes}, {mode: [] for mode in modes}
    for item, mode in tqdm(list(product(items, modes)), desc="speed"):
        start = time.perf_counter()
        inputs = build_prompts(processor, [item])
        # `tokens_per_second` is of `generate` alone. The encoding of the prompt counts for `real_time_factor`.
        encoded = time.perf_counter()
        sequences = model.generate(**inputs, do_sample=False, mctp_mode=modes[mode], **generate_kwargs)
        generate_seconds[mode] += time.perf_counter() - encoded
        new_ids = sequences[:, inputs["input_ids"].shape[1] :]
        (response,) = processor.post_process_generation(new_ids)
        (waveform,) = processor.decode_audio([response["audio_codes"]])
        work_seconds[mode].append(time.perf_counter() - start)
        speech_seconds[mode].append(len(waveform) / processor.output_sampling_rate)
        num_tokens[mode] += new_ids.shape[1]
    speeds = {mode: {"tokens_per_second": num_tokens[mode] / generate_seconds[mode]} for mode in modes}
    for mode in modes:
        if sum(speech_seconds[mode]):
            speeds[mode]["real_time_factor"] = real_time_factor(work_seconds[mode], speech_seconds[mode])
    return speeds


def evaluate(args: argparse.Namespace) -> tuple[dict, list[dict]]:
    """Scores and times the model in all modes: what `results.json` has, and a line for each answer."""
    rows = load_sets(args.corpus_dir, args.limit, args.sets, args.split)
    sets = {name: list(map(build_item, rows_of_set)) for name, rows_of_set in rows.items()}
    is_heard = any(SETS[name].task in SPEAKING_TASKS for name in sets)
    recognizer = load_recognizer(args.recognizer) if is_heard else None
    model, processor = load_for_scoring(args.model, dtype=torch.float32)
    if args.mctp_mode is not None:
        check_modes(args.mctp_mode, model)
    mode_names = {name_of_mode(mode): mode for mode in args.mctp_mode or possible_modes(model)}
    modes, lines = {}, []
    for mode_name, mode in mode_names.items():
        modes[mode_name] = {}
        generate_kwargs = {"mctp_mode": mode, "max_new_tokens": args.max_new_tokens}
        for name in sets:
            task = SETS[name].task
            # Logs in memory, because this command always runs from the start.
            responses, transcripts = ResponseLog(), ResponseLog()
            respond(model, processor, sets[name], responses, desc=f"{mode_name} {name}", **generate_kwargs)
            if task in SPEAKING_TASKS:
                listen(processor, recognizer, sets[name], responses.rows, transcripts, desc=f"{mode_name} {name}")
            modes[mode_name][name], of_set = score(task, sets[name], responses.rows, transcripts.rows)
            lines += [{"mode": mode_name, "set": name, **line} for line in of_set]
            print(mode_name, name, json.dumps(modes[mode_name][name]), flush=True)
    # Speed is that of one request at a time, as a user waits for it, and not that of the batches above.
    timed = sets[next(name for name in SPEED_SETS if name in sets)][:NUM_SPEED_ITEMS]
    speeds = measure_speed(model, processor, timed, mode_names.values(), max_new_tokens=args.max_new_tokens)
    for mode_name, speed in speeds.items():
        modes[mode_name]["speed"] = speed
    results = {
        "model": model.config.model_type,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "default_mode": getattr(model.generation_config, "mctp_mode", None) or "vanilla",
        "normalizer": CORPUS,
    }
    if args.split != TEST_SPLIT:
        results["split"] = args.split
    if recognizer is not None:
        results["recognizer"] = recognizer.name
    if "tts" in rows:
        # the errors that are the recogniser's own: it hears the speech that the model learnt from
        references = [row["reference"] for row in rows["tts"]]
        heard = [
            recognizer(processor.load_audio(row["audios"][-1]), processor.feature_extractor.sampling_rate)
            for row in rows["tts"]
        ]
        results["recognizer_wer_on_tts_references"] = word_error_rate(references, heard)
    return results | {"modes": modes}, lines


def possible_modes(model: VitaAudioForConditionalGeneration) -> list[str]:
    """The names of the modes for which the model has enough modules."""
    names = []
    for name in MCTP_MODES:
        try:
            # It raises a ValueError for a mode that needs more modules.
            resolve_mctp_mode(name, model.config.num_mctp_modules)
            names.append(name)
        except ValueError:
            pass
    return names


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        prog=name_as_typed("evaluate", PROG), description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", required=True, help="folder or Hub id of a checkpoint with its processor")
    parser.add_argument(
        *("--corpus_dir", "--dataset_name"),
        required=True,
        help="conversations: the folder of the rendered corpus, or whatever training.train reads",
    )
    add_mode_argument(parser, "all that the model has modules for")
    parser.add_argument(
        "--sets", nargs="+", choices=list(SETS), help="what is scored (default: all that have conversations)"
    )
    parser.add_argument("--split", default=TEST_SPLIT, help=f"of the conversations (default: {TEST_SPLIT})")
    parser.add_argument("--limit", type=int, default=150, help="at most so many conversations of each set")
    parser.add_argument("--max_new_tokens", type=int, default=256)
    parser.add_argument(
        "--recognizer",
        help="model of faster-whisper or transformers, by name or folder, or whisper-base; Whisper tiny.en by default",
    )
    parser.add_argument(
        "--output_dir", type=Path, help="where results.json and results.png go; the model's by default"
    )
    parser.add_argument("--lines", type=Path, help="JSONL file for every single answer")
    parser.add_argument("--readme", type=Path, help="README whose table is filled from the results")
    args = parser.parse_args(argv)
    for name in ("limit", "max_new_tokens"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    check_place(args.model)
    output_dir = args.output_dir or Path(args.model)
    # The folders are made before the work, so that one that cannot be written fails at once. None is made for a model
    # on the Hub, because an empty folder of its name would hide it.
    if args.output_dir is None and not output_dir.is_dir():
        parser.error(f"--output_dir is needed: {args.model} is no folder here that results could be written to.")
    with no_empty_folder(output_dir), no_empty_folder(args.lines and args.lines.parent):
        for folder in [output_dir, *([args.lines.parent] if args.lines else [])]:
            folder.mkdir(parents=True, exist_ok=True)
        results, lines = evaluate(args)
    write_atomically(output_dir / RESULTS_FILE, json.dumps(results, indent=2) + "\n")
    plot_results(results, output_dir / RESULTS_PICTURE)
    if args.lines:
        write_atomically(args.lines, "".join(json.dumps(line) + "\n" for line in lines))
    if args.readme:
        fill_section(args.readme, RESULTS_TABLE, results_table(results))
    print(f"The results are in {output_dir / RESULTS_FILE}.")
    if output_dir.resolve() == Path(args.model).resolve():
        card = output_dir / CARD_FILE
        if is_ours(card):
            write_model_card(output_dir)
        else:
            print(f"{card} was edited by hand; `vita-audio card {output_dir} --overwrite` writes one that shows them.")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
