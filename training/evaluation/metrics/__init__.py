# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Metrics as modules of the library `evaluate`. They lie in this package, so no network is needed:

    from training.evaluation import metrics

    wer = metrics.load("word_error_rate")
    wer.compute(predictions=["it is 4"], references=["It is five."])  # {"wer": 0.333...}

`evaluate.load(metrics.path("word_error_rate"))` is the same. All of them compute with `training.evaluation.scoring`.
"""

from pathlib import Path

import evaluate


NAMES = ("answer_accuracy", "character_error_rate", "real_time_factor", "word_error_rate")


def path(name: str) -> str:
    """
    The script of a metric, for `evaluate.load`.

    Raises:
        ValueError: there is no metric of that name.
    """
    if name not in NAMES:
        raise ValueError(f"There is no metric {name!r}; there are {', '.join(NAMES)}.")
    return str(Path(__file__).parent / name / f"{name}.py")


def load(name: str, **kwargs) -> evaluate.EvaluationModule:
    """A metric by its name, with `kwargs` for `evaluate.load`, such as `experiment_id` and `num_process`."""
    return evaluate.load(path(name), **kwargs)


__all__ = ["NAMES", "load", "path"]
