# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Where the tests of GPUs run: there or, for `.ci/gpu --check`, which shows that they start, on the CPU."""

import os

import pytest
import torch


DEVICE = "cuda" if torch.cuda.is_available() else "cpu"


def needs_gpu(test):
    """Marks a test, or a class of tests."""
    is_run = DEVICE == "cuda" or "VITA_AUDIO_GPU_TESTS_ON_CPU" in os.environ
    return pytest.mark.gpu(pytest.mark.skipif(not is_run, reason="needs a CUDA GPU")(test))
