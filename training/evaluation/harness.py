# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores a checkpoint on a published benchmark, or on conversations of your own, in text and speech.

    python -m training.evaluation.harness --model MODEL --benchmark llama_questions --output_dir runs/benchmarks
    python -m training.evaluation.harness --model MODEL --dataset_name FOLDER --output_dir runs/benchmarks

Speech is scored by what an independent recogniser hears. Every response is on disk as soon as it is there: the command given
again goes on where it was stopped, and a run with another recogniser takes the responses that are there. Several benchmarks
share an output folder: `results.json`, `results.md` and `results.png` show all of them.
"""

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import PreTrainedConfig

from hub_cards.command_line import ArgumentParser, check_place, naming, no_empty_folder, run_command
from hub_cards.json_lines import read_json_lines
from hub_cards.model_card import read_json
from modeling_vita_audio import MCTP_MODES, VitaAudioConfig, VitaAudioForConditionalGeneration
from modeling_vita_audio.generation_vita_audio import resolve_mctp_mode
from processing import VitaAudioProcessor
from training.conversations import (
    ASR,
    QUESTION_TASKS,
    SPOKEN_QA,
    TASKS,
    TTS,
    WRITTEN_QA,
    read_conversations,
    task_of,
)
from training.data import codec_fingerprint
from training.evaluation.benchmarks import (
    BENCHMARKS,
    BenchmarkItems,
    Item,
    build_item,
    draw,
    items_fingerprint,
    load_benchmark,
)
from training.evaluation.recognition import load_recognizer, name_of
from training.evaluation.report import (
    BENCHMARK_TABLE,
    benchmark_table,
    fill_section,
    plot_benchmarks,
    write_atomically,
)
from training.evaluation.scoring import answer_is_right, character_error_rate, real_time_factor, word_error_rate


PROG = "training.evaluation.harness"
# The tasks whose responses are listened to.
SPEAKING_TASKS = (TTS, SPOKEN_QA)


class ResponseLog:
    """
    Rows by their `id`, in memory and in a file of JSON lines that is only ever appended to.

    Args:
        path (`Path`, *optional*): what a run that was stopped has left there is read; a last line without its end, which a kill
            in the middle of writing leaves behind, is cut off. Without a path the rows are in memory only.

    Raises:
        ValueError: a line is not what was written here.
    """

    def __init__(self, path: Path | None = None):
        self.path, self.rows = path, {}
        if path is None:
            return
        if not path.exists():
            return
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(path, end)
        try:
            for _, row in read_json_lines(path, {"id": str}):
                self.rows[row["id"]] = row
        except ValueError as error:
            raise ValueError(f"{error} Remove the file to start anew.") from error

    def append(self, rows: list[dict]) -> None:
        """Keeps `rows`; they are on disk when this returns."""
        self.rows |= {row["id"]: row for row in rows}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
                file.flush()
                os.fsync(file.fileno())


def build_prompts(processor, items: Sequence[Item]) -> dict:
    """Inputs of `generate` for the prompts of `items`, padded on the left."""
    return processor.apply_chat_template(
        [item.messages for item in items], tokenize=True, return_dict=True, add_generation_prompt=True
    )


def load_audios(processor, item: Item) -> tuple[Item, float]:
    """The item with the samples of its audios, and how many seconds they last; a bad audio is named by the item."""
    try:
        audios = [processor.load_audio(audio) for audio in item.audios]
    except (ValueError, OSError) as error:
        raise type(error)(f"{item.id}: {error}") from error
    return item.with_audios(audios), sum(map(len, audios)) / processor.feature_extractor.sampling_rate


@torch.no_grad()
def respond(
    model, processor, items: Sequence[Item], log: ResponseLog, batch_size: int = 16, desc: str = "", **generate_kwargs
) -> None:
    """
    Has the model respond to `items`, greedily and in batches that are the same however often the run is stopped.

    Rows of `log`: `id`, `text` (`str`), `audio_codes` (`list[int]`), `num_tokens` that were written, `seconds` of work (an
    equal share of its batch's, tokenizing the prompt included) and `audio_seconds` of the prompt.
    """
    for start in tqdm(range(0, len(items), batch_size), desc=f"{desc} responses", unit="batch"):
        batch = [items[index] for index in range(start, min(start + batch_size, len(items)))]
        if all(item.id in log.rows for item in batch):
            continue
        batch, audio_seconds = zip(*(load_audios(processor, item) for item in batch))
        started = time.perf_counter()
        inputs = build_prompts(processor, batch).to(model.device)
        sequences = model.generate(**inputs, do_sample=False, **generate_kwargs)
        new_ids = sequences[:, inputs["input_ids"].shape[1] :].cpu()
        seconds = (time.perf_counter() - started) / len(batch)
        num_tokens = (new_ids != model.generation_config.pad_token_id).sum(dim=1).tolist()
        responses = processor.post_process_generation(new_ids)
        log.append(
            [
                {"id": item.id, **response, "num_tokens": number, "seconds": seconds, "audio_seconds": duration}
                for item, response, number, duration in zip(batch, responses, num_tokens, audio_seconds)
            ]
        )


def listen(processor, recognizer, items: Sequence[Item], responses: dict, log: ResponseLog, desc: str = "") -> None:
    """
    Has the recogniser write down the speech of `responses`, rows of [`respond`] by their ids.

    Rows of `log`: `id`, `heard` (`str`, empty where there is no speech), `seconds` of decoding the speech, and
    `audio_seconds` of it.
    """
    for item_id in tqdm([item.id for item in items], desc=f"{desc} listening"):
        if item_id in log.rows:
            continue
        started = time.perf_counter()
        (speech,) = processor.decode_audio([responses[item_id]["audio_codes"]])
        seconds = time.perf_counter() - started
        sampling_rate = processor.output_sampling_rate
        heard = recognizer(speech, sampling_rate) if len(speech) else ""
        log.append([{"id": item_id, "heard": heard, "seconds": seconds, "audio_seconds": len(speech) / sampling_rate}])


def score(task: str, items: Sequence[Item], responses: dict, transcripts: dict) -> tuple[dict, list[dict]]:
    """
    Figures of a benchmark, and a line for each of its items.

    Args:
        task: "asr", "tts", "sqa" or "tqa".
        responses, transcripts: rows of [`respond`] and [`listen`] by the ids of the items; the latter of speech only.

    Returns:
        `dict` of `conversations` (their number) and, as the task has them, `wer`, `cer`, `text_accuracy` and
        `speech_accuracy`; and `list[dict]`.
    """
    lines = []
    for item in items:
        line = {"id": item.id, "reference": item.reference, "text": responses[item.id]["text"]}
        if task in SPEAKING_TASKS:
            line["heard"] = transcripts[item.id]["heard"]
        if task in QUESTION_TASKS:
            gold = item.accepted_answers, item.reference or None
            line["text_is_right"] = answer_is_right(line["text"], *gold)
            if task in SPEAKING_TASKS:
                line["speech_is_right"] = answer_is_right(line["heard"], *gold)
        lines.append(line)
    figures = {"conversations": len(lines)}
    if task in QUESTION_TASKS:
        for key in ("text_is_right", "speech_is_right"):
            if key in lines[0]:
                figures[key.replace("is_right", "accuracy")] = float(np.mean([line[key] for line in lines]))
    else:
        references = [line["reference"] for line in lines]
        hypotheses = [line["text" if task == ASR else "heard"] for line in lines]
        figures["wer"] = word_error_rate(references, hypotheses)
        figures["cer"] = character_error_rate(references, hypotheses)
    return figures, lines


def measure_throughput(task: str, items: Sequence[Item], responses: dict, transcripts: dict) -> dict:
    """
    Speed of the batches: `tokens_per_second`, and `real_time_factor`, which is work per second of the speech that was
    recognised or generated; the latter only where there is speech.
    """
    rows = [responses[item.id] for item in items]
    work = [row["seconds"] for row in rows]
    speed = {"tokens_per_second": sum(row["num_tokens"] for row in rows) / sum(work)}
    if task in SPEAKING_TASKS:
        spoken = [transcripts[item.id] for item in items]
        work = [seconds + row["seconds"] for seconds, row in zip(work, spoken)]
        rows = spoken
    durations = [row["audio_seconds"] for row in rows]
    if sum(durations):
        speed["real_time_factor"] = real_time_factor(work, durations)
    return speed


def load_for_scoring(name_or_path: str, revision: str | None = None, dtype="auto", device: str = "cpu"):
    """
    A model and its processor with its codec, on `device`.

    Raises:
        OSError: there is no such model.
        ValueError: it is another model, or one that can neither hear nor speak.
    """
    check_place(name_or_path)
    with naming(f"The configuration of {name_or_path}"):
        config, _ = PreTrainedConfig.get_config_dict(name_or_path, revision=revision)
    if config.get("model_type") != VitaAudioConfig.model_type:
        raise ValueError(
            f"{name_or_path} has a model of the type {config.get('model_type')!r}, not {VitaAudioConfig.model_type!r}."
        )
    with naming(f"The model {name_or_path}"):
        processor = VitaAudioProcessor.from_pretrained(name_or_path, revision=revision)
        model = VitaAudioForConditionalGeneration.from_pretrained(name_or_path, revision=revision, dtype=dtype)
    if processor.audio_tokenizer is None:
        raise ValueError(f"The processor of {name_or_path} has no audio tokenizer: it can neither hear nor speak.")
    processor.audio_tokenizer.to(device)
    return model.to(device), processor


def read_sets(
    source: str | os.PathLike, split: str, limit: int | None = None, with_others: bool = True
) -> dict[str, list[dict]]:
    """
    Conversations to be scored, by what they ask for.

    Args:
        source: of [`~training.conversations.read_conversations`].
        split: which ones.
        limit: at most so many of each, drawn with a fixed seed; all by default.
        with_others: whether those without a split belong to it, too.

    Raises:
        FileNotFoundError, ValueError: there is no such source, a row in it is malformed, or none is of the split.
    """
    sets = {task: [] for task in TASKS}
    for row in read_conversations(source, split):
        if row["split"] is None and not with_others:
            continue
        sets[task_of(row["messages"], row["task"])].append(row)
    if not any(sets.values()):
        splits = sorted({str(row["split"]) for row in read_conversations(source)})
        raise ValueError(
            f"{source} has no conversations of the split '{split}'; its splits are {', '.join(splits) or 'none'}. To score others, "
            "which the model may have been trained on, name their split."
        )
    return {task: [rows[index] for index in draw(len(rows), limit)] for task, rows in sets.items() if rows}


def add_mode_argument(parser: argparse.ArgumentParser, default: str) -> None:
    parser.add_argument(
        *("--mctp_mode", "--mode", "--modes"),
        nargs="+",
        type=parse_mode,
        metavar="MODE",
        help=f"one or several of {', '.join(MCTP_MODES)}, or lists such as 1,10,4,10 (default: {default})",
    )


def parse_mode(text: str) -> str | list[int]:
    """A mode's name, or its list of numbers with commas between them."""
    try:
        mode = text if text in MCTP_MODES else [int(number) for number in text.split(",")]
        resolve_mctp_mode(mode, 10**6)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of {', '.join(MCTP_MODES)}, nor a list of numbers such as 1,10,4,10"
        ) from None
    return mode


