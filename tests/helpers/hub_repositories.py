# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What the Hub of `hub_server` keeps: repositories with commits, branches and tags, and files by their content."""

import hashlib
import json
import os
import re
import threading
import uuid
from base64 import b64decode
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import yaml


LFS_SUFFIXES = {".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".zip", ".npz", ".wav", ".flac", ".mp3", ".png"}
LFS_SIZE = 10 * 2**20
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LFS_SUFFIXES))


class HubError(Exception):
    """An answer that refuses; `code` is the Hub's `X-Error-Code`."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers):
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


@dataclass(frozen=True)
class Account:
    user: str
    role: str  # write or read


@dataclass(frozen=True)
class File:
    """A file of a commit: its git object id, its content's hash and size, and whether LFS keeps it."""

    oid: str
    sha256: str
    size: int
    is_large: bool

    @classmethod
    def regular(cls, content: bytes) -> "File":
        return cls(git_oid(content), hashlib.sha256(content).hexdigest(), len(content), is_large=False)

    @classmethod
    def large(cls, sha256: str, size: int) -> "File":
        return cls(git_oid(LFS_POINTER.format(sha256=sha256, size=size).encode()), sha256, size, is_large=True)

    @property
    def lfs(self) -> dict:
        pointer = LFS_POINTER.format(sha256=self.sha256, size=self.size)
        return {"size": self.size, "pointerSize": len(pointer)}


@dataclass(frozen=True)
class Commit:
    id: str
    parent: str | None
    files: dict[str, File]
    title: str
    message: str
    user: str
    date: str

    def entries(self) -> dict[str, dict]:
        """Files and folders by their paths, as the Hub lists them."""
        entries = {}
        for path, file in sorted(self.files.items()):
            entries[path] = {"type": "file", "path": path, "oid": file.oid, "size": file.size}
            if file.is_large:
                entries[path]["lfs"] = file.lfs | {"oid": file.sha256}
            for folder in map(str, Path(path).parents):
                if folder != ".":
                    inside = entries.setdefault(folder, {"type": "directory", "path": folder, "oid": "", "size": 0})
                    inside["oid"] = git_oid(f"{inside['oid']} {path} {file.oid}".encode())
        return entries


@dataclass
class Repository:
    kind: str  # models or datasets
    id: str
    private: bool
    gated: str | bool = False
    created: str = ""
    commits: dict[str, Commit] = field(default_factory=dict)
    branches: dict[str, str] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def commit(self, revision: str) -> Commit:
        """Of a branch, a tag or a commit's id."""
        commit_id = self.branches.get(revision) or self.tags.get(revision) or revision
        if commit_id not in self.commits:
            raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        return self.commits[commit_id]

    def history(self, commit: Commit):
        yield commit
        while commit.parent is not None:
            commit = self.commits[commit.parent]
            yield commit

    def add_commit(self, branch: str, files: dict[str, File], title: str, message: str, user: str) -> Commit:
        content = {
            "parent": self.branches.get(branch),
            "title": title,
            "message": message,
            "user": user,
            "date": now(),
        }
        oids = sorted((path, file.oid) for path, file in files.items())
        commit_id = hashlib.sha1(json.dumps([self.id, content, oids]).encode()).hexdigest()
        self.commits[commit_id] = Commit(id=commit_id, files=files, **content)
        # last, so that a commit is seen whole or not at all
        self.branches[branch] = commit_id
        return self.commits[commit_id]


