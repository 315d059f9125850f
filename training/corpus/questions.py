# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What the corpus asks and answers: families of facts in several wordings, and which of the wordings are held out.

A new family is one function here with `@register_family`: the clips, the conversations of all tasks, the splits and
the evaluation follow.

Everything is a pure function of the tables below, so two machines get the same texts and the same splits. Numbers are
written as words. The wordings avoid what a small recogniser persistently misreads: it hears "the capital of France is
Paris" as "Francis Paris", but not "Paris is the capital of France".
"""

import hashlib
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass


HELD_OUT_SHARE = 0.1
MIN_TRAINING_WORDINGS = 3
# How many training voices ask a question. Names of countries and opposites occur in no other questions, so more voices
# say them; sums are so many that each number is heard often enough from few.
VOICES, RARE_WORD_VOICES, SUM_VOICES, UNKNOWN_VOICES = 4, 7, 3, 3
# The families that the shipped model was trained on share one draw of what is held out, so a change in one of them can
# change the splits of all. Every other family has a draw of its own, and leaves these as they are.
SHIPPED_FAMILIES = ("arithmetic", "calendar", "capitals", "opposites", "clock", "simple", "greetings")

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
# No word occurs twice, so each has one opposite.
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
    "Good afternoon to you.": "Good afternoon.|Good afternoon, Luke.|A very good afternoon.|"
    "Good afternoon, my friend.",
    "Good evening to you.": "Good evening.|Good evening, Luke.|A very good evening.|Good evening, my friend.",
    "Good night and sleep well.": "Good night.|Good night, Luke.|I am going to bed.|Good night, my friend.",
    "I am fine, thank you.": "How are you?|How are you today?|How do you feel?|Are you well?|How are you doing?",
    "My name is Luke.": "What is your name?|Who are you?|Tell me your name.|What are you called?|"
    "May I know your name?",
    "You are very welcome.": "Thank you.|Thank you very much.|Thanks a lot.|Many thanks.|I want to thank you.",
    "Goodbye, see you soon.": "Goodbye.|Goodbye, Luke.|See you later.|I have to go now.|See you soon, Luke.",
    "Yes, I can hear you well.": "Can you hear me?|Do you hear me?|Are you listening?|Can you hear my voice?",
    "Yes, I will help you.": "Can you help me?|Please help me.|I need your help.|Will you help me?",
    "I am happy to meet you too.": "Nice to meet you.|I am happy to meet you.|Pleased to meet you.|"
    "It is good to meet you.",
    "I can answer your questions.": "What can you do?|Tell me what you can do.|How can you help me?|"
    "What are you good at?",
    "I am a small computer program.": "What are you?|Are you a robot?|Are you a human?|Tell me what you are.",
    "That is all right.": "I am sorry.|I am very sorry.|Sorry about that.|Please forgive me.",
    "Happy birthday to you.": "It is my birthday.|Today is my birthday.|My birthday is today.|"
    "I have a birthday today.",
}


# What the model cannot know, and says so instead of guessing. `{}` takes each of the things behind the bar in turn.
UNKNOWN_ANSWER = "I don't know that."
UNKNOWN_QUESTIONS = (
    "Who won the {} yesterday? | match, race, game, election, prize, lottery, fight, cup",
    "What is the price of {}? | gold, silver, milk, a house, a car, a ticket, oil, sugar, this book, that coat",
    "How much does {} cost? | a bicycle, a new phone, the ticket, a cup of coffee, a good camera, the hotel",
    "Who is the president of {}? | France, Mexico, Finland, the company, the club, the bank, Brazil, Egypt, Poland",
    "Who wrote {}? | this book, that song, the letter, Hamlet, the first novel, the report, this poem, the Bible",
    "Who painted {}? | this picture, the ceiling, the Mona Lisa, that wall, the portrait",
    "Who invented {}? | the telephone, the wheel, the computer, the radio, the steam engine, paper, glass, the clock",
    "When was {} born? | Mozart, Napoleon, Shakespeare, my father, your boss, the queen, Einstein, the actor",
    "Where is {}? | my key, the nearest bank, my brother, the train station, the next hotel, my phone",
    "How old is {}? | the king, my teacher, this tree, the universe, your father, that castle, the earth, the moon",
    "How far is it to {}? | the moon, the sea, Berlin, the airport, the next town, the sun, the border, the hospital",
    "How many people live in {}? | Paris, China, this city, Canada, London, the village, Africa, your street, Tokyo",
    "How tall is {}? | the tower, Mount Everest, my sister, that building, the tallest man, a giraffe, the church",
    "How deep is {}? | the ocean, the lake, this river, the well, the pool",
    "What will the weather be like {}? | tomorrow, next week, on Sunday, in Rome, this evening, in the mountains",
    "What did {} say? | the doctor, the president, my wife, the radio, the teacher, your mother, the judge",
    "What is the meaning of {}? | life, this word, that sign, my dream, love, the symbol, the title",
    "What does {} mean? | democracy, this word, philosophy, gravity, that noise, entropy, inflation, irony",
    "Why is {}? | the sea salty, the sky so high, ice so cold, the road closed, the shop shut, he angry",
    "Why do {}? | people dream, cats purr, leaves fall, stars shine, we sleep, birds sing, prices rise",
    "How does {} work? | a radio, an engine, a computer, the heart, a battery, the internet, a microwave, a telescope",
    "How do I {}? | bake bread, fix my car, learn French, tie a knot, lose weight, write a novel, repair a watch",
    "Which {} is the best? | phone, restaurant, team, hotel, school, camera, doctor, song, road",
    "Who is {}? | that man, my neighbor, the tall woman, the new teacher, the best singer, the boss, your maker",
    "What is {}? | the square root of two, my password, the speed of light, your address, the number of the police, "
    "a black hole, quantum physics, the largest ocean, the longest river, my name, the news",
    "Tell me {}. | the news, a joke, a secret, about the war, the score of the game, about your family, a story, "
    "the number of my room, how to get rich, who called me",
    "Can you explain {}? | the theory of relativity, the rules of chess, how money works, the stock market",
    "What should I {}? | wear today, cook for dinner, buy for my wife, read next, study, do with my life",
    "When does {}? | the shop open, the next bus come, school begin, the movie start, the museum close",
    "When did {}? | the war end, Columbus sail, he call, the train leave, the Romans come, dinosaurs live, she arrive",
    "What happened {}? | last night, in the year nineteen hundred, at the meeting, to my dog, in Japan, on the moon",
    "Did {}? | my brother call, it rain in Chicago, the package arrive, our team win, she pass the exam, he find it",
    "Is {}? | it raining outside, the bank open, my mother at home, there life on Mars, the boss angry, the road safe",
    "Who {}? | called me, is at the door, lives next door, discovered America, built the pyramids, broke the window, "
    "sings that song, took my umbrella, scored the goal, founded the company",
    "What kind of {}? | music does he like, tree is that, car is this, engine does it need, wine goes with fish",
    "How long {}? | does the flight take, is the river, will it rain, does an egg cook, do turtles live",
)


@dataclass(frozen=True)
class Fact:
    """
    One thing that can be asked.

    Args:
        family: what kind of thing it is.
        answer: the one spoken reply, a sentence.
        gold: the point of the answer, which must be in a right reply.
        wordings: the questions; of four or more, some are held out.
        accepted: what is as right as `gold`.
        num_voices: how many training voices ask each wording.
    """

    family: str
    answer: str
    gold: str
    wordings: tuple[str, ...]
    accepted: tuple[str, ...] = ()
    num_voices: int = VOICES


@dataclass(frozen=True)
class Question:
    """A fact and one of its wordings; `split` is "train" or "test"."""

    fact: Fact
    text: str
    split: str


FAMILIES: dict[str, Callable[[], Iterable[Fact]]] = {}


def register_family(function: Callable[[], Iterable[Fact]]) -> Callable[[], Iterable[Fact]]:
    """Makes the facts that a function yields a part of the corpus, under the function's name."""
    FAMILIES[function.__name__] = function
    return function