def name_of_mode(mode: str | list[int]) -> str:
    return mode if isinstance(mode, str) else "_".join(map(str, mode))


def check_modes(modes: Sequence[str | list[int]], model) -> None:
    """
    Raises:
        ValueError: the model has fewer modules than one of the modes needs.
    """
    for mode in modes:
        resolve_mctp_mode(mode, model.config.num_mctp_modules)


def load_items(args: argparse.Namespace) -> tuple[dict[str, tuple[str, Sequence[Item]]], str, str]:
    """What is to be measured: by their names tasks and items; and the names of the dataset and its split."""
    if args.benchmark is None:
        if args.dataset_name is None:
            raise ValueError(f"Give a --benchmark, one of {', '.join(BENCHMARKS)}, or a --dataset_name of your own.")
        split, dataset_name = args.dataset_split or "test", name_of(args.dataset_name)
        sets = read_sets(args.dataset_name, split, args.limit)
        stem = Path(dataset_name).stem
        return (
            {f"{stem}_{task}": (task, list(map(build_item, rows))) for task, rows in sets.items()},
            dataset_name,
            split,
        )
    benchmark, name = BENCHMARKS[args.benchmark], args.benchmark
    if args.written_questions:
        if benchmark.task != SPOKEN_QA:
            raise ValueError(f"{name} has no questions: --written_questions is for sets of spoken questions.")
        benchmark, name = replace(benchmark, task=WRITTEN_QA), f"{name}_written"
    benchmark = replace(benchmark, columns=benchmark.columns | dict(args.columns))
    dataset = load_benchmark(benchmark, args.dataset_name, args.dataset_config, args.dataset_split)
    items = BenchmarkItems(benchmark, dataset, args.limit, with_voice=not args.without_voice)
    dataset_name = name_of(args.dataset_name) if args.dataset_name else benchmark.dataset_name
    return {name: (benchmark.task, items)}, dataset_name, args.dataset_split or benchmark.split


