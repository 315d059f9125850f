# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Trains a tokenizer, for models that do not start from a language model, which would bring one."""

import json
from collections.abc import Iterable

from tokenizers import AddedToken
from tokenizers.models import BPE
from tokenizers.pre_tokenizers import ByteLevel
from tokenizers.trainers import BpeTrainer
from transformers import PreTrainedTokenizerBase, Qwen2Tokenizer

from processing.conversation_vita_audio import CHAT_TEMPLATE


# What the ChatML template writes before and behind each turn
CHAT_MARKS = ["<|im_start|>", "<|im_end|>"]
# Those of Qwen2
TEXT_SPECIAL_TOKENS = ["<|endoftext|>", *CHAT_MARKS]
AUDIO_SPECIAL_TOKENS = ["<|begin_of_audio|>", "<|end_of_audio|>", "<|audio|>"]
# What stands for a row of continuous speech input, at its place in the vocabulary of VITA-Audio-Plus
CONTEXT_TOKEN = "<|context_of_audio|>"


def add_audio_tokens(tokenizer: PreTrainedTokenizerBase, num_speech_tokens: int, hears_features: bool = False) -> int:
    """
    Appends the speech vocabulary to a tokenizer in place: the delimiters `<|begin_of_audio|>` and `<|end_of_audio|>`,
    the mark `<|audio|>`, then `<|audio_0|>` .. `<|audio_{num_speech_tokens - 1}|>`, contiguous and last; behind the
    delimiters `<|context_of_audio|>` if the model `hears_features`. All are special: `split_special_tokens=True` keeps
    user text from turning into speech, `skip_special_tokens=True` drops them.

    Returns:
        `int`: the id of `<|audio_0|>`, the `speech_token_offset` of the model's configuration.

    Raises:
        ValueError: the tokenizer has some of the tokens already, and not at its end.
    """
    specials = list(AUDIO_SPECIAL_TOKENS)
    if hears_features:
        # The released VITA-Audio-Plus checkpoints have it at this place.
        specials.insert(2, CONTEXT_TOKEN)
    tokens = specials + [f"<|audio_{code}|>" for code in range(num_speech_tokens)]
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in tokens])
    offset = tokenizer.convert_tokens_to_ids("<|audio_0|>")
    ids = tokenizer.convert_tokens_to_ids(tokens[len(specials) :])
    if ids != list(range(offset, offset + num_speech_tokens)) or ids[-1] != len(tokenizer) - 1:
        raise ValueError(
            "The tokenizer holds some of the tokens <|audio_0|>, <|audio_1|>, ... already, where they are not "
            "contiguous and last. A tokenizer without speech tokens is needed, or one that got all of them from here."
        )
    return offset


def train_tokenizer(
    texts: Iterable[str],
    vocab_size: int,
    num_speech_tokens: int,
    model_max_length: int = 2048,
    hears_features: bool = False,
) -> Qwen2Tokenizer:
    """
    Trains a byte-level BPE with Qwen2's normalisation and pre-tokenisation (digits stand alone), ChatML chat template
    without a default system turn, `<|endoftext|>` for padding and `<|im_end|>` as end of sequence.

    Args:
        texts: what to train on. Any text can be tokenised afterwards, byte by byte at worst.
        vocab_size: size of the text vocabulary, the 256 bytes and the six special tokens included. With around 1000
            the words of a small domain are mostly single tokens. Fewer come out where the texts have no more pairs to
            merge.
        num_speech_tokens: size of the codec's codebook; the speech tokens come on top of `vocab_size`.
        model_max_length: the longest sequence of the model, in tokens.
        hears_features: as of [`add_audio_tokens`]; its token comes on top of `vocab_size`, too.

    Raises:
        ValueError: `vocab_size` leaves no room for a merge, or `num_speech_tokens` is not positive.
    """
    alphabet = ByteLevel.alphabet()
    num_special_tokens = len(TEXT_SPECIAL_TOKENS) + len(AUDIO_SPECIAL_TOKENS)
    if vocab_size <= len(alphabet) + num_special_tokens:
        raise ValueError(
            f"vocab_size must be more than {len(alphabet) + num_special_tokens} ({len(alphabet)} bytes and "
            f"{num_special_tokens} special tokens), got {vocab_size}."
        )
    if num_speech_tokens < 1:
        raise ValueError(f"num_speech_tokens must be at least 1, got {num_speech_tokens}.")

    # Only the BPE model is new. Normalizer and pre-tokenizer stay those of Qwen2.
    backend = Qwen2Tokenizer().backend_tokenizer
    backend.model = BPE()
    trainer = BpeTrainer(
        vocab_size=vocab_size - num_special_tokens,
        # `alphabet` has another order in each process, which would change the ids.
        initial_alphabet=sorted(alphabet),
        # They come behind the learnt tokens, as in Qwen2.
        special_tokens=[],
        show_progress=False,
    )
    backend.train_from_iterator(texts, trainer)
    bpe = json.loads(backend.to_str())["model"]
    vocab = bpe["vocab"] | {token: len(bpe["vocab"]) + i for i, token in enumerate(TEXT_SPECIAL_TOKENS)}

    tokenizer = Qwen2Tokenizer(
        vocab=vocab,
        merges=[tuple(merge) for merge in bpe["merges"]],
        unk_token=None,
        pad_token="<|endoftext|>",
        eos_token="<|im_end|>",
        model_max_length=model_max_length,
        chat_template=CHAT_TEMPLATE,
    )
    # These are in the vocabulary already; this makes all of them special.
    tokenizer.add_tokens([AddedToken(token, special=True, normalized=False) for token in TEXT_SPECIAL_TOKENS])
    add_audio_tokens(tokenizer, num_speech_tokens, hears_features)
    return tokenizer
