# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
How fast a server answers, alone and to many at once.

    python -m benchmarks.serving_speed --output_dir benchmarks/results

starts `vita-audio serve` and talks with it over its WebSocket, as people would:

- 1, 4 and 16 clients ask at once, of which one asks one question after the other: time to the first audio, tokens per
  second, seconds needed for a second of speech, and whether the answers are the same;
- one client speaks in real time, with the server finding the ends of turns, in a session of three turns: time from
  the end of a turn to the first audio, beside that of `vita-audio answer` for the same recording.

    python -m benchmarks.serving_speed --engine transformers vllm --output_dir benchmarks/results

compares engines, in an environment with vLLM (see `.ci/vllm`): what each writes in each mode, see
`benchmarks.engine_speed`, and what clients see of a server with it.
"""

import argparse
import asyncio
import base64
import io
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import soundfile
import soxr
import torch
from websockets.asyncio.client import ClientConnection, connect

from hub_cards.command_line import ArgumentParser, run_command
from training.evaluation.report import fill_section, write_atomically

from .engine_speed import VLLM_ENVIRONMENT, VLLM_OPTIONS, engine_table, measure_engines
from .measuring import add_output_dir, describe_machine


# What the clients ask, each in turn another one. They are of the domain that the shipped model was trained on
QUESTIONS = [
    "What is seven plus six?",
    "What is the capital of France?",
    "What day comes after Monday?",
    "What is the opposite of hot?",
    "What is two plus nine?",
    "What is the capital of Italy?",
    "What month comes after March?",
    "What is the opposite of big?",
]
# Rate of the audio of the Realtime protocol, in Hz
RATE = 24000
# A microphone's block
BLOCK_SECONDS = 0.04
# A question of this length is the one that the issue of a slow beginning was measured with
LONG_QUESTION_SECONDS = 6.0
MAX_START_SECONDS = 120


class ServerProcess:
    """`vita-audio serve` on a free port of this machine, in a process of its own."""

    def __init__(self, model: str, engine: str = "transformers"):
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = probe.getsockname()[1]
        command = [sys.executable, "-m", "serving.cli", "serve", "--model", model, "--port", str(self.port)]
        if engine == "vllm":
            command += ["--engine", engine, "--engine_options", json.dumps(VLLM_OPTIONS)]
        # One thread for each operation, as `vita-audio` has it
        environment = VLLM_ENVIRONMENT | os.environ | {"OMP_NUM_THREADS": "1"}
        self.process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)

    def __enter__(self) -> "ServerProcess":
        end = time.monotonic() + MAX_START_SECONDS
        while time.monotonic() < end and self.process.poll() is None:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{self.port}/health", timeout=5).read()
                return self
            except OSError:
                time.sleep(0.2)
        self.__exit__()
        raise RuntimeError("The server did not start; its own message says why.")

    def __exit__(self, *_) -> None:
        self.process.terminate()
        self.process.wait()

    def speech(self, text: str) -> np.ndarray:
        """A text as the server's own voice speaks it, 16-bit samples at 24 kHz."""
        body = json.dumps({"model": self.model_name(), "input": text, "voice": "default", "response_format": "wav"})
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/v1/audio/speech", body.encode(), {"Content-Type": "application/json"}
        )
        samples, rate = soundfile.read(io.BytesIO(urllib.request.urlopen(request, timeout=60).read()), dtype="int16")
        return soxr.resample(samples, rate, RATE)

    def model_name(self) -> str:
        models = json.loads(urllib.request.urlopen(f"http://127.0.0.1:{self.port}/v1/models", timeout=5).read())
        return models["data"][0]["id"]


async def open_session(port: int, model: str, turn_detection: dict | None) -> ClientConnection:
    client = await connect(f"ws://127.0.0.1:{port}/v1/realtime?model={model}", max_size=None)
    audio_input = {"format": {"type": "audio/pcm", "rate": RATE}, "turn_detection": turn_detection}
    await send(client, "session.update", session={"type": "realtime", "audio": {"input": audio_input}})
    await receive(client, "session.updated")
    return client


async def send(client: ClientConnection, event_type: str, **fields) -> None:
    await client.send(json.dumps({"type": event_type, **fields}))


async def receive(client: ClientConnection, event_type: str) -> dict:
    while True:
        event = json.loads(await client.recv())
        if event["type"] == "error":
            raise RuntimeError(event["error"]["message"])
        if event["type"] == event_type:
            return event


async def answer_of(client: ClientConnection, start: float) -> dict:
    """Reads an answer to its end; times are from `start` on."""
    first, num_samples, text = None, 0, ""
    while True:
        event = json.loads(await client.recv())
        if event["type"] == "error":
            raise RuntimeError(event["error"]["message"])
        if event["type"] == "response.output_audio.delta":
            first = first or time.perf_counter() - start
            num_samples += len(base64.b64decode(event["delta"])) // 2
        elif event["type"] == "response.output_audio_transcript.delta":
            text += event["delta"]
        elif event["type"] == "response.done":
            return {
                "text": text,
                "first_audio_seconds": first,
                "num_tokens": event["response"]["usage"]["output_tokens"],
                "audio_seconds": num_samples / RATE,
            }


