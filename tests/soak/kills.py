# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Kills what writes at random moments and starts it again once: is all there then, as if nothing had happened, and
nothing else?
`python tests/soak/kills.py --kills 50 --what training save export push --output kills.json`
"""

import argparse
import atexit
import collections
import json
import multiprocessing
import os
import random
import shutil
import sys
import tempfile
import time
import traceback
from pathlib import Path


# read by huggingface_hub when it is imported, as in `conftest.py`
os.environ["HF_HUB_DISABLE_XET"] = "1"
sys.path.insert(0, str(Path(__file__).parents[1] / "helpers"))

import torch  # noqa: E402
from hub_server import HubServer  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402
from tiny_corpus import TINY_TEXT_CONFIG, write_config, write_corpus  # noqa: E402
from tiny_models import tiny_codec  # noqa: E402
from transformers import AutoModel, AutoProcessor  # noqa: E402

import modeling_vita_audio  # noqa: E402, F401  registers the model with the auto classes
from processing.pipeline_vita_audio import VitaAudioPipeline  # noqa: E402
from serving.cli import main as vita_audio  # noqa: E402


# imported once, in the process that all others are forked from
PRELOADED = ["training.train", "processing.pipeline_vita_audio", "hub_cards.push", "matplotlib.pyplot"]
PRELOADED += ["transformers.models.qwen2.modeling_qwen2", "hub_server", "tiny_corpus", "tiny_models"]
MAX_SECONDS = 300


def child(command, arguments: list, temporary: Path, log: Path):
    """Runs a command as in a process that is started for it."""
    output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(output, 1)
    os.dup2(output, 2)
    os.environ["TMPDIR"], tempfile.tempdir = str(temporary), None
    torch.set_num_threads(1)
    try:
        code = command(*arguments) or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    atexit._run_exitfuncs()
    sys.stdout.flush()
    os._exit(code)


def save(source: Path, target: Path, max_shard_size: str, is_pipeline: bool):
    """Saves another model over one."""
    thing = AutoModel.from_pretrained(source)
    if is_pipeline:
        thing = VitaAudioPipeline(thing, processor=AutoProcessor.from_pretrained(source), device="cpu")
    thing.save_pretrained(target, max_shard_size=max_shard_size)


def contents(folder: Path) -> dict[str, bytes | None]:
    """Files and, as None, folders by their paths."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() if path.is_file() else None
        for path in sorted(folder.rglob("*"))
    }


def signs(work: "Work", place: Path) -> dict[str, set]:
    """What shows that something was written, hidden or not, or sent to the Hub; folders do not count as visible."""
    signs = {"written": {len(work.hub.requests)}, "visible": {len(work.hub.requests)}}
    for root, folders, files in os.walk(place):
        for name in folders + files:
            path = Path(root, name)
            try:
                sign = (path, name in files and path.stat().st_mtime_ns)
            except FileNotFoundError:
                continue
            signs["written"].add(sign)
            if name in files and not any(part.startswith(".") for part in path.relative_to(place).parts):
                signs["visible"].add(sign)
    return signs


class Work:
    """What all kinds start from, in one folder."""

    def __init__(self, folder: Path, hub: HubServer):
        self.folder, self.hub, self.log = folder, hub, folder / "log.txt"
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(PRELOADED)
        write_corpus(folder / "corpus", num_clips=8)
        tiny_codec().save_pretrained(folder / "codec")
        (folder / "tmp").mkdir()
        # a model with the record of its training, and another of the same shape
        config = self.training_config(folder / "old", save_strategy="no", max_steps=1)
        self.finish(vita_audio, [["train", "--config", str(config)]], folder / "tmp")
        self.write_variant(folder / "new", 1)

    def training_config(self, place: Path, **settings) -> Path:
        settings = {
            "dataset_name": str(self.folder / "corpus"),
            "codec_name_or_path": str(self.folder / "codec"),
            "code_cache_dir": str(place.parent / "codes"),
            "output_dir": str(place),
            "text_config": TINY_TEXT_CONFIG | {"attention_dropout": 0.1},
            "text_vocab_size": 320,
            "num_mctp_modules": 5,
            "interleave_pattern": [2, 5],
            "stage": 4,
        } | settings
        return write_config(place.parent / "config.yaml", **settings)

    def write_variant(self, folder: Path, number: float):
        """Our model with other weights and another configuration."""
        shutil.copytree(self.folder / "old", folder)
        for path in folder.rglob("*.safetensors"):
            save_file({name: tensor + number for name, tensor in load_file(path).items()}, path, {"format": "pt"})
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | {"variant": number}))

    def start(self, command, arguments: list, temporary: Path):
        process = self.context.Process(target=child, args=(command, arguments, temporary, self.log))
        process.start()
        return process

    def finish(self, command, arguments: list, temporary: Path):
        process = self.start(command, arguments, temporary)
        process.join(MAX_SECONDS)
        if process.exitcode is None:
            process.kill()
        assert process.exitcode == 0, f"exit code {process.exitcode}: {self.log.read_text()[-1500:]}"


