# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Scores a checkpoint on a published benchmark, or on conversations of your own, in text and speech.

    python -m training.evaluation.evaluate_benchmarks --model MODEL --benchmark llama_questions --output_dir runs/all
    python -m training.evaluation.evaluate_benchmarks --model MODEL --benchmark my_set.yaml --output_dir runs/all
    python -m training.evaluation.evaluate_benchmarks --model MODEL --dataset_name FOLDER --output_dir runs/all

Speech is scored by what an independent recogniser hears. Every response is written to disk as soon as the model has
given it. So the same command goes on where it was stopped, and a run with another recogniser listens to the responses
that are there. Several benchmarks share an output folder: `results.json`, `results.md` and `results.png` show all of
them.
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from hub_cards.command_line import ArgumentParser, no_empty_folder, run_command
from hub_cards.model_card import read_json
from modeling_vita_audio import VitaAudioForConditionalGeneration
from processing import VitaAudioProcessor
from training.conversations import SPOKEN_QA, WRITTEN_QA

from .benchmarks import (
    ROLES,
    BenchmarkItems,
    Item,
    items_fingerprint,
    list_benchmarks,
    load_benchmark_dataset,
    read_benchmark,
)
from .dialogues import build_items
from .harness import (
    SPEAKING_TASKS,
    ResponseLog,
    add_device_arguments,
    add_mode_argument,
    add_verify_argument,
    check_modes,
    listen,
    load_for_scoring,
    log_path,
    measure_throughput,
    name_of_mode,
    read_sets,
    respond,
    response_settings,
    score,
)
from .normalizers import CORPUS, NORMALIZERS
from .recognition import PipelineRecognizer, WhisperRecognizer, load_recognizer, name_of
from .report import (
    BENCHMARK_TABLE,
    benchmark_table,
    fill_section,
    plot_benchmarks,
    write_atomically,
)


PROG = "training.evaluation.evaluate_benchmarks"
# Of `response_settings`, what is the same in all results of a folder
MODEL_STATE = ("weights", "codec", "processor")


@dataclass(frozen=True)
class ScoredSet:
    """
    Items that are scored together.

    Args:
        name: What they are called in the results.
        task: One of [`training.conversations`]' `TASKS`.
        items: Prompts with their references.
        dataset: The dataset that they are from, as the results name it.
        split: Its split.
        normalizer: What texts go through before they are compared, see `training.evaluation.normalizers`.
    """

    name: str
    task: str
    items: Sequence[Item]
    dataset: str
    split: str
    normalizer: str

    @property
    def is_spoken(self) -> bool:
        """Whether the responses are speech, which a recogniser has to write down."""
        return self.task in SPEAKING_TASKS


def load_sets(args: argparse.Namespace) -> list[ScoredSet]:
    """The items of a benchmark, or of conversations as for training if no benchmark is named."""
    return [load_published_set(args)] if args.benchmark is not None else load_own_sets(args)


def load_published_set(args: argparse.Namespace) -> ScoredSet:
    """The rows of a benchmark's dataset, or of another one that the arguments name."""
    benchmark = read_benchmark(args.benchmark)
    if args.written_questions:
        if benchmark.task != SPOKEN_QA:
            raise ValueError(
                f"{benchmark.name} has no questions: --written_questions is for sets of spoken questions."
            )
        # It gets a name of its own, so that its results stand beside those of the spoken questions.
        benchmark = replace(benchmark, task=WRITTEN_QA, name=f"{benchmark.name}_written")
    # what the command line says goes before what the file says
    benchmark = replace(
        benchmark,
        columns=benchmark.columns | dict(args.columns),
        split=args.dataset_split or benchmark.split,
        normalizer=args.normalizer or benchmark.normalizer,
    )
    dataset = load_benchmark_dataset(benchmark, args.dataset_name, args.dataset_config)
    items = BenchmarkItems(benchmark, dataset, args.limit, with_voice=not args.without_voice)
    dataset_name = name_of(args.dataset_name or benchmark.dataset_name)
    return ScoredSet(benchmark.name, benchmark.task, items, dataset_name, benchmark.split, benchmark.normalizer)


