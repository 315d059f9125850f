# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores a checkpoint on the held-out sets in every decoding mode, with an independent recogniser for its speech.

    python -m training.evaluate --model pretrained/vita-audio-mini --corpus_dir corpus

writes `results.json`, the picture `results.png` and fills the table of the README from the former. Nothing that is
scored was trained on: sentences and (fact, wording) pairs are held out, and one whole voice.
"""

import argparse
import json
import time
from collections.abc import Iterable
from itertools import product
from pathlib import Path

import soundfile as sf
import torch
from tqdm import tqdm

from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor
from processing.conversation_vita_audio import AUDIO_MARK, split_at_marks
from training.benchmarks import Item, draw
from training.harness import SPEAKING_TASKS, ResponseLog, build_prompts, listen, respond, score
from training.recognition import load_recognizer
from training.report import RESULTS_TABLE, fill_section, plot_results, results_table, write_atomically
from training.scoring import real_time_factor, word_error_rate


MODES = ("vanilla", "balance", "boost", "turbo")
# name of a set: its task and split in conversations.jsonl
SETS = {
    "asr": ("asr", "test"),
    "asr_unseen_voice": ("asr", "test_voice"),
    "tts": ("tts", "test"),
    "sqa": ("sqa", "test"),
    "sqa_unseen_voice": ("sqa", "test_voice"),
    "tqa": ("tqa", "test"),
}


def load_sets(corpus_dir: Path, limit: int | None) -> dict[str, list[dict]]:
    """At most `limit` conversations of every set, drawn with a fixed seed; all without a limit."""
    with open(corpus_dir / "conversations.jsonl") as file:
        conversations = [json.loads(line) for line in file]
    sets = {}
    for name, key in SETS.items():
        rows = [row for row in conversations if (row["task"], row["split"]) == key]
        sets[name] = [rows[index] for index in draw(len(rows), limit)]
    return sets


def check_sets(corpus_dir: Path, sets: dict[str, list[dict]], names: Iterable[str]) -> None:
    """
    Raises:
        ValueError: the corpus has no conversations for one of the sets.
    """
    if empty := [name for name in names if not sets[name]]:
        raise ValueError(f"{corpus_dir} has no conversations for the sets {', '.join(empty)}.")


def build_item(corpus_dir: Path, row: dict) -> Item:
    """A conversation without its last turn, and what that turn is measured by."""
    prompt = row["messages"][:-1]
    num_audios = sum(message["content"].count(AUDIO_MARK) for message in prompt)
    audios = [str(corpus_dir / path) for path in row["audios"][:num_audios]]
    return Item(row["id"], split_at_marks(prompt, audios), row["reference"], tuple(row["accepted_answers"]))


@torch.no_grad()
def measure_speed(model, processor, items: list[Item], modes: Iterable[str], **generate_kwargs) -> dict[str, dict]:
    """
    One request at a time, each in all modes in turn so that a busy machine is so for all of them.

    Returns:
        `dict`: for each mode new tokens per second of `generate`, and seconds of work per second of speech.
    """
    num_tokens, generate_seconds = dict.fromkeys(modes, 0), dict.fromkeys(modes, 0.0)
    work_seconds, speech_seconds = {mode: [] for mode in modes}, {mode: [] for mode in modes}
    for item, mode in tqdm(list(product(items, modes)), desc="speed"):
        start = time.perf_counter()
        inputs = build_prompts(processor, [item])
        encoded = time.perf_counter()
        sequences = model.generate(**inputs, do_sample=False, mctp_mode=mode, **generate_kwargs)
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
    rows = load_sets(args.corpus_dir, args.limit)
    # speed is measured with spoken questions, the recogniser with what was to be spoken
    check_sets(args.corpus_dir, rows, dict.fromkeys([*args.sets, "sqa", "tts"]))
    processor = VitaAudioProcessor.from_pretrained(args.model)
    model = VitaAudioForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32)
    sets = {name: [build_item(args.corpus_dir, row) for row in rows[name]] for name in SETS}
    recognizer = load_recognizer(args.recognizer)
    modes, lines = {}, []
    for mode in args.modes:
        modes[mode] = {}
        generate_kwargs = {"mctp_mode": mode, "max_new_tokens": args.max_new_tokens}
        for name in args.sets:
            task, _ = SETS[name]
            responses, transcripts = ResponseLog(), ResponseLog()
            respond(model, processor, sets[name], responses, desc=f"{mode} {name}", **generate_kwargs)
            if task in SPEAKING_TASKS:
                listen(processor, recognizer, sets[name], responses.rows, transcripts, desc=f"{mode} {name}")
            modes[mode][name], of_set = score(task, sets[name], responses.rows, transcripts.rows)
            lines += [{"mode": mode, "set": name, **line} for line in of_set]
            print(mode, name, json.dumps(modes[mode][name]), flush=True)
    speeds = measure_speed(model, processor, sets["sqa"][:20], args.modes, max_new_tokens=args.max_new_tokens)
    for mode, speed in speeds.items():
        modes[mode]["speed"] = speed
    # how well the recogniser does on the speech that the model learnt from
    references = [row["reference"] for row in rows["tts"]]
    heard = [recognizer(*sf.read(args.corpus_dir / row["audios"][-1], dtype="float32")) for row in rows["tts"]]
    results = {
        "model": model.config.model_type,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "default_mode": model.generation_config.mctp_mode,
        "recognizer": recognizer.name,
        "recognizer_wer_on_tts_references": word_error_rate(references, heard),
        "modes": modes,
    }
    return results, lines


def main(argv: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a checkpoint with its processor")
    parser.add_argument("--corpus_dir", required=True, type=Path, help="folder of the rendered corpus")
    parser.add_argument("--modes", nargs="+", default=MODES, choices=MODES)
    parser.add_argument("--sets", nargs="+", default=list(SETS), choices=list(SETS))
    parser.add_argument("--limit", type=int, default=150, help="conversations of each set")
    parser.add_argument("--max_new_tokens", type=int, default=256)
    parser.add_argument(
        "--recognizer", help="model of faster-whisper or transformers, by name or folder; Whisper tiny.en by default"
    )
    parser.add_argument(
        "--output_dir", type=Path, help="where results.json and results.png go; the model's by default"
    )
    parser.add_argument("--lines", type=Path, help="JSONL file for every single answer")
    parser.add_argument("--readme", type=Path, help="README whose table is filled from the results")
    args = parser.parse_args(argv)
    output_dir = args.output_dir or Path(args.model)
    # before the work: what can not be written is known at once; an empty folder would hide a model on the Hub
    if args.output_dir is None and not output_dir.is_dir():
        parser.error(f"--output_dir is needed: {args.model} is no folder here that results could be written to.")
    for folder in [output_dir, *([args.lines.parent] if args.lines else [])]:
        folder.mkdir(parents=True, exist_ok=True)
    results, lines = evaluate(args)
    write_atomically(output_dir / "results.json", json.dumps(results, indent=2) + "\n")
    plot_results(results, output_dir / "results.png")
    if args.lines:
        write_atomically(args.lines, "".join(json.dumps(line) + "\n" for line in lines))
    if args.readme:
        fill_section(args.readme, RESULTS_TABLE, results_table(results))


if __name__ == "__main__":
    main()
