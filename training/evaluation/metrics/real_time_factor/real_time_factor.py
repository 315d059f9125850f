# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Real-time factor of speech recognition or generation, as a metric of `evaluate`."""

import datasets
import evaluate

from training.evaluation.scoring import real_time_factor


_DESCRIPTION = """\
Real-time factor: seconds of work per second of audio, over all requests together. Below 1 is faster than real time. The audio
is what was recognised, or what was generated.
"""

_CITATION = """\
@misc{open-asr-leaderboard,
    title = {Open Automatic Speech Recognition Leaderboard},
    howpublished = {https://huggingface.co/spaces/hf-audio/open_asr_leaderboard},
    year = {2023},
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (`list[float]`): seconds of work for each request.
    references (`list[float]`): seconds of audio of each.

Returns:
    `dict`: `real_time_factor` (`float`).

Raises:
    ValueError: a time is negative or not finite, or there is no audio.

Example:

    >>> rtf = evaluate.load("training/evaluation/metrics/real_time_factor")
    >>> rtf.compute(predictions=[0.5, 1.0], references=[2.0, 4.0])
    {'real_time_factor': 0.25}
"""


class RealTimeFactor(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("float64"), "references": datasets.Value("float64")}
            ),
            reference_urls=["https://huggingface.co/spaces/hf-audio/open_asr_leaderboard"],
        )

    def _compute(self, predictions, references):
        return {"real_time_factor": real_time_factor(predictions, references)}
