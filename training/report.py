# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Shows the figures of `results.json`: a picture, and the table in the README."""

from pathlib import Path

import matplotlib


matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402


TABLE_START, TABLE_END = "<!-- results table -->", "<!-- end of results table -->"
# heading, set, figure, number format
COLUMNS = (
    ("TTS WER", "tts", "wer", "{:.1%}"),
    ("Spoken QA, text", "sqa", "text_accuracy", "{:.1%}"),
    ("Spoken QA, speech", "sqa", "speech_accuracy", "{:.1%}"),
    ("ASR WER", "asr", "wer", "{:.1%}"),
    ("ASR WER, unseen voice", "asr_unseen_voice", "wer", "{:.1%}"),
    ("Text QA", "tqa", "text_accuracy", "{:.1%}"),
    ("Tokens/s", "speed", "tokens_per_second", "{:.0f}"),
    ("Work per second of speech", "speed", "real_time_factor", "{:.3f} s"),
)


def results_table(results: dict) -> str:
    """Markdown table, a row for each mode; a figure that was not measured says so."""
    lines = [
        "| mode | " + " | ".join(heading for heading, *_ in COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 1) + "|",
    ]
    for mode, figures in results["modes"].items():
        cells = [
            form.format(figures[name][key]) if key in figures.get(name, {}) else "not measured"
            for _, name, key, form in COLUMNS
        ]
        lines.append(f"| {mode} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def fill_table(results: dict, readme: Path) -> None:
    """Replaces what stands between the two marks of the README; ValueError where they are missing."""
    text = readme.read_text(encoding="utf-8")
    before, start, rest = text.partition(TABLE_START)
    _, end, after = rest.partition(TABLE_END)
    if not (start and end):
        raise ValueError(
            f"{readme} has no place for the results: the marks {TABLE_START} and {TABLE_END} are missing."
        )
    readme.write_text(f"{before}{start}\n{results_table(results)}\n{end}{after}", encoding="utf-8")


def plot_results(results: dict, path: Path) -> None:
    """Quality against speed, a point for each mode: right spoken answers and TTS words over tokens per second."""
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    series = (("spoken QA, right in speech", "sqa", "speech_accuracy", 0), ("TTS words right", "tts", "wer", 1))
    for label, name, key, inverted in series:
        points = [
            (figures["speed"]["tokens_per_second"], abs(inverted - figures[name][key]) * 100, mode)
            for mode, figures in results["modes"].items()
            if key in figures.get(name, {})
        ]
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", label=label)
        for x, y, mode in points:
            axes.annotate(mode, (x, y), textcoords="offset points", xytext=(4, 4))
    axes.set(xlabel="new tokens per second, one request", ylabel="%", ylim=(0, 105))
    axes.legend(loc="lower left")
    figure.savefig(path, dpi=120)
    plt.close(figure)
