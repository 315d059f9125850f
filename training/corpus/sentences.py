# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The simple sentences of the corpus, which are written down and spoken but ask nothing, and which of them are held out.

Everything is a pure function of the tables below, as in `questions`. A new template is a line of `MORE_TEMPLATES`.
"""

import itertools
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache

from .clips import ASR, TTS, Clip, Recording, register_source, training_recordings, unseen_voice_recording, voice_clips
from .questions import DAYS, HELD_OUT_SHARE, HOURS, MONTHS, capitalized, facts_by_draw, stable_hash
from .voices import JOE


NUM_SIMPLE_SENTENCES = 4500
TRAINING_VOICES_PER_SENTENCE = TEST_VOICES_PER_SENTENCE = 1

VOCABULARY = {
    "name": "Susan Peter Lucy David Linda Jack Tom Sarah Robert Helen Alice George",
    "color": "red blue green yellow white black brown pink orange purple",
    "animal": "cat dog horse cow bird fish rabbit lion tiger bear monkey elephant duck sheep mouse snake fox chicken",
    "animals": "cats dogs horses cows birds rabbits lions tigers bears monkeys elephants ducks snakes chickens",
    "thing": "book ball cup box bag hat coat chair lamp key phone bottle basket clock umbrella pencil knife spoon "
    "plate blanket letter picture",
    "things": "books balls cups boxes bags hats chairs lamps keys bottles pencils spoons plates letters pictures",
    "furniture": "table chair bed shelf desk sofa floor bench",
    "place": "garden park kitchen forest house school river field street market station library lake beach village",
    "food": "apples bread cheese soup rice cake chicken fish bananas oranges potatoes chocolate tomatoes carrots eggs",
    "drink": "water,milk,tea,coffee,orange juice,lemonade",
    "relative": "mother father sister brother uncle cousin grandmother grandfather friend teacher neighbor",
    "count": "two three four five six seven eight nine ten eleven twelve",
    "size": "big small old new little beautiful heavy strange",
    "mood": "happy sad tired hungry angry late sick ready busy quiet",
    "weather": "sunny rainy cold warm windy cloudy snowy hot",
    "moved": "ran,walked,jumped,slept,waited,played,sat down,hid",
    "moving": "sleeping,running,eating,playing,waiting,singing,walking",
    "where": "under the table,in the garden,near the river,behind the house,on the roof,by the door,across the street,"
    "in the forest,beside the lake,next to the school",
    "activity": "play football,go swimming,visit our friends,clean the house,read a story,bake a cake,"
    "go to the market,ride our bikes,work in the garden,watch a movie,listen to music",
    "doing": "playing football,reading a story,baking a cake,cleaning the kitchen,watching a movie,riding their bikes,"
    "listening to music,walking to school,working in the garden,singing a song",
    "handled": "gave,showed,sold,brought,sent",
    "bought": "bought,found,lost,painted,carried,washed",
    "liking": "likes,loves,wants,needs,hates",
    "when": "today,tomorrow,every day,in the morning,in the evening,after school,on the weekend,this week",
    "hour": " ".join(HOURS),
    "day": " ".join(DAYS),
    "month": " ".join(MONTHS),
    "city": "Paris Berlin Rome Madrid London Dublin Oslo Vienna Athens Moscow Cairo Tokyo",
    "pronoun": "I We They You",
}
# The sentences that the shipped model was trained on come from these in turn, so a change here changes all of them.
TEMPLATES = (
    "The {color} {animal} {moved} {where}.",
    "The {size} {animal} is {moving} {where}.",
    "{name} has a {color} {thing}.",
    "{name} {bought} a {size} {thing} {when}.",
    "{name} {bought} {count} {things} at the {place}.",
    "There are {count} {animals} in the {place}.",
    "There is a {color} {thing} on the {furniture}.",
    "My {relative} {liking} {food} and {food2}.",
    "My {relative} is {mood} because the {animal} is {mood2}.",
    "On {day} we {activity} and {activity2}.",
    "In {month} the weather is {weather} and {weather2}.",
    "It was {weather} on {day}, so we stayed at the {place}.",
    "I saw a {color} {animal} near the {place}.",
    "The {thing} is {color} and the {thing2} is {color2}.",
    "Please put the {color} {thing} on the {furniture}.",
    "Please bring me the {thing} and {count} {things}.",
    "{name} {handled} the {size} {thing} to {name2}.",
    "{name} {handled} a {thing} to the {relative} of {name2}.",
    "The train to {city} leaves at {hour} o'clock.",
    "The bus from {city} to {city2} comes at {hour} o'clock.",
    "Can you see the {color} {thing} on the {furniture}?",
    "Where is the {size} {thing} of my {relative}?",
    "{name} and {name2} are {doing}.",
    "{name} is {doing} with a {relative}.",
    "{pronoun} want to {activity} {when}.",
    "{pronoun} saw {count} {animals} {where}.",
    "Do not open the {color} {thing}.",
    "The {animal} is bigger than the {animal2}.",
    "A {size} {animal} walked into the {place}.",
    "{name} drinks {drink} and eats {food} {when}.",
    "We need some {drink} and {count} {things}.",
    "Does your {relative} like {food} or {food2}?",
    "Why is the {animal} so {mood} {when}?",
    "If it is {weather} on {day}, I will {activity}.",
    "When {name} was {mood}, the {animal} {moved} {where}.",
    "{count} {color} {animals} are {moving} {where}.",
    "At {hour} o'clock {name} will {activity}.",
    "The {place} in {city} is {weather} in {month}.",
)
# A new template is a line here. Its sentences have a draw of their own, and those of all others stay as they are.
MORE_TEMPLATES: tuple[str, ...] = ()
SENTENCES_PER_TEMPLATE = NUM_SIMPLE_SENTENCES // len(TEMPLATES)
# After so many draws without a new sentence, a template is taken to have no more.
MAX_VAIN_DRAWS = 1000


@dataclass(frozen=True)
class Sentence:
    """One simple sentence; `split` is "train" or "test"."""

    text: str
    split: str


def _fill(template: str, rng: random.Random) -> str:
    """One sentence of `template`: `{slot}` becomes a word of its list, and `{slot2}` another word of that list."""
    chosen: dict[str, str] = {}

    def fill_slot(match: re.Match) -> str:
        if match[1] not in VOCABULARY:
            raise ValueError(
                f"The template {template!r} has the slot {match[0]}, but there is no list of words {match[1]!r}: add "
                "it to VOCABULARY in training/corpus/sentences.py."
            )
        words = VOCABULARY[match[1]]
        options = [word for word in words.split("," if "," in words else None) if word not in chosen.values()]
        chosen[match[0]] = rng.choice(options)
        return chosen[match[0]]

    text = re.sub(r"\{(\w+?)\d?\}", fill_slot, template)
    # "a orange hat" becomes "an orange hat".
    return capitalized(re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text))


def _draw(templates: tuple[str, ...], rng: random.Random, number: int, taken: set[str]) -> list[str]:
    """`number` different sentences that are not `taken`, from the templates in turn; fewer if they have no more."""
    texts: dict[str, None] = {}
    num_vain = 0
    for template in itertools.cycle(templates):
        text = _fill(template, rng)
        num_vain = num_vain + 1 if text in taken or text in texts else 0
        if text not in taken:
            texts[text] = None
        if len(texts) == number or num_vain == MAX_VAIN_DRAWS:
            return list(texts)


@cache
def all_sentences(more_templates: tuple[str, ...] = MORE_TEMPLATES) -> tuple[Sentence, ...]:
    """`NUM_SIMPLE_SENTENCES` sentences, then those of `more_templates`; a tenth of each group is held out."""
    # of the shipped families alone, so that a new one leaves the sentences of the shipped model as they are
    taken = {text for fact in facts_by_draw()[0] for text in (fact.answer, *fact.wordings)}
    groups = [_draw(TEMPLATES, random.Random("vita-audio sentences"), NUM_SIMPLE_SENTENCES, taken)]
    # A new template gives no sentence that is there already. The seed of its draw is its own text, so that the draw
    # does not depend on other templates.
    for template in more_templates:
        taken.update(groups[-1])
        groups.append(_draw((template,), random.Random(template), SENTENCES_PER_TEMPLATE, taken))
    sentences = []
    for texts in groups:
        # The order of hashes is a shuffle that is the same everywhere.
        ranked = sorted(texts, key=lambda text: stable_hash("sentence", text))
        held_out = set(ranked[: round(HELD_OUT_SHARE * len(ranked))])
        sentences += [Sentence(text, "test" if text in held_out else "train") for text in texts]
    return tuple(sentences)


@register_source
def simple_sentences() -> Iterator[Recording]:
    for sentence in all_sentences():
        if sentence.split == "train":
            yield from training_recordings(sentence.text, TRAINING_VOICES_PER_SENTENCE)
            continue
        yield Recording(Clip(sentence.text, JOE.name, "test"), (ASR, TTS))
        for clip in voice_clips(sentence.text, "test", TEST_VOICES_PER_SENTENCE):
            yield Recording(clip, (ASR,))
        yield unseen_voice_recording(sentence.text, "test_voice")
