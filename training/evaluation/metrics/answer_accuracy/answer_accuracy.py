# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Share of right answers to questions, as a metric of `evaluate`."""

import datasets
import evaluate

from training.evaluation.scoring import answer_accuracy


_DESCRIPTION = """\
Accuracy of free answers: the share of predictions in which an accepted answer stands, compared word by word. It is how LLaMA
Questions, TriviaQA and Web Questions are scored for spoken language models, on the text of an answer or on what a recogniser
hears of its speech. Both sides are normalized first: lower case; numbers up to 999,999, clock times and signs as English
words; one spelling of what is spoken alike; no punctuation.
"""

_CITATION = """\
@inproceedings{nachmani2024spectron,
    title = {Spoken Question Answering and Speech Continuation Using Spectrogram-Powered {LLM}},
    author = {Nachmani, Eliya and Levkovitch, Alon and Hirsch, Roy and others},
    booktitle = {International Conference on Learning Representations},
    year = {2024},
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (`list[str]`): the answers given.
    references (`list[str]` or `list[list[str]]`): for each an accepted answer, or a list of them; all have words.
    sentences (`list[str]`, *optional*): for each a whole right answer. Where an accepted answer stands at its beginning or
        end, it must stand there in the prediction, so that "Hot is the opposite of cold" is not taken for "cold".

Returns:
    `dict`: `accuracy` (`float`) between 0 and 1.

Raises:
    ValueError: an accepted answer has no words.

Example:

    >>> accuracy = evaluate.load("training/evaluation/metrics/answer_accuracy")
    >>> accuracy.compute(predictions=["It is 4.", "Rome"], references=[["four"], ["Paris", "the city of Paris"]])
    {'accuracy': 0.5}
"""


class AnswerAccuracy(evaluate.Metric):
    def _info(self):
        predictions = datasets.Value("string")
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=[
                datasets.Features({"predictions": predictions, "references": references})
                for references in (datasets.Value("string"), datasets.List(datasets.Value("string")))
            ],
            reference_urls=["https://huggingface.co/datasets/fixie-ai/llama-questions"],
        )

    def _compute(self, predictions, references, sentences=None):
        return {"accuracy": answer_accuracy(predictions, references, sentences)}