class Training:
    """A run that saves often."""

    def __init__(self, work: Work):
        self.work = work

    def case(self, draw: random.Random):
        return None

    def prepare(self, place: Path, case) -> tuple:
        config = self.work.training_config(place / "run", max_steps=8, save_steps=2, save_total_limit=2)
        return vita_audio, [["train", "--config", str(config)]]

    def after_kill(self, place: Path, case) -> str:
        checkpoints = len(list(place.glob("run/checkpoint-*/complete")))
        return f"{'a model' if (place / 'run/model.safetensors').exists() else 'no model'}, {checkpoints} checkpoints"

    def after_repeat(self, place: Path, case, expected: dict):
        for path, content in expected.items():
            if path.endswith(".safetensors"):
                assert (place / path).read_bytes() == content, f"{path} is not that of an undisturbed run"


class Save:
    """`save_pretrained`, of a model or a pipeline, in one file or shards, over an older save in one file or shards."""

    def __init__(self, work: Work):
        self.work = work
        self.weights = {name: self.load(work.folder / name, True) for name in ("old", "new")}

    def case(self, draw: random.Random):
        return draw.choice(["100KB", "5GB"]), draw.choice(["100KB", "5GB"]), draw.random() < 0.5

    def prepare(self, place: Path, case) -> tuple:
        size_before, size, is_pipeline = case
        save(self.work.folder / "old", place / "model", size_before, is_pipeline)
        return save, [self.work.folder / "new", place / "model", size, is_pipeline]

    def load(self, folder: Path, is_pipeline: bool) -> dict[str, torch.Tensor]:
        model = AutoModel.from_pretrained(folder)
        weights = {"variant": torch.tensor(getattr(model.config, "variant", 0)), **model.state_dict()}
        if is_pipeline:
            codec = AutoProcessor.from_pretrained(folder).audio_tokenizer
            weights |= {f"codec.{name}": tensor for name, tensor in codec.state_dict().items()}
        return weights

    def after_kill(self, place: Path, case) -> str:
        try:
            weights = self.load(place / "model", case[-1])
        except (OSError, ValueError) as error:
            return f"{type(error).__name__}: {str(error).replace(str(place), '')[:60]}"
        for name, expected in self.weights.items():
            if all(tensor.equal(expected[key]) for key, tensor in weights.items()):
                return f"all {name}"
        raise AssertionError("a mix of two models is loaded")

    def after_repeat(self, place: Path, case, expected: dict):
        assert self.after_kill(place, case) == "all new"
        assert contents(place) == expected, "the files are not those of an undisturbed save"


class Export:
    """`vita-audio export`."""

    def __init__(self, work: Work):
        self.work = work

    def case(self, draw: random.Random):
        # into a folder that is there already, and empty, or into none
        return draw.random() < 0.3

    def prepare(self, place: Path, case) -> tuple:
        if case:
            (place / "model").mkdir()
        return vita_audio, [["export", str(place / "model"), "--model", str(self.work.folder / "old")]]

    def after_kill(self, place: Path, case) -> str:
        return f"{len(list(place.glob('model/[!.]*')))} files and folders"

    def after_repeat(self, place: Path, case, expected: dict):
        assert contents(place) == expected, "the files are not those of an undisturbed export"


class Push:
    """`vita-audio push`, to a new repository or over an older model."""

    def __init__(self, work: Work):
        self.work, self.num_pushes = work, 0

    def case(self, draw: random.Random):
        return draw.random() < 0.5

    def prepare(self, place: Path, case) -> tuple:
        self.num_pushes += 1
        self.repository = f"vita/push-{self.num_pushes}"
        api = self.work.hub.api()
        if case:
            api.create_repo(self.repository)
            api.upload_folder(repo_id=self.repository, folder_path=self.work.folder / "old")
        # weights that the Hub has not
        self.work.write_variant(place / "model", self.num_pushes)
        return vita_audio, [["push", str(place / "model"), self.repository]]

    def after_kill(self, place: Path, case) -> str:
        repository = self.work.hub.storage.repositories.get(("models", self.repository))
        return f"{len(repository.commits)} commits" if repository else "no repository"

    def after_repeat(self, place: Path, case, expected: dict):
        ours = {path: content for path, content in contents(place / "model").items() if content is not None}
        for revision in ("stage4", "main"):
            with tempfile.TemporaryDirectory() as cache:
                root = Path(self.work.hub.api().snapshot_download(self.repository, revision=revision, cache_dir=cache))
                theirs = {path: content for path, content in contents(root).items() if content is not None}
            theirs.pop(".gitattributes", None)
            assert theirs == ours, f"{revision} on the Hub has other files: {theirs.keys() ^ ours.keys()}"


