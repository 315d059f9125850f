# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Whatever a Hub answers: a push ends, with one line where it fails."""

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import chain, repeat

import pytest
from fuzz_values import VALUES
from huggingface_hub import HfApi
from hypothesis import given
from hypothesis import strategies as st

from hub_cards import push
from processing.export import export_repository


class Hub(BaseHTTPRequestHandler):
    """Gives the answers of the class, one after the other, and the last one for ever."""

    answers = iter(())

    def answer(self):
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, headers, body = next(type(self).answers)
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = answer

    def do_HEAD(self):
        self.send_response(404)
        self.end_headers()

    def log_message(self, *args):
        pass


@pytest.fixture(scope="module")
def endpoint():
    server = ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_address[1]}"
    server.shutdown()
    server.server_close()


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    return export_repository(pipe.model, pipe.processor, tmp_path_factory.mktemp("hub") / "model")


KEYS = [
    "url",
    "name",
    "id",
    "files",
    "path",
    "uploadMode",
    "shouldIgnore",
    "oid",
    "objects",
    "actions",
    "error",
    "commitUrl",
]
BODIES = st.recursive(
    VALUES | st.sampled_from(["lfs", "regular", "http://127.0.0.1:9/me/mini", "model.safetensors"]),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
).map(lambda body: json.dumps(body, default=str).encode())
ANSWERS = st.tuples(
    st.sampled_from([200, 200, 200, 201, 204, 301, 400, 401, 403, 404, 409, 418, 422, 500, 503]),
    st.dictionaries(
        st.sampled_from(["X-Error-Code", "X-Error-Message", "Location", "Retry-After", "Content-Type"]),
        st.sampled_from(
            ["RepoNotFound", "GatedRepo", "application/json", "0", "-1", "x", "/api/x", "http://127.0.0.1:9/"]
        ),
        max_size=2,
    ),
    BODIES | st.binary(max_size=40),
)


@given(st.lists(ANSWERS, min_size=1, max_size=6))
def test_push(endpoint, folder, monkeypatch, answers):
    monkeypatch.setattr(push, "RETRY_WAITS_S", (0,))
    Hub.answers = chain(answers, repeat(answers[-1]))
    before = {path.name for path in folder.rglob("*")}
    try:
        push.push_folder(folder, "me/mini", api=HfApi(endpoint=endpoint, token="hf_" + "x" * 34))
    except push.PushError as error:
        assert "\n" not in str(error) and 10 < len(str(error)) < 1000
        assert "hf_x" not in str(error)
    assert before == {path.name for path in folder.rglob("*") if ".cache" not in path.parts}
