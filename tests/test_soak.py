# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The scripts of `soak` for a few seconds each, so that they do not rot."""

import json
import os
import subprocess
import sys

import pytest
from places import ROOT


pytestmark = pytest.mark.slow


def run(script, output, *arguments):
    done = subprocess.run(
        [sys.executable, ROOT / "tests" / "soak" / script, *arguments, "--output", output],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    return json.loads(output.read_text())


def test_streams_cost_nothing(tmp_path):
    report = run("streams.py", tmp_path / "streams.json", "--minutes", "0.08", "--max_growth", "500")
    assert report["streams"] > 3 and report["chunks"] > 3


def test_saves_and_exports_that_are_killed_can_be_repeated(tmp_path):
    report = run("kills.py", tmp_path / "kills.json", "--kills", "2", "--what", "save", "export")
    assert all(sum(report[what]["outcomes"].values()) == 2 for what in ("save", "export"))


def test_sessions_cost_nothing(tmp_path):
    report = run(
        "sessions.py", tmp_path / "sessions.json", "--minutes", "0.1", "--sessions", "10", "--max_growth", "100"
    )
    assert report["sessions"] > 40 and report["minutes_of_audio"] > 1
