# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
People who talk to `vita-audio serve` as long as one likes, many of whom interrupt it, vanish, send garbage or do not
read: does the server keep memory, threads, sockets or files of them, and does it go on answering all others?
`python tests/soak/sessions.py --minutes 60 --output sessions.json`

The minutes are of audio, of both sides. What people say, and their silence, is sent faster than it would be spoken.
"""

import argparse
import asyncio
import base64
import collections
import contextlib
import json
import os
import random
import re
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import httpx
import numpy as np
import soundfile
import soxr
from websockets.asyncio.client import connect
from websockets.exceptions import ConnectionClosed


ROOT = Path(__file__).parents[2]
MINI = ROOT / "pretrained" / "vita-audio-mini"
ANSWER = "The sum of seven and six is thirteen."
# What the shipped model takes long to answer, so that there is time to interrupt it
LONG = "The sum of one and two is three. The sum of two and three is five. The sum of three and four is seven."
# Rate of the audio of the Realtime protocol, in Hz
RATE = 24000
# How long an event may be waited for, in seconds, and how long until all that sessions have used is free
MAX_WAIT, MAX_REST = 60, 15
# How many sessions there are at once
SESSIONS_AT_ONCE = 8
# Of the rounds, those in which caches and pools of threads fill up
WARM_UP = 0.3
# How many rounds after them say what a session leaves behind
MIN_ROUNDS = 8
# What a session may leave behind for good, of which the text of a spoken answer, kept for an hour, is some hundred
# bytes; and objects of Python that a garbage collector has to look at. One object in two sessions is a leak.
MAX_BYTES_A_SESSION, MAX_OBJECTS_A_SESSION = 1024, 0.5

# `python -m serving.cli serve` which, when it gets a signal, throws away what is not in use any more and says how much
# is left: from outside neither rubbish that waits for the garbage collector nor free memory that the allocator
# keeps looks other than a leak.
SERVE = """
import ctypes, gc, json, os, runpy, signal, sys

class MallInfo(ctypes.Structure):
    _fields_ = [(name, ctypes.c_size_t) for name in
        "arena ordblks smblks hblks hblkhd usmblks fsmblks uordblks fordblks keepcost".split()]

def tidy(*_):
    libc = ctypes.CDLL(None)
    libc.mallinfo2.restype = MallInfo
    # what has a finalizer may need a second time
    gc.collect(), gc.collect()
    libc.malloc_trim(0)
    info = libc.mallinfo2()
    objects = gc.get_objects()
    tensors = [x for x in objects if type(x) is sys.modules["torch"].Tensor]
    storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors}
    num_bytes = sum(storages.values())
    usage = {"tensor_bytes": num_bytes, "other_bytes": info.uordblks + info.hblkhd - num_bytes,
        "objects": len(objects) - len(tensors), "blocks": sys.getallocatedblocks()}
    with open(os.environ["USAGE_FILE"] + ".new", "w") as file:
        json.dump(usage, file)
    os.replace(file.name, os.environ["USAGE_FILE"])

