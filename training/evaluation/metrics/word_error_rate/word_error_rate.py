# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Word error rate of normalized English text, as a metric of `evaluate`."""

import datasets
import evaluate

from training.evaluation.scoring import word_error_rate


_DESCRIPTION = """\
Word error rate: substituted, deleted and inserted words per word of the references, over the whole corpus.
Both sides are normalized first: lower case; numbers up to 999,999, clock times and signs as English words; one spelling
of what is spoken alike ("grey" and "gray", "it's" and "it is"); no punctuation.
"""

_CITATION = """\
@inproceedings{morris2004wer,
    title = {From {WER} and {RIL} to {MER} and {WIL}: improved evaluation measures for connected speech recognition},
    author = {Morris, Andrew Cameron and Maier, Viktoria and Green, Phil},
    booktitle = {Interspeech},
    year = {2004},
}
"""

_INPUTS_DESCRIPTION = """
Args:
    predictions (`list[str]`): what was recognised.
    references (`list[str]`): what was said; each has at least one word.

Returns:
    `dict`: `wer` (`float`), 0.05 is 5 %. It may exceed 1.

Raises:
    ValueError: a reference has no words.

Example:

    >>> wer = evaluate.load("training/evaluation/metrics/word_error_rate")
    >>> wer.compute(predictions=["it is 4"], references=["It's five."])
    {'wer': 0.3333333333333333}
"""


class WordErrorRate(evaluate.Metric):
    def _info(self):
        return evaluate.MetricInfo(
            description=_DESCRIPTION,
            citation=_CITATION,
            inputs_description=_INPUTS_DESCRIPTION,
            features=datasets.Features(
                {"predictions": datasets.Value("string"), "references": datasets.Value("string")}
            ),
            codebase_urls=["https://github.com/jitsi/jiwer"],
            reference_urls=["https://en.wikipedia.org/wiki/Word_error_rate"],
        )

    def _compute(self, predictions, references):
        return {"wer": word_error_rate(references, predictions)}
