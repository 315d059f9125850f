# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Files that a card is written from, and the commands on them: one line that names the file, or a card."""

import json
import shutil

import pytest
from fuzz_values import VALUES
from hypothesis import given
from hypothesis import strategies as st

from processing.export import export_repository
from serving.cli import main


FILES = {
    "config.json": None,
    "training_args.json": {
        "stage": 2,
        "starts_from": {"repo_id": "a/b", "revision": "main"},
        "stages": [{"stage": 1, "repo_id": "a/b"}],
        "dataset": {"folder": "corpus"},
        "num_examples": 7,
        "settings": {"seed": 1},
        "hardware": {"device": "cpu", "processes": 1},
        "versions": {"torch": "2"},
    },
    "trainer_state.json": {"global_step": 2, "log_history": [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}]},
    "results.json": {
        "modes": {"boost": {"asr": {"wer": 0.1}, "speed": {"tokens_per_second": 9.0}}},
        "recognizer": "w",
    },
    "benchmarks.json": {"benchmarks": {"x": {"boost": {"dataset": "a/b", "split": "test", "wer": 0.2}}}},
    "README.md": None,
    "model.safetensors": None,
}


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    folder = export_repository(pipe.model, pipe.processor, tmp_path_factory.mktemp("cards") / "model")
    for name, content in FILES.items():
        if content is not None:
            (folder / name).write_text(json.dumps(content))
    return folder


def paths_within(content, path=()):
    """Where something is in a JSON document."""
    yield path
    items = content.items() if isinstance(content, dict) else enumerate(content) if isinstance(content, list) else ()
    for key, value in items:
        yield from paths_within(value, (*path, key))


@st.composite
def broken(draw, content: bytes):
    if content[:1] != b"{":
        content = bytearray(content)
        for _ in range(draw(st.integers(1, 4))):
            content[draw(st.integers(0, min(len(content) - 1, 3000)))] = draw(st.integers(0, 255))
        return bytes(content[: draw(st.integers(0, len(content)))])
    document = json.loads(content)
    for _ in range(draw(st.integers(1, 2))):
        *path, last = draw(st.sampled_from([path for path in paths_within(document) if path]))
        place = document
        for key in path:
            if not isinstance(place, dict | list) or not (
                key in place if isinstance(place, dict) else key < len(place)
            ):
                break
            place = place[key]
        else:
            if isinstance(place, dict) or (isinstance(place, list) and isinstance(last, int) and last < len(place)):
                place[last] = draw(VALUES)
    text = json.dumps(document, default=str).encode()
    return draw(st.just(text) | st.just(text[: draw(st.integers(0, len(text)))]))


@given(st.sampled_from(list(FILES)), st.data())
def test_commands_on_broken_folders(folder, tmp_path_factory, capsys, name, data):
    copy = tmp_path_factory.mktemp("broken") / "model"
    shutil.copytree(folder, copy)
    (copy / name).write_bytes(data.draw(broken((copy / name).read_bytes())))
    for argv in (["push", str(copy), "me/mini", "--dry-run"], ["card", str(copy)]):
        code = main(argv)
        captured = capsys.readouterr()
        assert code in (0, 1)
        if code == 1:
            (line,) = captured.err.splitlines()
            assert line.startswith("vita-audio: error: ") and len(line) < 1000
    assert not list(copy.glob(".*"))
    shutil.rmtree(copy.parent)
