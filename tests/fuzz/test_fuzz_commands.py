# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Command lines: an answer, wrong usage, or one line that says what is wrong."""

import os

import numpy as np
import pytest
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from serving.cli import main


@pytest.fixture(scope="module")
def folder(pipe, tmp_path_factory):
    """A model and some recordings, in what is the current folder meanwhile."""
    folder = tmp_path_factory.mktemp("commands")
    pipe.save_pretrained(folder / "model")
    soundfile.write(folder / "question.wav", 0.3 * np.sin(np.arange(8000) / 20), 16000)
    soundfile.write(folder / "empty.wav", np.zeros(0), 16000)
    (folder / "notes.txt").write_text("no audio")
    before = os.getcwd()
    os.chdir(folder)
    yield folder
    os.chdir(before)


COMMANDS = ["answer", "ask", "transcribe", "speak", "export", "push", "card"]
# no Hub ids, nor URLs: what they end in is another test's
WORDS = st.text(max_size=12, alphabet=st.characters(exclude_characters="/:\0", exclude_categories=["Cs"]))
VALUES = WORDS | st.sampled_from(
    [
        "question.wav",
        "empty.wav",
        "notes.txt",
        "model",
        "none.wav",
        ".",
        "..",
        "out.mp3",
        "1,10",
        "-1",
        "0",
        "4",
        "nan",
    ]
)
OPTIONS = st.sampled_from(
    "--model --revision --device --dtype --threads --mode --max_new_tokens --max-audio-seconds --seed "
    "--json --output --force "
    "--codec --private --dry-run --repo-id --license --language --converted_from --benchmarks --overwrite".split()
)


@given(st.sampled_from(COMMANDS), st.lists(VALUES, max_size=3), st.lists(st.tuples(OPTIONS, VALUES), max_size=3))
def test_commands(folder, capsys, command, inputs, options):
    argv = [command, *inputs]
    for option, value in options:
        # a number of threads is the process's, from then on
        argv += ["--threads", "1"] if option == "--threads" else [f"{option}={value}"] if value else [option]
    if command == "push":
        argv.append("--dry-run")
    if "--model" not in argv and command not in ("push", "card"):
        argv += ["--model", "model", "--max-new-tokens", "12"]
    try:
        code = main(argv)
    except SystemExit as exit:
        assert exit.code in (0, 2)
        capsys.readouterr()
        return
    captured = capsys.readouterr()
    assert code in (0, 1)
    errors = [line for line in captured.err.splitlines() if line.startswith("vita-audio: error: ")]
    assert bool(errors) == (code == 1) and "Traceback" not in captured.err
    assert all(len(line) < 1000 for line in errors)
    # only whole files are left
    assert not [path for path in folder.rglob("*") if ".tmp" in path.name or "unfinished" in path.name]
