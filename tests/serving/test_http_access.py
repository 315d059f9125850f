# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Who may call a server: keys, the pages of browsers, and names that point to this machine."""

import logging

import httpx
import openai
import pytest
from made_up_assistants import MadeUpAssistant
from starlette.datastructures import Headers
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from serving.access import authorize, check_host, check_origin
from serving.api_errors import ApiError
from serving.settings import ServerSettings


KEY = "a-key-of-25-characters-..."
OPEN_PATHS = ("/", "/health")
PROTECTED_PATHS = ("/v1/models", "/metrics", "/v1/none")


def outcome(check, headers, **settings):
    try:
        check(Headers(headers), ServerSettings(**settings))
    except ApiError as error:
        return error.code


@pytest.mark.parametrize(
    "host, is_allowed",
    [
        ("127.0.0.1:8765", True),
        ("localhost", True),
        ("LOCALHOST:1", True),
        ("[::1]:8765", True),
        ("127.1.2.3", True),
        ("evil.example:8765", False),
        ("127.0.0.1.evil.example", False),
        ("localhost.evil.example", False),
        ("127.0.0.1@evil.example", False),
        ("192.168.0.7:8765", False),
        ("", False),
    ],
)
def test_the_name_of_a_server_of_this_machine(host, is_allowed):
    assert outcome(check_host, {"host": host}) == (None if is_allowed else "host_not_allowed")
    # a server for others has names that it does not know
    assert outcome(check_host, {"host": host}, host="0.0.0.0") is None


def test_the_name_of_a_proxy():
    settings = {"allow_origin": ("https://talk.example",)}
    assert outcome(check_host, {"host": "talk.example"}, **settings) is None
    assert outcome(check_host, {"host": "other.example"}, **settings) == "host_not_allowed"


@pytest.mark.parametrize(
    "origin, is_allowed",
    [
        (None, True),
        ("http://127.0.0.1:8765", True),
        ("https://127.0.0.1:8765", True),
        ("http://127.0.0.1:9999", False),
        ("http://127.0.0.1", False),
        ("http://localhost:8765", False),
        ("http://evil.example", False),
        ("http://127.0.0.1:8765.evil.example", False),
        ("ftp://127.0.0.1:8765", False),
        ("null", False),
        ("", False),
        ("http://[", False),
    ],
)
def test_origins(origin, is_allowed):
    headers = {"host": "127.0.0.1:8765"} | ({} if origin is None else {"origin": origin})
    assert outcome(check_origin, headers) == (None if is_allowed else "origin_not_allowed")
    assert outcome(check_origin, headers, allow_origin=("*",)) is None
    assert outcome(check_origin, {"host": "a", "origin": "http://b"}, allow_origin=("http://b",)) is None


@pytest.mark.parametrize(
    "headers, is_allowed",
    [
        ({"authorization": f"Bearer {KEY}"}, True),
        ({"authorization": f"bearer  {KEY} "}, True),
        ({"sec-websocket-protocol": f"realtime, openai-insecure-api-key.{KEY}"}, True),
        ({"authorization": f"Bearer {KEY}x"}, False),
        ({"authorization": f"Bearer {KEY[:-1]}"}, False),
        ({"authorization": f"Basic {KEY}"}, False),
        ({"authorization": "Bearer é"}, False),
        ({"authorization": "Bearer"}, False),
        ({"sec-websocket-protocol": "realtime"}, False),
        ({"sec-websocket-protocol": "openai-insecure-api-key."}, False),
        ({}, False),
    ],
)
def test_keys(headers, is_allowed):
    assert outcome(authorize, headers, api_key=KEY) == (None if is_allowed else "invalid_api_key")
    assert outcome(authorize, headers) is None


@pytest.mark.parametrize(
    "settings", [{"api_key": key} for key in ("", "é", "a\nb", " a", "a b", "a,b", "YQ==", "a/b")] + [{"port": 2**16}]
)
def test_settings_of_no_use(settings):
    with pytest.raises(ValueError):
        ServerSettings(**settings)
    for origin in ("example.org", "https://example.org/", ""):
        with pytest.raises(ValueError, match="An origin is such as"):
            ServerSettings(allow_origin=(origin,))


def test_keys_are_in_no_representation():
    assert KEY not in repr(ServerSettings(api_key=KEY))


