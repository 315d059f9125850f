# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What modules read and when, without vLLM: schedules by place, and a model whose states say what they depend on."""

import itertools
import random

import pytest
import torch

from modeling_vita_audio import MCTP_MODES
from modeling_vita_audio.generation_vita_audio import modules_in_turn
from serving.vllm.columns import HiddenStates, RequestColumns
from serving.vllm.schedules import num_drafts, writer_of


SCHEDULES = [*MCTP_MODES.values(), [2, 1, 1, 0, 3, 7, 1, 1], [3, 0], [1, 1, 2, 0]]


@pytest.mark.parametrize("schedule", SCHEDULES, ids=str)
def test_the_writer_of_each_token(schedule):
    expected = list(itertools.islice(modules_in_turn(schedule), 200))
    assert [writer_of(schedule, position) for position in range(200)] == expected
    for position in range(150):
        rest = expected[position:]
        number = next(i for i, writer in enumerate([*rest, 0]) if writer == 0)
        assert [num_drafts(schedule, position, limit) for limit in (0, 2, 10)] == [0, min(number, 2), min(number, 10)]


def test_hidden_states_of_columns():
    states = HiddenStates(3)
    states.append(torch.arange(3.0, 6.0)[:, None])
    states.append(torch.arange(6.0, 8.0)[:, None])
    assert states.read(4, 8)[:, 0].tolist() == [4, 5, 6, 7]
    states.keep(4, 7)
    assert states.read(4, 7)[:, 0].tolist() == [4, 5, 6]
    for start, end in ((3, 5), (5, 8), (5, 5)):
        with pytest.raises(IndexError, match="columns 4 to 6"):
            states.read(start, end)
    states.keep(9, 2)
    assert (states.start, states.end) == (2, 2)
    states.append(torch.tensor([[2.0]]))
    assert states.read(2, 3).tolist() == [[2.0]]


class Simulation:
    """
    A request whose hidden states are numbers of their level, their column and all tokens that they depend on, and
    which steps as vLLM does.
    """

    def __init__(self, num_modules, schedule, is_verified, source, block_size):
        self.num_modules, self.schedule, self.is_verified = num_modules, schedule, is_verified
        self.source, self.block_size = source, block_size
        self.tokens = [source.randrange(50) for _ in range(source.randrange(1, 80))]
        self.num_prompt_tokens, self.drafts = len(self.tokens), []
        self.columns = RequestColumns(num_modules, 0)
        # of each level, the state of each column, as keys and values are kept
        self.cache = [{} for _ in range(num_modules + 1)]
        self.most_kept = 0

    @staticmethod
    def state(level, column, tokens):
        return float(hash((level, column, tuple(tokens[: column + level + 1]))) % 2**20)

    def read(self, level, start, end, tokens):
        assert end + level <= len(tokens)
        if level > 0:
            expected = [self.state(level - 1, column, tokens) for column in range(start, end)]
            assert self.columns.unread(level, end)[:, 0].tolist() == expected
        for column in range(start, end):
            # a level attends to all that it has read before
            assert column == 0 or column - 1 in self.cache[level]
            self.cache[level][column] = self.state(level, column, tokens)
        states = [self.cache[level][column] for column in range(start, end)]
        self.columns.append(level, torch.tensor(states)[:, None])

    def step(self):
        source, start = self.source, self.columns.num_read[0]
        if source.random() < 0.05:
            # preempted, and begun again behind a shared prefix, whose columns all levels have
            shared = self.end_of_shared_blocks()
            start = source.randrange(0, shared + 1, self.block_size) if source.random() < 0.5 else 0
            self.columns, self.drafts = RequestColumns(self.num_modules, start), []
            for level, cache in enumerate(self.cache):
                for column in range(start):
                    assert cache[column] == self.state(level, column, self.tokens)
        known = self.tokens + self.drafts
        end = min(len(known), start + source.choice([7, 40, 1000]))
        if end < len(self.tokens):
            self.read(0, start, end, known)
            self.write(0)
            return
        self.read(0, start, end, known)
        if self.is_verified:
            # some first drafts are accepted, and the language model writes another token behind
            num_accepted = source.randrange(end - len(self.tokens) + 1)
            self.tokens += self.drafts[:num_accepted]
        self.tokens.append(source.randrange(50))
        self.columns.rewind(len(self.tokens) - 1)
        self.write(num_drafts(self.schedule, len(self.tokens) - self.num_prompt_tokens, self.num_modules))

    def write(self, number):
        tokens = list(self.tokens)
        for level in range(1, self.num_modules + 1):
            end = self.columns.end_of_reading(level, len(self.tokens), number, self.block_size)
            if end > self.columns.num_read[level]:
                self.read(level, self.columns.num_read[level], end, tokens)
            if level <= number:
                assert self.columns.num_read[level] == len(self.tokens) - 1
                tokens.append(self.source.randrange(50))
        self.drafts = tokens[len(self.tokens) :]
        if not self.is_verified:
            self.tokens, self.drafts = tokens, []
        self.check_shared_blocks()
        self.most_kept = max([self.most_kept, *(states.end - states.start for states in self.columns._states)])

    def end_of_shared_blocks(self):
        """A block that is read may be shared from now on if the next K tokens are read, too."""
        return max(self.columns.num_read[0] - self.num_modules, 0) // self.block_size * self.block_size

    def check_shared_blocks(self):
        for column in range(self.end_of_shared_blocks()):
            for level, cache in enumerate(self.cache):
                assert cache.get(column) == self.state(level, column, self.tokens), (level, column)


@pytest.mark.parametrize("is_verified", [False, True])
@pytest.mark.parametrize("num_modules", [1, 4, 10])
def test_modules_read_what_they_are_to_read(num_modules, is_verified):
    for seed in range(15):
        source = random.Random(seed)
        schedule = source.choice([s for s in SCHEDULES if max(s[1::2]) <= num_modules] or [[1, num_modules]])
        simulation = Simulation(num_modules, schedule, is_verified, source, source.choice([8, 16]))
        for _ in range(60):
            simulation.step()
        # the states of a prompt are not kept
        assert simulation.most_kept <= 6 * num_modules + 90


def test_without_shared_blocks_modules_without_a_turn_wait():
    columns = RequestColumns(4, 0)
    columns.append(0, torch.zeros(16, 1))
    assert columns.end_of_reading(1, 17, 0, None) == 0
    columns.append(0, torch.zeros(1, 1))
    # more than 4 columns for each module
    assert columns.end_of_reading(1, 18, 0, None) == 17
    assert columns.end_of_reading(1, 18, 1, None) == 17
