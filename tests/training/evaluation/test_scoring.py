# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The normalizer, the error rates and the check of answers, against values worked out by hand."""

import doctest
import random

import pytest

from training.evaluation import normalizers
from training.evaluation.normalizers import normalize_corpus_text, number_to_words
from training.evaluation.scoring import (
    answer_accuracy,
    answer_is_right,
    character_error_rate,
    exact_accuracy,
    real_time_factor,
    word_error_rate,
)


def test_what_is_exact_has_the_words_of_its_reference_and_no_more():
    heard = ["7.", "mayday", "June", "in June", ""]
    assert exact_accuracy(["seven", "May", "june", "June", "July"], heard) == 2 / 5
    with pytest.raises(ValueError, match="no words"):
        exact_accuracy(["?"], ["?"])


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("7", "seven"),
        ("7+5=12.", "seven plus five is twelve"),
        ("20 - 3 is 17", "twenty minus three is seventeen"),
        ("twenty-one ice-creams", "twenty one ice creams"),
        ("At 12:30, or 3.05!", "at twelve thirty or three o five"),
        ("It's 4 o'clock.", "it is four oclock"),
        ("It is 4:00 o’clock", "it is four oclock"),
        ("It is four o clock", "it is four oclock"),
        ("What's the colour of grey things?", "what is the color of gray things"),
        ("Goodbye, Luke", "good bye luke"),
        ("Mr. Dashwood", "mister dashwood"),
        ("1,250 cats", "one thousand two hundred fifty cats"),
        ("99:99", "ninety nine ninety nine"),
        ("-5 degrees, or 2.5", "minus five degrees or two point five"),
        ("The 1st, 3rd, 12th, 20th and 101st", "the first third twelfth twentieth and one hundred first"),
        ("Bob's hat", "bobs hat"),
        ("  ?! ", ""),
    ],
)
def test_normalize_text(text, expected):
    assert normalize_corpus_text(text) == expected
    assert normalize_corpus_text(expected) == expected


def test_number_to_words():
    expected = {0: "zero", 13: "thirteen", 20: "twenty", 85: "eighty five", 700: "seven hundred"}
    expected |= {1001: "one thousand one", 12_000_000: "one two zero zero zero zero zero zero"}
    assert {number: number_to_words(number) for number in expected} == expected


def test_the_examples_of_the_docstrings_hold():
    assert doctest.testmod(normalizers).failed == 0


def test_word_error_rate_is_errors_over_words():
    references = ["Seven plus five is twelve.", "The cat sat."]
    hypotheses = ["7 plus 9 is 12", "The cat sat down"]  # one substitution, one insertion in eight words
    assert word_error_rate(references, hypotheses) == pytest.approx(2 / 8)
    assert word_error_rate(references, references) == 0
    with pytest.raises(ValueError, match="2 references but 1"):
        word_error_rate(references, hypotheses[:1])
    with pytest.raises(ValueError, match="no words"):
        word_error_rate(["?"], ["a"])


def test_character_error_rate_counts_the_spaces():
    # one substitution, one deleted space in the nine characters of "seven cat"
    assert character_error_rate(["7 cat"], ["sevenbat"]) == pytest.approx(2 / 9)
    with pytest.raises(ValueError, match="nothing to score"):
        character_error_rate([], [])


def edit_distance(source, target) -> int:
    """Levenshtein's distance straight from its recursive definition, one row of the table at a time."""
    row = list(range(len(target) + 1))
    for i, left in enumerate(source, start=1):
        diagonal, row[0] = row[0], i
        for j, right in enumerate(target, start=1):
            diagonal, row[j] = row[j], min(row[j] + 1, row[j - 1] + 1, diagonal + (left != right))
    return row[-1]


