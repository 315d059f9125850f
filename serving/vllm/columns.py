# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What the modules have read of one request. In column i, module k joins the hidden state that level k - 1 has there with
the embedding of token i + k; level 0 is the language model. Keys and values of all levels stay in vLLM's cache, in
column i's slot. The hidden states that modules have yet to read are here.
"""

import torch


# Modules without a turn read many columns at once, which costs hardly more than one. Until then the states of so many
# columns, times the number of modules, are kept.
COLUMNS_BEHIND_PER_MODULE = 4


class HiddenStates:
    """Hidden states of consecutive columns, the latest ones."""

    def __init__(self, start: int):
        self.start, self.end = start, start
        self._states: torch.Tensor | None = None

    def append(self, states: torch.Tensor) -> None:
        """Takes those of the next columns, `(num_columns, hidden_size)`."""
        self._states = states if self.end == self.start else torch.cat([self._states, states])
        self.end += len(states)

    def read(self, start: int, end: int) -> torch.Tensor:
        """`(end - start, hidden_size)`. The columns must be there."""
        if not self.start <= start < end <= self.end:
            raise IndexError(f"There are the columns {self.start} to {self.end - 1}, not {start} to {end - 1}.")
        return self._states[start - self.start : end - self.start]

    def keep(self, start: int, end: int) -> None:
        """Forgets all but the columns from `start` to `end - 1`."""
        start, end = min(max(start, self.start), self.end), min(end, self.end)
        if end <= start:
            self.start = self.end = min(start, end)
            self._states = None
        elif (start, end) != (self.start, self.end):
            # a copy, because a view would keep all in memory
            self._states = self.read(start, end).clone()
            self.start, self.end = start, end


class RequestColumns:
    """
    Args:
        num_modules (`int`): K.
        start (`int`):
            How many columns all levels have read already: those of a prefix that vLLM had in its cache.

    Attributes:
        num_read (`list[int]`): how many columns each level has read, the language model's first.
    """

    def __init__(self, num_modules: int, start: int):
        self.num_read = [start] * (num_modules + 1)
        # the last level's are read by no other
        self._states = [HiddenStates(start) for _ in range(num_modules)]

    @property
    def num_modules(self) -> int:
        return len(self._states)

    def append(self, level: int, states: torch.Tensor) -> None:
        """Takes the hidden states of the columns that a level has just read, `(num_columns, hidden_size)`."""
        self.num_read[level] += len(states)
        if level < self.num_modules:
            self._states[level].append(states)
        if level > 0:
            # a rejected draft takes a module back by the number of modules at most
            self._states[level - 1].keep(self.num_read[level] - self.num_modules, self.num_read[level - 1])

    def unread(self, level: int, end: int) -> torch.Tensor:
        """What a module reads next, up to column `end - 1`: the states of the level before."""
        return self._states[level - 1].read(self.num_read[level], end)

    def rewind(self, num_tokens: int) -> None:
        """Forgets all that depends on other tokens than the first `num_tokens` ones: drafts that were rejected."""
        for level, states in enumerate([*self._states, None]):
            # column i of module k depends on the token i + k
            self.num_read[level] = min(self.num_read[level], max(num_tokens - level, 0))
            if states is not None:
                states.keep(states.start, self.num_read[level])

    def end_of_reading(self, level: int, num_tokens: int, num_drafts: int, block_size: int | None) -> int:
        """
        Up to which column module `level` is to read in this step, after the levels before it have read theirs.

        Args:
            num_tokens (`int`): how many tokens there are, without drafts.
            num_drafts (`int`): how many the modules write in this step.
            block_size (`int`, *optional*):
                With prefix caching, the size of the blocks that other requests may share. A block counts as full when
                the K tokens after it are known, too, and must then have the columns of all modules.

        Returns:
            `int`: the end; no more than `num_read[level]` if there is nothing to read.
        """
        if level <= num_drafts:
            # all that the language model has read; the drafts before this one are the last tokens it joins
            return self.num_read[0]
        known = min(self.num_read[0], num_tokens - level, self.num_read[level - 1])
        full_blocks = 0
        if block_size is not None:
            full_blocks = max(num_tokens - self.num_modules, 0) // block_size * block_size
        is_far_behind = known - self.num_read[level] > COLUMNS_BEHIND_PER_MODULE * self.num_modules
        if is_far_behind or self.num_read[level] < min(full_blocks, known):
            return known
        return self.num_read[level]


__all__ = ["HiddenStates", "RequestColumns"]
