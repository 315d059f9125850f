# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The unmodified clients (`huggingface_hub`, transformers, datasets, our commands) against the Hub of `hub_server`."""

import hashlib
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
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


ROOT = Path(__file__).parent.parent


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


def kill_when_stalled(hub, process):
    """Kills a client in the middle of what a fault has stalled."""
    while hub.faults:
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.01)
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
