# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores a checkpoint on held-out conversations in every decoding mode, with an independent recogniser for its speech.

    python -m training.evaluation.evaluate_held_out --model pretrained/vita-audio-mini --corpus_dir corpus

It writes `results.json` and the picture `results.png`, by default into the model's folder, whose card then shows them.
What it scores of the rendered corpus was not trained on: sentences, (fact, wording) pairs and one whole voice are held
out. Of conversations of your own it scores those of the split `test` and those without a split. And it scores how
recordings of humans are written down, where their Debian packages are installed: see `training.evaluation.recordings`.
"""

import argparse
import json
import sys
import time
from collections.abc import Iterable, Sequence
from itertools import product
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm

from hub_cards.command_line import ArgumentParser, check_place, name_as_typed, no_empty_folder, run_command
from hub_cards.model_card import CARD_FILE, RESULTS_FILE, RESULTS_PICTURE, is_ours, write_model_card
from hub_cards.results import SETS, TEST_SPLIT
from modeling_vita_audio import MCTP_MODES, VitaAudioForConditionalGeneration
from modeling_vita_audio.generation_vita_audio import resolve_mctp_mode
from processing import VitaAudioProcessor
from processing.conversation_vita_audio import split_at_marks

from .benchmarks import Item, draw, items_fingerprint
from .dialogues import build_items
from .harness import (
    NUM_QUALITY_ITEMS,
    SPEAKING_TASKS,
    ResponseLog,
    add_device_arguments,
    add_mode_argument,
    add_verify_argument,
    build_prompts,
    check_modes,
    check_results_file,
    listen,
    load_for_scoring,
    log_path,
    name_of_mode,
    read_sets,
    respond,
    response_settings,
    score,
)
from .normalizers import CORPUS, NORMALIZERS
from .quality import SpeechQuality
from .recognition import PipelineRecognizer, WhisperRecognizer, load_recognizer
from .recordings import HUMAN_SETS, load_recordings
from .report import RESULTS_TABLE, fill_section, plot_results, results_table, write_atomically
from .scoring import real_time_factor, word_error_rate


PROG = "training.evaluation.evaluate_held_out"
# Speed is measured with the first of these sets that is scored. Spoken ones come first, because only they show how
# fast the codec is as well.
SPEED_SETS = tuple(dict.fromkeys(["sqa", "tts", "sqa_unseen_voice", "dialogue", "tqa", *SETS]))
NUM_SPEED_ITEMS = 20
# Of these it counts, too, how many are entirely right
WORD_SETS = ("asr_words", "human_words")
# What a second recogniser can find otherwise, and how the names of such figures begin
HEARD_FIGURES = ("wer", "cer", "speech_accuracy")


def load_sets(
    corpus_dir: str | Path | None,
    limit: int | None = None,
    names: Iterable[str] | None = None,
    split: str = TEST_SPLIT,
) -> dict[str, list[dict]]:
    """
    Reads the conversations of every set.

    Args:
        corpus_dir: What [`~training.conversations.read_conversations`] reads. None for recordings of humans alone.
        limit: At most this many of each set, drawn with a fixed seed; all by default.
        names: The sets to read; by default all that have conversations, and recordings of humans where their packages
            are installed.
        split: Takes the place of `test` in the sets of that split.

    Raises:
        FileNotFoundError, ValueError, ImportError: As [`~training.evaluation.harness.read_sets`], one of `names` has
            no conversations, or what [`~training.evaluation.recordings.load_recordings`] needs is not installed.
    """
    chosen = {name: of_set for name, of_set in SETS.items() if names is None or name in names}
    splits = [split if s.split == TEST_SPLIT else s.split for s in chosen.values() if corpus_dir and not s.package]
    of_split = {}
    for name in dict.fromkeys(splits):
        try:
            # Conversations without a split are of no special one
            of_split[name] = read_sets(corpus_dir, name, limit, with_others=name == split)
        # Conversations of one's own have no voice or words that were held out.
        except ValueError:
            if names is not None or name == split:
                raise
    sets = {}
    for name, (task, _, split_of_set, package) in chosen.items():
        if not package:
            sets[name] = of_split.get(split if split_of_set == TEST_SPLIT else split_of_set, {}).get(task, [])
            continue
        try:
            sets[name] = load_recordings(name, limit)
        except (FileNotFoundError, ImportError):
            if names is not None:
                raise
    if empty := [name for name in names or () if not sets[name]]:
        raise ValueError(f"{corpus_dir} has no conversations for the sets {', '.join(empty)}.")
    return {name: rows for name, rows in sets.items() if rows}


def load_references(processor: VitaAudioProcessor, sets: dict[str, list[dict]]) -> list[tuple[np.ndarray, int]]:
    """
    Recordings of what the assistant is to say, which are taken to be in one voice, the one that it is to speak in.

    Args:
        sets: Rows of [`load_sets`].

    Returns:
        `list`: at most `NUM_QUALITY_ITEMS` waveforms with their sampling rates, drawn with a fixed seed.
    """
    audios = []
    for name, rows in sets.items():
        if SETS[name].task in SPEAKING_TASKS:
            audios += [audio for row in rows for audio in spoken_audios(row)]
    rate = processor.feature_extractor.sampling_rate
    return [(processor.load_audio(audios[index]), rate) for index in draw(len(audios), NUM_QUALITY_ITEMS)]


def spoken_audios(row: dict) -> list:
    """The audios of a row that are in the assistant's turns."""
    messages = split_at_marks(row["messages"], row["audios"])
    parts = [part for message in messages if message["role"] == "assistant" for part in message["content"]]
    return [part["audio"] for part in parts if part["type"] == "audio"]


