# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes the small checkpoint of this repository from nothing, by one command:

    python -m training.reproduce --output_dir runs/mini

It renders the corpus, trains the codec's tokenizer and decoder and the four stages of the language model, puts the
result together in `OUTPUT_DIR/vita-audio-mini` and scores it, on two CPU cores. Given again after a stop at any place,
it goes on from there: every step has its own folder, and its own checkpoints. `reproduction.json` tells what ran, with
which seed and for how long; at the end a copy of it lies beside the checkpoint, with the logs of all trainings.
`--smoke` does all of it in minutes, on a scrap of the corpus, to show that it runs; its model has learnt nothing.

`--recipe smollm2_135m` is for one GPU: the same corpus and stages with a language model that can write already, and
the codec of `pretrained/vita-audio-mini`. `training/backbone.py` says what has to be installed for it.
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
from datetime import UTC, datetime
from pathlib import Path

import soundfile as sf

from hub_cards.command_line import ArgumentParser, run_command
from hub_cards.json_lines import read_json_lines
from hub_cards.model_card import REPRODUCTION_FILE, SAMPLE_QUESTION, read_json
from modeling_vita_audio.saving_vita_audio import replaced_whole

from .recipes import CONFIGS, RECIPES, Step
from .run_log import write_run_log


PROG = "training.reproduce"
LOCK_FILE = "lock"
# What README's first command answers
SAMPLE_TEXT = "Tell me the sum of seven and six."


def write_sample_question(run: Path) -> None:
    """The question that comes with the checkpoint, out of the corpus: held out and `SAMPLE_TEXT`, if there is such."""
    texts = {clip["path"]: clip["text"] for _, clip in read_json_lines(run / "corpus" / "clips.jsonl")}
    rows = [row for _, row in read_json_lines(run / "corpus" / "conversations.jsonl") if row["task"] == "sqa"]
    row = min(rows, key=lambda row: (row["split"] != "test", texts[row["audios"][0]] != SAMPLE_TEXT, row["id"]))
    waveform, sampling_rate = sf.read(run / "corpus" / row["audios"][0])
    sf.write(run / SAMPLE_QUESTION, waveform, sampling_rate)


def command_of(step: Step, run: Path, model: Path, seed: int, is_smoke: bool) -> list[str]:
    command = [part.replace("{run}", str(run)).replace("{model}", str(model)) for part in step.command]
    # An option that comes twice has its last value
    command += step.smoke if is_smoke else []
    command += ["--seed", str(seed)] if step.is_training else []
    launcher = []
    if step.is_training and step.num_processes > 1:
        launcher = ["-m", "accelerate.commands.launch", "--config_file", str(CONFIGS / "accelerate/cpu.yaml")]
        # any free port, so that two runs do not meet
        launcher += ["--num_processes", str(step.num_processes), "--main_process_port", "0"]
    return [sys.executable, *launcher, "-m", *command]


def write_record(path: Path, record: dict) -> None:
    with replaced_whole(path) as unfinished:
        unfinished.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def as_time(hours: float) -> str:
    return "{} h {:02d} min".format(*divmod(round(hours * 60), 60))


def time_left(steps: list[Step]) -> str:
    hours = [step.hours for step in steps]
    return "" if None in hours else f" {as_time(sum(hours))} to go."


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


def reproduce(run: Path, recipe: str = "mini", seed: int = 0, is_smoke: bool = False) -> dict:
    """
    Runs the steps of a recipe that are not done yet.

    Returns:
        `dict`: the record, as in `reproduction.json`: `recipe`, `seed`, `smoke`, and for each step its `seconds` in
        all tries, how many these were and when it was done.

    Raises:
        ValueError: `run` was begun in another way, or another process works in it.
        RuntimeError: a step failed; what it says is on its standard error.
    """
    run.mkdir(parents=True, exist_ok=True)
    with locked(run) as lock:
        return run_steps(run, lock, recipe, seed, is_smoke)


def run_steps(run: Path, lock: int, recipe: str, seed: int, is_smoke: bool) -> dict:
    path = run / REPRODUCTION_FILE
    ways = {"recipe": recipe, "seed": seed, "smoke": is_smoke}
    record = read_json(path) or ways | {"steps": {}}
    if any(record[name] != value for name, value in ways.items()):
        raise ValueError(
            f"The run in {run} was begun with the recipe {record['recipe']}, the seed {record['seed']}"
            f"{' and --smoke' if record['smoke'] else ''}: go on in the same way, or give another `output_dir`."
        )
    steps, model = RECIPES[recipe].steps, run / RECIPES[recipe].model_name
    for index, step in enumerate(steps):
        done = record["steps"].setdefault(step.name, {"seconds": 0, "tries": 0})
        if "finished" in done:
            continue
        print(f"Step {index + 1} of {len(steps)}: {step.name}." + ("" if is_smoke else time_left(steps[index:])))
        sys.stdout.flush()
        if step.name == "assembling":
            write_sample_question(run)
        start, done["tries"] = time.monotonic(), done["tries"] + 1
        write_record(path, record)
        command, before = command_of(step, run, model, seed, is_smoke), done["seconds"]
        environment = os.environ | ({"OMP_NUM_THREADS": "1"} if step.num_processes > 1 else {})
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
    write_run_log(run, [step.name for step in steps if step.is_training], model)
    return record


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--output_dir", type=Path, required=True, help="folder of the run (a stopped run goes on)")
    parser.add_argument("--recipe", choices=RECIPES, default="mini", help="which checkpoint (default: mini)")
    parser.add_argument("--seed", type=int, default=0, help="of all trainings (default: 0)")
    parser.add_argument("--smoke", action="store_true", help="a few steps on a scrap of the corpus")
    args = parser.parse_args(argv)
    # so that it stops its step, too
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    record = reproduce(args.output_dir, args.recipe, args.seed, args.smoke)
    hours = sum(step["seconds"] for step in record["steps"].values()) / 3600
    print(f"The checkpoint is in {args.output_dir / RECIPES[args.recipe].model_name}, after {as_time(hours)}.")


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