def load_own_sets(args: argparse.Namespace) -> list[ScoredSet]:
    """Conversations as for training: a set for each of their tasks, named after the dataset and the task."""
    if args.dataset_name is None:
        raise ValueError(
            f"Give a --benchmark, which is one of {', '.join(list_benchmarks())} or a YAML file, or a --dataset_name "
            "of your own."
        )
    split, dataset_name = args.dataset_split or "test", name_of(args.dataset_name)
    stem, normalizer = Path(dataset_name).stem, args.normalizer or CORPUS
    sets = read_sets(args.dataset_name, split, args.limit)
    return [
        ScoredSet(f"{stem}_{task}", task, build_items(rows), dataset_name, split, normalizer)
        for task, rows in sets.items()
    ]


def evaluate_benchmarks(args: argparse.Namespace) -> dict:
    """
    Scores a model on one benchmark, or on conversations, in each mode, and adds the figures to those in the output
    folder.

    Returns:
        `dict`: all that the folder's `results.json` has then.

    Raises:
        ValueError, OSError, ImportError: The dataset, the recogniser or the model is not there or does not fit, which
            is known before the model starts to work.
    """
    model_name = f"{name_of(args.model)}@{args.revision}" if args.revision else name_of(args.model)
    # before the work, because a folder with results of another model is refused
    results = read_results(args.output_dir, model_name)
    sets = load_sets(args)
    for scored in sets:
        for of_mode in results["benchmarks"].get(scored.name, {}).values():
            before, now = (of_mode["dataset"], of_mode["split"]), (scored.dataset, scored.split)
            if before != now:
                raise ValueError(
                    f"{args.output_dir} has results of {before[0]}, split '{before[1]}', under the name "
                    f"{scored.name}, which {now[0]}, split '{now[1]}', has as well: name another --output_dir."
                )
    # It is loaded before the model, so that one that is missing is an error at once.
    recognizer = None
    if any(scored.is_spoken for scored in sets):
        recognizer = load_recognizer(args.recognizer, args.device)
    model, processor = load_for_scoring(args.model, args.revision, args.dtype, args.device, args.mctp_verify)
    modes = args.mctp_mode or [getattr(model.generation_config, "mctp_mode", None) or "vanilla"]
    check_modes(modes, model)
    settings = response_settings(model, processor, args.batch_size, args.max_new_tokens)
    state = {name: settings[name] for name in MODEL_STATE}
    # Once more, because the weights are known now: a model of the same name may have been trained further.
    read_results(args.output_dir, model_name, state)
    for scored in sets:
        of_set = settings | {"items": items_fingerprint(scored.items)}
        measured = {
            name_of_mode(mode): evaluate_in_mode(scored, mode, model, processor, recognizer, of_set, args)
            for mode in modes
        }
        # read again: another benchmark may have ended meanwhile
        results = read_results(args.output_dir, model_name, state)
        results["benchmarks"].setdefault(scored.name, {}).update(measured)
        write_atomically(args.output_dir / "results.json", json.dumps(results, indent=2) + "\n")
    return results