@pytest.fixture(scope="module")
def locked(http_servers):
    return http_servers.start(MadeUpAssistant(), api_key=KEY, allow_origin=("https://talk.example",))


def test_what_a_key_protects(locked, caplog):
    caplog.set_level(logging.DEBUG)
    for path in OPEN_PATHS:
        assert httpx.get(locked.url + path).status_code == 200
    for path in PROTECTED_PATHS:
        response = httpx.get(locked.url + path)
        assert response.status_code == 401 and response.headers["www-authenticate"] == "Bearer"
        response = httpx.get(locked.url + path, headers={"authorization": f"Bearer {KEY}"})
        assert response.status_code == (404 if path == "/v1/none" else 200)
    with pytest.raises(openai.AuthenticationError) as error:
        openai.OpenAI(base_url=f"{locked.url}/v1", api_key="wrong").models.list()
    assert error.value.code == "invalid_api_key" and "wrong" in str(error.value)
    client = openai.OpenAI(base_url=f"{locked.url}/v1", api_key=KEY)
    completion = client.chat.completions.create(model="made-up", messages=[{"role": "user", "content": "a"}])
    assert completion.choices[0].message.content
    # what the client logs has the key's header, what the server logs does not
    ours = [record for record in caplog.records if record.name.partition(".")[0] in ("uvicorn", "serving", "fastapi")]
    assert not any(KEY in record.getMessage() for record in ours)


def test_websockets_pass_the_same_gate(locked):
    url = locked.url.replace("http", "ws") + "/v1/realtime"
    for options, status in (
        ({}, 401),
        ({"additional_headers": {"authorization": "Bearer wrong"}}, 401),
        ({"additional_headers": {"authorization": f"Bearer {KEY}"}, "origin": "http://evil.example"}, 403),
        ({"subprotocols": ["realtime", "openai-insecure-api-key.wrong"]}, 401),
    ):
        with pytest.raises(InvalidStatus) as error:
            connect(url, **options)
        assert error.value.response.status_code == status
        assert b'"code": "' in error.value.response.body


def test_a_page_of_others(locked, http_servers):
    """It is refused, and one that is allowed can read the answers and their errors."""
    post = {"json": {"model": "made-up", "messages": [{"role": "user", "content": "a"}]}}
    evil, good = {"origin": "https://evil.example"}, {"origin": "https://talk.example"}
    key = {"authorization": f"Bearer {KEY}"}
    url = f"{locked.url}/v1/chat/completions"
    response = httpx.post(url, headers=evil | key, **post)
    assert response.status_code == 403 and "access-control-allow-origin" not in response.headers
    for headers, status in ((good | key, 200), (good, 401)):
        response = httpx.post(url, headers=headers, **post)
        assert response.status_code == status
        assert response.headers["access-control-allow-origin"] == "https://talk.example"
    asks = {"access-control-request-method": "POST", "access-control-request-headers": "authorization,content-type"}
    assert httpx.options(url, headers=good | asks).status_code == 200
    assert httpx.options(url, headers=evil | asks).status_code == 400
    # without --allow_origin there are no such headers at all
    plain = http_servers.start(MadeUpAssistant())
    for response in (
        httpx.options(f"{plain.url}/v1/chat/completions", headers=good | asks),
        httpx.post(f"{plain.url}/v1/chat/completions", headers=good, **post),
        httpx.post(f"{plain.url}/v1/chat/completions", headers={"origin": plain.url}, **post),
    ):
        assert not any(name.startswith("access-control") for name in response.headers)
    assert response.status_code == 200


def test_a_name_that_was_rebound(locked):
    response = httpx.get(f"{locked.url}/v1/models", headers={"host": "evil.example", "authorization": f"Bearer {KEY}"})
    assert response.status_code == 403 and response.json()["error"]["code"] == "host_not_allowed"


def test_the_page_runs_nothing_of_others(locked):
    page = httpx.get(locked.url)
    assert page.headers["content-type"].startswith("text/html")
    policy = page.headers["content-security-policy"]
    assert policy.startswith("default-src 'self';") and "frame-ancestors 'none'" in policy and "http" not in policy
    assert "unsafe" not in policy and "*" not in policy
    for response in (page, httpx.get(f"{locked.url}/health"), httpx.get(f"{locked.url}/metrics")):
        assert response.headers["x-content-type-options"] == "nosniff"
    # and asks for nothing of theirs
    assert "//" not in page.text.replace("http://www.w3.org", "")
