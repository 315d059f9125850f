# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Puts the figures of several runs of one recipe side by side, which tells how much of them is chance.

    python -m training.evaluation.compare_runs --runs runs/mini/vita-audio-mini runs/mini_1/vita-audio-mini

Each folder has the `results.json` that `vita-audio evaluate` writes, the `codec_results.json` of
`training.evaluation.evaluate_codec`, and the `reproduction.json` of `training.reproduce`, which leaves all of them.
"""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from hub_cards.command_line import ArgumentParser, run_command
from hub_cards.model_card import CODEC_RESULTS_FILE, REPRODUCTION_FILE, RESULTS_FILE, read_json
from hub_cards.results import CODEC_FIGURES, NOT_MEASURED

from .report import fill_section, measured_rows


PROG = "training.evaluation.compare_runs"
RUNS_TABLE = "runs table"


def codec_rows(codecs: list[dict]) -> Iterator[tuple[str, list[str]]]:
    """Heading and cells of each figure of the codecs, before and after the round trip."""
    for group in dict.fromkeys(group for codec in codecs for group in codec["results"]):
        for title, figure, form in CODEC_FIGURES:
            cells = []
            for codec in codecs:
                figures = codec["results"].get(group, {})
                pair = [figures.get(f"{figure}_{kind}") for kind in ("original", "decoded")]
                cells.append(NOT_MEASURED if None in pair else " → ".join(form.format(value) for value in pair))
            if cells != [NOT_MEASURED] * len(cells):
                yield f"Codec, {group}: {title}", cells


def runs_table(runs: list[dict], codecs: list[dict], records: list[dict], mctp_mode: str) -> str:
    """
    Markdown table: a column for each run, a row for each figure that one of them has.

    Args:
        runs: contents of their `results.json`.
        codecs: contents of their `codec_results.json`.
        records: contents of their `reproduction.json`.
        mctp_mode: the mode whose figures are shown.
    """
    hours = [sum(step["seconds"] for step in record["steps"].values()) / 3600 for record in records]
    headings = [f"seed {record['seed']}" for record in records]
    lines = [f"| {mctp_mode} | " + " | ".join(headings) + " |", "|---" * (len(runs) + 1) + "|"]
    rows = [(heading, cells) for heading, _, cells in measured_rows([run["modes"][mctp_mode] for run in runs])]
    rows += [*codec_rows(codecs), ("Hours of the whole run", [f"{number:.1f}" for number in hours])]
    lines += [f"| {heading} | " + " | ".join(cells) + " |" for heading, cells in rows]
    return "\n".join(lines)


def read_runs(folders: list[Path], mctp_mode: str) -> tuple[list[dict], list[dict], list[dict]]:
    """
    Arguments of `runs_table`.

    Raises:
        ValueError: a folder lacks a file, or was not scored in this mode.
    """
    runs, codecs, records = [], [], []
    for folder in folders:
        for name, contents in ((RESULTS_FILE, runs), (CODEC_RESULTS_FILE, codecs), (REPRODUCTION_FILE, records)):
            content = read_json(folder / name)
            if content is None:
                raise ValueError(f"There is no {folder / name}.")
            contents.append(content)
        if mctp_mode not in (modes := runs[-1].get("modes", {})):
            raise ValueError(f"{folder} was scored in the modes {', '.join(modes) or 'none'}, not in {mctp_mode}.")
    return runs, codecs, records


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(prog=PROG, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=Path, nargs="+", required=True, help="folders of their checkpoints or results")
    parser.add_argument("--mctp_mode", default="boost", help="mode of which the figures are shown (default: boost)")
    parser.add_argument("--readme", type=Path, help="README whose table is filled in")
    args = parser.parse_args(argv)
    table = runs_table(*read_runs(args.runs, args.mctp_mode), args.mctp_mode)
    print(table)
    if args.readme is not None:
        fill_section(args.readme, RUNS_TABLE, table)


if __name__ == "__main__":
    sys.exit(run_command(main, PROG))