def stable_hash(*parts: str) -> int:
    """A 64-bit hash that is the same in every process and on every machine."""
    # Python's own `hash` of a text is another one in each process. The separator is in no text, so ("ab", "c") and
    # ("a", "bc") have different hashes.
    return int.from_bytes(hashlib.sha256("\x1f".join(parts).encode()).digest()[:8], "big")


def capitalized(text: str) -> str:
    return text[0].upper() + text[1:]


def make_fact(
    family: str,
    answer: str,
    gold: str,
    wordings: Iterable[str],
    accepted: tuple[str, ...] = (),
    num_voices: int = VOICES,
) -> Fact:
    """A [`Fact`] whose answer and wordings begin with a capital, whose `gold` is in lower case."""
    return Fact(family, capitalized(answer), gold.lower(), tuple(map(capitalized, wordings)), accepted, num_voices)


@register_family
def arithmetic() -> Iterator[Fact]:
    for i, a in enumerate(NUMBERS):
        for j, b in enumerate(NUMBERS):
            # Sums and differences stay among the numbers that have a word above.
            if i + j < len(NUMBERS):
                total = NUMBERS[i + j]
                wordings = (
                    f"What is {a} plus {b}?",
                    f"How much is {a} plus {b}?",
                    f"What do you get when you add {a} and {b}?",
                    f"Tell me the sum of {a} and {b}.",
                )
                answer = f"the sum of {a} and {b} is {total}."
                yield make_fact("sums", answer, total, wordings, num_voices=SUM_VOICES)
            if j <= i:
                rest = NUMBERS[i - j]
                wordings = (
                    f"What is {a} minus {b}?",
                    f"How much is {a} minus {b}?",
                    f"What is left when you take {b} from {a}?",
                    f"Tell me the difference between {a} and {b}.",
                )
                yield make_fact(
                    "differences", f"the difference of {a} and {b} is {rest}.", rest, wordings, num_voices=SUM_VOICES
                )


