# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Runs of `training.train` in processes of their own."""

import os
import subprocess
import sys
from pathlib import Path

from places import ROOT
from tiny_corpus import TINY_TEXT_CONFIG


# what is on the path already stays there, such as packages of .ci/gpu
PYTHONPATH = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
ENVIRONMENT = os.environ | {"PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}


def settings_of(folder: Path, output_dir: Path, **settings) -> dict:
    """
    Settings of a run from nothing on the corpus and the codec in `folder`; dropout, so that the random numbers matter.
    """
    return {
        "dataset_name": str(folder / "corpus"),
        "code_cache_dir": str(folder / "codes"),
        "codec_name_or_path": str(folder / "codec"),
        "output_dir": str(output_dir),
        "text_config": TINY_TEXT_CONFIG | {"attention_dropout": 0.1},
        "text_vocab_size": 320,
        "num_mctp_modules": 5,
        "interleave_pattern": [2, 5],
    } | settings


def start(config: Path, *command: str, **environment: str) -> subprocess.Popen:
    """Starts `training.train` or, as `command`, what launches it."""
    return subprocess.Popen(
        [sys.executable, *(command or ["-m", "training.train"]), "--config", str(config)],
        cwd=ROOT,
        env=ENVIRONMENT | environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def finish(process: subprocess.Popen) -> str:
    """Waits for the run's end and returns what it has printed."""
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 0, output[-4000:]
    return output
