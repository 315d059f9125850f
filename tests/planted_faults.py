# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Do the fast tests find a fault? Plants one after the other in a copy of the checkout, and runs there what `.ci/quick`
runs of the room that the fault is in. `python tests/planted_faults.py [ROOM ...]`; all of them take some minutes.
"""

import argparse
import contextlib
import io
import multiprocessing
import os
import shutil
import sys
import tempfile
from pathlib import Path


ROOT = Path(__file__).parents[1]
CODE = ["hub_cards", "modeling_vita_audio", "processing", "training", "serving", "benchmarks"]
# as in .ci/quick
MARKERS = "not slow and not hub and not gpu"

# By room: a file, what stands in it once, and the fault that takes its place
FAULTS = {
    "modeling_vita_audio": [
        ("loss_vita_audio.py", "shift = num_ahead + 1", "shift = num_ahead + 2"),
        ("generation_vita_audio.py", "yield from range(1, mctp + 1)", "yield from range(mctp)"),
        ("generation_vita_audio.py", "cache.crop(-num_rejected)", "cache.crop(-num_rejected - 1)"),
    ],
    "hub_cards": [
        ("results.py", 'lines.append(f"| `{name}` | {values[0]:.3f}', 'lines.append(f"| `{name}` | {values[-1]:.3f}'),
        ("results.py", 'lines += [row(title, "speed"', 'lines = [row(title, "speed"'),
        ("secret_scan.py", "(?:hf|api_org)_", "(?:api_org)_"),
    ],
    "processing": [
        (
            "../modeling_vita_audio/interleaving_vita_audio.py",
            "ids = [self.speech_token_offset + code for",
            "ids = [self.speech_token_offset + 1 + code for",
        ),
        (
            "streaming_vita_audio.py",
            "len(self._codes) == self.codes_per_chunk",
            "len(self._codes) == self.codes_per_chunk + 1",
        ),
        ("conversation_vita_audio.py", '"Convert the speech to text.', '"Convert speech to text.'),
    ],
    "training": [
        ("trainer.py", "model.requires_grad_(plan.trains_language_model)", "model.requires_grad_(True)"),
        ("trainer.py", 'group["lr"] * self.args', 'group["lr"] / self.args'),
        ("collator.py", 'batch["position_ids"] == 0', 'batch["position_ids"] < 0'),
    ],
    "training/codec": [
        ("adversary.py", "(own / num_batches).backward(", "(-own / num_batches).backward("),
        ("decoder_model.py", "take_pieces(target_values, starts * hop,", "take_pieces(target_values, starts + 1,"),
        ("losses.py", "losses.append(log_distance + convergence)", "losses.append(log_distance - convergence)"),
        ("tokenizer_model.py", "torch.linspace(-1, 1, number)", "torch.linspace(0, 1, number)"),
        ("tokenizer_model.py", "centred / (centred.square()", "centred * (centred.square()"),
        ("whisper.py", ".chunk(3)", ".chunk(3)[::-1]"),
    ],
    "training/corpus": [
        ("questions.py", "total = NUMBERS[i + j]", "total = NUMBERS[max(i, j)]"),
        ("questions.py", "rest = NUMBERS[i - j]", "rest = NUMBERS[j]"),
    ],
    "training/evaluation": [
        (
            "scoring.py",
            "return jiwer.wer(*_normalize_pairs(references, hypotheses, normalizer))",
            "counts = jiwer.process_words(*_normalize_pairs(references, hypotheses, normalizer)); "
            "words = sum(map(len, counts.references)); return counts.wer - counts.insertions / words",
        ),
        ("scoring.py", "return sum(processing_seconds) / sum(audio", "return sum(audio_seconds) / sum(processing"),
        ("scoring.py", "at_end = any(full[-len(phrase) :] ==", "at_end = any(full[: len(phrase)] =="),
        ("evaluate_held_out.py", "factor(work_seconds[mode], speech_sec", "factor(speech_seconds[mode], work_sec"),
        ("harness.py", "real_time_factor(work, durations)", "real_time_factor(durations, work)"),
    ],
    "serving": [
        ("../hub_cards/command_line.py", "    return 1\n", "    return 0\n"),
        ("loading.py", "value is not None and value < 1:", "value is not None and value < 0:"),
    ],
    "benchmarks": [
        (
            "decode_speed.py",
            'figures["tokens_per_second"] / results[BASELINE]["tokens_per_second"]',
            'results[BASELINE]["tokens_per_second"] / figures["tokens_per_second"]',
        ),
        ("decode_speed.py", "return (main + mctp) * bandwidth", "return main * bandwidth"),
        ("codec_speed.py", "row['encode_real_time_factor']:.3f}", "row['decode_real_time_factor']:.3f}"),
    ],
}


def copy_checkout(folder: Path):
    for name in [*CODE, "tests"]:
        ignored = shutil.ignore_patterns("__pycache__", "fixtures", "results")
        shutil.copytree(ROOT / name, folder / name, ignore=ignored)
    for name in ("tests/fixtures", "pretrained", "benchmarks/results"):
        (folder / name).symlink_to(ROOT / name)
    for name in (".pytest.ini", ".ci", "README.md", "setup.py", "constraints.txt"):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
        copy(ROOT / name, folder / name)


def plant(folder: Path, room: str, name: str, text: str, fault: str) -> tuple[Path, str]:
    """
    Returns:
        `tuple[Path, str]`: the file, and what it was before.

    Raises:
        ValueError: the text does not stand there, or more than once.
    """
    path = (folder / room / name).resolve()
    content = path.read_text(encoding="utf-8")
    if content.count(text) != 1:
        raise ValueError(f"{room}/{name} has {text!r} {content.count(text)} times, not once: plant another fault.")
    path.write_text(content.replace(text, fault), encoding="utf-8")
    return path, content


def run_tests(folder: Path, room: str, log: Path):
    """
    Runs, in a process of its own, the fast tests of a room up to the first that fails, and exits with pytest's code.
    """
    import pytest

    os.chdir(folder)
    sys.path.insert(0, str(folder))
    with open(log, "w") as file, contextlib.redirect_stdout(file), contextlib.redirect_stderr(file):
        code = pytest.main(["-q", "-x", "-p", "no:cacheprovider", "-m", MARKERS, *tests_of(room)])
    os._exit(int(code))


def tests_of(room: str) -> list[str]:
    """The tests of a room alone, without those of the rooms in it."""
    inner = [other for other in FAULTS if other.startswith(f"{room}/")]
    return [f"tests/{room}", *(f"--ignore=tests/{other}" for other in inner)]


def outcome(folder: Path, room: str) -> tuple[int, str]:
    """Pytest's exit code, and the last line that it printed."""
    log = folder / "log.txt"
    process = multiprocessing.get_context("fork").Process(target=run_tests, args=(folder, room, log))
    process.start()
    process.join(600)
    process.kill()
    return process.exitcode, (log.read_text().strip().splitlines() or [""])[-1]