KINDS = {"training": Training, "save": Save, "export": Export, "push": Push}


def undisturbed(work: Work, kind, place: Path, case) -> dict:
    """What a run leaves; the seconds after which it writes first, and visibly, has written all and is over."""
    temporary = place / "tmp"
    temporary.mkdir(parents=True)
    command, arguments = kind.prepare(place, case)
    before = last = signs(work, place)
    times, start = {"start": 0}, time.monotonic()
    process = work.start(command, arguments, temporary)
    is_over = False
    while not is_over:
        is_over = not process.is_alive()
        seconds, now = time.monotonic() - start, signs(work, place)
        for name in now:
            if now[name] != before[name]:
                times.setdefault(name, seconds)
        if now != last:
            times["all"], last = seconds, now
        assert seconds < MAX_SECONDS
        time.sleep(0.0005)
    assert process.exitcode == 0, work.log.read_text()[-3000:]
    return {"times": times | {"over": seconds}, "contents": contents(place)}


def kill_once(work: Work, kind, place: Path, case, whole: dict, draw: random.Random) -> str | None:
    """The state that a kill has left, None where the command was too quick to be killed."""
    temporary = place / "tmp"
    temporary.mkdir(parents=True)
    command, arguments = kind.prepare(place, case)
    before, times = signs(work, place), whole["times"]
    # a fifth at any time, the others while it writes, or puts in place what it has written
    (since,) = draw.choices(["start", "written", "visible"], [1, 2, 2])
    delay = draw.uniform(0, times["over" if since == "start" else "all"] - times[since])
    process = work.start(command, arguments, temporary)
    end = time.monotonic() + MAX_SECONDS
    while since != "start" and process.is_alive() and signs(work, place)[since] == before[since]:
        if time.monotonic() > end:
            process.kill()
            raise AssertionError(f"nothing was {since} in {MAX_SECONDS} s")
        time.sleep(0.0005)
    process.join(delay)
    if not process.is_alive():
        assert process.exitcode == 0, f"exit code {process.exitcode}: {work.log.read_text()[-1500:]}"
        return None
    process.kill()
    process.join()
    outcome = kind.after_kill(place, case)
    if isinstance(kind, Export) and contents(place) == whole["contents"]:
        return "all, and another export is refused"
    try:
        work.finish(command, arguments, temporary)
    except AssertionError as error:
        raise AssertionError(f"after {outcome}, the repeat: {error}") from None
    if leftovers := contents(place).keys() ^ whole["contents"].keys():
        raise AssertionError(f"after {outcome}, left or missing: {', '.join(sorted(leftovers))}")
    kind.after_repeat(place, case, whole["contents"])
    return outcome


def kill(work: Work, what: str, kills: int, draw: random.Random) -> dict:
    """The report of one kind."""
    kind, place = KINDS[what](work), work.folder / what
    wholes, outcomes, faults, too_late = {}, collections.Counter(), [], 0
    # commands that are too quick for most of the kills would be repeated for ever
    while sum(outcomes.values()) < kills and too_late < 20 * kills:
        case = kind.case(draw)
        if case not in wholes:
            wholes[case] = undisturbed(work, kind, place, case)
            shutil.rmtree(place)
        try:
            outcome = kill_once(work, kind, place, case, wholes[case], draw)
        except AssertionError as error:
            outcome = "fault"
            faults.append(f"{what} {case}: {error}")
            print(faults[-1], flush=True)
        if outcome is None:
            too_late += 1
        else:
            outcomes[outcome] += 1
        shutil.rmtree(place)
    return {
        "kills": kills,
        "too_late": too_late,
        "seconds": [
            {name: round(seconds, 3) for name, seconds in whole["times"].items()} for whole in wholes.values()
        ],
        "outcomes": dict(outcomes.most_common()),
        "faults": faults,
    }


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=50, help="of each kind")
    parser.add_argument("--what", nargs="+", choices=KINDS, default=list(KINDS))
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--output", type=Path, help="for the report, as JSON; it is printed anyway")
    arguments = parser.parse_args()
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    with tempfile.TemporaryDirectory() as name:
        hub = HubServer(Path(name, "hub"))
        os.environ.update(hub.environment(Path(name, "home")))
        try:
            work = Work(Path(name, "work"), hub)
            draw = random.Random(arguments.seed)
            report = {}
            for what in arguments.what:
                start = time.monotonic()
                report[what] = kill(work, what, arguments.kills, draw)
                print(f"{what}: {json.dumps(report[what])} in {time.monotonic() - start:.0f} s", flush=True)
        finally:
            hub.stop()
    if arguments.output:
        arguments.output.write_text(json.dumps({"seed": arguments.seed, **report}, indent=2) + "\n")
    sys.exit(any(kind["faults"] for kind in report.values()))


if __name__ == "__main__":
    main()