async def ask(port: int, model: str, questions: list[np.ndarray]) -> list[dict]:
    """One client, which asks one question after the other, each in a session of its own."""
    answers = []
    for samples in questions:
        client = await open_session(port, model, None)
        audio = base64.b64encode(samples.tobytes()).decode()
        await send(client, "input_audio_buffer.append", audio=audio)
        start = time.perf_counter()
        await send(client, "input_audio_buffer.commit")
        await send(client, "response.create")
        answers.append(await answer_of(client, start))
        await client.close()
    return answers


async def measure_load(
    port: int, model: str, questions: list[np.ndarray], num_clients: int, num_rounds: int = 1
) -> dict:
    """
    What clients see that all ask at once, `len(questions)` questions each, beginning at another one each; and that in
    each of `num_rounds`, whose answers are counted together.
    """
    shifts = [i % len(questions) for i in range(num_clients)]
    orders = [questions[shift:] + questions[:shift] for shift in shifts]
    results, seconds = [], 0.0
    for _ in range(num_rounds):
        start = time.perf_counter()
        results += await asyncio.gather(*(ask(port, model, order) for order in orders))
        seconds += time.perf_counter() - start
    texts = [[answer["text"] for answer in answers] for answers in results]
    firsts = [answer["first_audio_seconds"] for answers in results for answer in answers]
    num_tokens = sum(answer["num_tokens"] for answers in results for answer in answers)
    audio_seconds = sum(answer["audio_seconds"] for answers in results for answer in answers)
    return {
        "num_answers": len(firsts),
        "first_audio_seconds": statistics.median(firsts),
        "first_audio_seconds_p95": float(np.percentile(firsts, 95)),
        "tokens_per_second": num_tokens / seconds,
        "real_time_factor": seconds / audio_seconds,
        # in the order of `questions`
        "texts": [row[-shift:] + row[:-shift] if shift else row for shift, row in zip(shifts * num_rounds, texts)],
    }


async def measure_turns(port: int, model: str, samples: np.ndarray, num_turns: int = 3) -> list[dict]:
    """A session in which the same question is spoken in real time, with silence behind it, in each turn."""
    client = await open_session(port, model, {"type": "server_vad"})
    turns, size = [], round(BLOCK_SECONDS * RATE)

    async def speak() -> None:
        spoken = np.concatenate([samples, np.zeros(RATE, dtype=np.int16)])
        start = time.perf_counter()
        for index in range(0, len(spoken), size):
            await asyncio.sleep(max(0, start + index / RATE - time.perf_counter()))
            block = base64.b64encode(spoken[index : index + size].tobytes()).decode()
            await send(client, "input_audio_buffer.append", audio=block)

    for _ in range(num_turns):
        speaking = asyncio.ensure_future(speak())
        await receive(client, "input_audio_buffer.speech_stopped")
        turns.append(await answer_of(client, time.perf_counter()))
        await speaking
    await client.close()
    return turns


def seconds_of_command(model: str, samples: np.ndarray) -> float:
    """Time to the first audio of `vita-audio answer` for a recording, once everything is loaded."""
    with tempfile.TemporaryDirectory() as folder:
        question = Path(folder, "question.wav")
        soundfile.write(question, samples, RATE)
        command = [sys.executable, "-m", "serving.cli", "answer", str(question), "--model", model, "--json"]
        command += ["--output", str(Path(folder, "answer.wav"))]
        environment = os.environ | {"OMP_NUM_THREADS": "1"}
        output = subprocess.run(command, env=environment, capture_output=True, check=True, text=True).stdout
    return json.loads(output)["first_chunk_seconds"]


def measure_clients(
    server: ServerProcess, numbers: list[int], num_rounds: int
) -> tuple[dict[str, dict], list[np.ndarray]]:
    """By each number of clients at once what they see; and what they asked."""
    model = server.model_name()
    questions = [server.speech(text) for text in QUESTIONS]
    # the first answers find nothing mapped or cached
    asyncio.run(measure_load(server.port, model, questions[:2], 2))
    rows = {
        str(number): asyncio.run(measure_load(server.port, model, questions, number, num_rounds)) for number in numbers
    }
    (alone, *_), (expected, *_) = rows.values(), rows[str(numbers[0])]["texts"]
    for row in rows.values():
        row["ratio"] = row["tokens_per_second"] / alone["tokens_per_second"]
        pairs = [pair for texts in row.pop("texts") for pair in zip(texts, expected)]
        row["num_same_answers"] = sum(text == other for text, other in pairs)
    return rows, questions


