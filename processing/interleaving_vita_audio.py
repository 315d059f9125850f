# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Where speech lives in the vocabulary, and how a turn's text and speech share one stream of ids."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from numbers import Integral


# One text token, 8 speech codes in their two delimiters, then 4 text tokens and 8 codes, repeated: the pattern that
# VITA-Audio-Boost was trained with (arXiv 2505.03739), so that MCTP's ten tokens are one chunk of speech.
DEFAULT_INTERLEAVE_PATTERN = (1, 10, 4, 10)


@dataclass(frozen=True)
class SpeechVocabulary:
    """
    Ids of the speech tokens among a tokenizer's. Code `c` of the codec is id `speech_token_offset + c`.

    Args:
        begin_audio_token_id, end_audio_token_id: the delimiters around a run of speech codes.
        speech_token_offset: id of code 0.
        num_speech_tokens: how many codes there are; their ids are contiguous.
    """

    begin_audio_token_id: int
    end_audio_token_id: int
    speech_token_offset: int
    num_speech_tokens: int

    @classmethod
    def from_tokenizer(cls, tokenizer) -> "SpeechVocabulary":
        """
        Reads the ids off a tokenizer with `<|begin_of_audio|>`, `<|end_of_audio|>` and `<|audio_0|>`, `<|audio_1|>`, ...

        Raises:
            ValueError: one of the tokens is missing, or the speech tokens' ids are not contiguous.
        """
        vocab = tokenizer.get_vocab()
        for token in ("<|begin_of_audio|>", "<|end_of_audio|>", "<|audio_0|>"):
            if token not in vocab:
                raise ValueError(f"The tokenizer has no token {token}, so it cannot be used for speech.")
        offset, size = vocab["<|audio_0|>"], 0
        while f"<|audio_{size}|>" in vocab:
            if vocab[f"<|audio_{size}|>"] != offset + size:
                raise ValueError(
                    f"The ids of the speech tokens must be contiguous from {offset} (<|audio_0|>), but <|audio_{size}|> "
                    f"has id {vocab[f'<|audio_{size}|>']}."
                )
            size += 1
        return cls(vocab["<|begin_of_audio|>"], vocab["<|end_of_audio|>"], offset, size)

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

    def split(self, token_ids: Iterable[int]) -> tuple[list[int], list[int]]:
        """
        The inverse of [`interleave`]: text ids and speech codes of a stream. An id is told by its range alone, so a stream
        that stops in the middle of a run of speech, or whose delimiters do not match, loses nothing.
        """
        text_ids, codes = [], []
        for token_id in token_ids:
            if self.is_code(token_id):
                codes.append(token_id - self.speech_token_offset)
            elif not self.is_delimiter(token_id):
                text_ids.append(token_id)
        return text_ids, codes


def check_interleave_pattern(pattern: Sequence[int]) -> None:
    """
    Raises:
        ValueError: the pattern is not pairs of (text tokens >= 1, speech tokens >= 3: two delimiters and a code).
    """
    if isinstance(pattern, str) or not all(isinstance(number, Integral) for number in pattern):
        raise ValueError(f"An interleave pattern is a list of whole numbers, got {pattern!r:.200}.")
    if len(pattern) == 0 or len(pattern) % 2:
        raise ValueError(
            f"An interleave pattern is pairs [text, speech, ...], but {list(pattern)!s:.200} is not an even length."
        )
    if any(text < 1 for text in pattern[::2]) or any(speech < 3 for speech in pattern[1::2]):
        raise ValueError(
            "An interleave pattern needs at least 1 text token and 3 speech tokens (delimiters included) in each pair, "
            f"got {list(pattern)!s:.200}."
        )


def interleave(
    text_ids: Sequence[int],
    codes: Sequence[int],
    vocabulary: SpeechVocabulary,
    pattern: Sequence[int] = DEFAULT_INTERLEAVE_PATTERN,
) -> list[int]:
    """
    Merges the text and the speech of one turn into the stream that the model learns to write: chunks of text followed by
    speech in delimiters. The first chunk in which either of the two runs out is the last one and takes all that is left of
    the other. Where one is empty from the start the other stays as it is.

    Args:
        text_ids: ids of the turn's text.
        codes: the turn's speech codes, in `[0, num_speech_tokens)`.
        vocabulary: where speech lives in the vocabulary.
        pattern: `[text, speech, text, speech, ...]` tokens of each chunk, speech counted with its two delimiters; the last
            pair repeats.

    Raises:
        ValueError: the pattern is malformed or a code is out of range.
    """
    check_interleave_pattern(pattern)
    if not codes:
        return list(text_ids)
    if not text_ids:
        return vocabulary.wrap(codes)
    stream, text_start, code_start, pair = [], 0, 0, 0
    while True:
        text_end, code_end = text_start + pattern[pair], code_start + pattern[pair + 1] - 2
        if text_end >= len(text_ids) or code_end >= len(codes):
            return stream + [*text_ids[text_start:], *vocabulary.wrap(codes[code_start:])]
        stream += [*text_ids[text_start:text_end], *vocabulary.wrap(codes[code_start:code_end])]
        text_start, code_start = text_end, code_end
        pair = min(pair + 2, len(pattern) - 2)


__all__ = ["DEFAULT_INTERLEAVE_PATTERN", "SpeechVocabulary", "check_interleave_pattern", "interleave"]
