# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The figures that `training.evaluation` measures, in the metadata and in the tables of a card."""

import os
import re
from typing import NamedTuple

from huggingface_hub import EvalResult
from huggingface_hub.utils import HFValidationError, validate_repo_id


# The tasks of conversations, and what the Hub calls them
TASK_CATEGORIES = {
    "asr": "automatic-speech-recognition",
    "tts": "text-to-speech",
    "sqa": "audio-to-audio",
    "tqa": "question-answering",
    "dialogue": "audio-to-audio",
    "noise": "audio-to-audio",
}
TEST_SPLIT, UNSEEN_VOICE_SPLIT = "test", "test_voice"
WORDS_SPLIT, SHORT_SPLIT, GENERAL_SPLIT, PASSAGES_SPLIT = "test_words", "test_short", "test_general", "test_passages"
# The Debian packages of recordings of humans
ASTERISK_SOUNDS, LIBRIVOX_SOUNDS = "asterisk-core-sounds-en-g722", "pocketsphinx-testdata"


class EvaluationSet(NamedTuple):
    """
    A set of a `results.json`: what its conversations ask for, what it is called, the split they are of, and where they
    are no part of the corpus, the Debian package of their recordings.
    """

    task: str
    title: str
    split: str
    package: str | None = None


SETS = {
    "asr": EvaluationSet("asr", "Speech recognition", TEST_SPLIT),
    "asr_unseen_voice": EvaluationSet("asr", "Speech recognition, unseen voice", UNSEEN_VOICE_SPLIT),
    "asr_words": EvaluationSet("asr", "Speech recognition, single words", WORDS_SPLIT),
    "asr_short": EvaluationSet("asr", "Speech recognition, letters, digits and phrases", SHORT_SPLIT),
    "asr_general": EvaluationSet("asr", "Speech recognition, general sentences", GENERAL_SPLIT),
    "human_words": EvaluationSet("asr", "Speech recognition, a human's words", TEST_SPLIT, ASTERISK_SOUNDS),
    "human_prompts": EvaluationSet("asr", "Speech recognition, a human's phrases", TEST_SPLIT, ASTERISK_SOUNDS),
    "human_sentences": EvaluationSet("asr", "Speech recognition, a human's sentences", TEST_SPLIT, LIBRIVOX_SOUNDS),
    "tts": EvaluationSet("tts", "Text to speech", TEST_SPLIT),
    "tts_general": EvaluationSet("tts", "Text to speech, general sentences", GENERAL_SPLIT),
    "tts_passages": EvaluationSet("tts", "Text to speech, passages", PASSAGES_SPLIT),
    "sqa": EvaluationSet("sqa", "Spoken question answering", TEST_SPLIT),
    "sqa_unseen_voice": EvaluationSet("sqa", "Spoken question answering, unseen voice", UNSEEN_VOICE_SPLIT),
    "dialogue": EvaluationSet("dialogue", "Spoken dialogue", TEST_SPLIT),
    "noise": EvaluationSet("noise", "Asking back at noise", TEST_SPLIT),
    "tqa": EvaluationSet("tqa", "Text question answering", TEST_SPLIT),
}


class Metric(NamedTuple):
    """A figure of a set: its metric on the Hub, its name, and how its number is written."""

    type: str
    title: str
    form: str = "{:.1%}"


# The turns of a dialogue that are counted by themselves
MAX_TURNS = 4
METRICS = {
    "wer": Metric("wer", "Word error rate"),
    "cer": Metric("cer", "Character error rate"),
    "accuracy": Metric("accuracy", "Entirely right"),
    "text_accuracy": Metric("accuracy", "Accuracy of the text"),
    "speech_accuracy": Metric("accuracy", "Accuracy of the speech"),
    **{
        f"{kind}_accuracy_turn_{turn}": Metric("accuracy", f"Accuracy of the {kind}, turn {turn}")
        for kind in ("text", "speech")
        for turn in range(1, MAX_TURNS + 1)
    },
    "dnsmos": Metric("mos", "DNSMOS", "{:.2f}"),
    "speaker_similarity": Metric("cosine_similarity", "Speaker similarity", "{:.2f}"),
}
SPEED = {
    "tokens_per_second": ("New tokens per second", "{:.0f}"),
    "real_time_factor": ("Seconds of work per second of speech", "{:.3f}"),
}
# Of the results of `training.evaluation.evaluate_codec`: heading, figure, number format
CODEC_FIGURES = (
    ("WER", "wer", "{:.1%}"),
    ("DNSMOS", "dnsmos", "{:.2f}"),
    ("speaker similarity", "speaker_similarity", "{:.2f}"),
)
NOT_MEASURED = "not measured"


