# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
How long the command line takes to start, before there is anything that `training.evaluation` could score.

    python -m benchmarks.startup --checkouts OLD .

times the help, a typing error, a file that is not there, and the way to the first work of `answer`, where a file turns
out to be no audio. It compares several checkouts in one run.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from hub_cards.command_line import ArgumentParser, run_command


COMMANDS = {
    "help": ["--help"],
    # misspelt, because the time to this error is measured
    "a typing error": ["anwser"],
    "a missing file": ["answer", "missing.wav"],
    "first work of answer": ["answer", "broken.wav"],
}


def seconds_of(checkout: Path, argv: list[str], folder: str) -> float:
    """Seconds that the command line of a checkout takes for `argv`, in `folder`."""
    # older checkouts have the command line in `processing`
    module = "serving.cli" if (checkout / "serving").is_dir() else "processing.cli"
    # each checkout runs its own code, and one thread, so that the number of cores does not matter
    environment = os.environ | {"PYTHONPATH": str(checkout.resolve()), "OMP_NUM_THREADS": "1"}
    start = time.perf_counter()
    # `folder` has no code in it, because Python looks for modules in the current folder first; most of these commands
    # fail, as they should, so the exit code is not looked at
    subprocess.run([sys.executable, "-m", module, *argv], cwd=folder, env=environment, capture_output=True)
    return time.perf_counter() - start


def main(argv: list[str] | None = None) -> None:
    parser = ArgumentParser(
        prog="benchmarks.startup", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--checkouts", nargs="+", type=Path, default=[Path()], help="folders of this repository")
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args(argv)
    with tempfile.TemporaryDirectory() as folder:
        # it begins as a WAV file does, so that it is only found out when it is decoded
        Path(folder, "broken.wav").write_bytes(b"RIFF nothing")
        print(f"medians of {args.repeats} runs in seconds: {', '.join(map(str, args.checkouts))}; first over last")
        for name, command in COMMANDS.items():
            # the checkouts take turns, so that other work of the machine slows all of them
            runs = [[seconds_of(path, command, folder) for path in args.checkouts] for _ in range(args.repeats)]
            medians = [statistics.median(times) for times in zip(*runs)]
            print(f"{name:22}", *(f"{median:6.2f}" for median in medians), f"  {medians[0] / medians[-1]:.1f}x")


if __name__ == "__main__":
    sys.exit(run_command(main, "benchmarks.startup"))
