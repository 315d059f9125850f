# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""`.ci/gpu` without a GPU."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from places import ROOT


STEPS = ("tests", "training", "decode_speed", "static_speed", "codec_speed")


def run(results, *arguments, **environment):
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environment = os.environ | {"PATH": path, "RESULTS": str(results), "OMP_NUM_THREADS": "1"} | environment
    command = [ROOT / ".ci" / "gpu", *arguments]
    return subprocess.run(command, env=environment, capture_output=True, text=True, timeout=900)


@pytest.mark.slow
def test_each_step_starts_and_is_done_once(tmp_path):
    # a step for which no time is left waits for the next call
    done = run(tmp_path, "--check", LIMIT="30")
    assert done.returncode == 1 and f"Not done: {' '.join(STEPS)}" in done.stdout

    done = run(tmp_path, "--check")
    assert done.returncode == 0, (done.stdout + done.stderr)[-6000:]
    names = [f"{step}.txt" for step in STEPS] + ["codec_speed.json", "decode_speed.json", "static_speed.json"]
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)
    for step in STEPS:
        text = (tmp_path / f"{step}.txt").read_text()
        assert text.startswith(f"{step} on ") and f"CPU, torch {torch.__version__}" in text.splitlines()[0]
    assert "test_graphs_write_the_same_tokens[verified] PASSED" in (tmp_path / "tests.txt").read_text()
    of_training = (tmp_path / "training.txt").read_text()
    assert "test_fsdp_on_one_gpu_agrees_with_no_sharding PASSED" in of_training
    # a GPU's alone, and found for it
    assert "test_ligers_losses_and_gradients_are_ours_on_a_gpu SKIPPED" in of_training
    assert "transformers Qwen2" in json.loads((tmp_path / "decode_speed.json").read_text())["rows"]

    done = run(tmp_path, "--check")
    assert done.returncode == 0
    assert [line.split()[:3] for line in done.stdout.splitlines()] == [[step, "is", "done"] for step in STEPS]


def test_all_tests_for_gpus_are_where_the_steps_look_for_them():
    marked = {path.name for path in (ROOT / "tests").rglob("*.py") if ".mark.gpu" in path.read_text()}
    assert marked - {Path(__file__).name} == {"gpu.py"}


@pytest.mark.slow
def test_a_step_that_fails_stays_to_be_done(tmp_path):
    done = run(tmp_path, "--check", "tests", PYTEST_ADDOPTS="--no-such-option")
    assert done.returncode == 1 and "Not done: tests" in done.stdout
    assert "no-such-option" in (tmp_path / "tests.failed.txt").read_text() and len(list(tmp_path.iterdir())) == 1


@pytest.mark.parametrize(
    "arguments, said",
    [(["--check", "speed"], "There is no step speed; the steps are tests"), ([], "There is no CUDA GPU")],
)
@pytest.mark.slow
def test_what_cannot_be_run_is_said(tmp_path, arguments, said):
    if not arguments and torch.cuda.is_available():
        pytest.skip("there is a GPU")
    done = run(tmp_path, *arguments)
    assert done.returncode and said in done.stderr and not list(tmp_path.iterdir())
