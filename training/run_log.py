# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What a whole run of a recipe leaves beside its checkpoint: the record, the logs of all trainings, their curves."""

import json
import re
import shutil
from pathlib import Path

from matplotlib.figure import Figure

from hub_cards.model_card import (
    CARD_FILE,
    LOGS_FILE,
    LOGS_PICTURE,
    REPRODUCTION_FILE,
    TRAINER_STATE_FILE,
    is_ours,
    write_model_card,
)
from modeling_vita_audio.saving_vita_audio import replaced_whole

from .checkpoints import last_complete_checkpoint, read_state


# What is kept of each entry of a log: the step, losses and error rates
KEPT = re.compile(r"step|.*loss(_\d+)?|.*error_rate|.*used_codes")
# What the curves are of: not the mean over a whole run, nor what has another unit
DRAWN = re.compile(r"(?!train_).*loss|.*error_rate")


def read_log(folder: Path) -> list[dict]:
    """The log of a training that has ended in `folder`."""
    state = read_state(folder if (folder / TRAINER_STATE_FILE).is_file() else last_complete_checkpoint(folder))
    log = ({name: value for name, value in row.items() if KEPT.fullmatch(name)} for row in state.log_history)
    return [row for row in log if len(row) > 1]


def write_run_log(run: Path, trainings: list[str], output_dir: Path) -> None:
    """
    Writes the record of a run into the folder of its checkpoint, with the logs of its trainings and a picture of them,
    and the card anew unless it was edited by hand.

    Args:
        run: folder of the run, in which each training has a folder of its name.
        trainings: their names in order.
        output_dir: folder of the checkpoint.
    """
    logs = {name: read_log(run / name) for name in trainings}
    shutil.copyfile(run / REPRODUCTION_FILE, output_dir / REPRODUCTION_FILE)
    rows = [
        f"{json.dumps(name)}: [\n" + ",\n".join(json.dumps(row) for row in log) + "\n]" for name, log in logs.items()
    ]
    with replaced_whole(output_dir / LOGS_FILE) as unfinished:
        unfinished.write_text("{\n" + ",\n".join(rows) + "\n}\n", encoding="utf-8")
    plot_logs(logs, output_dir / LOGS_PICTURE)
    if is_ours(output_dir / CARD_FILE):
        write_model_card(output_dir)


def plot_logs(logs: dict[str, list[dict]], path: Path) -> None:
    """A panel for each training, with its losses and error rates over the steps; those of evaluations are dashed."""
    num_columns = 2
    num_rows = -(-len(logs) // num_columns)
    figure = Figure(figsize=(11, 3.2 * num_rows), layout="constrained")
    panels = figure.subplots(num_rows, num_columns, squeeze=False)
    for axes in panels.flat[len(logs) :]:
        axes.remove()
    for axes, (name, log) in zip(panels.flat, logs.items()):
        for figure_name in dict.fromkeys(key for row in log for key in row if DRAWN.fullmatch(key)):
            points = [(row["step"], row[figure_name]) for row in log if figure_name in row]
            style = "o--" if figure_name.startswith("eval") else "-"
            axes.plot(*zip(*points), style, label=figure_name, linewidth=1, markersize=3)
        axes.set(title=name, xlabel="step", yscale="log")
        axes.grid(alpha=0.3)
        axes.legend(fontsize="x-small")
    figure.savefig(path, dpi=100)
