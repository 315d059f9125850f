# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Measured figures as tables and pictures, and how they get into files, which are written whole or not at all."""

from collections.abc import Iterator
from pathlib import Path

import matplotlib

from modeling_vita_audio.saving_vita_audio import replaced_whole


# Pictures are only written to files, and a server has no display. `pyplot` is imported after this choice.
matplotlib.use("Agg")
from matplotlib import pyplot as plt  # noqa: E402

from hub_cards.results import METRICS, NOT_MEASURED, SPEED  # noqa: E402


RESULTS_TABLE, CODEC_TABLE, BENCHMARK_TABLE = "results table", "codec table", "benchmark table"
TOLERANCE_TABLE = "tolerance table"
# Of the results of `evaluate_held_out`: heading, set, figure. The card has all of them.
ROWS = (
    ("TTS, WER", "tts", "wer"),
    ("TTS of general sentences, WER", "tts_general", "wer"),
    ("TTS of passages, WER", "tts_passages", "wer"),
    ("TTS, DNSMOS", "tts", "dnsmos"),
    ("TTS, speaker similarity", "tts", "speaker_similarity"),
    ("Spoken QA, right in text", "sqa", "text_accuracy"),
    ("Spoken QA, right in speech", "sqa", "speech_accuracy"),
    ("Spoken QA, unseen voice, right in speech", "sqa_unseen_voice", "speech_accuracy"),
    ("Dialogues, turns right in text", "dialogue", "text_accuracy"),
    ("Dialogues, turns right in speech", "dialogue", "speech_accuracy"),
    ("Noise, asked back", "noise", "accuracy"),
    ("Text QA", "tqa", "text_accuracy"),
    ("ASR, WER", "asr", "wer"),
    ("ASR, unseen voice, WER", "asr_unseen_voice", "wer"),
    ("ASR of single words, right", "asr_words", "accuracy"),
    ("ASR of general sentences, WER", "asr_general", "wer"),
    ("ASR of a human's words, right", "human_words", "accuracy"),
    ("ASR of a human's phrases, WER", "human_prompts", "wer"),
    ("ASR of a human's sentences, WER", "human_sentences", "wer"),
)

# of the results of `evaluate_benchmarks`: figure, heading
BENCHMARK_FIGURES = {
    "wer": "WER",
    "cer": "CER",
    "accuracy": "entirely right",
    "text_accuracy": "answers right, text",
    "speech_accuracy": "answers right, speech",
}


