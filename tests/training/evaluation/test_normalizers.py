# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Whisper's normalizer next to that of the corpus; more values of the latter are in `test_scoring`."""

import pytest

from hub_cards.command_line import run_command
from training.evaluation import evaluate_benchmarks, normalizers
from training.evaluation.normalizers import CORPUS, WHISPER_ENGLISH, find_normalizer
from training.evaluation.scoring import answer_accuracy, answer_is_right, character_error_rate, word_error_rate


@pytest.mark.parametrize(
    ("text", "whisper", "corpus"),
    [
        # spellings that only the corpus may change, because other texts mean the words as they are written
        ("He passed.", "he passed", "he past"),
        ("Columbia", "columbia", "colombia"),
        # what Whisper's normalizer knows, and the corpus does not have
        ("Mr. Brown won't pay $20 (today)", "mister brown will not pay $20", "mister brown wont pay twenty today"),
        ("Um, twenty-one cats", "21 cats", "um twenty one cats"),
        ("MISTER QUILTER IS THE APOSTLE", "mister quilter is the apostle", "mister quilter is the apostle"),
        (" ?! ", "", ""),
    ],
)
def test_each_makes_its_own_of_a_text(text, whisper, corpus):
    assert find_normalizer(WHISPER_ENGLISH)(text) == whisper
    assert find_normalizer(CORPUS)(text) == corpus


def test_scores_are_those_of_the_normalizer():
    references, hypotheses = ["He passed the twentieth house."], ["He past the 20th house"]
    assert word_error_rate(references, hypotheses, WHISPER_ENGLISH) == pytest.approx(1 / 5)
    # to it, "passed" and "past" are the same as well
    assert word_error_rate(references, hypotheses) == 0
    assert character_error_rate(["passed"], ["past"], WHISPER_ENGLISH) == pytest.approx(3 / 6)
    assert character_error_rate(["passed"], ["past"]) == 0
    assert answer_is_right("It was Doctor Brown.", "Dr. Brown", normalizer=WHISPER_ENGLISH)
    assert not answer_is_right("It was Doctor Brown.", "Dr. Brown")
    assert answer_accuracy(["It was Doctor Brown.", "4"], ["Dr. Brown", "four"], normalizer=WHISPER_ENGLISH) == 1
    with pytest.raises(ValueError, match="no words: '\\(what\\)'"):
        word_error_rate(["(what)"], ["what"], WHISPER_ENGLISH)


def test_an_unknown_normalizer_is_named():
    with pytest.raises(ValueError, match="no normalizer 'whisper'; there are corpus, whisper_english"):
        word_error_rate(["a"], ["a"], "whisper")


def test_spellings_are_whispers_own():
    assert find_normalizer(WHISPER_ENGLISH)("The neighbour's colours") == "the neighbor is colors"


def test_missing_spellings_are_named_before_the_model_is_loaded(forms_dir, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(normalizers, "SPELLINGS_PACKAGE", "no_such_package")
    find_normalizer.cache_clear()
    arguments = ["--model", "some/model", "--benchmark", "libritts_test_clean", "--output_dir", str(tmp_path / "out")]
    arguments += ["--dataset_name", str(forms_dir / "libritts_test_clean")]
    assert run_command(evaluate_benchmarks.main, evaluate_benchmarks.PROG, arguments) == 1
    assert "needs the module `no_such_package`: `pip install vita-audio[eval]`" in capsys.readouterr().err
    assert find_normalizer(CORPUS)("It's grey") == "it is gray"
