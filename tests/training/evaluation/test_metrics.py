# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The metrics of `evaluate`, against slow references and hand-made values, and loaded in a process without network."""

import os
import random
import subprocess
import sys

import evaluate
import pytest
from places import ROOT

from training.evaluation import metrics
from training.evaluation.scoring import normalize_corpus_text


WORDS = "a bat cat hat is seven two twelve the".split()

LOAD_WITHOUT_NETWORK = """
import socket

def refuse(*args, **kwargs):
    raise AssertionError("the network was asked for")

socket.socket.connect = socket.getaddrinfo = refuse

from training.evaluation import metrics

for name in metrics.NAMES:
    metric = metrics.load(name)
    assert metric.name == name
    info = metric.info
    assert info.description and info.citation and info.inputs_description and info.reference_urls and info.features
print(metrics.load("word_error_rate").compute(predictions=["it is 4"], references=["It's five."])["wer"])
"""


def edit_distance(source, target) -> int:
    """Levenshtein's distance straight from its recursive definition, one row of the table at a time."""
    row = list(range(len(target) + 1))
    for i, left in enumerate(source, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(target, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


@pytest.fixture
def load(tmp_path):
    return lambda name: metrics.load(name, cache_dir=str(tmp_path))


@pytest.fixture(scope="module")
def sentences():
    generator = random.Random(0)
    references = [" ".join(generator.choices(WORDS, k=generator.randint(1, 6))) for _ in range(30)]
    predictions = [" ".join(generator.choices(WORDS, k=generator.randint(0, 6))) for _ in range(30)]
    return references, [f"{text.capitalize()}." for text in predictions]


def test_the_metrics_load_in_a_process_without_network(tmp_path):
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-c", LOAD_WITHOUT_NETWORK]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert float(done.stdout) == pytest.approx(1 / 3)


def test_error_rates_are_edit_distances(load, sentences):
    references, predictions = sentences
    pairs = [
        (normalize_corpus_text(reference), normalize_corpus_text(text))
        for reference, text in zip(references, predictions)
    ]
    for name, key, units in (("word_error_rate", "wer", str.split), ("character_error_rate", "cer", list)):
        errors = sum(edit_distance(units(reference), units(text)) for reference, text in pairs)
        total = sum(len(units(reference)) for reference, _ in pairs)
        score = load(name).compute(predictions=predictions, references=references)
        assert score == {key: pytest.approx(errors / total)}
        assert 0 < score[key] < 2


def test_batches_add_up_to_the_whole(load, sentences):
    references, predictions = sentences
    metric = load("word_error_rate")
    whole = metric.compute(predictions=predictions, references=references)
    for start in range(0, len(references), 8):
        metric.add_batch(predictions=predictions[start : start + 8], references=references[start : start + 8])
    assert metric.compute() == whole
    both = evaluate.combine([metric, load("character_error_rate")]).compute(
        predictions=predictions, references=references
    )
    assert both["wer"] == whole["wer"] and both["cer"] > 0


def test_answer_accuracy(load):
    accuracy = load("answer_accuracy")
    predictions = ["It is 4.", "Rome, I think", "Hot is the opposite of cold."]
    assert accuracy.compute(predictions=predictions, references=["four", "Paris", "cold"]) == {"accuracy": 2 / 3}
    many = [["four", "4"], ["Paris", "Rome"], ["cold"]]
    assert accuracy.compute(predictions=predictions, references=many) == {"accuracy": 1.0}
    whole = ["Two and two is four.", "It is Rome.", "Cold is the opposite of hot."]
    # neither answer stands where the sentence has it
    assert accuracy.compute(predictions=predictions, references=many, sentences=whole) == {"accuracy": 1 / 3}


def test_real_time_factor_is_of_all_requests_together(load):
    factor = load("real_time_factor").compute(predictions=[0.5, 1.0], references=[1.0, 5.0])
    assert factor == {"real_time_factor": pytest.approx(0.25)}


@pytest.mark.parametrize(
    ("name", "predictions", "references", "message"),
    [
        ("word_error_rate", ["a"], ["?"], "no words"),
        ("word_error_rate", ["a", "b"], ["a"], "[Mm]ismatch"),
        ("character_error_rate", ["a"], ["?!"], "no words"),
        ("answer_accuracy", ["a"], ["?"], "gold must be a phrase"),
        ("real_time_factor", [1.0], [0.0], "no audio"),
        ("real_time_factor", [-1.0], [1.0], "not negative"),
    ],
)
def test_bad_input_is_refused(load, name, predictions, references, message):
    with pytest.raises(ValueError, match=message):
        load(name).compute(predictions=predictions, references=references)


def test_an_unknown_metric_is_named():
    with pytest.raises(ValueError, match="no metric 'bleu'; there are answer_accuracy"):
        metrics.load("bleu")
