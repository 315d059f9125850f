# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Dialogues of two to four turns: a question with its follow-ups, and questions that have nothing to do with each other.
Some have five or six turns, of both kinds.

They are made of recordings that the other tasks have as well. Held-out dialogues have held-out wordings only, all
spoken by training voices, and four turns each.
"""

import random
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from .clips import Clip
from .follow_ups import follow_up_clips, follow_up_splits, follow_ups
from .questions import Fact, all_facts, all_questions
from .spoken_questions import question_clips


SPOKEN, WRITTEN, MIXED = "spoken", "written", "mixed"
# How often each is drawn. In a mixed dialogue some turns are heard and some are read, and all are answered in speech.
MODES = {SPOKEN: 0.65, WRITTEN: 0.2, MIXED: 0.15}
NUM_WITH_FOLLOW_UPS, NUM_INDEPENDENT = 2400, 2400
NUM_HELD_OUT_WITH_FOLLOW_UPS, NUM_HELD_OUT_INDEPENDENT = 60, 120
MAX_TURNS = HELD_OUT_TURNS = 4
NUM_LONG, LONG_TURNS = 800, (5, 6)
# The share of training dialogues with follow-ups in which a question of another kind comes first.
SHARE_WITH_ANOTHER_QUESTION = 0.3


@dataclass(frozen=True)
class Turn:
    """What is asked and the fact that answers it. `clip` is the recording of the question, None where it is read."""

    text: str
    fact: Fact
    clip: Clip | None


@dataclass(frozen=True)
class Dialogue:
    """Its turns, `split` "train" or "test", and one of `MODES`."""

    turns: tuple[Turn, ...]
    split: str
    mode: str


class _Asker:
    """Draws the turns of one split, in one voice where that has recordings of them."""

    def __init__(self, split: str, rng: random.Random):
        self.split, self.rng = split, rng
        self.facts = {fact.answer: fact for fact in all_facts()}
        questions = [question for question in all_questions() if question.split == split]
        self.kinds: dict[str, list] = defaultdict(list)
        self.openers: dict[str, list] = defaultdict(list)
        for question in questions:
            self.kinds[question.fact.family].append(question)
            # Kinds and not questions are drawn first, because nine questions of ten are sums.
            if self.possible(question.fact):
                self.openers[question.fact.family].append(question)

    def possible(self, fact: Fact) -> list[tuple[str, Fact]]:
        """The wordings of this split that may follow on `fact`, with the facts that answer them."""
        splits = follow_up_splits()
        return [
            (text, self.facts[answer])
            for wordings, answer in follow_ups(fact)
            for text in wordings
            if splits[text] == self.split
        ]

    def turn(self, text: str, fact: Fact, clips: list[Clip], voice: str | None) -> Turn:
        clips = [clip for clip in clips if clip.split == self.split]
        return Turn(text, fact, self.rng.choice([clip for clip in clips if clip.voice == voice] or clips))

    def question(self, kinds: dict[str, list], voice: str | None = None) -> Turn:
        question = self.rng.choice(kinds[self.rng.choice(list(kinds))])
        return self.turn(question.text, question.fact, question_clips(question), voice)

    def follow_up(self, fact: Fact, voice: str) -> Turn | None:
        possible = self.possible(fact)
        if not possible:
            return None
        text, answer = self.rng.choice(possible)
        return self.turn(text, answer, follow_up_clips(text), voice)

    def with_follow_ups(self, number: int, voice: str | None = None) -> list[Turn]:
        """An opening question and up to `number` follow-ups, each of which may follow on the one before."""
        turns = [self.question(self.openers, voice)]
        while len(turns) <= number and (turn := self.follow_up(turns[-1].fact, turns[0].clip.voice)) is not None:
            turns.append(turn)
        return turns

    def independent(self, number: int) -> list[Turn]:
        """`number` questions of different facts."""
        turns = [self.question(self.kinds)]
        while len(turns) < number:
            turn = self.question(self.kinds, turns[0].clip.voice)
            if turn.fact not in [other.fact for other in turns]:
                turns.append(turn)
        return turns

    def mixed(self, number: int) -> list[Turn]:
        """`number` turns, some of them follow-ups."""
        turns = [self.question(self.kinds)]
        while len(turns) < number:
            voice = turns[0].clip.voice
            turns += self.with_follow_ups(1, voice) if self.rng.random() < 0.5 else [self.question(self.kinds, voice)]
        return turns[:number]


def _in_mode(turns: list[Turn], split: str, mode: str, rng: random.Random) -> Dialogue:
    is_read = [mode == WRITTEN] * len(turns)
    if mode == MIXED:
        # one of each at least
        is_read = [True, False, *(rng.random() < 0.5 for _ in turns[2:])]
        rng.shuffle(is_read)
    turns = [Turn(turn.text, turn.fact, None if read else turn.clip) for turn, read in zip(turns, is_read)]
    return Dialogue(tuple(turns), split, mode)


def training_dialogues() -> Iterator[Dialogue]:
    rng = random.Random("vita-audio dialogues")
    asker = _Asker("train", rng)

    def draw_mode() -> str:
        return rng.choices(list(MODES), list(MODES.values()))[0]

    for _ in range(NUM_WITH_FOLLOW_UPS):
        turns = asker.with_follow_ups(rng.randint(1, 2))
        if rng.random() < SHARE_WITH_ANOTHER_QUESTION:
            turns = [*asker.independent(1), *turns]
        yield _in_mode(turns, "train", draw_mode(), rng)
    for _ in range(NUM_INDEPENDENT):
        yield _in_mode(asker.independent(rng.randint(2, MAX_TURNS)), "train", draw_mode(), rng)
    for _ in range(NUM_LONG):
        yield _in_mode(asker.mixed(rng.randint(*LONG_TURNS)), "train", draw_mode(), rng)


def held_out_dialogues() -> Iterator[Dialogue]:
    rng = random.Random("vita-audio held-out dialogues")
    asker = _Asker("test", rng)
    for _ in range(NUM_HELD_OUT_WITH_FOLLOW_UPS):
        # twice a question and its follow-up
        turns = [*asker.with_follow_ups(1), *asker.with_follow_ups(1)]
        yield Dialogue(tuple(turns), "test", SPOKEN)
    for _ in range(NUM_HELD_OUT_INDEPENDENT):
        yield Dialogue(tuple(asker.independent(HELD_OUT_TURNS)), "test", SPOKEN)


def all_dialogues() -> list[Dialogue]:
    """Every dialogue, none of them twice."""
    return list(dict.fromkeys((*training_dialogues(), *held_out_dialogues())))