def timed_items(items: Sequence[Item]) -> list[Item]:
    """The items of a set that speed is measured with; later turns of a dialogue need answers that are not there."""
    return [item for item in items if not item.earlier][:NUM_SPEED_ITEMS]


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
        inputs = build_prompts(processor, [item]).to(model.device)
        # `tokens_per_second` is of `generate` alone. The encoding of the prompt counts for `real_time_factor`.
        encoded = time.perf_counter()
        sequences = model.generate(**inputs, do_sample=False, mctp_mode=modes[mode], **generate_kwargs)
        # the copy waits for the device
        new_ids = sequences[:, inputs["input_ids"].shape[1] :].cpu()
        generate_seconds[mode] += time.perf_counter() - encoded
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
    sets = {name: build_items(rows_of_set) for name, rows_of_set in rows.items()}
    is_heard = any(SETS[name].task in SPEAKING_TASKS for name in sets)
    recognizer = load_recognizer(args.recognizer) if is_heard else None
    second = load_recognizer(args.second_recognizer) if is_heard and args.second_recognizer else None
    how = {"dtype": args.dtype, "device": args.device, "mctp_verify": args.mctp_verify}
    model, processor = load_for_scoring(args.model, **how)
    quality = SpeechQuality(load_references(processor, rows)) if is_heard else None
    if args.mctp_mode is not None:
        check_modes(args.mctp_mode, model)
    mode_names = {name_of_mode(mode): mode for mode in args.mctp_mode or possible_modes(model)}
    settings_of_sets = {}
    if args.log_dir is not None:
        settings = response_settings(model, processor, args.batch_size, args.max_new_tokens)
        settings_of_sets = {name: settings | {"items": items_fingerprint(items)} for name, items in sets.items()}

    def open_log(kind: str, set_name: str, mode: str | list[int], **how: str | dict | None) -> ResponseLog:
        if args.log_dir is None:
            return ResponseLog()
        how |= settings_of_sets[set_name] | {"mctp_mode": mode}
        return ResponseLog(log_path(args.log_dir / kind, f"{set_name}-{name_of_mode(mode)}", how))

    modes, modes_of_second, lines = {}, {}, []
    for mode_name, mode in mode_names.items():
        modes[mode_name], modes_of_second[mode_name] = {}, {}
        generate_kwargs = {"mctp_mode": mode, "max_new_tokens": args.max_new_tokens}
        for name in sets:
            task = SETS[name].task
            responses, transcripts = open_log("responses", name, mode), ResponseLog()
            items, desc = sets[name], f"{mode_name} {name}"
            respond(model, processor, items, responses, args.batch_size, desc=desc, **generate_kwargs)
            if task in SPEAKING_TASKS:
                how = {"recognizer": args.recognizer, "quality": quality.of_references}
                transcripts = open_log("transcripts", name, mode, **how)
                listen(processor, recognizer, items, responses.rows, transcripts, desc, quality)
            modes[mode_name][name], of_set = score(
                task, items, responses.rows, transcripts.rows, args.normalizer, with_exact=name in WORD_SETS
            )
            if task in SPEAKING_TASKS and second is not None:
                heard = open_log("transcripts", name, mode, recognizer=args.second_recognizer)
                listen(processor, second, items, responses.rows, heard, desc)
                figures, _ = score(task, items, responses.rows, heard.rows, args.normalizer)
                modes_of_second[mode_name][name] = {
                    figure: value for figure, value in figures.items() if figure.startswith(HEARD_FIGURES)
                }
            lines += [{"mode": mode_name, "set": name, **line} for line in of_set]
            print(mode_name, name, json.dumps(modes[mode_name][name]), flush=True)
    # Speed is that of one request at a time, as a user waits for it, and not that of the batches above.
    timed = timed_items(sets[next(name for name in SPEED_SETS if name in sets)])
    speeds = measure_speed(model, processor, timed, mode_names.values(), max_new_tokens=args.max_new_tokens)
    for mode_name, speed in speeds.items():
        modes[mode_name]["speed"] = speed
    results = {
        "model": model.config.model_type,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "default_mode": getattr(model.generation_config, "mctp_mode", None) or "vanilla",
        "normalizer": args.normalizer,
    }
    if getattr(model.generation_config, "mctp_verify", None) is not None:
        results["mctp_verify"] = model.generation_config.mctp_verify
    if args.split != TEST_SPLIT:
        results["split"] = args.split
    elif any(row["split"] is None for of_set in rows.values() for row in of_set):
        results["has_rows_of_no_split"] = True
    if recognizer is not None:
        results["recognizer"] = recognizer.name
        results |= {f"{name}_of_references": value for name, value in quality.of_references.items()}
    spoken = [row for row in rows.get("tts", ()) if spoken_audios(row)]
    if spoken:
        results["recognizer_wer_on_tts_references"] = wer_on_references(recognizer, processor, spoken, args.normalizer)
    if second is not None:
        results["second_recognizer"] = {"name": second.name, "modes": modes_of_second}
        if spoken:
            wer = wer_on_references(second, processor, spoken, args.normalizer)
            results["second_recognizer"]["wer_on_tts_references"] = wer
    return results | {"modes": modes}, lines


