# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The engine over HTTP, without vLLM: a server that answers in vLLM's form and says what it was asked. Against vLLM's own
server it is tested in tests/serving/vllm/test_engine.py.
"""

import asyncio
import json
import socket
import threading

import pytest
import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, StreamingResponse
from places import MINI

from serving.engine import EngineOverloaded, EngineUnavailable, GenerationRequest
from serving.http_engine import HTTPEngine


EOS_TOKEN_IDS = json.loads((MINI / "generation_config.json").read_text())["eos_token_id"]


class EngineServer:
    """
    Writes the numbers from 0 on, eleven at a time, with a pause behind each; after prompts that begin with 8 it writes
    no more than eleven and is silent, and those that begin with 9 are refused by the status that follows.
    """

    def __init__(self):
        self.asked, self.headers, self.num_ended_early = [], [], 0
        app = FastAPI()
        app.get("/v1/models")(self.models)
        app.post("/v1/completions")(self.completions)
        listener = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{listener.getsockname()[1]}"
        self.server = uvicorn.Server(uvicorn.Config(app, log_config=None, timeout_graceful_shutdown=1))
        self.thread = threading.Thread(target=self.server.run, kwargs={"sockets": [listener]})
        self.thread.start()

    async def models(self):
        return {"data": [{"id": "the-model", "max_model_len": 1000}]}

    async def completions(self, request: Request):
        body = await request.json()
        self.asked.append(body)
        self.headers.append(request.headers.get("authorization"))
        if body["prompt"][0] == 9:
            return JSONResponse({"error": {"message": "It is refused."}}, status_code=body["prompt"][1])
        return StreamingResponse(
            self.stream(body["max_tokens"], body["prompt"][0] == 8), media_type="text/event-stream"
        )

    async def stream(self, number, is_silent):
        end = 0
        try:
            while end < number:
                start, end = end, min(end + 11, number)
                event = {"choices": [{"text": "", "token_ids": list(range(start, end))}]}
                yield f"data: {json.dumps(event)}\n\n"
                await asyncio.sleep(60 if is_silent else 0.01)
            yield "data: [DONE]\n\n"
        except asyncio.CancelledError:
            self.num_ended_early += 1
            raise

    def stop(self):
        self.server.should_exit = True
        self.thread.join()


@pytest.fixture(scope="module")
def server():
    server = EngineServer()
    yield server
    server.stop()


def run(server, function, **options):
    async def with_engine():
        engine = HTTPEngine(server.url + "/v1/", str(MINI), **options)
        try:
            return await asyncio.wait_for(function(engine), timeout=20)
        finally:
            await engine.close()
            assert (engine.num_running, engine.num_waiting) == (0, 0)

    return asyncio.run(with_engine())


async def collect(stream):
    return [token async for tokens in stream for token in tokens]


def test_ids_go_out_and_come_back_as_they_are_written(server):
    async def bursts(engine):
        request = GenerationRequest(input_ids=[1, 2, 3], max_new_tokens=25, mctp_mode="turbo")
        return [tokens async for tokens in engine.generate(request)]

    assert run(server, bursts, api_key="a-key") == [list(range(11)), list(range(11, 22)), [22, 23, 24]]
    assert server.asked[-1] == {
        "model": "the-model",
        "prompt": [1, 2, 3],
        "stream": True,
        "return_token_ids": True,
        "skip_special_tokens": False,
        "temperature": 0.0,
        "repetition_penalty": 1.0,
        "max_tokens": 25,
        "stop_token_ids": EOS_TOKEN_IDS,
        "vllm_xargs": {"mctp_mode": [1, 10]},
    }
    assert server.headers[-1] == "Bearer a-key"


def test_defaults_and_sampling_are_those_of_generate(server):
    async def ask(engine):
        options = {"do_sample": True, "temperature": 0.7, "top_p": 0.9, "seed": 3}
        await collect(engine.generate(GenerationRequest(input_ids=[1] * 990, **options)))
        with pytest.raises(ValueError, match="positions for 1000"):
            engine.check(GenerationRequest(input_ids=[1] * 1000))

    run(server, ask)
    asked = server.asked[-1]
    # boost is the shipped model's mode, and 50 the `top_k` of `generate`
    assert asked["vllm_xargs"] == {"mctp_mode": [1, 10, 4, 10]}
    assert (asked["temperature"], asked["top_p"], asked["top_k"], asked["seed"]) == (0.7, 0.9, 50, 3)
    # the server has fewer positions than the model
    assert asked["max_tokens"] == 10


def test_whoever_stops_reading_closes_the_connection(server):
    async def stopped(engine):
        before = server.num_ended_early
        stream = engine.generate(GenerationRequest(input_ids=[1], max_new_tokens=900))
        await anext(stream)
        await stream.aclose()
        task = asyncio.ensure_future(collect(engine.generate(GenerationRequest(input_ids=[1], max_new_tokens=900))))
        await asyncio.sleep(0.1)
        task.cancel()
        await asyncio.wait([task])
        for _ in range(100):
            if server.num_ended_early == before + 2:
                break
            await asyncio.sleep(0.02)
        return server.num_ended_early - before

    assert run(server, stopped) == 2


@pytest.mark.parametrize(
    ("status", "error"), [(400, ValueError), (503, EngineOverloaded), (429, EngineOverloaded), (500, RuntimeError)]
)
def test_what_the_server_refuses(status, error, server):
    async def refused(engine):
        with pytest.raises(error, match="It is refused"):
            await collect(engine.generate(GenerationRequest(input_ids=[9, status])))
        return await collect(engine.generate(GenerationRequest(input_ids=[1], max_new_tokens=2)))

    assert run(server, refused) == [0, 1]


def test_the_queue_has_an_end(server):
    async def crowded(engine):
        engine.max_batch_size = 2
        tasks = []
        with pytest.raises(EngineOverloaded, match="3 requests are waiting"):
            for _ in range(10):
                request = GenerationRequest(input_ids=[1], max_new_tokens=50)
                tasks.append(asyncio.ensure_future(collect(engine.generate(request))))
                await asyncio.sleep(0)
        assert (engine.num_running, engine.num_waiting) == (2, 3)
        return [len(tokens) for tokens in await asyncio.gather(*tasks)]

    assert run(server, crowded, max_queue_length=3) == [50] * 5


def test_what_is_read_ahead_makes_room_for_the_request_itself(server):
    async def ahead(engine):
        await engine.prefill(GenerationRequest(input_ids=[1, 2], conversation_id="a"))
        assert server.asked[-1]["max_tokens"] == 1
        reading = asyncio.ensure_future(engine.prefill(GenerationRequest(input_ids=[1, 2, 3], conversation_id="a")))
        await asyncio.sleep(0)
        await asyncio.sleep(0)
        request = GenerationRequest(input_ids=[1, 2, 3, 4], conversation_id="a", max_new_tokens=3)
        tokens = await collect(engine.generate(request))
        await reading
        # cancelled with whoever asked for it
        other = asyncio.ensure_future(engine.prefill(GenerationRequest(input_ids=[1, 2], conversation_id="b")))
        await asyncio.sleep(0.001)
        other.cancel()
        await asyncio.wait([other])
        await asyncio.sleep(0.05)
        await engine.forget("a")
        return tokens, other.cancelled(), engine._reading_ahead

    assert run(server, ahead) == ([0, 1, 2], True, {})


def test_a_server_that_has_gone_is_said_to_have_gone():
    server = EngineServer()

    async def ask(engine):
        server.stop()
        with pytest.raises(EngineUnavailable, match="The server of vLLM does not answer"):
            await collect(engine.generate(GenerationRequest(input_ids=[1], max_new_tokens=2)))

    run(server, ask)


def test_a_server_that_falls_silent_is_said_to_have_gone(server, monkeypatch):
    monkeypatch.setattr("serving.http_engine.SILENT_SECONDS", 0.3)

    async def ask(engine):
        stream = engine.generate(GenerationRequest(input_ids=[8], max_new_tokens=50))
        assert len(await anext(stream)) == 11
        with pytest.raises(EngineUnavailable, match="does not answer .ReadTimeout."):
            await anext(stream)
        return await collect(engine.generate(GenerationRequest(input_ids=[1], max_new_tokens=2)))

    assert run(server, ask) == [0, 1]


def test_no_server_is_said_in_one_line(server):
    for url in ("http://127.0.0.1:9", server.url + "/other", "http://"):
        with pytest.raises(ValueError, match="No server of vLLM answers at http://"):
            HTTPEngine(url, str(MINI))