def eval_results(results: dict, dataset_id: str | None) -> list[EvalResult]:
    """
    The figures of every set in every decoding mode, for the `model-index` of a card.

    Args:
        results: content of a `results.json`.
        dataset_id: the Hub's id of the corpus, None where it is not on the Hub.
    """
    is_held_out = "split" not in results and not results.get("has_rows_of_no_split")
    corpus_name = "Held-out part of the corpus" if is_held_out else "The corpus"
    return [
        EvalResult(
            task_type=TASK_CATEGORIES[task],
            task_name=task_name,
            # The model-index needs a type and a name, also for data that are not on the Hub.
            dataset_type="custom" if package else dataset_id or "custom",
            dataset_name=package or dataset_id or corpus_name,
            # Figures of one task and data set are told apart by this.
            dataset_config=name,
            # `split` is in the results only where another split than the held-out one was scored.
            dataset_split=results.get("split", split) if split == TEST_SPLIT and not package else split,
            metric_type=METRICS[figure].type,
            # The Hub has no field for a decoding mode, so the name and the arguments of the metric say it.
            metric_name=f"{METRICS[figure].title} ({mode})",
            metric_value=round(value, 4),
            metric_args={"mctp_mode": mode},
        )
        for name, (task, task_name, split, package) in SETS.items()
        for mode, sets in results["modes"].items()
        for figure, value in sets.get(name, {}).items()
        # Beside its scores, a set has the number of its conversations; null is a score that could not be measured.
        if figure in METRICS and value is not None
    ]


def benchmark_results(benchmarks: dict) -> list[EvalResult]:
    """
    The figures of published benchmarks, for the `model-index` of a card.

    Args:
        benchmarks: of a `results.json` that `training.evaluation.evaluate_benchmarks` writes: figures by benchmark and
            mode.
    """
    results = []
    for name, modes in benchmarks.items():
        for mode, figures in modes.items():
            # Only spoken answers need a recogniser.
            of_speech = TASK_CATEGORIES["tts" if "recognizer" in figures else "asr"]
            results += [
                EvalResult(
                    task_type=of_speech if figure in ("wer", "cer") else TASK_CATEGORIES["tqa"],
                    dataset_type=figures["dataset"] if is_hub_id(figures["dataset"]) else "custom",
                    dataset_name=name,
                    # Benchmarks may be of one dataset, or all of none on the Hub; this tells them apart.
                    dataset_config=name,
                    dataset_split=figures["split"],
                    metric_type=metric.type,
                    metric_name=f"{metric.title} ({mode})",
                    metric_value=round(figures[figure], 4),
                    metric_args={"mctp_mode": mode},
                )
                for figure, metric in METRICS.items()
                if figure in figures
            ]
    return results


def is_hub_id(name: str) -> bool:
    """Whether a dataset's name is that of one on the Hub, and not of a folder here."""
    try:
        validate_repo_id(name)
    except HFValidationError:
        return False
    # A folder such as data/mine has the form of an id, so what exists here counts as a folder.
    return "/" in name and not os.path.exists(name)


