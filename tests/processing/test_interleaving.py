# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import random

import pytest
from tiny_models import tiny_tokenizer

from processing.interleaving_vita_audio import SpeechVocabulary, interleave


BEGIN, END = 100, 101
VOCABULARY = SpeechVocabulary(102, BEGIN, END, speech_token_offset=1000, num_speech_tokens=50)


def speech(start, stop):
    return [BEGIN, *range(1000 + start, 1000 + stop), END]


def test_boost_pattern_by_hand():
    # 1 text + 8 codes, 4 text + 8 codes, then the text ends within the third chunk, which takes the other codes
    stream = interleave([1, 2, 3, 4, 5, 6], list(range(30)), VOCABULARY, [1, 10, 4, 10])
    assert stream == [1, *speech(0, 8), 2, 3, 4, 5, *speech(8, 16), 6, *speech(16, 30)]


def test_text_that_ends_with_a_chunk_makes_it_the_last():
    stream = interleave([1, 2, 3, 4, 5], list(range(30)), VOCABULARY, [1, 10, 4, 10])
    assert stream == [1, *speech(0, 8), 2, 3, 4, 5, *speech(8, 30)]


def test_longer_text_goes_into_the_last_chunk():
    stream = interleave([1, 2, 3, 4, 5, 6, 7, 8, 9], list(range(10)), VOCABULARY, [1, 10, 4, 10])
    assert stream == [1, *speech(0, 8), 2, 3, 4, 5, 6, 7, 8, 9, *speech(8, 10)]


def test_last_pair_repeats():
    stream = interleave(list(range(1, 8)), list(range(7)), VOCABULARY, [1, 3, 2, 4])
    assert stream == [1, *speech(0, 1), 2, 3, *speech(1, 3), 4, 5, *speech(3, 5), 6, 7, *speech(5, 7)]


def test_one_stream_alone_stays_as_it_is():
    assert interleave([1, 2, 3], [], VOCABULARY) == [1, 2, 3]
    assert interleave([], [4, 5, 6], VOCABULARY) == speech(4, 7)


def test_split_inverts_interleave():
    rng = random.Random(0)
    for _ in range(200):
        text_ids = [rng.randrange(100) for _ in range(rng.randrange(20))]
        codes = [rng.randrange(50) for _ in range(rng.randrange(60))]
        pattern = [rng.randrange(low, 12) for low in (1, 3) * rng.randrange(1, 4)]
        stream = interleave(text_ids, codes, VOCABULARY, pattern)
        assert VOCABULARY.split(stream) == (text_ids, codes)


def test_split_of_a_stream_cut_inside_speech():
    stream = interleave([1, 2, 3, 4, 5], list(range(30)), VOCABULARY, [1, 10, 4, 10])
    assert VOCABULARY.split(stream[:5]) == ([1], [0, 1, 2])


@pytest.mark.parametrize("pattern", [[], [1], [1, 10, 4], [0, 10], [1, 2], [1, -10], [-1, 10]])
def test_malformed_pattern_is_refused(pattern):
    with pytest.raises(ValueError, match="`interleave_pattern` must"):
        interleave([1], [1], VOCABULARY, pattern)


@pytest.mark.parametrize("code", [-1, 50])
def test_code_out_of_range_is_named(code):
    with pytest.raises(ValueError, match=f"code {code} is out of range"):
        interleave([1], [code], VOCABULARY)


def test_vocabulary_of_a_tokenizer():
    tokenizer = tiny_tokenizer(num_speech_tokens=16)
    vocabulary = SpeechVocabulary.from_tokenizer(tokenizer)
    assert vocabulary.num_speech_tokens == 16
    assert tokenizer.convert_ids_to_tokens(vocabulary.wrap([0, 15])) == [
        "<|begin_of_audio|>",
        "<|audio_0|>",
        "<|audio_15|>",
        "<|end_of_audio|>",
    ]


def test_vocabulary_with_a_gap_is_refused():
    tokenizer = tiny_tokenizer(num_speech_tokens=2)
    tokenizer.add_tokens(["<|other|>", "<|audio_2|>"], special_tokens=True)
    with pytest.raises(ValueError, match=r"contiguous.*<\|audio_2\|>"):
        SpeechVocabulary.from_tokenizer(tokenizer)
