# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The unmodified clients (`huggingface_hub`, transformers, datasets, our commands) against the Hub of `hub_server`."""

import hashlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import soundfile
from clean_process import BLOCK_OUR_PACKAGES
from huggingface_hub import CommitOperationAdd, CommitOperationCopy, CommitOperationDelete, snapshot_download
from huggingface_hub.constants import DOWNLOAD_CHUNK_SIZE
from huggingface_hub.errors import (
    EntryNotFoundError,
    GatedRepoError,
    HfHubHTTPError,
    LocalEntryNotFoundError,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from huggingface_hub.utils import httpx
from places import ROOT
from tiny_models import tiny_codec, tiny_model, tiny_processor
from waiting import wait_until

from processing import VitaAudioProcessor
from processing.export import export_repository
from processing.pipeline_vita_audio import VitaAudioPipeline


pytestmark = [pytest.mark.slow, pytest.mark.hub]


@pytest.fixture
def folder(tmp_path):
    """Two large files, one of them uploaded in parts, and small ones."""
    folder = tmp_path / "folder"
    (folder / "audio_tokenizer").mkdir(parents=True)
    (folder / "README.md").write_text("---\nlicense: apache-2.0\npipeline_tag: audio-to-audio\n---\nA model.\n")
    (folder / "config.json").write_text('{"model_type": "vita_audio"}')
    (folder / "empty.txt").touch()
    (folder / "model.safetensors").write_bytes(os.urandom(300_000))
    (folder / "audio_tokenizer" / "model.safetensors").write_bytes(os.urandom(10_000))
    return folder


@pytest.fixture
def question(tmp_path):
    path = tmp_path / "question.wav"
    soundfile.write(path, 0.3 * np.sin(np.arange(12000) / 20), 16000)
    return str(path)


def contents(folder: Path) -> dict[str, str]:
    """SHA-256 of the files of a folder, but for `.gitattributes`, which the Hub makes."""
    return {
        path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest()
        for path in sorted(Path(folder).rglob("*"))
        if path.is_file() and path.name != ".gitattributes" and ".cache" not in path.parts
    }


def download(hub, repo_id, cache, **kwargs):
    return Path(snapshot_download(repo_id, endpoint=hub.endpoint, token=hub.read_token, cache_dir=cache, **kwargs))


def start(hub, home, *command, token=None, cwd=None, **variables):
    """A Python process that knows nothing but the Hub; `home` has its cache."""
    return subprocess.Popen(
        [sys.executable, *map(str, command)],
        env=hub.environment(home, token, **variables),
        cwd=cwd or home.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def run(*arguments, **kwargs):
    """As `start`, and waits for its end."""
    process = start(*arguments, **kwargs)
    stdout, stderr = process.communicate(timeout=600)
    return subprocess.CompletedProcess(process.args, process.returncode, stdout, stderr)


def kill_when_stalled(hub, process):
    """Kills a client in the middle of what a fault has stalled."""
    wait_until(lambda: not hub.faults or process.poll() is not None, 300)
    assert process.poll() is None, process.communicate()[1]
    process.kill()
    process.communicate()


# Files, commits, branches and tags


def test_a_folder_pushed_comes_back_by_branch_tag_and_commit(hub, folder, tmp_path):
    hub.part_size = 2**16
    api = hub.api()
    api.create_repo("vita/mini", private=True)
    first = api.upload_folder(repo_id="vita/mini", folder_path=folder)
    assert sum("/part?" in path for _, path in hub.requests) == 5
    before = contents(folder)
    api.create_tag("vita/mini", tag="stage1")
    api.create_branch("vita/mini", branch="stage/2")
    (folder / "model.safetensors").write_bytes(os.urandom(200_000))
    (folder / "empty.txt").unlink()
    second = api.upload_folder(
        repo_id="vita/mini", folder_path=folder, revision="stage/2", delete_patterns="*.txt", commit_message="Stage 2"
    )
    after = contents(folder)
    assert before.keys() - after.keys() == {"empty.txt"}

    refs = api.list_repo_refs("vita/mini")
    assert {ref.name: ref.target_commit for ref in refs.branches} == {"main": first.oid, "stage/2": second.oid}
    assert [(ref.name, ref.target_commit) for ref in refs.tags] == [("stage1", first.oid)]
    titles = [commit.title for commit in api.list_repo_commits("vita/mini", revision="stage/2")]
    assert titles == ["Stage 2", "Upload folder using huggingface_hub", "initial commit"]
    info = api.model_info("vita/mini", revision="stage/2", files_metadata=True)
    assert info.sha == second.oid and info.private and info.pipeline_tag == "audio-to-audio"
    (weights,) = [sibling for sibling in info.siblings if sibling.rfilename == "model.safetensors"]
    assert weights.lfs.sha256 == after["model.safetensors"] and weights.size == 200_000

    for revision, files in (("main", before), ("stage1", before), ("stage/2", after), (first.oid, before)):
        assert contents(download(hub, "vita/mini", tmp_path / "cache", revision=revision)) == files
        verified = api.verify_repo_checksums("vita/mini", revision=revision, cache_dir=tmp_path / "cache")
        assert verified.checked_count == len(files) + 1 and not verified.mismatches
    path = api.hf_hub_download("vita/mini", "model.safetensors", revision="stage/2", cache_dir=tmp_path / "other")
    assert hashlib.sha256(Path(path).read_bytes()).hexdigest() == after["model.safetensors"]

    api.delete_tag("vita/mini", tag="stage1")
    api.delete_branch("vita/mini", branch="stage/2")
    assert len(api.list_repo_refs("vita/mini").branches) == 1
    assert [model.id for model in api.list_models(pipeline_tag="audio-to-audio", author="vita")] == ["vita/mini"]
    api.delete_repo("vita/mini")
    assert not api.repo_exists("vita/mini")


def test_a_push_of_the_same_files_sends_nothing(hub, folder):
    api = hub.api()
    api.create_repo("vita/mini")
    first = api.upload_folder(repo_id="vita/mini", folder_path=folder)
    hub.requests.clear()
    assert api.upload_folder(repo_id="vita/mini", folder_path=folder).oid == first.oid
    assert not [path for method, path in hub.requests if method == "PUT" or "/commit/" in path]


def test_operations_of_a_commit(hub, folder):
    api = hub.api()
    api.create_repo("vita/mini")
    head = api.upload_folder(repo_id="vita/mini", folder_path=folder).oid
    operations = [
        CommitOperationCopy("model.safetensors", "copies/model.safetensors"),
        CommitOperationCopy("README.md", "copies/README.md"),
        CommitOperationDelete("audio_tokenizer/", is_folder=True),
        CommitOperationDelete("empty.txt"),
        CommitOperationAdd("notes.md", b"Notes."),
    ]
    api.create_commit("vita/mini", operations, commit_message="Many", parent_commit=head)
    files = {file.path: file for file in api.list_repo_tree("vita/mini", recursive=True, expand=True)}
    assert files.keys() == {
        *(".gitattributes", "README.md", "config.json", "model.safetensors", "notes.md"),
        *("copies", "copies/README.md", "copies/model.safetensors"),
    }
    assert files["copies/model.safetensors"].lfs == files["model.safetensors"].lfs
    assert (files["notes.md"].last_commit.title, files["config.json"].last_commit.oid) == ("Many", head)
    hub.page_size = 3
    assert len(list(api.list_repo_tree("vita/mini", recursive=True))) == len(files)

    # all of a commit or nothing of it
    head = api.model_info("vita/mini").sha
    operations = [CommitOperationAdd("more.md", b"More."), CommitOperationDelete("nothing.md")]
    with pytest.raises(EntryNotFoundError):
        api.create_commit("vita/mini", operations, commit_message="Broken")
    with pytest.raises(HfHubHTTPError, match="A commit has happened since"):
        operations = [CommitOperationAdd("more.md", b"More.")]
        api.create_commit("vita/mini", operations, commit_message="Late", parent_commit="0" * 40)
    assert api.model_info("vita/mini").sha == head and not api.file_exists("vita/mini", "more.md")


def test_who_may_do_what(hub, folder):
    api, reader, guest, nobody = hub.api(), hub.api(hub.read_token), hub.api(hub.guest_token), hub.api(False)
    assert api.whoami()["auth"]["accessToken"]["role"] == "write" and guest.whoami()["name"] == "guest"
    api.create_repo("vita/mini", private=True)
    api.create_repo("vita/mini", private=True, exist_ok=True)
    with pytest.raises(HfHubHTTPError, match="(?s)409.*already created"):
        api.create_repo("vita/mini")
    api.create_tag("vita/mini", tag="v1")
    with pytest.raises(HfHubHTTPError, match="409"):
        api.create_tag("vita/mini", tag="v1")

    assert reader.model_info("vita/mini").private
    with pytest.raises(HfHubHTTPError, match="(?s)403.*can only read"):
        reader.upload_folder(repo_id="vita/mini", folder_path=folder)
    for other in (guest, nobody):
        with pytest.raises(RepositoryNotFoundError):
            other.model_info("vita/mini")
    with pytest.raises(HfHubHTTPError, match="403"):
        guest.create_repo("vita/theirs")
    with pytest.raises(HfHubHTTPError, match="(?s)401.*Invalid credentials"):
        hub.api("hf_wrong").model_info("vita/mini")
    with pytest.raises(RevisionNotFoundError):
        api.model_info("vita/mini", revision="v2")
    with pytest.raises(EntryNotFoundError):
        api.hf_hub_download("vita/mini", "nothing.json")

    api.update_repo_settings("vita/mini", private=False, gated="manual")
    assert guest.model_info("vita/mini").gated == "manual"
    for other in (guest, nobody):
        with pytest.raises(GatedRepoError):
            other.hf_hub_download("vita/mini", ".gitattributes")


# Faults


def test_an_upload_that_loses_its_connection_starts_again_by_itself(hub, folder, tmp_path):
    hub.part_size = 2**16
    api = hub.api()
    api.create_repo("vita/mini")
    hub.drop_upload(after_bytes=30_000, path="number=3")
    hub.fail(503, path="/preupload/")
    api.upload_folder(repo_id="vita/mini", folder_path=folder)
    assert not hub.faults
    assert contents(download(hub, "vita/mini", tmp_path / "cache")) == contents(folder)


@pytest.mark.parametrize("path", ["number=3", "/commit/"])
def test_a_push_that_is_killed_is_seen_whole_or_not_at_all(hub, folder, tmp_path, path):
    hub.part_size = 2**16
    api = hub.api()
    api.create_repo("vita/mini")
    head = api.model_info("vita/mini").sha
    hub.drop_upload(after_bytes=100, how="stall", path=path)
    code = "import sys, huggingface_hub as h; h.upload_folder(repo_id='vita/mini', folder_path=sys.argv[1])"
    kill_when_stalled(hub, start(hub, tmp_path / "home", "-c", code, folder))
    assert api.model_info("vita/mini").sha == head
    api.upload_folder(repo_id="vita/mini", folder_path=folder)
    assert contents(download(hub, "vita/mini", tmp_path / "cache")) == contents(folder)


def test_a_download_that_loses_its_connection_goes_on_where_it_was(hub, folder, tmp_path):
    # larger than what the client takes at once
    (folder / "model.safetensors").write_bytes(os.urandom(DOWNLOAD_CHUNK_SIZE + 300_000))
    api = hub.api()
    api.create_repo("vita/mini")
    api.upload_folder(repo_id="vita/mini", folder_path=folder)
    hub.drop_download(after_bytes=DOWNLOAD_CHUNK_SIZE + 100_000)
    assert contents(download(hub, "vita/mini", tmp_path / "cache")) == contents(folder)
    assert not hub.faults and hub.ranges == [f"bytes={DOWNLOAD_CHUNK_SIZE}-"]


def test_a_download_that_fails_leaves_nothing_to_be_used(hub, folder, tmp_path):
    api = hub.api()
    api.create_repo("vita/mini")
    api.upload_folder(repo_id="vita/mini", folder_path=folder)
    cache = tmp_path / "home" / "hub"

    hub.drop_download(after_bytes=100_000, how="reset")
    with pytest.raises(httpx.ReadError):
        download(hub, "vita/mini", cache)
    assert not list(cache.rglob("*.incomplete")) and not list(cache.glob("models--*/snapshots/*/model.safetensors"))

    hub.drop_download(after_bytes=100_000, how="stall")
    code = "import huggingface_hub as h; h.hf_hub_download('vita/mini', 'model.safetensors')"
    kill_when_stalled(hub, start(hub, tmp_path / "home", "-c", code))
    assert not list(cache.glob("models--*/snapshots/*/model.safetensors"))
    with pytest.raises(LocalEntryNotFoundError):
        hub.api().hf_hub_download("vita/mini", "model.safetensors", cache_dir=cache, local_files_only=True)

    snapshot = download(hub, "vita/mini", cache)
    assert contents(snapshot) == contents(folder)
    assert not api.verify_repo_checksums("vita/mini", cache_dir=cache).mismatches


# Loading a model


LOAD_AND_ANSWER = """
import json
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, AutoTokenizer, pipeline

repo, revision, token, question = sys.argv[1:]
where = {"revision": revision, "token": token, "trust_remote_code": True}
config = AutoConfig.from_pretrained(repo, **where)
model = AutoModel.from_pretrained(repo, **where)
causal_lm = AutoModelForCausalLM.from_pretrained(repo, **where)
processor = AutoProcessor.from_pretrained(repo, **where)
tokenizer = AutoTokenizer.from_pretrained(repo, **where)
codec = AutoModel.from_pretrained(repo, subfolder="audio_tokenizer", **where)
pipe = pipeline("audio-to-audio", model=repo, device="cpu", **where)
for item in (config, model, causal_lm, processor, processor.audio_tokenizer, codec, pipe, pipe.model, pipe.processor):
    assert type(item).__module__.startswith("transformers_modules."), type(item)
messages = [{"role": "user", "content": [{"type": "audio", "path": question}]}]
inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
answer = pipe(question)
print(json.dumps({
    "ids": [m.generate(**inputs).tolist() for m in (model, causal_lm)],
    "codes": [p.encode_audio([question]) for p in (processor, pipe.processor)],
    "codebook": codec.state_dict()["quantizer.codebook.weight"].tolist(),
    "text": answer["text"],
    "num_samples": len(answer["audio"]),
}))
"""


def test_a_model_loads_by_id_and_revision_where_our_packages_are_not(hub, question, tmp_path):
    api = hub.api()
    api.create_repo("vita/mini-1.0", private=True)
    api.create_branch("vita/mini-1.0", branch="stage/2")
    pipes = {}
    for seed, branch in enumerate(("main", "stage/2")):
        parts = tiny_processor()
        processor = VitaAudioProcessor(parts.feature_extractor, parts.tokenizer, tiny_codec(seed))
        pipes[branch] = VitaAudioPipeline(tiny_model(processor, seed), processor=processor, device="cpu")
        folder = export_repository(pipes[branch].model, processor, tmp_path / f"stage{seed + 1}")
        api.upload_folder(repo_id="vita/mini-1.0", folder_path=folder, revision=branch)

    hub.requests.clear()
    # the token is only said to `from_pretrained`
    arguments = ("vita/mini-1.0", "stage/2", hub.read_token, question)
    done = run(hub, tmp_path / "home", "-c", BLOCK_OUR_PACKAGES + LOAD_AND_ANSWER, *arguments, token="")
    assert done.returncode == 0, done.stderr[-3000:]
    got = json.loads(done.stdout)
    pipe = pipes["stage/2"]
    codec = pipe.processor.audio_tokenizer
    assert got["codes"] == [pipe.processor.encode_audio([question])] * 2
    assert got["codes"][0] != pipes["main"].processor.encode_audio([question])
    assert got["codebook"] == codec.state_dict()["quantizer.codebook.weight"].tolist()
    messages = [{"role": "user", "content": [{"type": "audio", "path": question}]}]
    inputs = pipe.processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    assert got["ids"] == [pipe.model.generate(**inputs).tolist()] * 2
    expected = pipe(question)
    assert (got["text"], got["num_samples"]) == (expected["text"], len(expected["audio"])) and got[
        "num_samples"
    ] > 1280
    # nothing was asked of another revision, and nothing was sent
    commit = api.model_info("vita/mini-1.0", revision="stage/2").sha
    for method, path in hub.requests:
        assert method in ("GET", "HEAD") and ("/stage%2F2" in path or f"/{commit}/" in path or "/file?" in path), path


PIPELINE_OF_A_MODEL = """
import json, sys
from transformers import AutoModel, pipeline

model = AutoModel.from_pretrained(sys.argv[1], revision="stage/2", trust_remote_code=sys.argv[2] == "remote")
pipe = pipeline("audio-to-audio", model=model, device="cpu")
code = type(pipe).__module__.partition(".")[0]
print(json.dumps([code, pipe.processor.encode_audio([sys.argv[3]])]))
"""


@pytest.mark.parametrize("code", ["remote", "installed"])
def test_a_pipeline_of_a_loaded_model_is_of_its_revision(hub, question, tmp_path, code):
    api = hub.api()
    api.create_repo("vita/mini")
    for seed, branch in enumerate(("main", "stage/2")):
        processor = VitaAudioProcessor.from_codec(tiny_processor().tokenizer, tiny_codec(seed))
        folder = export_repository(tiny_model(processor, seed), processor, tmp_path / f"stage{seed + 1}")
        if seed == 1:
            api.create_branch("vita/mini", branch=branch)
        api.upload_folder(repo_id="vita/mini", folder_path=folder, revision=branch)
    packages = BLOCK_OUR_PACKAGES if code == "remote" else "import processing\n"
    arguments = ("vita/mini", code, question)
    done = run(
        hub, tmp_path / "home", "-c", packages + PIPELINE_OF_A_MODEL, *arguments, token=hub.read_token, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    package = "transformers_modules" if code == "remote" else "processing"
    assert json.loads(done.stdout) == [package, processor.encode_audio([question])]


RUN_COMMANDS = """
import contextlib, io, json, os, sys
import processing  # what libraries print when they are loaded is not of a command
from serving.cli import main

reports = []
for token, *argv in json.loads(sys.argv[1]):
    os.environ["HF_TOKEN"] = token
    out, err = io.StringIO(), io.StringIO()
    with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        code = main(argv)
    reports.append([code, out.getvalue(), err.getvalue()])
print(json.dumps(reports))
"""


def test_errors_of_the_command_line_are_one_clear_line(hub, question, tmp_path):
    processor = tiny_processor()
    exported = export_repository(tiny_model(processor), processor, tmp_path / "exported")
    api = hub.api()
    for name in ("mini", "gated", "no-codec"):
        api.create_repo(f"vita/{name}", private=name == "mini")
        ignored = "audio_tokenizer/*" if name == "no-codec" else None
        api.upload_folder(repo_id=f"vita/{name}", folder_path=exported, ignore_patterns=ignored)
    api.update_repo_settings("vita/gated", gated="manual")
    for name, model_type in (("bert", "bert"), ("unknown", "unknown")):
        api.create_repo(f"vita/{name}")
        config = json.dumps({"model_type": model_type}).encode()
        api.upload_file(repo_id=f"vita/{name}", path_in_repo="config.json", path_or_fileobj=config)
    api.create_repo("vita/empty")
    api.create_repo("vita/corpus", repo_type="dataset")

    writer, guest = hub.write_token, hub.guest_token
    weights = hashlib.sha256((exported / "model.safetensors").read_bytes()).hexdigest()
    hub.drop_download(after_bytes=50_000, how="reset", path=weights)
    cases = [
        (writer, "vita/mini", None, "cannot be reached: [Errno 104] Connection reset by peer"),
        (writer, "vita/no-codec", None, "vita/no-codec has no codec: its processor needs one of the type"),
        ("hf_wrong", "vita/mini", None, "does not know the token: set HF_TOKEN, or log in"),
        ("", "vita/mini", None, "There is no repository vita/mini at http://127.0.0.1"),
        (guest, "vita/mini", None, "or it is private: set HF_TOKEN to a token that may read it"),
        (writer, "vita/missing", None, "There is no repository vita/missing at"),
        (writer, "vita/corpus", None, "There is no repository vita/corpus at"),
        (guest, "vita/gated", None, "vita/gated is gated: ask for access"),
        (writer, "vita/mini", "stage9", "vita/mini has no such revision (Invalid rev id: stage9)"),
        (writer, str(exported), "stage9", "--revision is for a Hub id"),
        (writer, "vita/bert", None, "vita/bert has a model of the type 'bert', not 'vita_audio'"),
        (writer, "vita/unknown", None, "vita/unknown has a model of the type 'unknown', not 'vita_audio'"),
        (writer, "vita/empty", None, "vita/empty has no model: it has no config.json"),
    ]
    commands = [
        [token, "transcribe", question, "--model", model, *(["--revision", revision] if revision else [])]
        for token, model, revision, _ in cases
    ]
    commands.append([hub.read_token, "transcribe", question, "--model", "vita/mini", "--json"])
    done = run(hub, tmp_path / "home", "-c", RUN_COMMANDS, json.dumps(commands), PYTHONPATH=str(ROOT))
    assert done.returncode == 0, done.stderr[-3000:]
    *reports, (code, out, _) = json.loads(done.stdout.splitlines()[-1])
    assert code == 0 and "text" in json.loads(out), _
    for (*case, message), (code, out, err) in zip(cases, reports, strict=True):
        assert code == 1 and not out, case
        (line,) = err.splitlines()
        assert line.startswith("vita-audio: error: ") and message in line and len(line) < 300, (case, line)
        assert "hf_" not in line and "huggingface.co" not in line


# Datasets


PUSH_AND_LOAD_DATASET = """
import hashlib, json, sys
from datasets import Audio, Dataset, DatasetDict, get_dataset_config_names, load_dataset
from huggingface_hub import HfApi

question = sys.argv[1]

def read(rows):
    return [[row["text"], hashlib.sha256(row["audio"]["bytes"]).hexdigest()] for row in rows]

def part(texts):
    rows = Dataset.from_list([{"text": text, "audio": question} for text in texts])
    return rows.cast_column("audio", Audio(sampling_rate=16000, decode=False))

# the default one first: datasets 5.2 cannot make it the default one later
for name, texts in (("words", "xyz"), ("clips", "abc")):
    splits = DatasetDict({"train": part(texts), "test": part(texts[::-1])})
    splits.push_to_hub("vita/corpus", name, private=True, set_default=name == "words")
HfApi().create_tag("vita/corpus", tag="v1", repo_type="dataset")
part("d").push_to_hub("vita/corpus", "clips", split="train")

print(json.dumps({
    "configs": get_dataset_config_names("vita/corpus"),
    "default": read(load_dataset("vita/corpus", split="test")),
    "v1": read(load_dataset("vita/corpus", "clips", split="train", revision="v1")),
    "main": read(load_dataset("vita/corpus", "clips", split="train")),
    "streamed": read(load_dataset("vita/corpus", "clips", split="test", streaming=True)),
}))
"""


def test_a_dataset_with_audio_is_pushed_and_loaded_by_id(hub, question, tmp_path):
    done = run(hub, tmp_path / "home", "-c", PUSH_AND_LOAD_DATASET, question)
    assert done.returncode == 0, done.stderr[-3000:]
    content = hashlib.sha256(Path(question).read_bytes()).hexdigest()
    assert json.loads(done.stdout.splitlines()[-1]) == {
        "configs": ["clips", "words"],
        **{"default": [["z", content], ["y", content], ["x", content]], "main": [["d", content]]},
        **{"v1": [["a", content], ["b", content], ["c", content]]},
        **{"streamed": [["c", content], ["b", content], ["a", content]]},
    }
    info = hub.api().dataset_info("vita/corpus")
    assert info.private and [c["config_name"] for c in info.card_data.configs] == ["clips", "words"]