def run_benchmark(args: argparse.Namespace) -> None:
    """
    Measures one benchmark in the modes asked for, and adds its figures to those in the output folder.

    Raises:
        ValueError, OSError, ImportError: the dataset, the recogniser or the model is not there or does not fit; all before the
            model starts to work.
    """
    model_name = f"{name_of(args.model)}@{args.revision}" if args.revision else name_of(args.model)
    read_results(args.output_dir, model_name)
    sets, dataset_name, split = load_items(args)
    is_heard = any(task in SPEAKING_TASKS for task, _ in sets.values())
    recognizer = load_recognizer(args.recognizer, args.device) if is_heard else None
    model, processor = load_for_scoring(args.model, args.revision, args.dtype, args.device)
    modes = args.mctp_mode or [getattr(model.generation_config, "mctp_mode", None) or "vanilla"]
    check_modes(modes, model)
    weights = codec_fingerprint(model)
    read_results(args.output_dir, model_name, weights)
    settings = {
        "weights": weights,
        "codec": codec_fingerprint(processor.audio_tokenizer),
        "generation": model.generation_config.to_diff_dict(),
        "batch_size": args.batch_size,
        "max_new_tokens": args.max_new_tokens,
    }
    for set_name, (task, items) in sets.items():
        settings["items"] = items_fingerprint(items)
        of_task = recognizer if task in SPEAKING_TASKS else None
        measured = {}
        for mode in modes:
            name = f"{set_name}-{name_of_mode(mode)}"
            settings["mctp_mode"] = mode
            log = ResponseLog(log_path(args.output_dir / "responses", name, settings))
            generate_kwargs = {"mctp_mode": mode, "max_new_tokens": args.max_new_tokens}
            respond(model, processor, items, log, args.batch_size, desc=name, **generate_kwargs)
            heard = ResponseLog()
            if of_task is not None:
                key = settings | {"recognizer": args.recognizer}
                heard = ResponseLog(log_path(args.output_dir / "transcripts", name, key))
                listen(processor, of_task, items, log.rows, heard, desc=name)
            figures, lines = score(task, items, log.rows, heard.rows)
            write_atomically(args.output_dir / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
            measured[name_of_mode(mode)] = {
                **figures,
                "dataset": dataset_name,
                "split": split,
                "batch_size": args.batch_size,
                "max_new_tokens": args.max_new_tokens,
                **({"recognizer": of_task.name} if of_task else {}),
                "throughput": measure_throughput(task, items, log.rows, heard.rows),
            }
            print(name, json.dumps(figures), flush=True)
        # read again: another benchmark may have ended meanwhile
        results = read_results(args.output_dir, model_name, weights)
        results["benchmarks"].setdefault(set_name, {}).update(measured)
        write_atomically(args.output_dir / "results.json", json.dumps(results, indent=2) + "\n")
    table = benchmark_table(results)
    write_atomically(args.output_dir / "results.md", table + "\n")
    plot_benchmarks(results, args.output_dir / "results.png")
    print(table)
    if args.readme:
        fill_section(args.readme, BENCHMARK_TABLE, table)


def log_path(folder: Path, name: str, settings: dict) -> Path:
    """A file of its own for what has its own settings, so that responses of different ones never mix."""
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()
    return folder / f"{name}-{digest}.jsonl"


def read_results(output_dir: Path, model: str, weights: str | None = None) -> dict:
    """
    What is in the folder's `results.json` so far.

    Args:
        model: its name.
        weights: a hash of them, once they are loaded.

    Raises:
        ValueError: it is of another model, or of other weights.
    """
    path = output_dir / "results.json"
    if not path.exists():
        return {"model": model, "weights": weights, "benchmarks": {}}
    results = read_json(path)
    is_ours = {"benchmarks", "model", "weights"} <= results.keys() and results["model"] == model
    if not is_ours or weights not in (None, results["weights"]):
        raise ValueError(f"{path} has other results than benchmarks of this {model}: name another --output_dir.")
    return results


def parse_benchmark(text: str) -> str:
    if text not in BENCHMARKS:
        raise argparse.ArgumentTypeError(
            f"there is no benchmark {text!r}, but {', '.join(BENCHMARKS)}; a new one is an entry of BENCHMARKS in "
            "training/evaluation/benchmarks.py"
        )
    return text


def parse_column(text: str) -> tuple[str, str]:
    role, separator, name = text.partition("=")
    if not separator or not role or not name:
        raise argparse.ArgumentTypeError(f"{text!r} is not of the form ROLE=COLUMN, such as audio=recording")
    return role, name


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a checkpoint with its processor")
    parser.add_argument("--revision", help="branch, tag or commit of the model on the Hub")
    parser.add_argument(
        "--benchmark",
        type=parse_benchmark,
        metavar="NAME",
        help=f"one of {', '.join(BENCHMARKS)}: whose form the dataset has, see training/evaluation/benchmarks.py; without it the dataset has conversations, as for training",
    )
    parser.add_argument("--dataset_name", help="Hub id, folder or file of the dataset; the published one by default")
    parser.add_argument("--dataset_config", help="configuration of the dataset")
    parser.add_argument("--dataset_split", help="split of the dataset; the published one, or test, by default")
    parser.add_argument(
        "--columns",
        nargs="+",
        type=parse_column,
        default=[],
        metavar="ROLE=COLUMN",
        help="columns of other names, of the roles audio, text, voice, question, answers, accepted_answers, reference and id",
    )
    parser.add_argument("--output_dir", required=True, type=Path, help="where the results and all responses go")
    add_mode_argument(parser, "the model's own")
    parser.add_argument("--written_questions", action="store_true", help="ask the questions in text, not in speech")
    parser.add_argument(
        "--without_voice", action="store_true", help="do not prompt with a recording of the voice to speak with"
    )
    parser.add_argument("--batch_size", type=int, default=16, help="prompts that go through the model at once")
    parser.add_argument("--limit", type=int, help="so many rows, drawn with a fixed seed; all by default")
    parser.add_argument("--max_new_tokens", type=int, default=1024)
    parser.add_argument(
        "--recognizer", help="model of faster-whisper or transformers, by name or folder; Whisper tiny.en by default"
    )
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda:0")
    parser.add_argument("--dtype", default="auto", help="of the model's weights; as they are stored by default")
    parser.add_argument("--readme", type=Path, help="README whose table of benchmarks is filled from the results")
    args = parser.parse_args(argv)
    for name in ("batch_size", "limit", "max_new_tokens"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    with no_empty_folder(args.output_dir):
        run_benchmark(args)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