@register_family
def calendar() -> Iterator[Fact]:
    for family, unit, names in (("months", "month", MONTHS), ("days", "day", DAYS)):
        for i, name in enumerate(names):
            for direction, other in (("after", names[(i + 1) % len(names)]), ("before", names[i - 1])):
                wordings = (
                    f"Which {unit} comes {direction} {name}?",
                    f"What {unit} comes right {direction} {name}?",
                    f"What is the {unit} {direction} {name}?",
                    f"Tell me the {unit} {direction} {name}.",
                )
                yield make_fact(family, f"{other} comes {direction} {name}.", other, wordings)


@register_family
def capitals() -> Iterator[Fact]:
    for country, city in CAPITALS.items():
        wordings = (
            f"What is the capital of {country}?",
            f"Which city is the capital of {country}?",
            f"Tell me the capital of {country}.",
            f"Do you know the capital of {country}?",
        )
        yield make_fact(
            "capitals", f"{city} is the capital of {country}.", city, wordings, num_voices=RARE_WORD_VOICES
        )


@register_family
def opposites() -> Iterator[Fact]:
    for pair in OPPOSITES.split(", "):
        one, other = pair.split()
        for word, opposite in ((one, other), (other, one)):
            wordings = (
                f"What is the opposite of {word}?",
                f"Which word is the opposite of {word}?",
                f"Tell me the opposite of {word}.",
                f"Do you know the opposite of {word}?",
            )
            yield make_fact(
                "opposites", f"the opposite is {opposite}.", opposite, wordings, num_voices=RARE_WORD_VOICES
            )


@register_family
def clock() -> Iterator[Fact]:
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
            # A recogniser may write 3:30, which the normalizer reads as "three thirty".
            accepted = (f"{hour} thirty",) if gold.startswith("half") else ()
            yield make_fact("clock", f"the time is {gold}.", gold, wordings, accepted)