def measure(args: argparse.Namespace) -> dict:
    with ServerProcess(args.model) as server:
        rows, questions = measure_clients(server, args.clients, args.rounds)
        pause = np.zeros(round(0.1 * RATE), dtype=np.int16)
        spoken = np.concatenate([part for question in questions for part in (question, pause)])
        long_question = spoken[: round(LONG_QUESTION_SECONDS * RATE)]
        model = server.model_name()
        sessions = [asyncio.run(measure_turns(server.port, model, long_question)) for _ in range(args.rounds)]
    commands = [seconds_of_command(args.model, long_question) for _ in range(args.rounds)]
    turns = zip(*([turn["first_audio_seconds"] for turn in session] for session in sessions))
    return {
        "clients": rows,
        "question_seconds": LONG_QUESTION_SECONDS,
        "turn_seconds": [statistics.median(times) for times in turns],
        "command_seconds": statistics.median(commands),
        **describe_machine(torch.device("cpu")),
    }


def measure_comparison(args: argparse.Namespace) -> dict:
    servers = {}
    for name in args.engine:
        with ServerProcess(args.model, name) as server:
            servers[name], _ = measure_clients(server, args.clients, args.rounds)
    engines = measure_engines(args.engine, args.model, args.clients, args.rounds)
    return {"engines": engines, "servers": servers, **describe_machine(torch.device("cpu"))}


def comparison_table(results: dict) -> str:
    """README's section on engines, Markdown."""
    lines = ["The engines alone:", "", engine_table(results["engines"]), "", "Servers with codec and clients:", ""]
    lines += [
        "| engine | clients | first audio, median | first audio, 95th percentile | tokens/s | same answers |",
        "|---|---|---|---|---|---|",
    ]
    for name, rows in results["servers"].items():
        for number, row in rows.items():
            lines.append(
                f"| {name} | {number} | {1000 * row['first_audio_seconds']:.0f} ms "
                f"| {1000 * row['first_audio_seconds_p95']:.0f} ms | {row['tokens_per_second']:.0f} "
                f"| {row['num_same_answers']} of {row['num_answers']} |"
            )
    return "\n".join(lines)


def serving_table(results: dict) -> str:
    """README's section, Markdown."""
    lines = [
        "| clients | first audio, median | first audio, 95th percentile | tokens/s | against one after the other "
        "| seconds for a second of speech | same answers |",
        "|---|---|---|---|---|---|---|",
    ]
    for number, row in results["clients"].items():
        lines.append(
            f"| {number} | {1000 * row['first_audio_seconds']:.0f} ms "
            f"| {1000 * row['first_audio_seconds_p95']:.0f} ms | {row['tokens_per_second']:.0f} | {row['ratio']:.1f} "
            f"| {row['real_time_factor']:.3f} | {row['num_same_answers']} of {row['num_answers']} |"
        )
    turns = ", ".join(f"{1000 * seconds:.0f} ms" for seconds in results["turn_seconds"])
    lines += [
        "",
        f"A spoken turn of {results['question_seconds']:.0f} s, from the moment that the server takes it for ended, "
        f"after half a second of silence, to the first audio: {turns} in the first, second and third turn of a "
        "session. `vita-audio answer` takes "
        f"{1000 * results['command_seconds']:.0f} ms for the same recording, once it has loaded the model.",
    ]
    return "\n".join(lines)


def plot(results: dict, path: Path) -> None:
    """Tokens per second and time to the first audio by the number of clients."""
    names, rows = list(results["clients"]), list(results["clients"].values())
    figure, (left, right) = plt.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    left.bar(names, [row["tokens_per_second"] for row in rows], color="tab:blue")
    left.set(xlabel="clients at once", ylabel="tokens per second")
    right.bar(
        names, [1000 * row["first_audio_seconds_p95"] for row in rows], color="lightgray", label="95th percentile"
    )
    right.bar(names, [1000 * row["first_audio_seconds"] for row in rows], color="tab:orange", label="median")
    right.set(xlabel="clients at once", ylabel="first audio after ms")
    right.legend()
    figure.savefig(path, dpi=120)
    plt.close(figure)


def main(argv: list[str] | None = None) -> int:
    return run_command(run, "benchmarks.serving_speed", sys.argv[1:] if argv is None else argv)


def run(argv: list[str]) -> int:
    parser = ArgumentParser(
        prog="benchmarks.serving_speed", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--model", default="pretrained/vita-audio-mini", help="folder or Hub id")
    parser.add_argument("--engine", nargs="+", choices=("transformers", "vllm"), help="engines that are compared")
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 4, 16], help="the first is what ratios are to")
    parser.add_argument("--rounds", type=int, default=3, help="how often everything is measured (default: 3)")
    add_output_dir(parser, "the results as JSON and PNG")
    parser.add_argument("--readme", type=Path, help="README whose section is filled in")
    args = parser.parse_args(argv)
    args.output_dir.mkdir(parents=True, exist_ok=True)
    if args.engine is not None:
        name, results = "engine speed", measure_comparison(args)
        table = comparison_table(results)
    else:
        name, results = "serving speed", measure(args)
        table = serving_table(results)
        plot(results, args.output_dir / "serving_speed.png")
    path = args.output_dir / f"{name.replace(' ', '_')}.json"
    write_atomically(path, json.dumps(results, indent=2) + "\n")
    print(table)
    if args.readme is not None:
        fill_section(args.readme, name, table)
    return 0


if __name__ == "__main__":
    sys.exit(main())