signal.signal(signal.SIGUSR1, tidy)
runpy.run_module("serving.cli", run_name="__main__", alter_sys=True)
"""


# PyTorch and oneDNN keep what they have compiled for 1024 shapes each, and MKL its buffers. This takes some 500 MB,
# grows for hundreds of sessions and hides all else.
SMALL_CACHES = {"LRU_CACHE_CAPACITY": "1", "ONEDNN_PRIMITIVE_CACHE_CAPACITY": "0", "MKL_DISABLE_FAST_MM": "1"}


class Fault(Exception):
    """The server has not done what it should."""


class ServerProcess:
    """The server, and what can be seen of it from outside."""

    def __init__(self, folder: Path):
        self.usage_file, self.log_file = folder / "usage.json", folder / "log.txt"
        environment = os.environ | {"PYTHONPATH": str(ROOT), "USAGE_FILE": str(self.usage_file)} | SMALL_CACHES
        command = [sys.executable, "-c", SERVE, "serve", "--model", str(MINI), "--port", "0"]
        with open(self.log_file, "w") as log:
            self.process = subprocess.Popen(
                command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=log, text=True
            )
        line = self.process.stdout.readline()
        if not line:
            raise Fault(f"the server did not start: {self.log_file.read_text()[-2000:]}")
        self.url = re.search(r"Talk: (http://\S+)/ ", line)[1]
        self.port = int(self.url.rpartition(":")[2])

    def metrics(self) -> dict[str, float]:
        """What it counts, by name and labels."""
        # this closes the connection
        text = urllib.request.urlopen(f"{self.url}/metrics", timeout=MAX_WAIT).read().decode()
        lines = [line.rpartition(" ") for line in text.splitlines() if not line.startswith("#")]
        return {name.removeprefix("vita_audio_"): float(value) for name, _, value in lines}

    def handles(self) -> dict[str, int]:
        """Its threads, sockets and other open files."""
        process = Path("/proc", str(self.process.pid))
        targets = []
        for path in (process / "fd").iterdir():
            with contextlib.suppress(FileNotFoundError):
                targets.append(os.readlink(path))
        sockets = sum(target.startswith("socket:") for target in targets)
        threads = len(list((process / "task").iterdir()))
        return {"threads": threads, "sockets": sockets, "files": len(targets) - sockets}

    def memory(self) -> dict[str, float]:
        """
        Resident memory in MB: all, its share of it where others have the same files mapped, and what comes from no
        file, which does not depend on what else runs.
        """
        text = Path("/proc", str(self.process.pid), "smaps_rollup").read_text()
        kilobytes = {name: int(value) for name, value in re.findall(r"(\w+): +(\d+) kB", text)}
        return {
            name: kilobytes[key] * 1024 / 1e6
            for name, key in (("rss_mb", "Rss"), ("pss_mb", "Pss"), ("anonymous_mb", "Anonymous"))
        }

    def usage(self, least: dict[str, int] | None) -> dict:
        """
        All of these, and what is in use in it, when no session is left.

        Args:
            least (`dict`, *optional*): the handles to be waited for, because a connection's end takes a moment.

        Raises:
            Fault: the server believes for ever that somebody is there.
        """
        # The engine keeps what it has read for the latest request, so it is always the same one
        body = json.dumps({"model": "vita-audio-mini", "input": "One.", "response_format": "pcm"}).encode()
        request = urllib.request.Request(f"{self.url}/v1/audio/speech", body, {"Content-Type": "application/json"})
        urllib.request.urlopen(request, timeout=MAX_WAIT).read()
        end = time.monotonic() + MAX_REST
        while any((counts := self.metrics())[name] for name in ("sessions", "answers_running", "queue")):
            if time.monotonic() > end:
                counts = {name: counts[name] for name in ("sessions", "answers_running", "queue")}
                raise Fault(f"nobody is there any more, but the server counts {counts}")
            time.sleep(0.05)
        time.sleep(0.1)
        while least and self.handles()["sockets"] > least["sockets"] and time.monotonic() < end:
            time.sleep(0.05)
        untidied = self.memory()["anonymous_mb"]
        self.usage_file.unlink(missing_ok=True)
        self.process.send_signal(signal.SIGUSR1)
        end = time.monotonic() + MAX_WAIT
        while not self.usage_file.exists():
            if time.monotonic() > end or self.process.poll() is not None:
                raise Fault(f"the server does not react: {self.log_file.read_text()[-2000:]}")
            time.sleep(0.01)
        used = json.loads(self.usage_file.read_text())
        return used | self.memory() | {"untidied_anonymous_mb": untidied} | self.handles()

    def stop(self) -> str | None:
        """Ends it as a user does; returns what is wrong with its end and its log."""
        self.process.send_signal(signal.SIGINT)
        try:
            code = self.process.wait(MAX_WAIT)
        except subprocess.TimeoutExpired:
            self.process.kill()
            return "the server did not end"
        log = self.log_file.read_text()
        if code or "Traceback" in log or "ERROR" in log:
            return f"the server ended with {code} and its log has: {log[:3000]}"
        return None


class People:
    """What all sessions have in common: whom they call, what they say, and what was said in all."""

    def __init__(self, server: ServerProcess, seed: int):
        self.server, self.draw = server, random.Random(seed)
        samples, rate = soundfile.read(MINI / "sample_question.wav", dtype="float32")
        self.question = soxr.resample(samples, rate, RATE)
        self.file = (MINI / "sample_question.wav").read_bytes()
        self.seconds_sent = self.seconds_heard = 0.0

    def speech(self, is_plain: bool) -> np.ndarray:
        """The question, else softer, under noise or only a part of it."""
        if is_plain:
            return self.question
        samples = self.question[: self.draw.randint(RATE // 2, len(self.question))]
        noise = np.random.default_rng(self.draw.getrandbits(32)).standard_normal(len(samples)).astype(np.float32)
        return (self.draw.uniform(0.5, 1) * samples + 10 ** self.draw.uniform(-4, -2) * noise).clip(-1, 1)

    def silence(self, least: float, most: float) -> np.ndarray:
        return np.zeros(int(RATE * self.draw.uniform(least, most)), np.float32)


class Talker:
    """A client's connection to `/v1/realtime`. It checks that no answer is an error, and counts what is said."""

    def __init__(self, people: People, **options):
        self.people, self.draw = people, people.draw
        self.options = {"max_size": None, "proxy": None, "compression": None, **options}
        self.turns = 0

    async def __aenter__(self) -> "Talker":
        url = f"ws://127.0.0.1:{self.people.server.port}/v1/realtime"
        self.socket = await connect(url, **self.options)
        await self.until("session.created")
        return self

    async def __aexit__(self, *error):
        await self.socket.close()

    def vanish(self):
        """Is gone without a goodbye: with a reset of the connection, or its end."""
        transport = self.socket.transport
        if self.draw.random() < 0.5 and not transport.is_closing():
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        transport.abort()

    async def send(self, kind: str, **fields):
        await self.socket.send(json.dumps({"type": kind, **fields}))

    async def set(self, **audio_input):
        """Changes the session, with settings of what the server sends at random."""
        output = {"format": self.draw.choice([{"type": "audio/pcm", "rate": RATE}, {"type": "audio/pcmu"}])}
        self.is_pcm = output["format"]["type"] == "audio/pcm"
        mode = self.draw.choice([None, "vanilla", "balance", "boost", "turbo"])
        session = {"audio": {"input": audio_input, "output": output}, "vita_audio": {"mctp_mode": mode}}
        await self.send("session.update", session={"type": "realtime", **session})
        await self.until("session.updated")

    async def say(self, *sounds: np.ndarray, is_cut: bool = False):
        """Appends audio, faster than it is spoken."""
        samples = np.concatenate(sounds)
        content = np.rint(samples * 32767).astype("<i2").tobytes()
        step = 2 * int(RATE * self.draw.choice([0.02, 0.1, 0.1, 0.3]))
        if is_cut:
            content = content[: self.draw.randrange(2, len(content), 2)]
        for start in range(0, len(content), step):
            audio = base64.b64encode(content[start : start + step]).decode()
            await self.send("input_audio_buffer.append", audio=audio)
        self.people.seconds_sent += len(content) / 2 / RATE

    async def receive(self) -> dict:
        try:
            event = json.loads(await asyncio.wait_for(self.socket.recv(), MAX_WAIT))
        except TimeoutError:
            raise Fault(f"nothing came for {MAX_WAIT} s") from None
        if event["type"] == "response.output_audio.delta":
            num_bytes = len(base64.b64decode(event["delta"]))
            self.people.seconds_heard += num_bytes / (2 * RATE if self.is_pcm else 8000)
        return event

    is_pcm = True

    async def until(self, kind: str) -> dict:
        while (event := await self.receive())["type"] != kind:
            if event["type"] == "error":
                raise Fault(f"instead of {kind} came {event['error']}")
        return event

    async def turn(self, is_pushed: bool, is_plain: bool = False):
        """Asks aloud."""
        people = self.people
        if is_pushed:
            await self.say(people.speech(is_plain))
            await self.send("input_audio_buffer.commit")
            await self.send("response.create")
        else:
            await self.say(people.silence(0.3, 4), people.speech(is_plain), people.silence(1, 2))

    async def hear_out(self, is_plain: bool = False) -> dict:
        response = (await self.until("response.done"))["response"]
        texts = [part.get("transcript") for item in response["output"] for part in item["content"]]
        if response["status"] != "completed" or (is_plain and texts != [ANSWER]):
            raise Fault(f"the answer is {texts}, {response['status']}: {response['status_details']}")
        return response

    async def interrupt(self):
        """Speaks while the answer comes, and says how much of it was heard."""
        await self.until("response.output_audio.delta")
        people = self.people
        await self.say(people.silence(0, 0.3), people.speech(True), people.silence(1, 2))
        done = await self.until("response.done")
        item = done["response"]["output"][0] if done["response"]["output"] else None
        # the answer may have been faster
        if item is not None and done["response"]["status"] == "cancelled":
            await self.send("conversation.item.truncate", item_id=item["id"], content_index=0, audio_end_ms=80)


