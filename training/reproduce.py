# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the small checkpoint of this repository from nothing, by one command:

    python -m training.reproduce --output_dir runs/mini

It renders the corpus, trains the codec's tokenizer and decoder and the four stages of the language model, puts the
result together in `OUTPUT_DIR/vita-audio-mini` and scores it, on two CPU cores. Given again after a stop at any place,
it goes on from there: every step has its own folder, and its own checkpoints. `OUTPUT_DIR/reproduction.json` tells
what ran, with which seed and for how long. `--smoke` does all of it in minutes, on a scrap of the corpus, to show that
it runs; its model has learnt nothing.
"""

import argparse
import fcntl
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import soundfile as sf

from hub_cards.command_line import ArgumentParser, run_command
from hub_cards.json_lines import read_json_lines
from hub_cards.model_card import SAMPLE_QUESTION, read_json
from modeling_vita_audio.saving_vita_audio import replaced_whole


PROG = "training.reproduce"
RECORD_FILE, LOCK_FILE = "reproduction.json", "lock"
CONFIGS = Path(__file__).parent / "configs"
NUM_PROCESSES = 2


@dataclass
class Step:
    """
    One step of the recipe.

    name: of it, and of the file in `configs/mini` with its settings where it is a training.
    hours: what it took on two cores of an AMD EPYC with AVX512-BF16, to tell how much is left.
    command: module and arguments, of which `{run}` is the folder of the whole run.
    smoke: arguments in the place of, or beside these, for `--smoke`.
    """

    name: str
    hours: float
    command: list[str]
    smoke: list[str] = field(default_factory=list)


def training_step(name: str, hours: float, module: str, arguments: list[str], smoke: list[str]) -> Step:
    config = ["--config", str(CONFIGS / "mini" / f"{name}.yaml"), "--output_dir", f"{{run}}/{name}"]
    return Step(name, hours, [module, *config, *arguments], smoke)


def short(max_steps: int) -> list[str]:
    """Arguments of a training that only shows that it runs."""
    settings = {
        **{"max_steps": max_steps, "save_steps": max_steps, "logging_steps": 1, "per_device_train_batch_size": 2},
        **{"warmup_steps": 1, "dataloader_num_workers": 0, "dataloader_persistent_workers": False},
        "dataloader_prefetch_factor": "null",
    }
    return [part for name, value in settings.items() for part in (f"--{name}", str(value))]


def stage_step(stage: int, hours: float) -> Step:
    source = ["--codec_name_or_path", "{run}/decoder/codec"]
    if stage > 1:
        source = ["--model_name_or_path", f"{{run}}/stage{stage - 1}"]
    arguments = ["--dataset_name", "{run}/corpus", "--code_cache_dir", "{run}/codes", *source]
    smoke = [*short(4), "--eval_strategy", "no"]
    if stage == 1:
        smoke += ["--text_config", json.dumps(SMALL_LANGUAGE_MODEL), "--text_vocab_size", "600"]
    return training_step(f"stage{stage}", hours, "training.train", arguments, smoke)


SMALL_LANGUAGE_MODEL = {
    **{"model_type": "qwen2", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2},
    **{"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16, "max_position_embeddings": 2048},
}
RECIPE = [
    Step("corpus", 1.0, ["training.corpus.render", "--output_dir", "{run}/corpus"], ["--limit", "60"]),
    training_step(
        *("tokenizer", 1.5, "training.codec.tokenizer", ["--corpus_dir", "{run}/corpus"]),
        [*short(4), "--quantize_after", "2", "--eval_strategy", "no"],
    ),
    training_step(
        *("decoder", 3.5, "training.codec.decoder"),
        ["--corpus_dir", "{run}/corpus", "--codec_name_or_path", "{run}/tokenizer/codec"],
        short(4),
    ),
    stage_step(1, 3.0),
    stage_step(2, 0.3),
    stage_step(3, 0.7),
    stage_step(4, 2.0),
    Step(
        *("assembling", 0.01),
        [
            *("training.assemble", "--model", "{run}/stage4", "--output_dir", "{run}/vita-audio-mini"),
            *("--sample_question", f"{{run}}/{SAMPLE_QUESTION}"),
        ],
    ),
    Step(
        *("evaluation", 0.8),
        [
            *("training.evaluation.evaluate_held_out", "--model", "{run}/vita-audio-mini"),
            *("--corpus_dir", "{run}/corpus", "--limit", "500", "--mctp_mode", "vanilla", "boost"),
        ],
        ["--limit", "1", "--max_new_tokens", "8"],
    ),
]
# Steps that `accelerate launch` runs in two processes, and with them one that starts two itself
TRAININGS = ("training.codec.tokenizer", "training.codec.decoder", "training.train")
IN_TWO_PROCESSES = (*TRAININGS, "training.corpus.render")


def write_sample_question(run: Path) -> None:
    """The question that comes with the checkpoint, out of the corpus: one that was held out, if there is any."""
    rows = [row for _, row in read_json_lines(run / "corpus" / "conversations.jsonl") if row["task"] == "sqa"]
    row = min(rows, key=lambda row: (row["split"] != "test", row["id"]))
    waveform, sampling_rate = sf.read(run / "corpus" / row["audios"][0])
    sf.write(run / SAMPLE_QUESTION, waveform, sampling_rate)


def command_of(step: Step, run: Path, seed: int, is_smoke: bool) -> list[str]:
    module, *arguments = [part.replace("{run}", str(run)) for part in step.command]
    # An option that comes twice has its last value
    arguments += step.smoke if is_smoke else []
    if module not in TRAININGS:
        return [sys.executable, "-m", module, *arguments]
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--config_file",
        str(CONFIGS / "accelerate/cpu.yaml"),
    ]
    # any free port, so that two runs do not meet
    launch += ["--num_processes", str(NUM_PROCESSES), "--main_process_port", "0"]
    return [*launch, "-m", module, *arguments, "--seed", str(seed)]


def write_record(path: Path, record: dict) -> None:
    with replaced_whole(path) as unfinished:
        unfinished.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def as_time(hours: float) -> str:
    return "{} h {:02d} min".format(*divmod(round(hours * 60), 60))


@contextmanager
def locked(run: Path) -> Iterator[int]:
    """
    A descriptor of the lock on a run's folder.

    Raises:
        ValueError: another process has it.
    """
    with (run / LOCK_FILE).open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise ValueError(f"Another process works in {run}: wait for its end, or stop it.") from error
        yield file.fileno()


def reproduce(run: Path, seed: int = 0, is_smoke: bool = False) -> dict:
    """
    Runs the steps that are not done yet.

    Returns:
        `dict`: the record, as in `reproduction.json`: `seed`, `smoke`, and for each step its `seconds` in all tries,
        how many these were and when it was done.

    Raises:
        ValueError: `run` was begun with another seed, or as another kind of run, or another process works in it.
        RuntimeError: a step failed; what it says is on its standard error.
    """
    run.mkdir(parents=True, exist_ok=True)
    with locked(run) as lock:
        return run_steps(run, lock, seed, is_smoke)


def run_steps(run: Path, lock: int, seed: int, is_smoke: bool) -> dict:
    path = run / RECORD_FILE
    record = read_json(path) or {"seed": seed, "smoke": is_smoke, "steps": {}}
    if (record["seed"], record["smoke"]) != (seed, is_smoke):
        raise ValueError(
            f"The run in {run} was begun with the seed {record['seed']}{' and --smoke' if record['smoke'] else ''}: "
            "go on in the same way, or give another `output_dir`."
        )
    for index, step in enumerate(RECIPE):
        done = record["steps"].setdefault(step.name, {"seconds": 0, "tries": 0})
        if "finished" in done:
            continue
        left = sum(later.hours for later in RECIPE[index:])
        print(f"Step {index + 1} of {len(RECIPE)}: {step.name}. " + ("" if is_smoke else f"{as_time(left)} to go."))
        sys.stdout.flush()
        if step.name == "assembling":
            write_sample_question(run)
        start, done["tries"] = time.monotonic(), done["tries"] + 1
        write_record(path, record)
        command, before = command_of(step, run, seed, is_smoke), done["seconds"]
        # steps of two processes have a thread in each
        environment = os.environ | ({"OMP_NUM_THREADS": "1"} if step.command[0] in IN_TWO_PROCESSES else {})
        # The step holds the lock as well, so that no other begins while it lives, even if this process is killed.
        process = subprocess.Popen(command, env=environment, pass_fds=(lock,))
        try:
            # A run that is killed has written how long it took so far
            while process.poll() is None:
                try:
                    process.wait(timeout=60)
                except subprocess.TimeoutExpired:
                    pass
                done["seconds"] = round(before + time.monotonic() - start)
                write_record(path, record)
        finally:
            # an interrupt reaches both, but one that is only sent to this process does not
            if process.poll() is None:
                process.terminate()
                process.wait()
        if process.returncode:
            raise RuntimeError(
                f"The step {step.name} failed with the status {process.returncode}, for the reason above. The same "
                "command begins with it again."
            )
        done["finished"] = datetime.now(UTC).isoformat(timespec="seconds")
        write_record(path, record)
    return record


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the run (a stopped run goes on)")
    parser.add_argument("--seed", type=int, default=0, help="of all trainings (default: 0)")
    parser.add_argument("--smoke", action="store_true", help="a few steps on a scrap of the corpus")
    args = parser.parse_args(argv)
    # so that it stops its step, too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    record = reproduce(args.output_dir, args.seed, args.smoke)
    hours = sum(step["seconds"] for step in record["steps"].values()) / 3600
    print(f"The checkpoint is in {args.output_dir / 'vita-audio-mini'}, after {as_time(hours)}.")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
