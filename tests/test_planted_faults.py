# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The script `planted_faults` on one room; the others take minutes."""

import subprocess
import sys

import pytest
from places import ROOT


@pytest.mark.slow
def test_faults_in_a_room_are_found():
    command = [sys.executable, "tests/planted_faults.py", "training/corpus"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-1000:]
    assert done.stdout.count("found: ") == 2


def test_the_text_of_each_fault_stands_where_it_is_planted():
    sys.path.insert(0, str(ROOT / "tests"))
    try:
        from planted_faults import FAULTS
    finally:
        sys.path.pop(0)
    for room, faults in FAULTS.items():
        for name, text, fault in faults:
            assert (ROOT / room / name).read_text().count(text) == 1 and fault != text, f"{room}/{name}: {text}"