def missed_faults(rooms: list[str]) -> list[str]:
    """Plants the faults of `rooms`, says of each what came of it, and returns those that no test has found."""
    missed = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name).resolve()
        copy_checkout(folder)
        for room in rooms:
            code, line = outcome(folder, room)
            print(f"{room}, as it is: {line}", flush=True)
            if code != 0:
                print((folder / "log.txt").read_text())
                missed.append(f"{room}: its tests fail before any fault is planted")
                continue
            for fault in FAULTS[room]:
                path, content = plant(folder, room, *fault)
                code, line = outcome(folder, room)
                # 1: a test has failed; 2: the fault is seen when tests are collected
                found = code in (1, 2)
                print(f"{'found' if found else 'MISSED'}: {room}/{fault[0]}: {fault[2]} ({line})", flush=True)
                path.write_text(content, encoding="utf-8")
                if not found:
                    missed.append(f"{room}/{fault[0]}: {fault[2]}")
    return missed


def main(argv: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("rooms", nargs="*", metavar="ROOM", help=f"of {', '.join(FAULTS)}; all by default")
    rooms = parser.parse_args(argv).rooms or list(FAULTS)
    if unknown := set(rooms) - set(FAULTS):
        parser.error(f"unknown: {', '.join(sorted(unknown))}")
    # the libraries are imported once, and our code in each process
    for library in ("torch", "transformers", "datasets", "trl", "matplotlib.pyplot"):
        with contextlib.suppress(ImportError), contextlib.redirect_stderr(io.StringIO()):
            __import__(library)
    return int(bool(missed_faults(rooms)))


if __name__ == "__main__":
    sys.exit(main())