def wer_on_references(
    recognizer: WhisperRecognizer | PipelineRecognizer,
    processor: VitaAudioProcessor,
    rows: list[dict],
    normalizer: str = CORPUS,
) -> float:
    """The errors that are the recogniser's own: it hears the speech that the model learnt from."""
    rate = processor.feature_extractor.sampling_rate
    heard = [recognizer(processor.load_audio(spoken_audios(row)[-1]), rate) for row in rows]
    return word_error_rate([row["reference"] for row in rows], heard, normalizer)


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
        help="conversations: the folder of the rendered corpus, or whatever training.train reads; not needed for "
        f"--sets {' '.join(HUMAN_SETS)}",
    )
    add_mode_argument(parser, "all that the model has modules for")
    add_verify_argument(parser)
    parser.add_argument(
        "--sets", nargs="+", choices=list(SETS), help="what is scored (default: all that have conversations)"
    )
    parser.add_argument("--split", default=TEST_SPLIT, help=f"of the conversations (default: {TEST_SPLIT})")
    parser.add_argument("--limit", type=int, default=150, help="at most so many conversations of each set")
    parser.add_argument("--max_new_tokens", type=int, default=1024)
    add_device_arguments(parser)
    parser.add_argument(
        "--recognizer",
        help="model of faster-whisper or transformers, by name or folder, or whisper-tiny.en; Whisper base by default",
    )
    parser.add_argument(
        "--normalizer",
        choices=NORMALIZERS,
        default=CORPUS,
        help=f"what texts go through before they are compared (default: {CORPUS})",
    )
    parser.add_argument("--second_recognizer", help="another one, whose figures are reported beside; none by default")
    parser.add_argument(
        "--output_dir", type=Path, help="where results.json and results.png go; the model's by default"
    )
    parser.add_argument(
        "--log_dir", type=Path, help="folder that keeps what is done, so that a run that is stopped goes on from there"
    )
    parser.add_argument("--lines", type=Path, help="JSONL file for every single answer")
    parser.add_argument("--readme", type=Path, help="README whose table is filled from the results")
    args = parser.parse_args(argv)
    for name in ("limit", "max_new_tokens", "batch_size"):
        if getattr(args, name) < 1:
            parser.error(f"--{name} must be at least 1, got {getattr(args, name)}")
    if args.corpus_dir is None and not set(args.sets or SETS) <= set(HUMAN_SETS):
        parser.error(f"--corpus_dir is needed for other --sets than {', '.join(HUMAN_SETS)}")
    check_place(args.model)
    output_dir = args.output_dir or Path(args.model)
    check_results_file(output_dir / RESULTS_FILE)
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
