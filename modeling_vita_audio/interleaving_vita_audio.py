# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Where speech lives in the vocabulary, and how a turn's text and speech share one stream of ids."""

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from numbers import Integral

from transformers import PreTrainedTokenizerBase


# One text token, 8 speech codes in their two delimiters, then 4 text tokens and 8 codes, repeated: the layout that
# VITA-Audio-Boost was trained with (arXiv 2505.03739), so that MCTP's ten tokens are one chunk of speech.
DEFAULT_INTERLEAVE_PATTERN = (1, 10, 4, 10)
# What VITA-Audio-Plus asks SenseVoice of each audio, by its rows of the encoder's table of queries: language "auto",
# event, emotion, text without inverse normalisation
QUERIES = (0, 1, 2, 15)


@dataclass(frozen=True)
class SpeechVocabulary:
    """
    Ids of the speech tokens and of what marks speech, under the names that they have in a [`VitaAudioConfig`]. Code
    `c` of the codec is id `speech_token_offset + c`.

    Args:
        audio_token_id (`int`): the mark that stands for one audio in a text.
        begin_audio_token_id, end_audio_token_id (`int`): the delimiters around a run of speech codes.
        speech_token_offset (`int`): id of code 0.
        num_speech_tokens (`int`): how many codes there are; their ids are contiguous.
        context_audio_token_id (`int`, *optional*): what a row of continuous speech input stands at (VITA-Audio-Plus).
    """

    audio_token_id: int
    begin_audio_token_id: int
    end_audio_token_id: int
    speech_token_offset: int
    num_speech_tokens: int
    context_audio_token_id: int | None = None

    @classmethod
    def from_tokenizer(cls, tokenizer: PreTrainedTokenizerBase) -> "SpeechVocabulary":
        """
        Reads the ids from a tokenizer with `<|audio|>`, `<|begin_of_audio|>`, `<|end_of_audio|>` and `<|audio_0|>`,
        `<|audio_1|>`, ...

        Raises:
            ValueError: one of the tokens is missing, or the speech tokens' ids are not contiguous.
        """
        vocab = tokenizer.get_vocab()
        tokens = ("<|audio|>", "<|begin_of_audio|>", "<|end_of_audio|>", "<|audio_0|>")
        if missing := [token for token in tokens if token not in vocab]:
            raise ValueError(f"The tokenizer has no {', '.join(missing)}, so it cannot be used for speech.")
        offset = vocab["<|audio_0|>"]
        # Not only those with the prefix: Qwen2-Audio, for one, has a token <|audio_bos|>
        num_codes = sum(token.startswith("<|audio_") and token[8:-2].isdecimal() for token in vocab)
        for code in range(num_codes):
            if (token_id := vocab.get(f"<|audio_{code}|>")) != offset + code:
                raise ValueError(
                    f"The ids of the tokenizer's {num_codes} speech tokens are not contiguous: <|audio_0|> has the "
                    f"id {offset} and <|audio_{code}|> has {token_id}."
                )
        return cls(*(vocab[token] for token in tokens), num_codes, vocab.get("<|context_of_audio|>"))

    def to_config(self) -> dict[str, int]:
        """The ids as arguments of a [`VitaAudioConfig`]."""
        return {name: token_id for name, token_id in asdict(self).items() if token_id is not None}

    def is_code(self, token_id: int) -> bool:
        """Whether an id stands for a speech code."""
        return self.speech_token_offset <= token_id < self.speech_token_offset + self.num_speech_tokens

    def is_delimiter(self, token_id: int) -> bool:
        """Whether an id is one of the two delimiters."""
        return token_id in (self.begin_audio_token_id, self.end_audio_token_id)

    def wrap(self, codes: Iterable[int]) -> list[int]:
        """
        Ids of a run of speech codes in its delimiters.

        Raises:
            ValueError: a code is not in `[0, num_speech_tokens)`.
        """
        codes = [int(code) for code in codes]
        for code in codes:
            if not 0 <= code < self.num_speech_tokens:
                raise ValueError(
                    f"Speech code {code} is out of range: this vocabulary has {self.num_speech_tokens} codes."
                )
        ids = [self.speech_token_offset + code for code in codes]
        return [self.begin_audio_token_id, *ids, self.end_audio_token_id]

    def wrap_context(self, num_tokens: int) -> list[int]:
        """
        Ids of a run of continuous speech input of `num_tokens` rows in the delimiters.

        Raises:
            ValueError: the vocabulary has no token for it.
        """
        if self.context_audio_token_id is None:
            raise ValueError(
                "The tokenizer has no <|context_of_audio|>, so it cannot be used for continuous speech input."
            )
        return [self.begin_audio_token_id, *[self.context_audio_token_id] * num_tokens, self.end_audio_token_id]

    def split(self, token_ids: Iterable[int]) -> tuple[list[int], list[int]]:
        """
        The inverse of [`interleave`]: text ids and speech codes of a stream. Only the range of an id decides which it
        is, so a stream that stops in the middle of a run of speech, or whose delimiters do not match, loses nothing.
        """
        text_ids, codes = [], []
        for token_id in token_ids:
            if self.is_code(token_id):
                codes.append(token_id - self.speech_token_offset)
            elif not self.is_delimiter(token_id):
                text_ids.append(token_id)
        return text_ids, codes


