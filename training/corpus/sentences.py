# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What the corpus says: facts in several wordings, simple sentences, and which of them are held out.

Everything here is a pure function of the tables below, so two machines get the same texts and the same splits. Numbers
are written as words. The wordings avoid what a small recogniser persistently misreads ("the capital of France is Paris"
is heard as "Francis Paris"; "Paris is the capital of France" is not).
"""

import hashlib
import itertools
import random
import re
from dataclasses import dataclass
from functools import cache


HELD_OUT_SHARE = 0.1
MIN_TRAINING_WORDINGS = 3
NUM_SIMPLE_SENTENCES = 9200

NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen "
    "eighteen nineteen twenty"
).split()
HOURS = NUMBERS[1:13]
MONTHS = "January February March April May June July August September October November December".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday".split()
CAPITALS = {
    "France": "Paris",
    "Germany": "Berlin",
    "Italy": "Rome",
    "Spain": "Madrid",
    "Portugal": "Lisbon",
    "England": "London",
    "Scotland": "Edinburgh",
    "Ireland": "Dublin",
    "Norway": "Oslo",
    "Sweden": "Stockholm",
    "Finland": "Helsinki",
    "Denmark": "Copenhagen",
    "Poland": "Warsaw",
    "Austria": "Vienna",
    "Hungary": "Budapest",
    "Greece": "Athens",
    "Russia": "Moscow",
    "Egypt": "Cairo",
    "Kenya": "Nairobi",
    "Japan": "Tokyo",
    "China": "Beijing",
    "India": "New Delhi",
    "Thailand": "Bangkok",
    "Indonesia": "Jakarta",
    "Australia": "Canberra",
    "New Zealand": "Wellington",
    "Canada": "Ottawa",
    "Mexico": "Mexico City",
    "Cuba": "Havana",
    "Peru": "Lima",
    "Chile": "Santiago",
    "Belgium": "Brussels",
    "Romania": "Bucharest",
    "Serbia": "Belgrade",
    "Lebanon": "Beirut",
    "Vietnam": "Hanoi",
    "Jamaica": "Kingston",
    "Turkey": "Ankara",
    "Colombia": "Bogota",
    "Wales": "Cardiff",
}
# No word occurs twice: each has one opposite here.
OPPOSITES = (
    "hot cold, big small, up down, left right, open closed, fast slow, day night, black white, old young, early late, "
    "full empty, clean dirty, good bad, true false, strong weak, long short, high low, easy difficult, hard soft, "
    "inside outside, above below, first last, loud quiet, love hate, always never, summer winter, north south, cheap "
    "expensive, friend enemy, question answer, morning evening, smooth rough, safe dangerous, brave afraid, same "
    "different, laugh cry, remember forget, possible impossible, future past, awake asleep"
)
COLORS_OF = {
    "grass": "green",
    "the sky": "blue",
    "snow": "white",
    "butter": "yellow",
    "a banana": "yellow",
    "a lemon": "yellow",
    "blood": "red",
    "a carrot": "orange",
    "a tomato": "red",
    "an elephant": "gray",
    "milk": "white",
    "chocolate": "brown",
    "a strawberry": "red",
    "a frog": "green",
    "a flamingo": "pink",
}
SOUNDS = {
    "dog": "woof",
    "cat": "meow",
    "cow": "moo",
    "duck": "quack",
    "lion": "roar",
    "snake": "hiss",
}
BABIES = {
    "dog": "puppy",
    "cat": "kitten",
    "cow": "calf",
    "sheep": "lamb",
    "chicken": "chick",
    "bear": "cub",
}
LEGS = {"spider": "eight", "dog": "four", "bird": "two", "fly": "six", "horse": "four", "snake": "no"}
MAKERS = {
    "bees": ("make", "honey"),
    "chickens": ("lay", "eggs"),
    "rabbits": ("eat", "carrots"),
    "horses": ("eat", "grass"),
    "monkeys": ("eat", "bananas"),
    "cats": ("catch", "mice"),
}
HOMES = {
    "fish": "in the water",
    "bears": "in the forest",
    "camels": "in the desert",
    "bees": "in a hive",
    "penguins": "in the cold",
    "parrots": "in the jungle",
}
PLACES_FOR = {
    "read books": "in the library",
    "see a doctor": "at the hospital",
    "buy bread": "at the bakery",
    "catch a train": "at the station",
    "watch a movie": "at the cinema",
}
GREETINGS = {
    "Hello, it is nice to meet you.": "Hello.|Hi there.|Hello there.|Hello Luke.|Hi Luke.",
    "Good morning to you.": "Good morning.|Good morning, Luke.|A very good morning.|Good morning to you, Luke.",
    "Good afternoon to you.": "Good afternoon.|Good afternoon, Luke.|A very good afternoon.|Good afternoon, my friend.",
    "Good evening to you.": "Good evening.|Good evening, Luke.|A very good evening.|Good evening, my friend.",
    "Good night and sleep well.": "Good night.|Good night, Luke.|I am going to bed.|Good night, my friend.",
    "I am fine, thank you.": "How are you?|How are you today?|How do you feel?|Are you well?|How are you doing?",
    "My name is Luke.": "What is your name?|Who are you?|Tell me your name.|What are you called?|May I know your name?",
    "You are very welcome.": "Thank you.|Thank you very much.|Thanks a lot.|Many thanks.|I want to thank you.",
    "Goodbye, see you soon.": "Goodbye.|Goodbye, Luke.|See you later.|I have to go now.|See you soon, Luke.",
    "Yes, I can hear you well.": "Can you hear me?|Do you hear me?|Are you listening?|Can you hear my voice?",
    "Yes, I will help you.": "Can you help me?|Please help me.|I need your help.|Will you help me?",
    "I am happy to meet you too.": "Nice to meet you.|I am happy to meet you.|Pleased to meet you.|It is good to meet you.",
    "I can answer your questions.": "What can you do?|Tell me what you can do.|How can you help me?|What are you good at?",
    "I am a small computer program.": "What are you?|Are you a robot?|Are you a human?|Tell me what you are.",
    "That is all right.": "I am sorry.|I am very sorry.|Sorry about that.|Please forgive me.",
    "Happy birthday to you.": "It is my birthday.|Today is my birthday.|My birthday is today.|I have a birthday today.",
}

VOCABULARY = {
    "name": "Susan Peter Lucy David Linda Jack Tom Sarah Robert Helen Alice George",
    "color": "red blue green yellow white black brown pink orange purple",
    "animal": "cat dog horse cow bird fish rabbit lion tiger bear monkey elephant duck sheep mouse snake fox chicken",
    "animals": "cats dogs horses cows birds rabbits lions tigers bears monkeys elephants ducks snakes chickens",
    "thing": "book ball cup box bag hat coat chair lamp key phone bottle basket clock umbrella pencil knife spoon plate "
    "blanket letter picture",
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
    "activity": "play football,go swimming,visit our friends,clean the house,read a story,bake a cake,go to the market,"
    "ride our bikes,work in the garden,watch a movie,listen to music",
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
# The sentences that the shipped model was trained on come from these, in turn: a change here changes all of them.
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
# A new pattern is a line here. It is drawn for itself, and leaves the sentences of all others as they are.
MORE_TEMPLATES: tuple[str, ...] = ()
SENTENCES_PER_TEMPLATE = NUM_SIMPLE_SENTENCES // len(TEMPLATES)
MAX_VAIN_DRAWS = 1000


@dataclass(frozen=True)
class Fact:
    """One thing that can be asked: `wordings` are the questions, `answer` the one spoken reply, `gold` its point."""

    family: str
    answer: str
    gold: str
    wordings: tuple[str, ...]
    accepted: tuple[str, ...] = ()


@dataclass(frozen=True)
class Question:
    """One (fact, wording) pair; `split` is "train" or "test"."""

    fact: Fact
    text: str
    split: str


@dataclass(frozen=True)
class Sentence:
    """One simple sentence; `split` is "train" or "test"."""

    text: str
    split: str


def stable_hash(*parts: str) -> int:
    """A 64-bit hash that is the same in every process and on every machine."""
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:8], "big")


def _capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def _fact(family: str, answer: str, gold: str, wordings, accepted: tuple[str, ...] = ()) -> Fact:
    return Fact(family, _capitalized(answer), gold.lower(), tuple(map(_capitalized, wordings)), accepted)


def _arithmetic_facts():
    for i, a in enumerate(NUMBERS):
        for j, b in enumerate(NUMBERS):
            if i + j < len(NUMBERS):
                total = NUMBERS[i + j]
                wordings = (
                    f"What is {a} plus {b}?",
                    f"How much is {a} plus {b}?",
                    f"What do you get when you add {a} and {b}?",
                    f"Tell me the sum of {a} and {b}.",
                )
                yield _fact("sums", f"the sum of {a} and {b} is {total}.", total, wordings)
            if j <= i:
                rest = NUMBERS[i - j]
                wordings = (
                    f"What is {a} minus {b}?",
                    f"How much is {a} minus {b}?",
                    f"What is left when you take {b} from {a}?",
                    f"Tell me the difference between {a} and {b}.",
                )
                yield _fact("differences", f"the difference of {a} and {b} is {rest}.", rest, wordings)


def _calendar_facts():
    for family, unit, names in (("months", "month", MONTHS), ("days", "day", DAYS)):
        for i, name in enumerate(names):
            for direction, other in (("after", names[(i + 1) % len(names)]), ("before", names[i - 1])):
                wordings = (
                    f"Which {unit} comes {direction} {name}?",
                    f"What {unit} comes right {direction} {name}?",
                    f"What is the {unit} {direction} {name}?",
                    f"Tell me the {unit} {direction} {name}.",
                )
                yield _fact(family, f"{other} comes {direction} {name}.", other, wordings)


def _capital_facts():
    for country, city in CAPITALS.items():
        wordings = (
            f"What is the capital of {country}?",
            f"Which city is the capital of {country}?",
            f"Tell me the capital of {country}.",
            f"Do you know the capital of {country}?",
        )
        yield _fact("capitals", f"{city} is the capital of {country}.", city, wordings)


def _opposite_facts():
    for pair in OPPOSITES.split(", "):
        one, other = pair.split()
        for word, opposite in ((one, other), (other, one)):
            wordings = (
                f"What is the opposite of {word}?",
                f"Which word is the opposite of {word}?",
                f"Tell me the opposite of {word}.",
                f"Do you know the opposite of {word}?",
            )
            yield _fact("opposites", f"the opposite is {opposite}.", opposite, wordings)


def _clock_facts():
    for i, hour in enumerate(HOURS):
        for phrase, gold in (
            ("one hour after", f"{HOURS[(i + 1) % 12]} o'clock"),
            ("one hour before", f"{HOURS[i - 1]} o'clock"),
            ("half an hour after", f"half past {hour}"),
        ):
            wordings = (
                f"What time is it {phrase} {hour} o'clock?",
                f"Tell me the time {phrase} {hour} o'clock.",
                f"Which time is {phrase} {hour} o'clock?",
                f"What does the clock say {phrase} {hour} o'clock?",
            )
            accepted = (f"{hour} thirty",) if gold.startswith("half") else ()
            yield _fact("clock", f"the time is {gold}.", gold, wordings, accepted)


def _simple_facts():
    for thing, color in COLORS_OF.items():
        wordings = (
            f"What color is {thing}?",
            f"Which color is {thing}?",
            f"Tell me the color of {thing}.",
            f"Do you know the color of {thing}?",
        )
        yield _fact("simple", f"the color of {thing} is {color}.", color, wordings)
    for animal, sound in SOUNDS.items():
        wordings = (
            f"Which animal says {sound}?",
            f"What animal says {sound}?",
            f"Tell me which animal says {sound}.",
            f"Do you know which animal says {sound}?",
        )
        yield _fact("simple", f"that animal is a {animal}.", animal, wordings)
    for animal, baby in BABIES.items():
        wordings = (
            f"What is a baby {animal} called?",
            f"What do you call a baby {animal}?",
            f"Tell me the word for a baby {animal}.",
            f"What is the name of a baby {animal}?",
        )
        yield _fact("simple", f"a baby {animal} is called a {baby}.", baby, wordings)
    for animal, count in LEGS.items():
        wordings = (
            f"How many legs does a {animal} have?",
            f"How many legs are there on a {animal}?",
            f"Tell me how many legs a {animal} has.",
            f"Do you know how many legs a {animal} has?",
        )
        yield _fact("simple", f"a {animal} has {count} legs.", f"{count} legs", wordings)
    for animals, (verb, product) in MAKERS.items():
        wordings = (
            f"What do {animals} {verb}?",
            f"Tell me what {animals} {verb}.",
            f"Do you know what {animals} {verb}?",
            f"What is it that {animals} {verb}?",
        )
        yield _fact("simple", f"most {animals} {verb} {product}.", product, wordings)
    for animals, home in HOMES.items():
        wordings = (
            f"Where do {animals} live?",
            f"Tell me where {animals} live.",
            f"Do you know where {animals} live?",
            f"In what place do {animals} live?",
        )
        yield _fact("simple", f"most {animals} live {home}.", home, wordings)
    for activity, place in PLACES_FOR.items():
        wordings = (
            f"Where can I {activity}?",
            f"Tell me where I can {activity}.",
            f"Where do people {activity}?",
            f"Where should I go to {activity}?",
        )
        yield _fact("simple", f"you can {activity} {place}.", place, wordings)


def _greeting_facts():
    for answer, wordings in GREETINGS.items():
        yield _fact("greetings", answer, answer.rstrip("."), wordings.split("|"))


@cache
def all_facts() -> tuple[Fact, ...]:
    """Every fact of the domain, family by family."""
    families = (
        _arithmetic_facts,
        _calendar_facts,
        _capital_facts,
        _opposite_facts,
        _clock_facts,
        _simple_facts,
        _greeting_facts,
    )
    return tuple(fact for family in families for fact in family())


@cache
def all_questions() -> tuple[Question, ...]:
    """Every (fact, wording) pair, a tenth of them held out; each fact keeps at least three wordings for training."""
    pairs = [(fact, text) for fact in all_facts() for text in fact.wordings]
    spare = {fact: len(fact.wordings) - MIN_TRAINING_WORDINGS for fact in all_facts()}
    wanted = round(HELD_OUT_SHARE * len(pairs))
    held_out = set()
    for fact, text in sorted(pairs, key=lambda pair: stable_hash("question", pair[1])):
        if len(held_out) < wanted and spare[fact] > 0:
            spare[fact] -= 1
            held_out.add(text)
    return tuple(Question(fact, text, "test" if text in held_out else "train") for fact, text in pairs)


def _fill(template: str, rng: random.Random) -> str:
    """One sentence of `template`: a slot takes a word of its list, `{slot2}` another one than `{slot}`."""
    chosen: dict[str, str] = {}

    def fill_slot(match: re.Match) -> str:
        if match[1] not in VOCABULARY:
            raise ValueError(
                f"The pattern {template!r} has the slot {match[0]}, but there is no list of words {match[1]!r}: add it to "
                "VOCABULARY in training/corpus/sentences.py."
            )
        words = VOCABULARY[match[1]]
        options = [word for word in words.split("," if "," in words else None) if word not in chosen.values()]
        chosen[match[0]] = rng.choice(options)
        return chosen[match[0]]

    text = re.sub(r"\{(\w+?)\d?\}", fill_slot, template)
    return _capitalized(re.sub(r"\b([Aa]) (?=[aeiou])", r"\1n ", text))


def _draw(templates: tuple[str, ...], rng: random.Random, number: int, taken: set[str]) -> list[str]:
    """`number` distinct sentences that are not `taken`, the templates in turn; fewer where these have no more."""
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
    """`NUM_SIMPLE_SENTENCES` distinct simple sentences, then those of `more_templates`; of each group a tenth held out."""
    taken = {question.text for question in all_questions()} | {fact.answer for fact in all_facts()}
    groups = [_draw(TEMPLATES, random.Random("vita-audio sentences"), NUM_SIMPLE_SENTENCES, taken)]
    for template in more_templates:
        taken.update(groups[-1])
        groups.append(_draw((template,), random.Random(template), SENTENCES_PER_TEMPLATE, taken))
    sentences = []
    for texts in groups:
        ranked = sorted(texts, key=lambda text: stable_hash("sentence", text))
        held_out = set(ranked[: round(HELD_OUT_SHARE * len(ranked))])
        sentences += [Sentence(text, "test" if text in held_out else "train") for text in texts]
    return tuple(sentences)