class HubStorage:
    """
    Repositories in memory, and the content of their files on disk.

    Args:
        root: folder for the content.
    """

    def __init__(self, root: Path):
        self.root = Path(root)
        (self.root / "objects").mkdir(parents=True)
        self.repositories: dict[tuple[str, str], Repository] = {}
        self.lock = threading.RLock()

    def object(self, sha256: str) -> Path:
        return self.root / "objects" / sha256

    def add_object(self, blocks, sha256: str, size: int) -> None:
        """Keeps a content that is whole; of one that is not, nothing is kept."""
        unfinished = self.root / "objects" / f"{uuid.uuid4().hex}.unfinished"
        digest, received = hashlib.sha256(), 0
        try:
            with open(unfinished, "wb") as file:
                for block in blocks:
                    file.write(block)
                    digest.update(block)
                    received += len(block)
            if (digest.hexdigest(), received) != (sha256, size):
                raise HubError(400, f"The content is not that of {sha256}: {received} bytes of {digest.hexdigest()}.")
            os.replace(unfinished, self.object(sha256))
        finally:
            unfinished.unlink(missing_ok=True)

    def add_regular(self, content: bytes) -> File:
        file = File.regular(content)
        self.add_object([content], file.sha256, file.size)
        return file

    def repository(self, kind: str, repo_id: str, account: Account | None, write: bool = False) -> Repository:
        """
        Raises:
            HubError: there is no such repository or, the same for a private one, none for this account; or the account
            may
                not write to it.
        """
        repository = self.repositories.get((kind, repo_id))
        if repository is None or (repository.private and (account is None or account.user != repository.owner)):
            if account is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        if write:
            check_write(account, repository.owner)
        return repository

    def create(self, kind: str, repo_id: str, private: bool, account: Account) -> Repository:
        check_write(account, repo_id.split("/")[0])
        with self.lock:
            if (kind, repo_id) in self.repositories:
                raise HubError(409, f"You already created this {kind[:-1]} repo")
            repository = Repository(kind, repo_id, private, created=now())
            files = {".gitattributes": self.add_regular(GITATTRIBUTES.encode())}
            repository.add_commit("main", files, "initial commit", "", account.user)
            self.repositories[kind, repo_id] = repository
        return repository

    def make_commit(self, repository: Repository, branch: str, lines: list[dict], account: Account) -> Commit:
        """Applies the operations of a commit: all of them, or none."""
        with self.lock:
            if branch not in repository.branches:
                raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            parent = repository.commit(branch)
            header = next((line["value"] for line in lines if line["key"] == "header"), {})
            if not header.get("summary"):
                raise HubError(400, "The commit has no summary.")
            if not parent.id.startswith(header.get("parentCommit") or ""):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(parent.files)
            for line in lines:
                if line["key"] != "header":
                    self.apply(files, line["key"], line["value"])
            return repository.add_commit(branch, files, header["summary"], header.get("description", ""), account.user)

    def apply(self, files: dict[str, File], operation: str, value: dict) -> None:
        path = value["path"]
        if {"", ".", "..", ".git"} & set(path.rstrip("/").split("/")):
            raise HubError(400, f"Invalid path {path!r}.")
        if operation == "file":
            files[path] = self.add_regular(b64decode(value["content"], validate=True))
        elif operation == "lfsFile":
            if not re.fullmatch("[0-9a-f]{64}", value["oid"]) or not self.object(value["oid"]).exists():
                raise HubError(400, f"The large file {path} was not uploaded.")
            files[path] = File.large(value["oid"], self.object(value["oid"]).stat().st_size)
        elif operation == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        elif operation == "deletedFolder":
            inside = [name for name in files if name.startswith(path.rstrip("/") + "/")]
            if not inside:
                raise HubError(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
            for name in inside:
                del files[name]
        else:
            raise HubError(400, f"Unknown operation {operation}.")

    def info(self, repository: Repository, revision: str, with_blobs: bool = False) -> dict:
        """What the Hub says of a repository, much of it from its card."""
        commit = repository.commit(revision)
        readme, card = self.read_text(commit, "README.md"), {}
        try:
            card = read_card(readme) or {}
        except yaml.YAMLError:
            pass
        tags = [*as_list(card.get("tags")), *as_list(card.get("library_name")), *as_list(card.get("language"))]
        for name, prefix in (("license", "license"), ("datasets", "dataset"), ("base_model", "base_model")):
            tags += [f"{prefix}:{value}" for value in as_list(card.get(name))]
        tags += [f"arxiv:{number}" for number in sorted(set(re.findall(r"arxiv\.org/abs/(\d{4}\.\d{5})", readme)))]
        siblings = []
        for path, file in sorted(commit.files.items()):
            siblings.append({"rfilename": path})
            if with_blobs:
                siblings[-1] |= {"size": file.size, "blobId": file.oid}
                siblings[-1] |= {"lfs": file.lfs | {"sha256": file.sha256}} if file.is_large else {}
        info = {
            "id": repository.id,
            "author": repository.owner,
            "sha": commit.id,
            "createdAt": repository.created,
            "lastModified": commit.date,
            "private": repository.private,
            "gated": repository.gated,
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": tags,
            "cardData": card or None,
            "siblings": siblings,
        }
        if repository.kind == "models":
            info |= {key: card[key] for key in ("pipeline_tag", "library_name", "model-index") if key in card}
            config = json.loads(self.read_text(commit, "config.json") or "{}")
            info["config"] = {key: config[key] for key in ("architectures", "model_type") if key in config}
        return info

    def read_text(self, commit: Commit, path: str) -> str:
        """Of a file of a commit; nothing where there is none."""
        return self.object(commit.files[path].sha256).read_text("utf-8") if path in commit.files else ""


def check_write(account: Account | None, owner: str) -> None:
    if account is None:
        raise HubError(401, "Invalid username or password.", "RepoNotFound")
    if account.user != owner:
        raise HubError(403, f"You don't have the rights to write under the namespace {owner}")
    if account.role != "write":
        raise HubError(403, "This token can only read; writing needs a token with the write role")


def now() -> str:
    return datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def read_card(text: str) -> dict | None:
    """The metadata of a card; None where it has none."""
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


def as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]
