# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The house: a room imports from itself and from the floors below, no imports run in a circle, and setup.py names what is
imported.
"""

import ast
import graphlib
import re
import subprocess
import sys
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest
from places import ROOT


# From the ground up. Rooms on one floor know nothing of one another; the stages of `training` know nothing of the
# rooms upstairs.
FLOORS = [
    ["hub_cards"],
    ["modeling_vita_audio"],
    ["processing"],
    ["training"],
    ["training.codec", "training.corpus", "training.evaluation"],
    ["training.rewards"],
    ["training.preference"],
    ["serving"],
    ["benchmarks"],
]
HEIGHTS = {room: height for height, floor in enumerate(FLOORS) for room in floor}


def room_of(module: str) -> str | None:
    return max((room for room in HEIGHTS if f"{module}.".startswith(f"{room}.")), key=len, default=None)


def modules_of(root: Path) -> dict[str, Path]:
    """The files of all rooms by the names of their modules."""
    paths = sorted(
        path for floor in FLOORS for room in floor if "." not in room for path in (root / room).rglob("*.py")
    )
    return {".".join(path.relative_to(root).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def imports_of(path: Path, root: Path, modules: dict[str, Path]) -> set[str]:
    """Absolute names of all that a file imports, its functions included: a module where there is one of that name."""
    package, found = path.relative_to(root).parts[:-1], set()
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {name.name for name in node.names}
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else ()
            origin = ".".join([*above, *([node.module] if node.module else [])])
            inside = {f"{origin}.{name.name}" for name in node.names}
            found |= (inside & modules.keys()) | ({origin} if inside - modules.keys() else set())
    return found


def import_graph(root: Path) -> dict[str, set[str]]:
    modules = modules_of(root)
    return {module: imports_of(path, root, modules) for module, path in modules.items()}


def wrong_imports(root: Path) -> list[str]:
    return [
        f"{module} imports {name}"
        for module, names in import_graph(root).items()
        for name in sorted(names)
        if (other := room_of(name)) and other != (room := room_of(module)) and HEIGHTS[other] >= HEIGHTS[room]
    ]


def circles(root: Path) -> list[str]:
    """
    Each module in a circle with the next, which it imports. A package's `__init__` counts only where it is asked for a
    name.
    """
    graph, found = import_graph(root), []
    while True:
        try:
            graphlib.TopologicalSorter(graph).prepare()
            return found
        except graphlib.CycleError as error:
            circle = error.args[1][::-1]
            found.append(" imports ".join(circle))
            graph[circle[0]].remove(circle[1])


def imports_of_another_style(root: Path) -> list[str]:
    """Imports are relative inside a folder, as remote code has to be, and absolute between folders."""
    found = []
    for module, path in modules_of(root).items():
        package = ".".join(path.relative_to(root).parts[:-1])
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ImportFrom):
                is_own = node.module is not None and node.module.rpartition(".")[0] == package
                if node.level > 1 or (node.level == 0 and is_own):
                    found.append(f"{module}, line {node.lineno}")
    return found


def test_imports_have_one_style():
    assert imports_of_another_style(ROOT) == []


def test_an_import_of_another_style_is_named(house):
    root = house("training/codec/train.py", "import os\nfrom training.codec.tune import main\nfrom ..data import a")
    house("training/codec/tune.py", "from .train import b\nfrom training.data import c")
    assert imports_of_another_style(root) == ["training.codec.train, line 2", "training.codec.train, line 3"]


def test_no_import_runs_upwards():
    assert wrong_imports(ROOT) == []


def test_no_imports_run_in_a_circle():
    assert circles(ROOT) == []


@pytest.fixture
def house(tmp_path):
    """Writes a file into an otherwise empty house."""

    def write(path, text):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text(text)
        return tmp_path

    return write


@pytest.mark.parametrize(
    "path, line, found",
    [
        (
            "processing/export.py",
            "def export():\n    from training.train import main",
            "processing.export imports training.train",
        ),
        ("hub_cards/push.py", "import processing", "hub_cards.push imports processing"),
        ("modeling_vita_audio/a.py", "import torch, serving.cli", "modeling_vita_audio.a imports serving.cli"),
        ("training/data.py", "from training.codec import clips", "training.data imports training.codec"),
        ("training/data.py", "from .codec.clips import a", "training.data imports training.codec.clips"),
        ("training/codec/a.py", "from ..evaluation import b", "training.codec.a imports training.evaluation"),
        ("serving/a.py", "import benchmarks.b", "serving.a imports benchmarks.b"),
    ],
)
def test_one_that_runs_upwards_is_named(house, path, line, found):
    assert wrong_imports(house(path, line)) == [found]


@pytest.mark.parametrize(
    "path, line",
    [
        ("processing/export.py", "import modeling_vita_audio.saving_vita_audio, hub_cards"),
        ("training/codec/a.py", "from training import data\nfrom . import clips\nfrom ..checkpoints import save"),
        ("serving/a.py", "from training.evaluation import report\nimport trainings"),
    ],
)
def test_one_that_runs_down_or_stays_is_none(house, path, line):
    assert wrong_imports(house(path, line)) == []


def test_each_circle_is_named(house):
    house("training/a.py", "from training import b")
    house("training/b.py", "def late():\n    from .c import d")
    house("training/c.py", "import training.a")
    house("processing/__init__.py", "from .x import y")
    house("processing/x.py", "from processing import y")
    root = house("hub_cards/straight.py", "import torch")
    first, second = sorted(circles(root))
    assert first in (
        "processing imports processing.x imports processing",
        "processing.x imports processing imports processing.x",
    )
    assert set(first.split(" imports ")) == {"processing", "processing.x"}
    assert set(second.split(" imports ")) == {"training.a", "training.b", "training.c"}


def normalized(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def declared(setup: str) -> dict[str, set[str]]:
    """The names of what setup.py requires, by extra; without one it is "base"."""
    names = {}
    for node in ast.walk(ast.parse(setup)):
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "extras":
            names |= ast.literal_eval(node.value)
        elif isinstance(node, ast.keyword) and node.arg == "install_requires":
            names["base"] = ast.literal_eval(node.value)
        elif isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "extras['test']":
            names["test"] = [part.value for part in node.value.elts if isinstance(part, ast.Constant)]
    return {
        extra: {normalized(re.match(r"[\w.-]+", requirement)[0]) for requirement in requirements}
        for extra, requirements in names.items()
    }


# What each room may import, beyond the base
EXTRAS = {
    "training": {"train", "liger"},
    "training.codec": {"train"},
    "training.corpus": {"train", "corpus"},
    "training.evaluation": {"train", "eval", "media"},
    "training.rewards": {"train", "eval"},
    "training.preference": {"train", "eval"},
    "serving": {"serve", "talk", "vllm"},
    "benchmarks": {"train", "eval", "serve"},
}
# The command that publishes a corpus belongs to those of the training, and says so where it is not installed
LENT = {"hub_cards.publish_corpus": {"train"}}


def undeclared(graph: dict[str, set[str]], names: dict[str, set[str]]) -> set[str]:
    """Modules with what they import and the extras of their room do not bring."""
    distributions, found = packages_distributions(), set()
    for module, imported in graph.items():
        allowed = names["base"].union(
            *(names[extra] for extra in EXTRAS.get(room_of(module), set()) | LENT.get(module, set()))
        )
        for name in {name.partition(".")[0] for name in imported} - sys.stdlib_module_names - HEIGHTS.keys():
            if not {normalized(owner) for owner in distributions.get(name, [name])} & allowed:
                found.add(f"{module} imports {name}")
    return found


@pytest.mark.slow
def test_what_is_imported_is_declared():
    names = declared((ROOT / "setup.py").read_text())
    assert undeclared(import_graph(ROOT), names) == set()
    everything = set().union(*names.values())
    tests = set()
    for path in (ROOT / "tests").rglob("*.py"):
        tests |= {name.partition(".")[0] for name in imports_of(path, ROOT, {})}
    helpers = {path.stem for path in (ROOT / "tests").rglob("*.py")} | {"transformers_tests"}
    distributions = packages_distributions()
    for name in tests - sys.stdlib_module_names - HEIGHTS.keys() - helpers:
        assert {normalized(owner) for owner in distributions.get(name, [name])} & everything, name


def test_one_that_is_not_is_named():
    names = declared((ROOT / "setup.py").read_text())
    assert undeclared({"processing.a": {"torch", "yaml", "scipy.signal"}}, names) == {"processing.a imports scipy"}
    assert undeclared({"training.codec.a": {"librosa", "fastapi"}}, names) == {"training.codec.a imports fastapi"}


def test_versions_of_all_that_is_declared_are_tested():
    names = declared((ROOT / "setup.py").read_text())
    pinned = {
        normalized(line.partition("==")[0]) for line in (ROOT / "constraints.txt").read_text().split() if "==" in line
    }
    # vLLM brings an environment of its own, see .ci/vllm
    assert set().union(*names.values()) - names["vllm"] <= pinned
    oldest = {
        normalized(line.partition("==")[0])
        for line in (ROOT / ".ci" / "oldest.txt").read_text().split()
        if "==" in line
    }
    assert names["base"] == oldest


@pytest.mark.slow
def test_a_wheel_has_what_is_no_module(tmp_path):
    """Also the marks of typed packages, without which a type checker ignores our annotations."""
    command = [sys.executable, "setup.py", "-q", "egg_info", "--egg-base", tmp_path]
    command += ["build_py", "--build-lib", tmp_path]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True, timeout=300)
    for room in (room for floor in FLOORS for room in floor if "." not in room and room != "benchmarks"):
        assert (tmp_path / room / "py.typed").exists(), room
    for pattern in (
        "training/configs/**/*.yaml",
        "hub_cards/templates/*.jinja",
        "training/evaluation/benchmarks/*.yaml",
    ):
        files = {path.relative_to(ROOT) for path in ROOT.glob(pattern)}
        assert files and files == {path.relative_to(tmp_path) for path in tmp_path.glob(pattern)}
    assert (tmp_path / "processing" / "pretrained" / "vita-audio-mini" / "model.safetensors").exists()
    assert (tmp_path / "processing" / "pretrained" / "vita-audio-mini" / "modeling_vita_audio.py").exists()
