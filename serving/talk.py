# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
`vita-audio talk`: a spoken conversation in the terminal, over the Realtime protocol. With a microphone the server
finds the turns, and who speaks into an answer stops it; files in its place are one turn each.
"""

import argparse
import asyncio
import base64
import json
import os
import secrets
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import AsyncIterable, Awaitable, Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from .sound_devices import BLOCK_MS, BYTES_PER_MS, SAMPLING_RATE, AnswerFile, Loudspeaker, Microphone, Output
from .speech import check_files_are_there, check_output


# Where the key of a server is, as for `vita-audio serve`
KEY_VARIABLE = "VITA_AUDIO_API_KEY"
# Options of the server that is started
MODEL_OPTIONS = ("model", "revision", "device", "dtype", "quantization", "threads")
# How long a transcript may be late before its answer is printed without it, in seconds
TRANSCRIPT_SECONDS = 10
# How often a client looks whether an answer has been played to its end, in seconds
PLAYING_INTERVAL = 0.01
# How often a server that starts is asked whether it stands, in seconds
START_INTERVAL = 0.1


def talk(arguments: argparse.Namespace) -> int:
    """
    Runs the command.

    Raises:
        ValueError, OSError, ImportError: an option is wrong, the server cannot be reached or refuses, or a device or
            a package is missing.
    """
    try:
        import websockets  # noqa: F401
    except ImportError as error:
        raise ImportError("Talking needs the package websockets: `pip install websockets`.") from error
    if arguments.url is None and arguments.api_key is not None:
        raise ValueError("--api_key is for --url: the server that is started for this conversation has its own.")
    given = [f"--{option}" for option in MODEL_OPTIONS if getattr(arguments, option) is not None]
    if arguments.url is not None and given:
        raise ValueError(f"{', '.join(given)}: no effect with --url, whose server has its model already.")
    if arguments.fast and not arguments.input:
        raise ValueError("--fast is for files: with a microphone, speech takes its time. Give --input.")
    if arguments.output:
        check_output(Path(arguments.output), arguments.force, is_folder_new=False)
    turns = []
    if arguments.input:
        check_files_are_there(arguments.input)
        # imported here, because it takes seconds and a conversation by microphone does without
        from processing.audio_vita_audio import load_audio

        from .audio_formats import to_pcm16

        turns = [to_pcm16(load_audio(name, SAMPLING_RATE)) for name in arguments.input]
    key = arguments.api_key or os.environ.get(KEY_VARIABLE)
    with ExitStack() as stack:
        url = arguments.url
        if url is None:
            # of this conversation alone: others who are logged in shall not talk to the server
            key = secrets.token_urlsafe()
            url = stack.enter_context(started_server(arguments, key))
        try:
            asyncio.run(converse(arguments, url, key, turns))
        except KeyboardInterrupt:
            # Ctrl-C is how a conversation with a microphone ends
            if turns:
                raise
            print(file=sys.stderr)
    return 0


@contextmanager
def started_server(arguments: argparse.Namespace, key: str) -> Iterator[str]:
    """
    Runs a server of the model of the command's arguments on a free port of this machine, which asks for `key`. Gives
    its URL.

    Raises:
        OSError: it did not start; the message is the server's.
    """
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "serving.cli", "serve", "--host", "127.0.0.1", "--port", str(port)]
    for option in MODEL_OPTIONS:
        if getattr(arguments, option) is not None:
            command += [f"--{option}", str(getattr(arguments, option))]
    # what a server says is of interest only where it fails
    with tempfile.TemporaryFile("w+", errors="replace") as log:
        # a session of its own, so that Ctrl-C ends the conversation first and then the server
        with subprocess.Popen(
            command, stdout=log, stderr=log, start_new_session=True, env={**os.environ, KEY_VARIABLE: key}
        ) as process:
            try:
                while not is_healthy(f"http://127.0.0.1:{port}/health"):
                    if process.poll() is not None:
                        log.seek(0)
                        said = log.read().strip().splitlines() or ["no reason given"]
                        raise OSError(f"The server did not start: {said[-1].removeprefix('vita-audio: error: ')}")
                    time.sleep(START_INTERVAL)
                yield f"ws://127.0.0.1:{port}/v1/realtime"
            finally:
                process.terminate()


def is_healthy(url: str) -> bool:
    # a proxy for other hosts does not reach this machine
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    try:
        with opener.open(url, timeout=5) as response:
            return response.status == 200
    except (urllib.error.URLError, ConnectionError, TimeoutError):
        return False


async def converse(arguments: argparse.Namespace, url: str, key: str | None, turns: list[bytes]) -> None:
    from websockets.asyncio.client import connect
    from websockets.exceptions import ConnectionClosed, InvalidHandshake, InvalidStatus, InvalidURI

    headers = {"Authorization": f"Bearer {key}"} if key else {}
    with ExitStack() as stack:
        # the devices come first: without them no conversation is begun
        output = AnswerFile(Path(arguments.output), arguments.fast) if arguments.output else Loudspeaker()
        stack.callback(output.close)
        microphone = None
        if not turns:
            microphone = Microphone()
            stack.callback(microphone.close)
        try:
            proxy = True if arguments.url else None
            async with connect(url, additional_headers=headers, max_size=None, proxy=proxy) as connection:
                conversation = Conversation(connection, output, is_live=not turns)
                if turns:
                    talking = partial(conversation.say_all, turns, arguments.fast)
                else:
                    print("Speak; headphones keep the answers from being heard. Ctrl-C ends.", file=sys.stderr)
                    talking = partial(conversation.listen, microphone)
                await conversation.run(talking, arguments.mctp_mode)
        except InvalidURI as error:
            raise ValueError(f"--url must be such as ws://127.0.0.1:8765/v1/realtime, got {url!r:.200}.") from error
        except InvalidStatus as error:
            raise OSError(f"The server {url} refuses: {describe_refusal(error.response)}") from error
        except (InvalidHandshake, TimeoutError) as error:
            raise OSError(f"The server {url} does not speak the Realtime protocol: {error}.") from error
        except ConnectionClosed as error:
            reason = error.rcvd.reason if error.rcvd and error.rcvd.reason else "the connection was lost"
            raise OSError(f"The server has ended the conversation: {reason}.") from error
        except OSError as error:
            # what the operating system says; our own errors have no number
            if error.errno is None:
                raise
            # asyncio's own text has the address once more; a host without an address has a number below 0
            problem = os.strerror(error.errno) if error.errno > 0 else error.strerror
            raise OSError(
                f"The server {url} cannot be reached: {problem}. `vita-audio serve` starts one, and "
                "without --url one is started here."
            ) from error


def describe_refusal(response) -> str:
    """What an HTTP answer in the place of a WebSocket says."""
    try:
        return json.loads(response.body)["error"]["message"]
    except (ValueError, LookupError, TypeError):
        return f"{response.status_code} {response.reason_phrase}."


@dataclass
class Answer:
    """One answer of the server while it comes in and is played."""

    response_id: str
    transcript: asyncio.Future[str] | None  # of the user's turn; None where that was no speech
    end_of_turn: float | None  # `time.perf_counter` at the end of the user's turn
    item_id: str | None = None
    text: str = ""
    num_bytes: int = 0
    first_sound: float | None = None
    interrupted_ms: int | None = None
    done: asyncio.Event = field(default_factory=asyncio.Event)


class Conversation:
    """
    One session with a server.

    Args:
        connection: a WebSocket of `websockets`.
        output ([`Output`]): where answers are played.
        is_live (`bool`): whether the server notices by itself when the user begins and ends. Then an event that it
            refuses does not end the conversation.
        file: where the texts and times are printed; the standard output by default.
    """

    def __init__(self, connection, output: Output, is_live: bool = False, file=None):
        self.connection = connection
        self.output = output
        self.is_live = is_live
        self.file = file
        self.answer: Answer | None = None  # the last one
        self._created = asyncio.Event()
        self._transcripts: dict[str, asyncio.Future[str]] = {}
        self._last_item: str | None = None
        self._end_of_turn: float | None = None
        self._sent: list[tuple[int, float]] = []  # bytes so far, and when they were sent
        self._reports: list[asyncio.Task] = []

    async def run(self, say: Callable[[], Awaitable[None]], mode: str | None = None) -> None:
        """
        Talks until `say` has returned and its answers were played.

        Args:
            say: calls `say_all` or `listen`.
            mode (`str`, *optional*): the decoding schedule; the server's by default.

        Raises:
            ValueError, OSError: the server has refused something.
            ConnectionClosed: the connection has ended.
        """
        receiving = asyncio.create_task(self._receive())

        async def talking():
            await self._created.wait()
            detection = {"type": "server_vad"} if self.is_live else None
            session = {"type": "realtime", "audio": {"input": {"transcription": {}, "turn_detection": detection}}}
            if mode is not None:
                session["vita_audio"] = {"mctp_mode": mode}
            await self._send("session.update", session=session)
            await say()
            await asyncio.gather(*self._reports)

        talk = asyncio.create_task(talking())
        # the connection may end, or the server refuse, in the middle of what is said
        ended, going_on = await asyncio.wait({receiving, talk}, return_when=asyncio.FIRST_COMPLETED)
        for task in going_on:
            task.cancel()
        for task in ended:
            task.result()

    async def say_all(self, turns: list[bytes], is_fast: bool = False) -> None:
        """
        Says some turns, each after the answer to the one before.

        Args:
            turns (`list[bytes]`): 16-bit samples at 24 kHz.
            is_fast (`bool`): whether they are sent as fast as the server takes them, and not as they are spoken.
        """
        for turn in turns:
            start = time.perf_counter()
            for begin in range(0, len(turn), BLOCK_MS * BYTES_PER_MS):
                block = turn[begin : begin + BLOCK_MS * BYTES_PER_MS]
                # a block can be sent when its last sample has been spoken
                due = start + (begin + len(block)) / BYTES_PER_MS / 1000
                if not is_fast:
                    await asyncio.sleep(due - time.perf_counter())
                await self._append(block)
            self._end_of_turn = time.perf_counter()
            earlier = self.answer
            await self._send("input_audio_buffer.commit")
            await self._send("response.create")
            while self.answer is earlier or not self.answer.done.is_set() or self.output.is_playing:
                await asyncio.sleep(PLAYING_INTERVAL)

    async def listen(self, blocks: AsyncIterable[bytes]) -> None:
        """Sends what a microphone hears, blocks of 16-bit samples at 24 kHz, until it ends."""
        async for block in blocks:
            await self._append(block)

    async def interrupt(self) -> None:
        """Stops the answer that is being played, and has it end for the server where it was heard."""
        answer = self.answer
        is_over = answer is None or (answer.done.is_set() and not self.output.is_playing)
        if is_over or answer.interrupted_ms is not None:
            return
        answer.interrupted_ms = self.output.played_ms
        self.output.stop()
        if answer.num_bytes:
            heard = min(answer.interrupted_ms, answer.num_bytes // BYTES_PER_MS)
            await self._send("conversation.item.truncate", item_id=answer.item_id, content_index=0, audio_end_ms=heard)

    async def _send(self, type: str, **fields) -> None:
        await self.connection.send(json.dumps({"type": type, **fields}))

    async def _append(self, block: bytes) -> None:
        await self._send("input_audio_buffer.append", audio=base64.b64encode(block).decode())
        so_far = self._sent[-1][0] if self._sent else 0
        self._sent.append((so_far + len(block), time.perf_counter()))
        # a minute is longer than any silence at which a turn ends
        del self._sent[: -60_000 // BLOCK_MS]

    def _time_of_input(self, milliseconds: int) -> float:
        """When the sample at so many milliseconds of the input was spoken."""
        position = milliseconds * BYTES_PER_MS
        sent, when = next((mark for mark in self._sent if mark[0] >= position), self._sent[-1])
        return when - (sent - position) / BYTES_PER_MS / 1000

    async def _receive(self) -> None:
        from websockets.exceptions import ConnectionClosedOK

        async for message in self.connection:
            await self._take(json.loads(message))
        # the loop above ends without an error where the server has closed in good order
        raise ConnectionClosedOK(self.connection.protocol.close_rcvd, self.connection.protocol.close_sent, True)

    async def _take(self, event: dict) -> None:
        answer = self.answer
        match event["type"]:
            case "session.created":
                self._created.set()
            case "error":
                message = f"The server refuses: {event['error']['message']}"
                if not self.is_live:
                    raise OSError(message)
                # a conversation need not end with one event, such as a turn of which nothing is left
                print(f"vita-audio: warning: {message}", file=sys.stderr)
            case "input_audio_buffer.speech_started":
                await self.interrupt()
            case "input_audio_buffer.speech_stopped":
                self._end_of_turn = self._time_of_input(event["audio_end_ms"])
            case "input_audio_buffer.committed":
                self._last_item = event["item_id"]
                self._transcripts[self._last_item] = asyncio.get_running_loop().create_future()
            case "conversation.item.input_audio_transcription.completed":
                self._transcripts[event["item_id"]].set_result(event["transcript"])
            case "conversation.item.input_audio_transcription.failed":
                self._transcripts[event["item_id"]].set_result("(could not be written down)")
            case "response.created":
                transcript = self._transcripts.get(self._last_item)
                self.answer = Answer(event["response"]["id"], transcript, self._end_of_turn)
                self.output.begin()
            case "response.output_item.added":
                answer.item_id = event["item"]["id"]
            case "response.output_audio_transcript.delta":
                answer.text += event["delta"]
            case "response.output_audio.delta" if answer.interrupted_ms is None:
                audio = base64.b64decode(event["delta"])
                answer.first_sound = answer.first_sound or time.perf_counter()
                answer.num_bytes += len(audio)
                self.output.put(audio)
            case "response.done":
                if event["response"]["status"] == "failed":
                    raise OSError(f"The answer failed: {event['response']['status_details']['error']['message']}")
                answer.done.set()
                self._reports.append(asyncio.create_task(self._report(answer, event["response"])))

    async def _report(self, answer: Answer, response: dict) -> None:
        """Prints a turn of both sides, when the answer was heard to its end or stopped."""
        if answer.transcript is not None:
            # What comes later finds it as it was
            transcript = asyncio.shield(answer.transcript)
            try:
                print(f"You: {await asyncio.wait_for(transcript, TRANSCRIPT_SECONDS)}", file=self.file)
            except TimeoutError:
                pass
        while answer is self.answer and answer.interrupted_ms is None and self.output.is_playing:
            await asyncio.sleep(PLAYING_INTERVAL)
        print(f"Answer: {answer.text.strip()}", file=self.file)
        times = []
        if answer.first_sound is not None and answer.end_of_turn is not None:
            times.append(f"First audio after {answer.first_sound - answer.end_of_turn:.3f} s")
        if (server_ms := response.get("vita_audio", {}).get("time_to_first_audio_ms")) is not None:
            times.append(f"{server_ms / 1000:.3f} s in the server")
        if answer.interrupted_ms is not None:
            times.append(f"interrupted after {answer.interrupted_ms / 1000:.2f} s")
        if times:
            print(f"({'; '.join(times)})", file=self.file, flush=True)


__all__ = ["Conversation", "talk"]
