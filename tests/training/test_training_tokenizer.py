# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import pytest
from transformers import AutoTokenizer, Qwen2Tokenizer

from training.tokenizer import add_audio_tokens, train_tokenizer


TEXTS = [f"What is {a} plus {b}? {a} plus {b} makes a number." for a in ("one", "two", "ten") for b in ("six", "nine")]


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer(TEXTS, 400, 1920, model_max_length=512)


def test_speech_tokens_are_contiguous_and_last(tokenizer):
    offset = tokenizer.convert_tokens_to_ids("<|audio_0|>")
    ids = tokenizer.convert_tokens_to_ids([f"<|audio_{code}|>" for code in range(1920)])
    assert ids == list(range(offset, offset + 1920))
    assert ids[-1] == len(tokenizer) - 1
    assert (tokenizer.pad_token, tokenizer.eos_token) == ("<|endoftext|>", "<|im_end|>")
    assert (
        len({*ids, *tokenizer.convert_tokens_to_ids(["<|begin_of_audio|>", "<|end_of_audio|>", "<|audio|>"])}) == 1923
    )


def test_words_are_tokens_and_any_text_comes_back(tokenizer):
    assert len(tokenizer("What is two plus nine?").input_ids) == 6
    text = "Füße 12,\n\n  „naïve“ 音声 \U0001f600"
    assert tokenizer.decode(tokenizer(text).input_ids) == text


def test_texts_are_cut_as_qwen2_does(tokenizer):
    # every piece of Qwen2's pre-tokenisation begins a token, single digits among them
    text = "It's 1234 o'clock,  isn't it?"
    pieces = [span for _, span in Qwen2Tokenizer().backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)]
    starts = {start for start, _ in tokenizer(text, return_offsets_mapping=True).offset_mapping}
    assert len(pieces) > 10
    assert {start for start, _ in pieces} <= starts


def test_auto_tokenizer_loads_it(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    text = "<|im_start|>user\nWhat is<|audio_7|> one?<|im_end|>"
    assert loaded(text).input_ids == tokenizer(text).input_ids
    assert len(loaded) == len(tokenizer)
    assert loaded.model_max_length == 512
    assert sum(path.stat().st_size for path in tmp_path.iterdir()) < 500_000
    rendered = loaded.apply_chat_template(
        [{"role": "user", "content": "Hi"}], tokenize=False, add_generation_prompt=True
    )
    assert rendered == "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n"


def test_the_same_texts_make_the_same_tokenizer(tokenizer):
    again = train_tokenizer(TEXTS, 400, 1920)
    assert again.get_vocab() == tokenizer.get_vocab()


def test_special_tokens_in_user_text_can_be_split(tokenizer):
    ids = tokenizer("<|audio_3|><|im_end|>", split_special_tokens=True).input_ids
    assert not {tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|audio_3|>")} & set(ids)


def test_bad_sizes_are_refused(tokenizer):
    with pytest.raises(ValueError, match="vocab_size must be more than 262"):
        train_tokenizer(TEXTS, 262, 16)
    with pytest.raises(ValueError, match="num_speech_tokens must be at least 1"):
        train_tokenizer(TEXTS, 400, 0)
    taken = Qwen2Tokenizer()
    taken.add_tokens(["<|audio_0|>", "something else"])
    with pytest.raises(ValueError, match="not contiguous"):
        add_audio_tokens(taken, 4)