# What people do. A function that ends by an exception has found a fault.


async def hears_out(people: People):
    async with Talker(people) as talker:
        await talker.set(transcription=people.draw.choice([None, {"model": "whisper-1"}]))
        for turn in range(people.draw.randint(1, 3)):
            await talker.turn(is_pushed=False, is_plain=turn == 0)
            await talker.hear_out(is_plain=turn == 0)
            await talker.say(people.silence(0, 6))


async def pushes_to_talk(people: People):
    async with Talker(people) as talker:
        await talker.set(turn_detection=None)
        for turn in range(people.draw.randint(1, 3)):
            await talker.turn(is_pushed=True, is_plain=turn == 0)
            response = await talker.hear_out(is_plain=turn == 0)
            if people.draw.random() < 0.3:
                await talker.send("conversation.item.delete", item_id=response["output"][0]["id"])


async def interrupts(people: People):
    async with Talker(people) as talker:
        await talker.set()
        await talker.turn(is_pushed=False)
        for _ in range(people.draw.randint(1, 2)):
            await talker.interrupt()
        # what interrupts is answered as well, in part or to the end
        if people.draw.random() < 0.5:
            await talker.until("response.done")
        else:
            talker.vanish()


async def cancels(people: People):
    async with Talker(people) as talker:
        item = {"type": "message", "role": "user", "content": [{"type": "input_text", "text": LONG}]}
        await talker.send("conversation.item.create", item=item)
        await talker.send("response.create")
        await talker.until(people.draw.choice(["response.created", "response.output_audio.delta"]))
        await talker.send("response.cancel")
        if (await talker.until("response.done"))["response"]["status"] != "cancelled":
            raise Fault("an answer that was cancelled was written to its end")


