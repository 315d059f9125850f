# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores a checkpoint on the held-out sets in every decoding mode, with an independent recogniser for its speech.

    python -m training.evaluate --model pretrained/vita-audio-mini --corpus_dir corpus

writes `results.json`, the picture `results.png` and fills the table of the README from the former. Nothing that is
scored was trained on: sentences and (fact, wording) pairs are held out, and one whole voice.
"""

import argparse
import json
import random
import time
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from tqdm import tqdm

from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor
from processing.conversation_vita_audio import AUDIO_MARK
from training.recognition import WhisperRecognizer
from training.report import RESULTS_TABLE, fill_section, plot_results, results_table, write_atomically
from training.scoring import answer_is_right, word_error_rate


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


def load_sets(corpus_dir: Path, limit: int, seed: int = 0) -> dict[str, list[dict]]:
    """At most `limit` conversations of every set, drawn with a fixed seed."""
    with open(corpus_dir / "conversations.jsonl") as file:
        conversations = [json.loads(line) for line in file]
    sets = {}
    for name, key in SETS.items():
        rows = [row for row in conversations if (row["task"], row["split"]) == key]
        sets[name] = random.Random(seed).sample(rows, min(limit, len(rows)))
    return sets


def build_prompts(processor, corpus_dir: Path, rows: list[dict]) -> dict:
    """Inputs of `generate` for conversations without their last turn."""
    prompts = [row["messages"][:-1] for row in rows]
    num_marks = ["".join(message["content"] for message in prompt).count(AUDIO_MARK) for prompt in prompts]
    audios = [[str(corpus_dir / path) for path in row["audios"][:n]] for row, n in zip(rows, num_marks)]
    return processor.apply_chat_template(
        prompts, audios=audios, tokenize=True, return_dict=True, add_generation_prompt=True
    )


@torch.no_grad()
def respond(
    model, processor, corpus_dir: Path, rows: list[dict], batch_size: int = 16, **generate_kwargs
) -> list[dict]:
    """What the model writes for each conversation without its last turn: `text`, `audio_codes` and `waveform`."""
    responses = []
    for start in tqdm(range(0, len(rows), batch_size), leave=False):
        inputs = build_prompts(processor, corpus_dir, rows[start : start + batch_size])
        sequences = model.generate(**inputs, **generate_kwargs)
        responses += processor.post_process_generation(sequences[:, inputs["input_ids"].shape[1] :])
    for response in responses:
        (response["waveform"],) = processor.decode_audio([response["audio_codes"]])
    return responses


def score(name: str, rows: list[dict], responses: list[dict], processor, recognizer) -> tuple[dict, list[dict]]:
    """Figures of one set, and a line for each of its conversations."""
    lines = []
    for row, response in zip(rows, tqdm(responses, desc=f"scoring {name}", leave=False)):
        line = {"id": row["id"], "reference": row["reference"], "text": response["text"]}
        if name.startswith(("tts", "sqa")):
            speech = response["waveform"]
            line["heard"] = recognizer(speech, processor.output_sampling_rate) if len(speech) else ""
        if name.startswith(("sqa", "tqa")):
            gold = row["accepted_answers"], row["reference"]
            line["text_is_right"] = answer_is_right(response["text"], *gold)
        if name.startswith("sqa"):
            line["speech_is_right"] = answer_is_right(line["heard"], *gold)
        lines.append(line)
    references = [line["reference"] for line in lines]
    figures = {"conversations": len(lines)}
    if name.startswith("asr"):
        figures["wer"] = word_error_rate(references, [line["text"] for line in lines])
    if name.startswith("tts"):
        figures["wer"] = word_error_rate(references, [line["heard"] for line in lines])
    for key in ("text_is_right", "speech_is_right"):
        if key in lines[0]:
            figures[key.replace("is_right", "accuracy")] = float(np.mean([line[key] for line in lines]))
    return figures, lines


@torch.no_grad()
def measure_speed(model, processor, corpus_dir: Path, rows: list[dict], mode: str, **generate_kwargs) -> dict:
    """One request at a time: new tokens per second of `generate`, and seconds of work per second of speech."""
    tokens = seconds = speech_seconds = total_seconds = 0.0
    for row in rows:
        start = time.perf_counter()
        inputs = build_prompts(processor, corpus_dir, [row])
        encoded = time.perf_counter()
        sequences = model.generate(**inputs, mctp_mode=mode, **generate_kwargs)
        generated = time.perf_counter()
        new_ids = sequences[:, inputs["input_ids"].shape[1] :]
        (response,) = processor.post_process_generation(new_ids)
        (waveform,) = processor.decode_audio([response["audio_codes"]])
        total_seconds += time.perf_counter() - start
        seconds += generated - encoded
        tokens += new_ids.shape[1]
        speech_seconds += len(waveform) / processor.output_sampling_rate
    return {"tokens_per_second": tokens / seconds, "real_time_factor": total_seconds / max(speech_seconds, 1e-9)}


def evaluate(args: argparse.Namespace) -> tuple[dict, list[dict]]:
    processor = VitaAudioProcessor.from_pretrained(args.model)
    model = VitaAudioForConditionalGeneration.from_pretrained(args.model, dtype=torch.float32)
    sets = load_sets(args.corpus_dir, args.limit)
    recognizer = WhisperRecognizer(args.recognizer)
    modes, lines = {}, []
    for mode in args.modes:
        modes[mode] = {}
        for name in args.sets:
            responses = respond(
                model, processor, args.corpus_dir, sets[name], mctp_mode=mode, max_new_tokens=args.max_new_tokens
            )
            modes[mode][name], of_set = score(name, sets[name], responses, processor, recognizer)
            lines += [{"mode": mode, "set": name, **line} for line in of_set]
            print(mode, name, json.dumps(modes[mode][name]), flush=True)
        modes[mode]["speed"] = measure_speed(
            model, processor, args.corpus_dir, sets["sqa"][:20], mode, max_new_tokens=args.max_new_tokens
        )
    # how well the recogniser does on the speech that the model learnt from
    references = [row["reference"] for row in sets["tts"]]
    heard = [recognizer(*sf.read(args.corpus_dir / row["audios"][-1], dtype="float32")) for row in sets["tts"]]
    results = {
        "model": model.config.model_type,
        "num_parameters": sum(parameter.numel() for parameter in model.parameters()),
        "default_mode": model.generation_config.mctp_mode,
        "recognizer": args.recognizer or "whisper-tiny.en",
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
    parser.add_argument("--recognizer", help="faster-whisper model name or folder; Whisper tiny.en by default")
    parser.add_argument(
        "--output_dir", type=Path, help="where results.json and results.png go; the model's by default"
    )
    parser.add_argument("--lines", type=Path, help="JSONL file for every single answer")
    parser.add_argument("--readme", type=Path, help="README whose table is filled from the results")
    args = parser.parse_args(argv)
    results, lines = evaluate(args)
    output_dir = args.output_dir or Path(args.model)
    write_atomically(output_dir / "results.json", json.dumps(results, indent=2) + "\n")
    plot_results(results, output_dir / "results.png")
    if args.lines:
        write_atomically(args.lines, "".join(json.dumps(line) + "\n" for line in lines))
    if args.readme:
        fill_section(args.readme, RESULTS_TABLE, results_table(results))


if __name__ == "__main__":
    main()