def results_table(results: dict) -> str:
    """
    Markdown table: a row for each figure of `ROWS` that was measured in some mode, a column for each mode, and one for
    the number of conversations, which is that of the first mode, as the sets are the same in all.
    """
    modes = results["modes"]
    lines = ["| | " + " | ".join(modes) + " | conversations |", "|---" * (len(modes) + 2) + "|"]
    columns = list(modes.values())
    for heading, name, cells in measured_rows(columns):
        cells.append(str(columns[0].get(name, {}).get("conversations", "–")))
        lines.append(f"| {heading} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def measured_rows(columns: list[dict]) -> Iterator[tuple[str, str, list[str]]]:
    """
    Heading, name of the set and cells of each figure of `ROWS`, and of the speed, that one of the columns has. A
    column is the sets of one mode.
    """
    rows = [(heading, name, figure, METRICS[figure].form) for heading, name, figure in ROWS]
    rows += [(heading, "speed", figure, form) for figure, (heading, form) in SPEED.items()]
    for heading, name, figure, form in rows:
        measured = [sets.get(name, {}) for sets in columns]
        if any(figure in figures for figures in measured):
            cells = [form.format(figures[figure]) if figure in figures else NOT_MEASURED for figures in measured]
            yield heading, name, cells


def benchmark_table(results: dict) -> str:
    """Markdown table: a row for each mode of each benchmark; a dash where the task has no such figure."""
    lines = [
        "| benchmark | mode | items | " + " | ".join(BENCHMARK_FIGURES.values()) + " | recogniser | normalizer |",
        "|---" * (len(BENCHMARK_FIGURES) + 5) + "|",
    ]
    for benchmark, modes in results["benchmarks"].items():
        for mode, figures in modes.items():
            cells = [f"{figures[key]:.1%}" if key in figures else "–" for key in BENCHMARK_FIGURES]
            # older results name no normalizer, because there was only one
            cells += [figures.get(key, "–") for key in ("recognizer", "normalizer")]
            cells = [benchmark, mode, str(figures["conversations"]), *cells]
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def fill_section(readme: Path, name: str, content: str) -> None:
    """
    Replaces what stands between the marks `<!-- NAME -->` and `<!-- end of NAME -->` of a README.

    Raises:
        ValueError: the marks are missing.
    """
    start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
    text = readme.read_text(encoding="utf-8")
    before, found_start, rest = text.partition(start)
    _, found_end, after = rest.partition(end)
    if not (found_start and found_end):
        raise ValueError(f"{readme} has no place for the figures: the marks {start} and {end} are missing.")
    write_atomically(readme, f"{before}{start}\n{content}\n{end}{after}")


def write_atomically(path: Path, text: str) -> None:
    """Writes a file that is there whole or not at all."""
    with replaced_whole(path) as unfinished:
        unfinished.write_text(text, encoding="utf-8")


def plot_results(results: dict, path: Path) -> None:
    """
    Quality against speed: a point for each mode, with what was measured of `SERIES` over tokens per second; and beside
    it, where it was measured, a line for each mode from lossless to unverified.
    """
    curves = results.get("tolerance", {}).get("points", [])
    panels = [bool(results["modes"]), bool(curves)]
    figure, all_axes = plt.subplots(
        1, max(sum(panels), 1), figsize=(6 * max(sum(panels), 1), 4), layout="constrained", squeeze=False
    )
    all_axes = list(all_axes[0])
    if curves:
        plot_tolerance(curves, all_axes[-1])
    if panels[0] or not curves:
        plot_modes(results["modes"], all_axes[0])
    # Outside of the axes the legend hides no point; this needs the layout "constrained".
    if any(axes.lines for axes in all_axes):
        figure.legend(loc="outside lower center", ncols=2)
    figure.savefig(path, dpi=120)
    plt.close(figure)


# label, set, figure, 1 where the figure counts errors, how many points above the line the names stand, if they do
SERIES = (
    ("spoken QA, right in speech", "sqa", "speech_accuracy", 0, -14),
    ("TTS words right", "tts", "wer", 1, 6),
    ("dialogues, turns right in speech", "dialogue", "speech_accuracy", 0, None),
    ("a human's words, written down right", "human_words", "accuracy", 0, None),
)


def percentage(figure: float, inverted: int) -> float:
    """A share in percent, or with 1 what it leaves; more errors than words leave nothing right."""
    return 100 * max(1 - figure if inverted else figure, 0.0)


def plot_modes(modes: dict, axes: plt.Axes) -> None:
    for label, name, key, inverted, height in SERIES:
        points = sorted(
            (figures["speed"]["tokens_per_second"], percentage(figures[name][key], inverted), mode)
            for mode, figures in modes.items()
            if key in figures.get(name, {})
        )
        if not points:
            continue
        axes.plot([x for x, _, _ in points], [y for _, y, _ in points], "o-", label=label)
        for number, (x, y, mode) in enumerate(points if height is not None else ()):
            # names go left and right in turn, because modes of like speed lie close together
            side, shift = (("left", 4), ("right", -4))[number % 2]
            axes.annotate(mode, (x, y), textcoords="offset points", xytext=(shift, height), ha=side)
    # Names that stand above a point at 100 % need some room.
    axes.set(xlabel="new tokens per second, one request", ylabel="%", ylim=(0, 108))


def plot_tolerance(points: list[dict], axes: plt.Axes) -> None:
    modes = list(dict.fromkeys(point["mctp_mode"] for point in points))
    for (label, name, key, inverted, height), line in zip(SERIES, ("-", "--", "-.", ":")):
        for mode in modes:
            of_mode = [point for point in points if point["mctp_mode"] == mode and key in point.get(name, {})]
            if not of_mode:
                continue
            xs = [point[name]["tokens_per_forward"] for point in of_mode]
            ys = [percentage(point[name][key], inverted) for point in of_mode]
            axes.plot(xs, ys, f"o{line}", label=f"{label}, {mode}", markersize=4)
            # Those between them are in this order, and often too close for names
            for x, y, point in list(zip(xs, ys, of_mode))[:: max(len(of_mode) - 1, 1)]:
                if height is not None and point["mctp_verify"] is not False:
                    text = str(point["mctp_verify"])
                    axes.annotate(text, (x, y), textcoords="offset points", xytext=(0, height), ha="center", size=8)
    # Names need some room
    axes.margins(y=0.2)
    axes.set(xlabel="tokens per forward of the language model, by mctp_verify", ylabel="%")


def plot_benchmarks(results: dict, path: Path) -> None:
    """A group of bars for each figure of each benchmark, except the character error rates; a bar for each mode."""
    benchmarks = results["benchmarks"]
    mode_names = list(dict.fromkeys(mode for modes in benchmarks.values() for mode in modes))
    groups = [
        (benchmark, key)
        for benchmark, modes in benchmarks.items()
        for key in BENCHMARK_FIGURES
        if key != "cer" and any(key in figures for figures in modes.values())
    ]
    # Bars of a group take 0.8 of its place, and the rest is the space to the next group.
    height = 0.8 / len(mode_names)
    figure, axes = plt.subplots(figsize=(7, 1 + 0.3 * len(groups) * (1 + len(mode_names))), layout="constrained")
    for number, mode in enumerate(mode_names):
        points = [
            (place + number * height, benchmarks[benchmark][mode][key] * 100)
            for place, (benchmark, key) in enumerate(groups)
            if mode in benchmarks[benchmark]
        ]
        bars = axes.barh([y for y, _ in points], [value for _, value in points], height, label=mode)
        axes.bar_label(bars, fmt="%.1f", padding=2)
    labels = [f"{benchmark}\n{BENCHMARK_FIGURES[key]}" for benchmark, key in groups]
    # In the middle of a group
    axes.set_yticks([place + 0.4 - height / 2 for place in range(len(groups))], labels)
    # The first benchmark stands at the top, as in the table.
    axes.invert_yaxis()
    axes.set(xlabel="%")
    axes.margins(x=0.1)
    figure.legend(title="mode", loc="outside right upper")
    figure.savefig(path, dpi=120)
    plt.close(figure)
