# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Which module writes a token, counted from the place of the token, because vLLM goes on with a request anywhere."""


def writer_of(schedule: list[int], position: int) -> int:
    """
    Args:
        schedule (`list[int]`): [main, mctp, main, mctp, ...], see [`VitaAudioGenerationMixin`].
        position (`int`): of a new token, 0 for the first one.

    Returns:
        `int`: 0 where the language model writes it, k where module k does.
    """
    *pairs, last_pair = zip(schedule[::2], schedule[1::2])
    for main, mctp in pairs:
        if position < main + mctp:
            break
        position -= main + mctp
    else:
        main, mctp = last_pair
        position %= main + mctp
    return max(position - main + 1, 0)


def num_drafts(schedule: list[int], position: int, limit: int) -> int:
    """How many tokens the modules write from the new token `position` on in a row, `limit` at most."""
    number = 0
    while number < limit and writer_of(schedule, position + number) > 0:
        number += 1
    return number


def uses_modules(schedule: list[int]) -> bool:
    return any(schedule[1::2])


__all__ = ["num_drafts", "uses_modules", "writer_of"]