def benchmark_table(benchmarks: dict) -> str:
    """Markdown table of benchmarks, a row for each of their figures and a column for each mode."""
    # The benchmarks may have been run in different modes.
    modes = list(dict.fromkeys(mode for modes in benchmarks.values() for mode in modes))
    lines = ["| | " + " | ".join(modes) + " |", "|---" * (len(modes) + 1) + "|"]
    for name, figures in benchmarks.items():
        for figure, metric in METRICS.items():
            if any(figure in measured for measured in figures.values()):
                cells = [cell(metric.form, figures.get(mode, {}), figure) for mode in modes]
                lines.append(f"| {name}: {in_a_sentence(metric.title)} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def cell(form: str, figures: dict, figure: str) -> str:
    """A figure as a table has it; one that is missing or null was not measured."""
    return NOT_MEASURED if figures.get(figure) is None else form.format(figures[figure])


def results_table(modes: dict) -> str:
    """Markdown table of all figures of `modes`, a column for each; one that was not measured says so."""

    def row(title: str, name: str, figure: str, form: str) -> str:
        return f"| {title} | " + " | ".join(cell(form, sets.get(name, {}), figure) for sets in modes.values()) + " |"

    lines = ["| | " + " | ".join(modes) + " |", "|---" * (len(modes) + 1) + "|"]
    for name, of_set in SETS.items():
        measured = {figure for sets in modes.values() for figure in sets.get(name, {})}
        for figure, metric in METRICS.items():
            if figure in measured:
                lines.append(row(f"{of_set.title}: {in_a_sentence(metric.title)}", name, figure, metric.form))
    # What a second recogniser heard has none
    if any("speed" in sets for sets in modes.values()):
        lines += [row(title, "speed", figure, form) for figure, (title, form) in SPEED.items()]
    return "\n".join(lines)


def codec_table(results: dict) -> str:
    """Markdown table of recordings before and after the codec: a row for each group of them."""
    measured = [entry for entry in CODEC_FIGURES if any(f"{entry[1]}_decoded" in row for row in results.values())]
    headings = [heading for name, *_ in measured for heading in (name, f"{name} after the round trip")]
    lines = [f"| recordings | number | {' | '.join(headings)} |", "|---" * (len(headings) + 2) + "|"]
    for group, figures in results.items():
        cells = [
            cell(form, figures, f"{name}_{kind}") for _, name, form in measured for kind in ("original", "decoded")
        ]
        lines.append(f"| {group} | {figures['clips']} | {' | '.join(cells)} |")
    return "\n".join(lines)


def in_a_sentence(title: str) -> str:
    """A title as it goes on after a colon; a name in capitals stays."""
    return title if title.isupper() else title.lower()


def tolerance_table(tolerance: dict) -> str:
    """
    Markdown table of quality against speed: a row for each mode and tolerance.

    Args:
        tolerance: of a `results.json` that `training.evaluation.evaluate_tolerance` writes.
    """
    points = tolerance["points"]
    # The set and the name of each figure that was measured, and the heading of its column
    columns = [
        (name, figure, f"{SETS[name].title}: {in_a_sentence(metric.title)}", metric.form)
        for name in SETS
        for figure, metric in METRICS.items()
        if any(figure in point.get(name, {}) for point in points)
    ]
    columns += [
        (name, figure, f"{SETS[name].title}: {heading}", form)
        for name in SETS
        for figure, heading, form in (
            ("tokens_per_second", "tokens/s", "{:.0f}"),
            ("tokens_per_forward", "tokens a forward", "{:.2f}"),
        )
        if any(figure in point.get(name, {}) for point in points)
    ]
    lines = [
        "| mode | `mctp_verify` | " + " | ".join(heading for _, _, heading, _ in columns) + " |",
        "|---" * (len(columns) + 2) + "|",
    ]
    for point in points:
        cells = [cell(form, point.get(name, {}), figure) for name, figure, _, form in columns]
        verify = point["mctp_verify"]
        verify = "–" if verify is False else ", ".join(map(str, verify)) if isinstance(verify, list) else str(verify)
        lines.append(f"| {point['mctp_mode']} | {verify} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def loss_table(log_history: list[dict]) -> str | None:
    """Markdown table of each loss as first and last logged, and as last evaluated; None where none was logged."""
    names = logged_losses(log_history)
    lines = ["| loss (nats) | first | last | evaluation |", "|---|---|---|---|"]
    for name in names:
        values = [entry[name] for entry in log_history if name in entry]
        evaluated = [entry[f"eval_{name}"] for entry in log_history if f"eval_{name}" in entry]
        last_evaluated = f"{evaluated[-1]:.3f}" if evaluated else NOT_MEASURED
        lines.append(f"| `{name}` | {values[0]:.3f} | {values[-1]:.3f} | {last_evaluated} |")
    return "\n".join(lines) if names else None


def logged_losses(log_history: list[dict]) -> list[str]:
    """Names of the losses in a trainer's log: the whole, the language model's, and the modules' by their numbers."""
    names = {name for entry in log_history for name in entry if is_training_loss(name)}
    # By number, because as a text `mctp_loss_10` would come before `mctp_loss_2`
    numbers = {name: int(name.rpartition("_")[2]) if name.startswith("mctp") else 0 for name in names}
    return sorted(names, key=lambda name: (numbers[name], name != "loss"))


def is_training_loss(name: str) -> bool:
    """Whether an entry of a trainer's log is a loss of its steps: `loss`, `lm_loss` or `mctp_loss_1` and so on."""
    return re.fullmatch(r"loss|lm_loss|mctp_loss_\d+", name) is not None
