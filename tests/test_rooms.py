# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The house: a folder imports from its own floor and from those below, never from one above."""

import ast

import pytest
from places import ROOT


# from the ground up; folders on one floor know nothing of one another
FLOORS = [["hub_cards"], ["modeling_vita_audio"], ["processing"], ["training"], ["serving", "benchmarks"]]
HEIGHTS = {folder: height for height, floor in enumerate(FLOORS) for folder in floor}


def imported_folders(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (name.name.partition(".")[0] for name in node.names)
        elif isinstance(node, ast.ImportFrom) and not node.level:
            yield node.module.partition(".")[0]


def wrong_imports(root):
    for folder, height in HEIGHTS.items():
        for path in sorted((root / folder).rglob("*.py")):
            for name in imported_folders(path):
                if name in HEIGHTS and name != folder and HEIGHTS[name] >= height:
                    yield f"{path.relative_to(root)} imports {name}"


def test_no_import_runs_upwards():
    assert list(wrong_imports(ROOT)) == []


@pytest.mark.parametrize(
    "path, line",
    [
        ("processing/export.py", "def export():\n    from training.train import main"),
        ("hub_cards/push.py", "import processing"),
        ("modeling_vita_audio/a.py", "import torch, serving.cli"),
    ],
)
def test_one_that_does_is_named(tmp_path, path, line):
    (tmp_path / path).parent.mkdir()
    (tmp_path / path).write_text(line)
    (found,) = wrong_imports(tmp_path)
    assert found.startswith(f"{path} imports ")
