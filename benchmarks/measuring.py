# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Time, memory and the machine, as all speed benchmarks measure and name them. `training.evaluation` has scores.

A new speed benchmark is one more module beside this one, run as `python -m benchmarks.NAME`.
"""

import argparse
import platform
import time
from collections.abc import Callable
from pathlib import Path

import torch
import transformers


def add_output_dir(parser: argparse.ArgumentParser, files: str) -> None:
    """Adds `--output_dir`, for `files`, which are named to the user."""
    default = Path("runs/benchmarks")
    parser.add_argument("--output_dir", type=Path, default=default, help=f"for {files} (default: {default})")


def now(device: torch.device) -> float:
    """Seconds, when the device has done all that it was given."""
    # a GPU works on after the call that started its work has returned
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def seconds_of(function: Callable[[], object], device: torch.device) -> float:
    start = now(device)
    function()
    return now(device) - start


class PeakMemory:
    """The most memory in use inside a `with` block, in bytes: the GPU's, or that of this process."""

    def __init__(self, device: torch.device):
        self.device, self.num_bytes = device, None

    def __enter__(self):
        if self.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(self.device)
        else:
            Path("/proc/self/clear_refs").write_text("5")  # Linux: resets VmHWM
        return self

    def __exit__(self, *_):
        if self.device.type == "cuda":
            self.num_bytes = torch.cuda.max_memory_allocated(self.device)
        else:
            status = Path("/proc/self/status").read_text()
            # VmHWM, the most memory in use since it was reset, is given in kB
            self.num_bytes = 1024 * int(status.split("VmHWM:")[1].split()[0])


def describe_machine(device: torch.device) -> dict:
    """What figures depend on: goes into each file of results."""
    is_cuda = device.type == "cuda"
    return {
        "device": torch.cuda.get_device_name(device) if is_cuda else f"{platform.machine()} CPU",
        "threads": None if is_cuda else torch.get_num_threads(),
        "torch": torch.__version__,
        "transformers": transformers.__version__,
    }


def name_machine(results: dict) -> str:
    threads = results["threads"]
    return results["device"] + (f", {threads} thread{'s' * (threads > 1)}" if threads else "")