def check_interleave_pattern(interleave_pattern: Sequence[int]) -> None:
    """
    Raises:
        ValueError: the layout is not pairs of (text tokens >= 1, speech tokens >= 3: two delimiters and a code).
    """
    is_sequence = isinstance(interleave_pattern, Sequence) and not isinstance(interleave_pattern, str)
    if not is_sequence or not all(isinstance(number, Integral) for number in interleave_pattern):
        raise ValueError(f"`interleave_pattern` must be a list of whole numbers, got {interleave_pattern!r:.200}.")
    if len(interleave_pattern) == 0 or len(interleave_pattern) % 2:
        raise ValueError(
            f"`interleave_pattern` must be pairs [text, speech, ...], but {list(interleave_pattern)!s:.200} is not "
            "of an even length."
        )
    if min(interleave_pattern[::2]) < 1 or min(interleave_pattern[1::2]) < 3:
        raise ValueError(
            "`interleave_pattern` must have at least 1 text token and 3 speech tokens (two delimiters and a code) "
            f"in each pair, got {list(interleave_pattern)!s:.200}."
        )


def interleave(
    text_ids: Sequence[int],
    codes: Sequence[int],
    vocabulary: SpeechVocabulary,
    interleave_pattern: Sequence[int] = DEFAULT_INTERLEAVE_PATTERN,
) -> list[int]:
    """
    Merges the text and the speech of one turn into the stream that the model learns to write: chunks of text followed
    by speech in delimiters. The first chunk in which either of the two runs out is the last one and takes all that is
    left of the other. If one is empty from the start, the other is not cut into chunks.

    Args:
        text_ids: ids of the turn's text.
        codes: the turn's speech codes, in `[0, num_speech_tokens)`.
        vocabulary: where speech lives in the vocabulary.
        interleave_pattern: `[text, speech, text, speech, ...]` tokens of each chunk. Speech is counted with its two
            delimiters; the last pair repeats.

    Raises:
        ValueError: the layout is malformed or a code is out of range.
    """
    check_interleave_pattern(interleave_pattern)
    if not codes:
        return list(text_ids)
    if not text_ids:
        return vocabulary.wrap(codes)
    stream, text_start, code_start, pair = [], 0, 0, 0
    while True:
        # The numbers of speech tokens count the two delimiters, which are no codes
        text_end, code_end = text_start + interleave_pattern[pair], code_start + interleave_pattern[pair + 1] - 2
        # The last chunk
        if text_end >= len(text_ids) or code_end >= len(codes):
            return stream + [*text_ids[text_start:], *vocabulary.wrap(codes[code_start:])]
        stream += [*text_ids[text_start:text_end], *vocabulary.wrap(codes[code_start:code_end])]
        text_start, code_start = text_end, code_end
        # The last pair repeats
        pair = min(pair + 2, len(interleave_pattern) - 2)


def num_audio_tokens(num_frames):
    """
    How many tokens of a text an audio of `num_frames` (`int` or `torch.Tensor`) rows of features takes: one a row, and
    one a query of the encoder.
    """
    return num_frames + len(QUERIES)


__all__ = [
    "DEFAULT_INTERLEAVE_PATTERN",
    "QUERIES",
    "SpeechVocabulary",
    "check_interleave_pattern",
    "interleave",
    "num_audio_tokens",
]
