# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Streams of the shipped model for as long as one likes, many of them cut off: do they cost memory, threads or open
files, does a reader wait for ever, is what is heard the whole answer? `python tests/soak/streams.py --minutes 60
--output streams.json`
"""

import argparse
import ctypes
import faulthandler
import gc
import itertools
import json
import os
import random
import statistics
import sys
import threading
import time
from pathlib import Path

import numpy as np
import soundfile
from transformers import pipeline

from modeling_vita_audio import MCTP_MODES


MINI = Path(__file__).parents[2] / "pretrained" / "vita-audio-mini"
MAX_WAIT = 20
# How streams end, with how many in a hundred: a fifth is cut off
WAYS = {"whole": 75, "cancel": 8, "drop": 6, "unread": 6, "error": 5}


class Broken(Exception):
    """What the language model of a stream that ends by an error raises."""


def random_question(draw: random.Random, samples: np.ndarray, sampling_rate: int) -> dict:
    """The sample question in part, louder or softer, under noise, faster or slower."""
    length = draw.randint(sampling_rate // 3, len(samples))
    start = draw.randint(0, len(samples) - length)
    noise = np.random.default_rng(draw.getrandbits(32)).standard_normal(length)
    samples = draw.uniform(0.1, 1) * samples[start : start + length] + 10 ** draw.uniform(-4, -1) * noise
    rate = draw.choice([sampling_rate, 8000, 22050, 44100])
    return {"array": samples.clip(-1, 1).astype(np.float32), "sampling_rate": rate}


def random_options(draw: random.Random) -> dict:
    """Keywords of `generate`."""
    options = {
        "mctp_mode": draw.choice(list(MCTP_MODES)),
        "mctp_verify": draw.random() < 0.5,
        "max_new_tokens": draw.randint(1, 256),
    }
    if draw.random() < 0.3:
        options |= {"do_sample": True, "temperature": draw.uniform(0.3, 1.5), "top_k": draw.choice([0, 5, 50])}
    return options


class Listening:
    """A stream with one to four readers, and what ends it."""

    def __init__(self, draw: random.Random, question: dict):
        self.question = question
        self.options = random_options(draw)
        self.chunking = {"codes_per_chunk": draw.randint(1, 16), "max_queued_chunks": draw.choice([1, 2, 4, 16])}
        (self.way,) = draw.choices(list(WAYS), WAYS.values())
        self.num_readers = 0 if self.way == "unread" else draw.randint(1, 4)
        self.num_chunks = draw.randint(0, 8) if self.way == "drop" else None
        self.pause = draw.choice([0, 0, 0, 0.03])
        self.cut_off = None
        if self.way in ("cancel", "unread"):
            self.cut_off = draw.choice(["cancel", "close"] + ["drop"] * (self.way == "unread"))
        self.seconds_to_cut = draw.uniform(0, 0.8)
        self.token_of_error = draw.randint(0, 30)
        self.is_compared = self.way == "whole" and "do_sample" not in self.options and draw.random() < 0.3
        self.chunks, self.errors = [], []
        self.threads = []
        self.last_progress = time.monotonic()

    def __str__(self):
        return f"{self.way} {self.cut_off or ''} {self.num_readers} readers {self.options} {self.chunking}"

    def start(self, pipe):
        options = dict(self.options)
        if self.way == "error":
            options["logits_processor"] = [self.fall_over]
        stream = pipe.stream(self.question, **self.chunking, **options)
        self.threads = [
            threading.Thread(target=self.read, args=(stream,), daemon=True) for _ in range(self.num_readers)
        ]
        if self.cut_off:
            self.threads.append(threading.Thread(target=self.cut, args=(stream,), daemon=True))
        for thread in self.threads:
            thread.start()

    def fall_over(self, input_ids, scores):
        self.token_of_error -= 1
        if self.token_of_error < 0:
            raise Broken()
        return scores

    def read(self, stream):
        try:
            for chunk in itertools.islice(stream, self.num_chunks):
                self.chunks.append(chunk)
                self.last_progress = time.monotonic()
                time.sleep(self.pause)
        except Exception as error:
            self.errors.append(error)

    def cut(self, stream):
        time.sleep(self.seconds_to_cut)
        self.last_progress = time.monotonic()
        if self.cut_off != "drop":
            getattr(stream, self.cut_off)()

    def waits_for_ever(self) -> bool:
        """Waits until all its own threads have ended, which must not come to a standstill."""
        while running := [thread for thread in self.threads if thread.is_alive()]:
            if time.monotonic() - self.last_progress > MAX_WAIT:
                return True
            running[0].join(0.05)
        return False

    def fault(self, pipe) -> str | None:
        """What is wrong with what was heard."""
        if self.way == "error":
            # a short answer may be over before
            expected = [Broken] if self.token_of_error < 0 else []
        else:
            expected = []
        if [type(error) for error in self.errors] != expected:
            return f"the readers got the errors {self.errors!r}"
        if not self.is_compared:
            return None
        answer = pipe(self.question, **self.options)
        text = "".join(chunk.get("text", "") for chunk in self.chunks)
        audio = np.concatenate(
            [np.zeros(0, np.float32)] + [chunk["audio"] for chunk in self.chunks if "audio" in chunk]
        )
        # several readers share the pieces, in an order that nobody knows
        in_order = (lambda piece: piece) if self.num_readers == 1 else sorted
        if in_order(text) != in_order(answer["text"]):
            return f"the text is {text!r}, not {answer['text']!r}"
        if not np.array_equal(in_order(audio), in_order(answer["audio"])):
            return f"the {len(audio)} samples are not the {len(answer['audio'])} of the answer"
        return None


def usage() -> dict:
    """
    Memory in MB, threads and open files of this process. What is not in use any more does not count, nor do mapped
    files.
    """
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    pages, shared_pages = map(int, Path("/proc/self/statm").read_text().split()[1:3])
    return {
        "rss_mb": (pages - shared_pages) * os.sysconf("SC_PAGE_SIZE") / 1e6,
        "threads": len(os.listdir("/proc/self/task")),
        "files": len(os.listdir("/proc/self/fd")),
    }


def summary(samples: list[dict]) -> dict:
    # the system counts a thread for a moment after its end
    functions = {"seconds": statistics.median, "rss_mb": statistics.median, "threads": min, "files": min}
    return {name: function([sample[name] for sample in samples]) for name, function in functions.items()}


def listen(minutes: float, seed: int, max_growth: float) -> dict:
    """The report, with the faults found in `"faults"`."""
    pipe = pipeline("audio-to-audio", model=str(MINI), trust_remote_code=True)
    sample, sampling_rate = soundfile.read(MINI / "sample_question.wav", dtype="float32")
    pipe(str(MINI / "sample_question.wav"))
    draw = random.Random(seed)
    ways, faults, samples = dict.fromkeys(WAYS, 0), [], [{"seconds": 0, **usage()}]
    num_readers, num_compared, num_chunks, next_line = 0, 0, 0, 60
    num_threads = threading.active_count()
    start = time.monotonic()
    while (seconds := time.monotonic() - start) < 60 * minutes and len(faults) < 20:
        # up to three answers at once
        together = [Listening(draw, random_question(draw, sample, sampling_rate)) for _ in range(draw.randint(1, 3))]
        for listening in together:
            listening.start(pipe)
        for listening in together:
            if listening.waits_for_ever():
                faulthandler.dump_traceback()
                faults.append(f"{listening}: a reader waited for {MAX_WAIT} s")
            elif fault := listening.fault(pipe):
                faults.append(f"{listening}: {fault}")
            ways[listening.way] += 1
            num_readers += listening.num_readers
            num_chunks += len(listening.chunks)
            num_compared += listening.is_compared
        end = time.monotonic() + MAX_WAIT
        while threading.active_count() > num_threads and time.monotonic() < end:
            time.sleep(0.01)
        if threading.active_count() > num_threads:
            faulthandler.dump_traceback()
            faults.append(f"threads go on after {'; '.join(map(str, together))}")
            num_threads = threading.active_count()
        samples.append({"seconds": seconds, **usage()})
        if seconds > next_line:
            next_line += 60
            print(f"{seconds / 60:.0f} min, {ways}, {samples[-1]}, {len(faults)} faults", flush=True)
    time.sleep(1)
    samples.append({"seconds": time.monotonic() - start, **usage()})
    # the first fifth is for warming up
    flat = [sample for sample in samples[:-2] if sample["seconds"] > 12 * minutes] + samples[-2:]
    tenth = max(1, len(flat) // 10)
    warm, end = summary(flat[:tenth]), summary(flat[-tenth:])
    slope = statistics.linear_regression([s["seconds"] for s in flat], [s["rss_mb"] for s in flat]).slope
    growth = max(end["rss_mb"] - warm["rss_mb"], slope * (flat[-1]["seconds"] - flat[0]["seconds"]))
    if growth > max_growth:
        faults.append(f"memory grew by {growth:.0f} MB after the warm-up")
    for name in ("threads", "files"):
        if end[name] > warm[name]:
            faults.append(f"{name}: {warm[name]} after the warm-up, {end[name]} at the end")
    return {
        "minutes": minutes,
        "seed": seed,
        "streams": sum(ways.values()),
        "cut_off": ways["cancel"] + ways["drop"] + ways["unread"],
        "ways": ways,
        "readers": num_readers,
        "chunks": num_chunks,
        "compared": num_compared,
        "start": samples[0],
        "warm": warm,
        "end": end,
        "rss_mb_an_hour": slope * 3600,
        "faults": faults,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    # by default one answer's cache kept in twenty streams would be more in an hour
    parser.add_argument("--max_growth", type=float, default=64, help="of memory after the warm-up, in MB")
    parser.add_argument("--output", type=Path, help="for the report, as JSON; it is printed anyway")
    arguments = parser.parse_args()
    report = json.dumps(listen(arguments.minutes, arguments.seed, arguments.max_growth), indent=2)
    print(report)
    if arguments.output:
        arguments.output.write_text(report + "\n")
    sys.exit(bool(json.loads(report)["faults"]))


if __name__ == "__main__":
    main()