@register_family
def simple() -> Iterator[Fact]:
    for thing, color in COLORS_OF.items():
        wordings = (
            f"What color is {thing}?",
            f"Which color is {thing}?",
            f"Tell me the color of {thing}.",
            f"Do you know the color of {thing}?",
        )
        yield make_fact("simple", f"the color of {thing} is {color}.", color, wordings)
    for animal, sound in SOUNDS.items():
        wordings = (
            f"Which animal says {sound}?",
            f"What animal says {sound}?",
            f"Tell me which animal says {sound}.",
            f"Do you know which animal says {sound}?",
        )
        yield make_fact("simple", f"that animal is a {animal}.", animal, wordings)
    for animal, baby in BABIES.items():
        wordings = (
            f"What is a baby {animal} called?",
            f"What do you call a baby {animal}?",
            f"Tell me the word for a baby {animal}.",
            f"What is the name of a baby {animal}?",
        )
        yield make_fact("simple", f"a baby {animal} is called a {baby}.", baby, wordings)
    for animal, count in LEGS.items():
        wordings = (
            f"How many legs does a {animal} have?",
            f"How many legs are there on a {animal}?",
            f"Tell me how many legs a {animal} has.",
            f"Do you know how many legs a {animal} has?",
        )
        yield make_fact("simple", f"a {animal} has {count} legs.", f"{count} legs", wordings)
    for animals, (verb, product) in MAKERS.items():
        wordings = (
            f"What do {animals} {verb}?",
            f"Tell me what {animals} {verb}.",
            f"Do you know what {animals} {verb}?",
            f"What is it that {animals} {verb}?",
        )
        yield make_fact("simple", f"most {animals} {verb} {product}.", product, wordings)
    for animals, home in HOMES.items():
        wordings = (
            f"Where do {animals} live?",
            f"Tell me where {animals} live.",
            f"Do you know where {animals} live?",
            f"In what place do {animals} live?",
        )
        yield make_fact("simple", f"most {animals} live {home}.", home, wordings)
    for activity, place in PLACES_FOR.items():
        wordings = (
            f"Where can I {activity}?",
            f"Tell me where I can {activity}.",
            f"Where do people {activity}?",
            f"Where should I go to {activity}?",
        )
        yield make_fact("simple", f"you can {activity} {place}.", place, wordings)


@register_family
def greetings() -> Iterator[Fact]:
    for answer, wordings in GREETINGS.items():
        yield make_fact("greetings", answer, answer.rstrip("."), tuple(wordings.split("|")))


@register_family
def unknown() -> Iterator[Fact]:
    wordings = []
    for line in UNKNOWN_QUESTIONS:
        template, things = line.split(" | ")
        wordings += [template.format(thing) for thing in things.split(", ")]
    yield make_fact(
        "unknown",
        UNKNOWN_ANSWER,
        UNKNOWN_ANSWER.rstrip("."),
        wordings,
        ("i do not know that",),
        num_voices=UNKNOWN_VOICES,
    )


def facts_by_draw() -> list[list[Fact]]:
    """All facts, in groups whose wordings are held out in one draw: the shipped families, then each other family."""
    shipped = [fact for name in SHIPPED_FAMILIES for fact in FAMILIES[name]()]
    return [shipped, *(list(facts()) for name, facts in FAMILIES.items() if name not in SHIPPED_FAMILIES)]


def all_facts() -> list[Fact]:
    """Every fact of the domain, family by family."""
    return [fact for facts in facts_by_draw() for fact in facts]


def all_questions() -> list[Question]:
    """Every wording of every fact. A tenth of each draw is held out; each fact keeps three wordings for training."""
    questions = []
    for facts in facts_by_draw():
        pairs = [(fact, text) for fact in facts for text in fact.wordings]
        spare = {fact: len(fact.wordings) - MIN_TRAINING_WORDINGS for fact in facts}
        wanted = round(HELD_OUT_SHARE * len(pairs))
        held_out = set()
        # The order of hashes is a shuffle that is the same everywhere.
        for fact, text in sorted(pairs, key=lambda pair: stable_hash("question", pair[1])):
            if len(held_out) < wanted and spare[fact] > 0:
                spare[fact] -= 1
                held_out.add(text)
        questions += [Question(fact, text, "test" if text in held_out else "train") for fact, text in pairs]
    return questions
