# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The measured figures of a `results.json` (see `training.evaluate`), as the Hub and as people read them."""

from huggingface_hub import EvalResult


# set of a `results.json`: its task on the Hub, what it is, its split
SETS = {
    "asr": ("automatic-speech-recognition", "Speech recognition", "test"),
    "asr_unseen_voice": ("automatic-speech-recognition", "Speech recognition, unseen voice", "test_voice"),
    "tts": ("text-to-speech", "Text to speech", "test"),
    "sqa": ("audio-to-audio", "Spoken question answering", "test"),
    "sqa_unseen_voice": ("audio-to-audio", "Spoken question answering, unseen voice", "test_voice"),
    "tqa": ("question-answering", "Text question answering", "test"),
}
# figure of a set: its metric on the Hub, its name
METRICS = {
    "wer": ("wer", "Word error rate"),
    "text_accuracy": ("accuracy", "Accuracy of the text"),
    "speech_accuracy": ("accuracy", "Accuracy of the speech"),
}
SPEED = {
    "tokens_per_second": ("New tokens per second", "{:.0f}"),
    "real_time_factor": ("Seconds of work per second of speech", "{:.3f}"),
}
NOT_MEASURED = "not measured"


def eval_results(results: dict, dataset_id: str | None) -> list[EvalResult]:
    """
    The figures of every set in every decoding mode, for the `model-index` of a card.

    Args:
        results: content of a `results.json`.
        dataset_id: the Hub's id of the corpus, None where it is not on the Hub.
    """
    return [
        EvalResult(
            task_type=task_type,
            task_name=task_name,
            dataset_type=dataset_id or "custom",
            dataset_name=dataset_id or "Held-out part of the corpus",
            dataset_split=split,
            metric_type=METRICS[figure][0],
            metric_name=f"{METRICS[figure][1]} ({mode})",
            metric_value=round(value, 4),
            metric_args={"mctp_mode": mode},
        )
        for name, (task_type, task_name, split) in SETS.items()
        for mode, sets in results["modes"].items()
        for figure, value in sets.get(name, {}).items()
        if figure in METRICS
    ]


def results_table(results: dict) -> str:
    """Markdown table of all figures, a column for each mode; one that was not measured says so."""
    modes = results["modes"]

    def row(title: str, name: str, figure: str, form: str) -> str:
        cells = [form.format(sets[name][figure]) if figure in sets.get(name, {}) else None for sets in modes.values()]
        return f"| {title} | " + " | ".join(cell or NOT_MEASURED for cell in cells) + " |"

    lines = ["| | " + " | ".join(modes) + " |", "|---" * (len(modes) + 1) + "|"]
    for name, (_, task_name, _) in SETS.items():
        measured = {figure for sets in modes.values() for figure in sets.get(name, {})}
        for figure, (_, metric_name) in METRICS.items():
            if figure in measured:
                lines.append(row(f"{task_name}: {metric_name.lower()}", name, figure, "{:.1%}"))
    lines += [row(title, "speed", figure, form) for figure, (title, form) in SPEED.items()]
    return "\n".join(lines)


def loss_table(log_history: list[dict]) -> str | None:
    """Markdown table of each loss as first and last logged, and as last evaluated; None where none was logged."""
    names = dict.fromkeys(name for entry in log_history for name in entry if is_training_loss(name))
    lines = ["| loss (nats) | first | last | evaluation |", "|---|---|---|---|"]
    for name in names:
        values = [entry[name] for entry in log_history if name in entry]
        evaluated = [entry[f"eval_{name}"] for entry in log_history if f"eval_{name}" in entry]
        last_evaluated = f"{evaluated[-1]:.3f}" if evaluated else NOT_MEASURED
        lines.append(f"| `{name}` | {values[0]:.3f} | {values[-1]:.3f} | {last_evaluated} |")
    return "\n".join(lines) if names else None


def is_training_loss(name: str) -> bool:
    """Whether an entry of a trainer's log is a loss of its steps: `loss`, `lm_loss` or `mctp_loss_1` and so on."""
    return name in ("loss", "lm_loss") or name.startswith("mctp_loss_")
