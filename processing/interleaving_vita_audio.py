# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The module of this name of `modeling_vita_audio`, for imports that work in a flat Hub folder as well."""

from modeling_vita_audio.interleaving_vita_audio import (
    DEFAULT_INTERLEAVE_PATTERN,
    SpeechVocabulary,
    check_interleave_pattern,
    interleave,
    num_audio_tokens,
)


__all__ = [
    "DEFAULT_INTERLEAVE_PATTERN",
    "SpeechVocabulary",
    "check_interleave_pattern",
    "interleave",
    "num_audio_tokens",
]