async def vanishes_while_it_speaks(people: People):
    async with Talker(people) as talker:
        is_pushed = people.draw.random() < 0.5
        await talker.set(**({"turn_detection": None} if is_pushed else {}))
        await talker.say(people.silence(0, 1), people.speech(False), is_cut=True)
        await asyncio.sleep(people.draw.choice([0, 0, 0.05]))
        talker.vanish()


async def vanishes_while_it_is_answered(people: People):
    async with Talker(people) as talker:
        is_pushed = people.draw.random() < 0.5
        await talker.set(**({"turn_detection": None} if is_pushed else {}))
        await talker.turn(is_pushed)
        await talker.until("response.created")
        for _ in range(people.draw.randint(0, 8)):
            await talker.receive()
        talker.vanish()


async def vanishes_in_the_handshake(people: People):
    port = people.server.port
    request = (
        f"GET /v1/realtime HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    # in the middle of it, at once after it, when it was answered, or with what is no message behind it
    way = people.draw.randrange(4)
    writer.write(request[: people.draw.randrange(len(request))] if way == 0 else request)
    if way > 1:
        await asyncio.wait_for(reader.readuntil(b"\r\n\r\n"), MAX_WAIT)
    if way == 3:
        writer.write(people.draw.randbytes(200))
        await asyncio.wait_for(reader.read(), MAX_WAIT)
    await asyncio.sleep(people.draw.choice([0, 0.02]))
    writer.transport.abort()


async def sends_garbage(people: People):
    draw = people.draw
    garbage = ["{", "[]", '{"type": "no.such.event"}', b"\0\1", '{"type": "response.cancel"}', "x" * 100_000]
    garbage += ['{"type": "input_audio_buffer.append", "audio": "AAA"}', '{"type": "input_audio_buffer.commit"}']
    garbage += ['{"type": "conversation.item.truncate", "item_id": "a", "content_index": 0, "audio_end_ms": 1}']
    async with Talker(people) as talker:
        for message in draw.choices(garbage, k=draw.randint(1, 12)):
            await talker.socket.send(message)
            event = await talker.receive()
            if event["type"] != "error" or event["error"]["code"] == "server_error":
                raise Fault(f"{message!r:.100} was answered with {event}")
        if draw.random() < 0.5:
            await talker.turn(is_pushed=False, is_plain=True)
            await talker.hear_out()
        else:
            talker.vanish()


async def reads_slowly(people: People):
    narrow = socket.create_connection(("127.0.0.1", people.server.port))
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with Talker(people, sock=narrow, max_queue=1) as talker:
        await talker.turn(is_pushed=False)
        await talker.until("response.created")
        for _ in range(people.draw.randint(10, 60)):
            if (await talker.receive())["type"] == "response.done":
                break
            await asyncio.sleep(0.05)
        talker.vanish()


async def never_reads(people: People):
    """Asks for more than all buffers hold, and is closed for it."""
    narrow = socket.create_connection(("127.0.0.1", people.server.port))
    narrow.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    async with Talker(people, sock=narrow, max_queue=1) as talker:
        # each comes back twice
        content = [{"type": "input_text", "text": "a" * 50_000}]
        item = {"type": "message", "role": "user", "content": content}
        with contextlib.suppress(ConnectionClosed, TimeoutError):
            async with asyncio.timeout(MAX_WAIT):
                for _ in range(200):
                    await talker.send("conversation.item.create", item=item)
                await talker.socket.wait_closed()
        talker.vanish()


async def calls_over_http(people: People):
    """Asks one of the endpoints, and hears out or goes away in the middle of the answer."""
    draw, model = people.draw, {"model": "vita-audio-mini"}
    text = draw.choice([LONG, "The sum of seven and six is thirteen."])
    audio = {"data": base64.b64encode(people.file).decode(), "format": "wav"}
    messages = [{"role": "user", "content": [{"type": "input_audio", "input_audio": audio}]}]
    chat = model | {"messages": messages, "modalities": ["text", "audio"], "stream": draw.random() < 0.5}
    chat["audio"] = {"voice": "alloy", "format": "pcm16" if chat["stream"] else draw.choice(["wav", "mp3"])}
    speech = model | {"input": text, "voice": "alloy", "response_format": draw.choice(["pcm", "wav", "mp3", "flac"])}
    form = {"data": model | {"stream": "true"}, "files": {"file": ("question.wav", people.file)}}
    endpoint, options = draw.choice(
        [("chat/completions", {"json": chat}), ("audio/speech", {"json": speech}), ("audio/transcriptions", form)]
    )
    limit = draw.choice([None, 0, 1, 3])
    async with httpx.AsyncClient(trust_env=False, timeout=MAX_WAIT) as client:
        with contextlib.suppress(httpx.ReadTimeout) if limit == 0 else contextlib.nullcontext():
            # some are gone before a byte has come
            timeout = draw.uniform(0.01, 0.5) if limit == 0 else MAX_WAIT
            request = client.stream("POST", f"{people.server.url}/v1/{endpoint}", timeout=timeout, **options)
            async with request as response:
                if response.status_code != 200:
                    raise Fault(f"{endpoint} was answered with {response.status_code} {await response.aread()}")
                num_blocks = 0
                async for _ in response.aiter_bytes():
                    num_blocks += 1
                    if num_blocks == limit:
                        break


async def sends_half_a_body(people: People):
    _, writer = await asyncio.open_connection("127.0.0.1", people.server.port)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1:{people.server.port}\r\n"
    head += "Content-Type: application/json\r\nContent-Length: 1000000\r\n\r\n"
    writer.write(head.encode() + b"x" * people.draw.randrange(500_000))
    await asyncio.sleep(people.draw.choice([0, 0.05]))
    writer.transport.abort()


# With how many in a hundred
WAYS = {
    hears_out: 14,
    pushes_to_talk: 10,
    interrupts: 16,
    cancels: 6,
    vanishes_while_it_speaks: 12,
    vanishes_while_it_is_answered: 12,
    vanishes_in_the_handshake: 8,
    sends_garbage: 5,
    reads_slowly: 4,
    calls_over_http: 10,
    sends_half_a_body: 3,
}
# A round in so many has somebody who never reads, which takes half a minute until the server closes it
ROUNDS_WITH_A_DEAF = 12


def slope(samples: list[dict], name: str) -> tuple[float, float]:
    """What each session adds to a value, and the standard error of it."""
    x, y = ([sample[key] for sample in samples] for key in ("sessions", name))
    slope, intercept = statistics.linear_regression(x, y)
    squares = sum((b - slope * a - intercept) ** 2 for a, b in zip(x, y))
    mean = statistics.mean(x)
    return slope, (squares / max(1, len(x) - 2) / sum((a - mean) ** 2 for a in x)) ** 0.5


def judge(samples: list[dict], max_growth: float) -> tuple[dict, list[str]]:
    """The figures after the warm-up, and what is not flat in them."""
    flat = samples[min(int(WARM_UP * len(samples)), len(samples) - 3) :]
    faults, figures = [], {"rounds": len(flat), "sessions": flat[-1]["sessions"] - flat[0]["sessions"]}
    limits = {"other_bytes": MAX_BYTES_A_SESSION, "tensor_bytes": MAX_BYTES_A_SESSION}
    limits |= {"objects": MAX_OBJECTS_A_SESSION, "blocks": float("inf")}
    for name, limit in limits.items():
        each, error = slope(flat, name)
        figures[f"{name}_a_session"] = {"slope": round(each, 3), "standard_error": round(error, 3)}
        # with less certainty, or from a few rounds, it may be chance
        if each - 3 * error > limit and len(flat) >= MIN_ROUNDS:
            faults.append(f"each session leaves {each:.1f} (standard error {error:.1f}) {name}, more than {limit}")
    tenth = max(1, len(flat) // 10)
    first, last = flat[:tenth], flat[-tenth:]
    for name in ("anonymous_mb", "untidied_anonymous_mb"):
        growth = statistics.median(s[name] for s in last) - statistics.median(s[name] for s in first)
        figures[f"{name}_growth"] = round(growth, 2)
        if growth > max_growth:
            faults.append(f"{name} grew by {growth:.1f} after the warm-up")
    for name in ("threads", "sockets", "files"):
        # the system counts some for a moment after their end
        before, after = max(s[name] for s in first), min(s[name] for s in last)
        # asyncio's pool gets its threads when they are needed first
        most = samples[0][name] + min(32, (os.cpu_count() or 1) + 4) if name == "threads" else before
        if after > max(before, most):
            faults.append(f"{name}: {before} after the warm-up, {after} at the end")
    return figures, faults


async def meet(people: People, ways: list) -> list[str]:
    """The faults of one round of sessions."""
    places = asyncio.Semaphore(SESSIONS_AT_ONCE)

    async def one(way) -> str | None:
        async with places:
            try:
                await asyncio.wait_for(way(people), 4 * MAX_WAIT)
            except Exception as error:
                return f"{way.__name__}: {type(error).__name__}: {error!s:.500}"
        return None

    return [fault for fault in await asyncio.gather(*map(one, ways)) if fault is not None]


def soak(minutes: float, sessions: int, seed: int, max_growth: float, folder: Path) -> dict:
    """The report, with the faults found in `"faults"`."""
    server = ServerProcess(folder)
    people = People(server, seed)
    counts, faults, samples = collections.Counter(), [], []
    start = time.monotonic()
    try:
        while (seconds := people.seconds_sent + people.seconds_heard) < 60 * minutes or len(samples) < 4:
            if len(samples) == 1:
                # all that is imported or made for the first one
                ways = [*WAYS] + [calls_over_http] * 14
            else:
                ways = people.draw.choices(list(WAYS), WAYS.values(), k=sessions * bool(samples))
            ways += [never_reads] * (len(samples) % ROUNDS_WITH_A_DEAF == ROUNDS_WITH_A_DEAF - 1)
            faults += asyncio.run(meet(people, ways))
            counts.update(way.__name__ for way in ways)
            usage = server.usage(samples[0] if samples else None)
            samples.append({"sessions": counts.total(), "wall_seconds": round(time.monotonic() - start, 1), **usage})
            print(f"{seconds / 60:.1f} min, {samples[-1]}, {len(faults)} faults", flush=True)
            if len(faults) >= 20:
                break
        metrics = server.metrics()
    except Fault as error:
        faults.append(str(error))
        metrics = {}
    finally:
        if fault := server.stop():
            faults.append(fault)
    figures = {}
    if len(samples) > 3:
        figures, grown = judge(samples, max_growth)
        faults += grown
    return {
        "seed": seed,
        "minutes_of_audio": round((people.seconds_sent + people.seconds_heard) / 60, 2),
        "minutes_heard": round(people.seconds_heard / 60, 2),
        "wall_minutes": round((time.monotonic() - start) / 60, 2),
        "sessions": counts.total(),
        "ways": dict(counts),
        "answers": {name: value for name, value in metrics.items() if name.startswith("answers_total")},
        "first": samples[:1],
        "warm": samples[int(WARM_UP * len(samples)) :][:1],
        "last": samples[-1:],
        "after_the_warm_up": figures,
        "faults": faults,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=float, default=60, help="of audio")
    parser.add_argument("--sessions", type=int, default=24, help="between two looks at the server")
    parser.add_argument("--seed", type=int, default=0)
    # a tenth of the memory of a server with the shipped model
    parser.add_argument("--max_growth", type=float, default=40, help="of memory after the warm-up, in MB")
    parser.add_argument("--output", type=Path, help="for the report, as JSON; it is printed anyway")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        report = soak(arguments.minutes, arguments.sessions, arguments.seed, arguments.max_growth, Path(folder))
    text = json.dumps(report, indent=2)
    print(text)
    if arguments.output:
        arguments.output.write_text(text + "\n")
    sys.exit(bool(report["faults"]))


if __name__ == "__main__":
    main()