@pytest.mark.parametrize("normalizer", normalizers.NORMALIZERS)
@pytest.mark.parametrize(("rate", "units"), [(word_error_rate, str.split), (character_error_rate, list)])
def test_error_rates_are_edit_distances(rate, units, normalizer):
    words, generator = "a bat cat hat is seven two twelve the".split(), random.Random(0)
    references = [" ".join(generator.choices(words, k=generator.randint(1, 6))) for _ in range(30)]
    hypotheses = [" ".join(generator.choices(words, k=generator.randint(0, 6))).capitalize() + "." for _ in range(30)]
    normalize = normalizers.find_normalizer(normalizer)
    pairs = [(units(normalize(one)), units(normalize(other))) for one, other in zip(references, hypotheses)]
    expected = sum(edit_distance(*pair) for pair in pairs) / sum(len(reference) for reference, _ in pairs)
    assert rate(references, hypotheses, normalizer) == pytest.approx(expected) and 0 < expected < 2


def test_accuracy_is_the_share_of_right_answers():
    texts = ["It is 4.", "Rome, I think", "Hot is the opposite of cold."]
    assert answer_accuracy(texts, ["four", "Paris", "cold"]) == pytest.approx(2 / 3)
    many = [["four", "4"], ["Paris", "Rome"], ["cold"]]
    assert answer_accuracy(texts, many) == 1
    # neither answer stands where the sentence has it
    sentences = ["Two and two is four.", "It is Rome.", "Cold is the opposite of hot."]
    assert answer_accuracy(texts, many, sentences) == pytest.approx(1 / 3)


def test_real_time_factor_is_of_all_requests_together():
    assert real_time_factor([0.5, 1.0], [1.0, 5.0]) == pytest.approx(0.25)
    with pytest.raises(ValueError, match="no audio"):
        real_time_factor([1.0], [0.0])
    for seconds in (-1.0, float("inf"), float("nan")):
        with pytest.raises(ValueError, match="not negative"):
            real_time_factor([seconds], [1.0])


def test_figures_of_nothing_are_refused():
    with pytest.raises(ValueError, match="nothing to score"):
        answer_accuracy([], [])
    with pytest.raises(ValueError, match="2 texts, but 1 answers"):
        answer_accuracy(["a", "b"], ["a"])
    with pytest.raises(ValueError, match="1 times of work, but 2"):
        real_time_factor([1.0], [1.0, 2.0])


def test_an_answer_is_compared_word_by_word():
    assert answer_is_right("It is 7.", "seven")
    assert not answer_is_right("It is 17.", "seven")
    assert answer_is_right("The time is 3:30.", ["half past three", "three thirty"])
    assert answer_is_right("New Delhi!", "new delhi")
    assert not answer_is_right("", "paris")
    with pytest.raises(ValueError, match="gold"):
        answer_is_right("Paris", "?")


@pytest.mark.parametrize(
    ("text", "gold", "is_right"),
    [
        ("It is 25.", "five", False),
        ("It is 25.", "twenty", False),
        ("It is 200.", "two", False),
        ("It is 105.", "one hundred", False),
        ("It is 105.", "five", False),
        ("It is 25.", "25", True),
        ("It is -5.", "five", False),
        ("It is -5.", "-5", True),
        ("Ten minus five is what you asked.", "five", True),
        ("It is 3:30.", "three thirty", True),
        ("Five, or 25?", "five", True),
    ],
)
def test_a_number_is_no_part_of_another(text, gold, is_right):
    assert answer_is_right(text, gold) == is_right


def test_a_reference_that_is_the_answer_asks_for_no_place():
    assert answer_is_right("Paris is the capital of France.", "Paris", "Paris.")
    assert not answer_is_right("Paris is the capital of France.", "Paris", "It is Paris.")


def test_an_answer_stands_where_the_reference_has_it():
    reference = "Cold is the opposite of hot."
    assert answer_is_right("Cold.", "cold", reference)
    assert not answer_is_right("Hot is the opposite of cold.", "cold", reference)
    reference = "The sum of four and zero is four."
    assert answer_is_right("The sum of 4 and 1 is 4.", "four", reference)
    assert not answer_is_right("The sum of four and zero is five.", "four", reference)
    assert answer_is_right("I can hear you well, yes.", "you", "Yes, I can hear you well.")
