# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Follow-up questions, which need the turn before: "And plus three?" after "The sum of two and two is four."

A new kind of follow-up is one function with `@register_follow_up`; its clips and its dialogues follow. Each answer is
that of a fact of `questions`, so a follow-up can follow another one.
"""

from collections.abc import Callable, Iterator
from functools import cache

from .clips import ASR, Clip, Recording, register_source, voice_clips
from .questions import (
    CAPITALS,
    COLORS_OF,
    DAYS,
    HELD_OUT_SHARE,
    HOURS,
    MONTHS,
    NUMBERS,
    OPPOSITES,
    Fact,
    all_facts,
    stable_hash,
)


VOICES_PER_FOLLOW_UP, TEST_VOICES_PER_FOLLOW_UP = 6, 2

# The wordings of a follow-up, and the answer to it
FollowUp = tuple[tuple[str, ...], str]
FOLLOW_UPS: dict[str, Callable[[Fact], Iterator[FollowUp]]] = {}


def register_follow_up(function: Callable[[Fact], Iterator[FollowUp]]) -> Callable[[Fact], Iterator[FollowUp]]:
    """
    Makes what a function yields a part of the corpus. It gets the fact of the turn before and yields what may be asked
    then: several wordings of one meaning, and the answer.
    """
    FOLLOW_UPS[function.__name__] = function
    return function


@register_follow_up
def count_on(fact: Fact) -> Iterator[FollowUp]:
    if fact.family not in ("sums", "differences"):
        return
    total = NUMBERS.index(fact.gold)
    for number, word in enumerate(NUMBERS[1:10], start=1):
        if total + number < len(NUMBERS):
            wordings = (f"And plus {word}?", f"And if you add {word}?", f"Now add {word}.")
            yield wordings, f"The sum of {fact.gold} and {word} is {NUMBERS[total + number]}."
        if number <= total:
            wordings = (f"And minus {word}?", f"And if you take away {word}?", f"Now take away {word}.")
            yield wordings, f"The difference of {fact.gold} and {word} is {NUMBERS[total - number]}."


@register_follow_up
def next_in_calendar(fact: Fact) -> Iterator[FollowUp]:
    for family, unit, names in (("months", "month", MONTHS), ("days", "day", DAYS)):
        if fact.family == family:
            place = [name.lower() for name in names].index(fact.gold)
            for direction, step in (("after", 1), ("before", -1)):
                wordings = (
                    f"And the {unit} {direction} that?",
                    f"And which {unit} comes {direction} that one?",
                    f"What comes {direction} that?",
                )
                yield wordings, f"{names[(place + step) % len(names)]} comes {direction} {names[place]}."


@register_follow_up
def other_capital(fact: Fact) -> Iterator[FollowUp]:
    if fact.family == "capitals":
        for country, city in CAPITALS.items():
            if city.lower() != fact.gold:
                yield (f"And of {country}?", f"And what about {country}?"), f"{city} is the capital of {country}."


@register_follow_up
def opposite_of_that(fact: Fact) -> Iterator[FollowUp]:
    if fact.family == "opposites":
        for pair in OPPOSITES.split(", "):
            one, other = pair.split()
            if fact.gold in (one, other):
                wordings = ("And its opposite?", "And the opposite of that?", "And what is the opposite of that?")
                yield wordings, f"The opposite is {one if fact.gold == other else other}."


@register_follow_up
def later(fact: Fact) -> Iterator[FollowUp]:
    hour = fact.gold.removesuffix(" o'clock")
    if fact.family != "clock" or hour not in HOURS:
        return
    place = HOURS.index(hour)
    after, before = HOURS[(place + 1) % 12], HOURS[place - 1]
    yield ("And one hour later?", "And an hour after that?", "And in one hour?"), f"The time is {after} o'clock."
    yield ("And one hour earlier?", "And an hour before that?", "And one hour ago?"), f"The time is {before} o'clock."
    wordings = ("And half an hour later?", "And half an hour after that?", "And thirty minutes later?")
    yield wordings, f"The time is half past {hour}."


@register_follow_up
def other_color(fact: Fact) -> Iterator[FollowUp]:
    for thing, color in COLORS_OF.items():
        answer = f"The color of {thing} is {color}."
        if fact.answer.startswith("The color of") and fact.answer != answer:
            yield (f"And of {thing}?", f"And what about {thing}?"), answer


def follow_ups(fact: Fact) -> list[FollowUp]:
    """All that may be asked after `fact` has been answered."""
    return [follow_up for function in FOLLOW_UPS.values() for follow_up in function(fact)]


@cache
def follow_up_splits() -> dict[str, str]:
    """The split of every follow-up's wording: a tenth is held out, at most one wording of each follow-up."""
    groups = dict.fromkeys(wordings for fact in all_facts() for wordings, _ in follow_ups(fact))
    texts = dict.fromkeys(text for wordings in groups for text in wordings)
    wanted = round(HELD_OUT_SHARE * len(texts))
    held_out: set[str] = set()
    # The order of hashes is a shuffle that is the same everywhere.
    for text in sorted(texts, key=lambda text: stable_hash("follow-up", text)):
        alone = all(held_out.isdisjoint(wordings) for wordings in groups if text in wordings)
        if len(held_out) < wanted and alone:
            held_out.add(text)
    return {text: "test" if text in held_out else "train" for text in texts}


def follow_up_clips(text: str) -> list[Clip]:
    """The clips of one wording, by training voices."""
    split = follow_up_splits()[text]
    return voice_clips(text, split, VOICES_PER_FOLLOW_UP if split == "train" else TEST_VOICES_PER_FOLLOW_UP)


@register_source
def spoken_follow_ups() -> Iterator[Recording]:
    for text, split in follow_up_splits().items():
        for clip in follow_up_clips(text):
            yield Recording(clip, (ASR,) if split == "train" else ())
