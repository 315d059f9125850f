# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import random

import pytest
from modeling_fixtures import random_config
from tiny_models import tiny_processor, tiny_tokenizer

from modeling_vita_audio import VitaAudioConfig
from modeling_vita_audio.interleaving_vita_audio import SpeechVocabulary, interleave


BEGIN, END = 100, 101
VOCABULARY = SpeechVocabulary(102, BEGIN, END, speech_token_offset=1000, num_speech_tokens=50)


def speech(start, stop):
    return [BEGIN, *range(1000 + start, 1000 + stop), END]


def test_boost_layout_by_hand():
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
        layout = [rng.randrange(low, 12) for low in (1, 3) * rng.randrange(1, 4)]
        stream = interleave(text_ids, codes, VOCABULARY, layout)
        assert VOCABULARY.split(stream) == (text_ids, codes)


def test_split_of_a_stream_cut_inside_speech():
    stream = interleave([1, 2, 3, 4, 5], list(range(30)), VOCABULARY, [1, 10, 4, 10])
    assert VOCABULARY.split(stream[:5]) == ([1], [0, 1, 2])


@pytest.mark.parametrize("layout", [[], [1], [1, 10, 4], [0, 10], [1, 2], [1, -10], [-1, 10]])
def test_a_malformed_layout_is_refused_everywhere_in_the_same_words(layout):
    messages = set()
    for use in (
        lambda: interleave([1], [1], VOCABULARY, layout),
        lambda: tiny_processor(interleave_pattern=layout),
        lambda: random_config(4, interleave_pattern=layout),
    ):
        with pytest.raises(ValueError, match="`interleave_pattern` must") as error:
            use()
        messages.add(str(error.value))
    assert len(messages) == 1


@pytest.mark.parametrize("layout", ["boost", 10, ["1", "10"], {1: 10}])
def test_what_is_no_layout_at_all_is_refused(layout):
    with pytest.raises(ValueError, match="`interleave_pattern` must be a list of whole numbers"):
        tiny_processor(interleave_pattern=layout)


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


def test_vocabulary_of_a_tokenizer_is_that_of_a_config():
    tokenizer = tiny_tokenizer(num_speech_tokens=16)
    # Qwen2-Audio has tokens of such names, which are no codes
    tokenizer.add_tokens(["<|audio_bos|>"], special_tokens=True)
    config = VitaAudioConfig(**SpeechVocabulary.from_tokenizer(tokenizer).to_config())
    ids = [config.audio_token_id, config.begin_audio_token_id, config.end_audio_token_id, config.speech_token_offset]
    assert tokenizer.convert_ids_to_tokens(ids) == [
        "<|audio|>",
        "<|begin_of_audio|>",
        "<|end_of_audio|>",
        "<|audio_0|>",
    ]
    assert config.num_speech_tokens == 16


@pytest.mark.parametrize("others", [["<|other|>", "<|audio_2|>"], ["<|audio_7|>"]])
def test_vocabulary_with_a_gap_is_refused(others):
    tokenizer = tiny_tokenizer(num_speech_tokens=2)
    tokenizer.add_tokens(others, special_tokens=True)
    with pytest.raises(ValueError, match=r"3 speech tokens are not contiguous: .* <\|audio_2\|>"):
        SpeechVocabulary.from_tokenizer(tokenizer)


def test_a_tokenizer_without_speech_is_refused():
    tokenizer = tiny_tokenizer(num_speech_tokens=2)
    vocab = tokenizer.get_vocab()
    tokenizer.get_vocab = lambda: {
        token: i for token, i in vocab.items() if "begin_of" not in token and token != "<|audio|>"
    }
    with pytest.raises(ValueError, match=r"has no <\|audio\|>, <\|begin_of_audio\|>, so it cannot be used for speech"):
        SpeechVocabulary.from_tokenizer(tokenizer)
