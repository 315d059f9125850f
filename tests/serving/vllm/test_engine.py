# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The engines on vLLM, in this process and over HTTP, against `generate`; and the server with them."""

import asyncio
import os
import socket
import subprocess
import sys
import time
import urllib.request
from dataclasses import replace

import pytest
from places import MINI, ROOT
from vllm_models import generated, prompts

from serving.engine import EngineOverloaded, GenerationRequest
from serving.http_engine import HTTPEngine
from serving.vllm_engine import VLLMEngine


pytestmark = pytest.mark.slow

OPTIONS = {"enforce_eager": True, "dtype": "float32", "max_num_seqs": 8}
ENVIRONMENT = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PYTHONPATH": str(ROOT)}
START_SECONDS = 200
# The shipped model writes 93 tokens behind it
LONG_ANSWER = prompts(1, 40, 40, 1000, seed=3)[0]


@pytest.fixture(scope="module")
def vllm_server():
    """The URL of vLLM's own server with the shipped model, in a process of its own."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    # `vllm serve` fails with the CPU build, which looks for its version by another name
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", "--model", str(MINI), "--port", str(port)]
    command += ["--enforce-eager", "--dtype", "float32", "--max-num-seqs", "8"]
    process = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.DEVNULL)
    try:
        end = time.monotonic() + START_SECONDS
        while process.poll() is None and time.monotonic() < end:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5).read()
                break
            except OSError:
                time.sleep(0.5)
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(60)


@pytest.fixture(scope="module", params=["in process", "over HTTP"])
def runner(request):
    """An event loop with an engine of each kind."""
    loop = asyncio.new_event_loop()
    if request.param == "over HTTP":
        engine = HTTPEngine(request.getfixturevalue("vllm_server"), str(MINI))
    else:
        before, os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = os.environ.get("VLLM_ENABLE_V1_MULTIPROCESSING"), "1"

        async def make():
            return VLLMEngine(str(MINI), **OPTIONS)

        engine = loop.run_until_complete(make())
        if before is not None:
            os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = before
    yield lambda function: loop.run_until_complete(asyncio.wait_for(function(engine), 100))
    loop.run_until_complete(engine.close())


async def collect(stream):
    return [token async for tokens in stream for token in tokens]


def test_tokens_of_many_at_once(runner, model_of):
    modes = ["vanilla", "balance", "boost", "turbo", [2, 3, 1, 7]]
    cases = [(ids, modes[index % 5]) for index, ids in enumerate(prompts(15, 20, 120, 1000))]
    model = model_of("mini")
    expected = []
    for ids, mode in cases:
        (tokens,) = generated(model, [(ids, mode)], 30)
        end = model.generation_config.eos_token_id[0]
        expected.append(tokens[: tokens.index(end) + 1] if end in tokens else tokens)

    async def all_at_once(engine):
        requests = [GenerationRequest(input_ids=ids, mctp_mode=mode, max_new_tokens=30) for ids, mode in cases]
        return await asyncio.gather(*(collect(engine.generate(request)) for request in requests))

    assert runner(all_at_once) == expected


def test_the_first_chunk_comes_at_once(runner):
    request = GenerationRequest(input_ids=prompts(1, 40, 40, 1000)[0], mctp_mode="turbo", max_new_tokens=40)

    async def sizes(engine):
        return [len(tokens) async for tokens in engine.generate(request)]

    # the language model's token and those of ten modules
    assert runner(sizes)[0] == 11


def test_whoever_stops_reading_stops_the_generation(runner):
    async def stopped(engine):
        request = GenerationRequest(input_ids=LONG_ANSWER, mctp_mode="vanilla", max_new_tokens=1500)
        stream = engine.generate(request)
        await anext(stream)
        await stream.aclose()
        task = asyncio.ensure_future(collect(engine.generate(request)))
        await asyncio.sleep(0.05)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
        tokens = await collect(engine.generate(replace(request, max_new_tokens=3)))
        return len(tokens), engine.num_running, engine.num_waiting

    assert runner(stopped) == (3, 0, 0)


def test_a_prompt_that_is_read_ahead(runner, model_of):
    ids = prompts(1, 100, 100, 1000)[0]
    expected = generated(model_of("mini"), [(ids, "boost")], 11)

    async def ahead(engine):
        for end in (40, 80):
            await engine.prefill(GenerationRequest(input_ids=ids[:end], conversation_id="a"))
        reading = asyncio.ensure_future(engine.prefill(GenerationRequest(input_ids=ids[:90], conversation_id="a")))
        await asyncio.sleep(0)
        request = GenerationRequest(input_ids=ids, mctp_mode="boost", max_new_tokens=11, conversation_id="a")
        tokens = await collect(engine.generate(request))
        await reading
        await engine.forget("a")
        return [tokens], engine.num_running

    assert runner(ahead) == (expected, 0)


def test_seeds(runner):
    ids = prompts(1, 40, 40, 1000)[0]

    async def sampled(engine):
        requests = [
            GenerationRequest(input_ids=ids, do_sample=True, temperature=1.5, seed=seed, max_new_tokens=20)
            for seed in (1, 2, 1)
        ]
        return await asyncio.gather(*(collect(engine.generate(request)) for request in requests))

    one, two, again = runner(sampled)
    assert one == again != two


def test_the_queue_has_an_end(runner):
    ids = prompts(1, 40, 40, 1000)[0]

    async def crowded(engine):
        engine_length, engine.max_queue_length = engine.max_queue_length, 2
        batch_size, engine.max_batch_size = engine.max_batch_size, 2
        tasks = []
        with pytest.raises(EngineOverloaded, match="are waiting"):
            for _ in range(10):
                request = GenerationRequest(input_ids=ids, max_new_tokens=200)
                tasks.append(asyncio.ensure_future(collect(engine.generate(request))))
                await asyncio.sleep(0)
        for task in tasks:
            task.cancel()
        await asyncio.wait(tasks)
        engine.max_queue_length, engine.max_batch_size = engine_length, batch_size
        return len(tasks), engine.num_running

    assert runner(crowded) == (4, 0)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"input_ids": []}, "no tokens"),
        ({"input_ids": [1] * 2048}, "positions for 2048"),
        ({"max_new_tokens": 0}, "max_new_tokens"),
        ({"mctp_mode": "fast"}, "vanilla, balance, boost, turbo"),
        ({"mctp_mode": [1, 11]}, "11 MCTP steps"),
        ({"temperature": -1.0}, "temperature"),
        # vLLM's own limit
        ({"temperature": 2.1}, "at most 2, got 2.1"),
    ],
    ids=["empty", "long", "none", "mode", "modules", "temperature", "hot"],
)
def test_bad_requests(options, message, runner):
    async def refused(engine):
        with pytest.raises(ValueError, match=message):
            engine.check(GenerationRequest(**{"input_ids": [1, 2], **options}))

    runner(refused)


def test_the_end_of_an_engine_is_told_to_all(runner):
    """The last test with an engine."""

    async def ended(engine):
        request = GenerationRequest(input_ids=LONG_ANSWER, mctp_mode="vanilla", max_new_tokens=1500)
        streams = [engine.generate(request) for _ in range(3)]
        for stream in streams:
            await anext(stream)
        # one waits for its next token
        waiting = asyncio.ensure_future(collect(streams[0]))
        await asyncio.sleep(0)
        await engine.close()
        for reading in (waiting, collect(streams[1])):
            with pytest.raises(EngineOverloaded):
                await reading
        with pytest.raises(EngineOverloaded, match="about to end"):
            engine.generate(request)
        # and whoever goes leaves nothing
        await streams[2].aclose()
        return engine.num_running

    assert runner(ended) == 0


def test_no_server_is_said_in_one_line():
    with pytest.raises(ValueError, match="No server of vLLM answers at http://127.0.0.1:9"):
        HTTPEngine("http://127.0.0.1:9", str(MINI))