def evaluate_in_mode(
    scored: ScoredSet,
    mode: str | list[int],
    model: VitaAudioForConditionalGeneration,
    processor: VitaAudioProcessor,
    recognizer: WhisperRecognizer | PipelineRecognizer | None,
    settings: dict,
    args: argparse.Namespace,
) -> dict:
    """
    Has the model respond and the recogniser listen, and scores what they gave. What is on disk already is not done
    again.

    Args:
        settings: All that responses depend on, except their mode. Responses of other settings are in other files.

    Returns:
        `dict`: the figures, and what they were measured on and with.
    """
    name = f"{scored.name}-{name_of_mode(mode)}"
    settings = settings | {"mctp_mode": mode}
    responses = ResponseLog(log_path(args.output_dir / "responses", name, settings))
    generate_kwargs = {"mctp_mode": mode, "max_new_tokens": args.max_new_tokens}
    respond(model, processor, scored.items, responses, args.batch_size, desc=name, **generate_kwargs)
    # It stays without a file and empty where the answers are texts, because there is nothing to listen to.
    transcripts = ResponseLog()
    if scored.is_spoken:
        # Another recogniser hears the same responses, but its transcripts are in a file of their own.
        settings = settings | {"recognizer": args.recognizer}
        transcripts = ResponseLog(log_path(args.output_dir / "transcripts", name, settings))
        listen(processor, recognizer, scored.items, responses.rows, transcripts, desc=name)
    figures, lines = score(scored.task, scored.items, responses.rows, transcripts.rows, scored.normalizer)
    write_atomically(args.output_dir / f"{name}.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    print(name, json.dumps(figures), flush=True)
    tolerance = getattr(model.generation_config, "mctp_verify", None)
    return {
        **figures,
        **({} if tolerance is None else {"mctp_verify": tolerance}),
        "dataset": scored.dataset,
        "split": scored.split,
        "normalizer": scored.normalizer,
        "batch_size": args.batch_size,
        "max_new_tokens": args.max_new_tokens,
        **({"recognizer": recognizer.name} if scored.is_spoken else {}),
        "throughput": measure_throughput(scored.task, scored.items, responses.rows, transcripts.rows),
    }


def write_report(results: dict, output_dir: Path, readme: Path | None) -> None:
    """Shows all results of the folder, in a table (on the terminal, in `results.md`, in a README) and a picture."""
    table = benchmark_table(results)
    write_atomically(output_dir / "results.md", table + "\n")
    plot_benchmarks(results, output_dir / "results.png")
    print(table)
    if readme:
        fill_section(readme, BENCHMARK_TABLE, table)


def read_results(output_dir: Path, model: str, state: dict[str, str] | None = None) -> dict:
    """
    Reads what the folder's `results.json` has so far.

    Args:
        model: The model's name.
        state: Hashes of what `MODEL_STATE` names, once it is loaded.

    Raises:
        ValueError: The file is of another model, or of other weights or another processor.
    """
    path, state = output_dir / "results.json", state or {}
    if not path.exists():
        return {"model": model, **state, "benchmarks": {}}
    results = read_json(path)
    is_ours = {"benchmarks", "model", *MODEL_STATE} <= results.keys() and results["model"] == model
    if not is_ours or any(results[name] != value for name, value in state.items()):
        raise ValueError(f"{path} has other results than benchmarks of {model} as it is: name another --output_dir.")
    return results


def parse_benchmark(text: str) -> str:
    """A benchmark's name, or the path of its YAML file."""
    if text not in list_benchmarks() and not text.endswith((".yaml", ".yml")):
        raise argparse.ArgumentTypeError(
            f"there is no benchmark {text!r}, but {', '.join(list_benchmarks())}; one of your own is a YAML file like "
            "theirs in training/evaluation/benchmarks, given by its path"
        )
    return text


def parse_column(text: str) -> tuple[str, str]:
    role, _, name = text.partition("=")
    if role not in ROLES or not name:
        raise argparse.ArgumentTypeError(
            f"{text!r} is not of the form ROLE=COLUMN, such as audio=recording, with a role of {', '.join(ROLES)}"
        )
    return role, name


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", required=True, help="folder or Hub id of a checkpoint with its processor")
    parser.add_argument("--revision", help="branch, tag or commit of the model on the Hub")
    parser.add_argument(
        "--benchmark",
        type=parse_benchmark,
        metavar="NAME|FILE.yaml",
        help=f"one of {', '.join(list_benchmarks())}, or the YAML file of one of your own, as in "
        "training/evaluation/benchmarks; without it the dataset has conversations, as for training",
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
        help=f"columns of other names, for the roles {', '.join(ROLES)}",
    )
    parser.add_argument(
        "--normalizer",
        choices=NORMALIZERS,
        help="what texts go through before they are compared: the benchmark's own by default, of conversations corpus",
    )
    parser.add_argument("--output_dir", required=True, type=Path, help="where the results and all responses go")
    add_mode_argument(parser, "the model's own")
    add_verify_argument(parser)
    parser.add_argument("--written_questions", action="store_true", help="ask the questions in text, not in speech")
    parser.add_argument(
        "--without_voice", action="store_true", help="do not prompt with a recording of the voice to speak with"
    )
    parser.add_argument("--limit", type=int, help="so many rows, drawn with a fixed seed; all by default")
    parser.add_argument("--max_new_tokens", type=int, default=1024)
    parser.add_argument(
        "--recognizer",
        help="model of faster-whisper or transformers, by name or folder, or whisper-tiny.en; Whisper base by default",
    )
    add_device_arguments(parser, dtype="auto")
    parser.add_argument("--readme", type=Path, help="README whose table of benchmarks is filled from the results")
    args = parser.parse_args(argv)
    for name in ("batch_size", "limit", "max_new_tokens"):
        if (value := getattr(args, name)) is not None and value < 1:
            parser.error(f"--{name} must be at least 1, got {value}")
    with no_empty_folder(args.output_dir):
        write_report(evaluate_benchmarks(args), args.output_dir, args.readme)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
