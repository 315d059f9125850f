# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
A small Hub on loopback that keeps real files, for `huggingface_hub` as it is. (The self-hosted Hubs there are need an object
store and a database each, and the packaged mirrors have the Hub behind them.)

The fixture `hub` of `conftest.py` starts one, empty, for a test, and `hub_module` one for a module:

    def test_push(hub, tmp_path):
        api = hub.api()                                   # `HfApi`, with the write token; `hub.api(hub.read_token)`
        api.create_repo("vita/mini", private=True)        # everything is of the user `vita`; `guest_token` is another's
        api.upload_folder(repo_id="vita/mini", folder_path=folder)
        subprocess.run([...], env=hub.environment(tmp_path / "home"))  # HF_ENDPOINT, HF_TOKEN, an empty HF_HOME

`huggingface_hub` reads its environment when it is imported: what takes no `endpoint` and `token` (transformers, datasets,
`ModelCard.validate`) needs a process of its own, with `hub.environment`. Uploads come by LFS, the way of a client without
`hf_xet`, which HF_HUB_DISABLE_XET=1 makes of one with it; `conftest.py` sets it for the tests' own process.

    hub.drop_upload(after_bytes=1000)                     # the next larger upload loses its connection there, once
    hub.drop_download(after_bytes=1000, times=9, reset=True)
    hub.fail(503, times=2)                                # the next answers
    hub.requests                                          # [(method, path), ...] as they came
    hub.restart()                                         # as after a power cut: all that was answered is on disk

Large files are served, as by the Hub, from another host (port) by signed addresses that refuse an `Authorization` header.
"""

import hashlib
import hmac
import json
import os
import re
import secrets
import shutil
import socket
import struct
import threading
import uuid
from base64 import b64decode
from dataclasses import dataclass, field
from datetime import datetime, timezone
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import yaml
from huggingface_hub import DatasetCardData, HfApi, ModelCardData


OWNER, GUEST = "vita", "guest"

LFS_SUFFIXES = {".safetensors", ".bin", ".pt", ".parquet", ".arrow", ".zip", ".npz", ".wav", ".flac", ".mp3", ".png"}
LFS_SIZE = 10 * 2**20
LFS_POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:{sha256}\nsize {size}\n"
GITATTRIBUTES = "".join(f"*{suffix} filter=lfs diff=lfs merge=lfs -text\n" for suffix in sorted(LFS_SUFFIXES))

BLOCK_SIZE = 2**16


class HubError(Exception):
    """An answer that refuses."""

    def __init__(self, status: int, message: str, code: str | None = None, **headers):
        super().__init__(message)
        self.status, self.code, self.headers = status, code, headers


class ConnectionDropped(Exception):
    """A fault that a test has asked for."""


@dataclass
class Fault:
    kind: str  # upload, download or status
    after_bytes: int = 0
    times: int = 1
    reset: bool = False
    status: int = 0
    path: str = ""


@dataclass(frozen=True)
class Account:
    user: str
    role: str


@dataclass
class Repository:
    """Commits, branches and tags of one repository. A reference is moved last: a commit is seen whole or not at all."""

    kind: str  # models or datasets
    id: str
    folder: Path
    settings: dict = field(default_factory=dict)
    refs: dict = field(default_factory=dict)

    def load(self) -> "Repository":
        self.settings = json.loads((self.folder / "settings.json").read_text())
        self.refs = json.loads((self.folder / "refs.json").read_text())
        return self

    def save(self) -> None:
        write_json(self.folder / "settings.json", self.settings)
        write_json(self.folder / "refs.json", self.refs)

    @property
    def owner(self) -> str:
        return self.id.split("/")[0]

    def commit(self, commit_id: str) -> dict:
        return json.loads((self.folder / "commits" / f"{commit_id}.json").read_text())

    def resolve(self, revision: str) -> str:
        """Commit of a branch, a tag or a commit."""
        for names in (self.refs["branches"], self.refs["tags"]):
            if revision in names:
                return names[revision]
        if re.fullmatch("[0-9a-f]{40}", revision) and (self.folder / "commits" / f"{revision}.json").exists():
            return revision
        raise HubError(404, f"Invalid rev id: {revision}", "RevisionNotFound")

    def add_commit(self, branch: str, parent: str | None, files: dict, title: str, message: str, user: str) -> str:
        commit = {"parent": parent, "files": files, "title": title, "message": message, "user": user, "date": now()}
        commit["id"] = hashlib.sha1(json.dumps(commit, sort_keys=True).encode()).hexdigest()
        write_json(self.folder / "commits" / f"{commit['id']}.json", commit)
        self.refs["branches"][branch] = commit["id"]
        self.save()
        return commit["id"]

    def history(self, commit_id: str | None):
        while commit_id is not None:
            commit = self.commit(commit_id)
            yield commit
            commit_id = commit["parent"]


class HubServer:
    """See the module."""

    def __init__(self, root: Path):
        self.root = Path(root)
        (self.root / "objects").mkdir(parents=True, exist_ok=True)
        self.write_token, self.read_token, self.guest_token = (f"hf_{secrets.token_hex(17)}" for _ in range(3))
        self.accounts = {
            self.write_token: Account(OWNER, "write"),
            self.read_token: Account(OWNER, "read"),
            self.guest_token: Account(GUEST, "write"),
        }
        self.key = secrets.token_bytes(32)
        # a large file comes in parts of this size where it is larger
        self.part_size = 2**20
        self.page_size = 1000
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.lock = threading.RLock()
        self.ports = (0, 0)
        self.start()

    def start(self) -> None:
        self.repositories = {}
        for settings in self.root.glob("repos/*/*/*/settings.json"):
            kind, *names = settings.parent.relative_to(self.root / "repos").parts
            self.repositories[kind, "/".join(names)] = Repository(kind, "/".join(names), settings.parent).load()
        handlers = (HubHandler, StorageHandler)
        self.servers = [
            QuietServer(("127.0.0.1", port), type(handler.__name__, (handler,), {"hub": self}))
            for handler, port in zip(handlers, self.ports)
        ]
        self.ports = tuple(server.server_address[1] for server in self.servers)
        self.endpoint, self.storage = (f"http://127.0.0.1:{port}" for port in self.ports)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def restart(self) -> None:
        self.stop()
        self.start()

    # For tests

    def api(self, token: str | bool | None = None) -> HfApi:
        return HfApi(endpoint=self.endpoint, token=self.write_token if token is None else token)

    def environment(self, home: Path, token: str | None = None, **variables) -> dict[str, str]:
        """Variables of a process that knows this Hub only; `home` is its HF_HOME, and `token=""` leaves it without a token."""
        token = self.write_token if token is None else token
        ours = {
            "HF_ENDPOINT": self.endpoint,
            "HF_HOME": str(home),
            "HF_HUB_DISABLE_XET": "1",
            "HF_HUB_DISABLE_TELEMETRY": "1",
            "HF_HUB_DISABLE_PROGRESS_BARS": "1",
            "NO_PROXY": "127.0.0.1",
            "OMP_NUM_THREADS": "1",
        }
        theirs = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
        return theirs | ours | ({"HF_TOKEN": token} if token else {}) | variables

    def drop_upload(self, after_bytes: int, times: int = 1) -> None:
        self.faults.append(Fault("upload", after_bytes, times))

    def drop_download(self, after_bytes: int, times: int = 1, reset: bool = False) -> None:
        """With `reset` the connection is torn down, else it just ends early."""
        self.faults.append(Fault("download", after_bytes, times, reset))

    def fail(self, status: int, times: int = 1, path: str = "") -> None:
        """The next requests whose paths have `path` in them are answered with `status`."""
        self.faults.append(Fault("status", times=times, status=status, path=path))

    def take_fault(self, kind: str, path: str, size: int = 0) -> Fault | None:
        with self.lock:
            for fault in self.faults:
                if fault.kind == kind and fault.path in path and (kind == "status" or size > fault.after_bytes):
                    fault.times -= 1
                    if fault.times == 0:
                        self.faults.remove(fault)
                    return fault

    # Files by their content

    def object(self, sha256: str) -> Path:
        return self.root / "objects" / sha256

    def add_object(self, blocks, sha256: str | None = None, size: int | None = None) -> str:
        """Keeps a file that is whole; of one that is not, nothing is kept."""
        unfinished, digest, received = self.root / "objects" / f"{uuid.uuid4().hex}.unfinished", hashlib.sha256(), 0
        try:
            with open(unfinished, "wb") as file:
                for block in blocks:
                    file.write(block)
                    digest.update(block)
                    received += len(block)
            if sha256 not in (None, digest.hexdigest()) or size not in (None, received):
                raise HubError(400, f"The content is not that of {sha256}: {received} bytes of {digest.hexdigest()}.")
            os.replace(unfinished, self.object(digest.hexdigest()))
        finally:
            unfinished.unlink(missing_ok=True)
        return digest.hexdigest()

    def signed(self, action: str, **parameters) -> str:
        """An address at the storage host that allows one action."""
        text = "&".join(f"{name}={value}" for name, value in parameters.items())
        signature = hmac.new(self.key, f"{action}?{text}".encode(), "sha256").hexdigest()
        return f"{self.storage}/{action}?{urlencode(parameters | {'signature': signature})}"

    # Repositories

    def repository(self, kind: str, repo_id: str, account: Account | None, write: bool = False) -> Repository:
        repository = self.repositories.get((kind, repo_id))
        if repository is None or (repository.settings["private"] and (account is None or account.user != OWNER)):
            if account is None:
                raise HubError(401, "Invalid username or password.", "RepoNotFound")
            raise HubError(404, "Repository not found", "RepoNotFound")
        if write:
            check_write(account, repository.owner)
        return repository

    def check_gate(self, repository: Repository, account: Account | None) -> None:
        if repository.settings["gated"] and (account is None or account.user != repository.owner):
            message = f"Access to model {repository.id} is restricted and you are not in the authorized list."
            raise HubError(401 if account is None else 403, message, "GatedRepo")

    def create(self, kind: str, repo_id: str, private: bool, account: Account) -> Repository:
        check_write(account, repo_id.split("/")[0])
        if not re.fullmatch(r"[\w.-]{1,96}", repo_id.split("/")[1]):
            raise HubError(400, f"Invalid repository name {repo_id}.")
        with self.lock:
            if (kind, repo_id) in self.repositories:
                raise HubError(409, f"You already created this {kind[:-1]} repo")
            repository = Repository(kind, repo_id, self.root / "repos" / kind / repo_id)
            (repository.folder / "commits").mkdir(parents=True)
            repository.settings = {"private": private, "gated": False, "created": now()}
            repository.refs = {"branches": {}, "tags": {}}
            content = GITATTRIBUTES.encode()
            files = {".gitattributes": regular_file(content, self.add_object([content]))}
            repository.add_commit("main", None, files, "initial commit", "", account.user)
            self.repositories[kind, repo_id] = repository
        return repository

    def delete(self, repository: Repository) -> None:
        with self.lock:
            del self.repositories[repository.kind, repository.id]
            shutil.rmtree(repository.folder)

    def make_commit(self, repository: Repository, branch: str, lines: list[dict], account: Account) -> str:
        """Applies the operations of a commit: all of them, or none."""
        with self.lock:
            if branch not in repository.refs["branches"]:
                raise HubError(404, f"Invalid rev id: {branch}", "RevisionNotFound")
            parent = repository.refs["branches"][branch]
            header = next((line["value"] for line in lines if line["key"] == "header"), None)
            if header is None or not header.get("summary"):
                raise HubError(400, "The commit has no summary.")
            if not parent.startswith(header.get("parentCommit") or ""):
                raise HubError(412, "A commit has happened since. Please refresh and try again.")
            files = dict(repository.commit(parent)["files"])
            for line in lines:
                if line["key"] != "header":
                    self.apply(files, line["key"], line["value"])
            return repository.add_commit(
                branch, parent, files, header["summary"], header.get("description", ""), account.user
            )

    def apply(self, files: dict, key: str, value: dict) -> None:
        path = value["path"]
        if {"", ".", "..", ".git"} & set(path.rstrip("/").split("/")):
            raise HubError(400, f"Invalid path {path!r}.")
        if key == "file":
            content = b64decode(value["content"], validate=True)
            files[path] = regular_file(content, self.add_object([content]))
        elif key == "lfsFile":
            if not re.fullmatch("[0-9a-f]{64}", value["oid"]) or not self.object(value["oid"]).exists():
                raise HubError(400, f"The large file {path} was not uploaded.")
            files[path] = large_file(value["oid"], self.object(value["oid"]).stat().st_size)
        elif key == "deletedFile":
            if files.pop(path, None) is None:
                raise HubError(404, f"A file with this name doesn't exist: {path}", "EntryNotFound")
        elif key == "deletedFolder":
            inside = [name for name in files if name.startswith(path.rstrip("/") + "/")]
            if not inside:
                raise HubError(404, f"A folder with this name doesn't exist: {path}", "EntryNotFound")
            for name in inside:
                del files[name]
        else:
            raise HubError(400, f"Unknown operation {key}.")

    def info(self, repository: Repository, revision: str, with_blobs: bool = False) -> dict:
        commit = repository.commit(repository.resolve(revision))
        files, card = commit["files"], {}
        readme = self.object(files["README.md"]["sha256"]).read_text("utf-8") if "README.md" in files else ""
        try:
            card = read_card(readme) or {}
        except yaml.YAMLError:
            pass
        tags = [*as_list(card.get("tags")), *as_list(card.get("library_name")), *as_list(card.get("language"))]
        for name, prefix in (("license", "license"), ("datasets", "dataset"), ("base_model", "base_model")):
            tags += [f"{prefix}:{value}" for value in as_list(card.get(name))]
        tags += [f"arxiv:{number}" for number in sorted(set(re.findall(r"arxiv\.org/abs/(\d{4}\.\d{5})", readme)))]
        info = {
            "id": repository.id,
            "author": repository.owner,
            "sha": commit["id"],
            "createdAt": repository.settings["created"],
            "lastModified": commit["date"],
            "private": repository.settings["private"],
            "gated": repository.settings["gated"],
            "disabled": False,
            "downloads": 0,
            "likes": 0,
            "tags": tags,
            "cardData": card or None,
            "siblings": [
                {"rfilename": path, **({"size": file["size"], "blobId": file["oid"]} if with_blobs else {})}
                | ({"lfs": lfs_of(file) | {"sha256": file["sha256"]}} if with_blobs and file["lfs"] else {})
                for path, file in sorted(files.items())
            ],
        }
        if repository.kind == "models":
            info |= {key: card[key] for key in ("pipeline_tag", "library_name", "model-index") if key in card}
            if "config.json" in files:
                config = json.loads(self.object(files["config.json"]["sha256"]).read_bytes())
                info["config"] = {key: config[key] for key in ("architectures", "model_type") if key in config}
        return info


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False

    def handle_error(self, request, client_address):
        """A client that went away is not worth a traceback."""


class Handler(BaseHTTPRequestHandler):
    """What the Hub and its storage have in common."""

    hub: HubServer
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    wbufsize = -1

    def log_message(self, *arguments):
        pass

    def handle_request(self):
        self.hub.requests.append((self.command, self.path))
        parts = urlsplit(self.path)
        self.segments = [unquote(segment) for segment in parts.path.strip("/").split("/")]
        self.query = parse_qs(parts.query)
        self.body_is_read = False
        try:
            fault = self.hub.take_fault("status", self.path)
            if fault is not None:
                raise HubError(fault.status, "A fault of the test.")
            self.route()
        except ConnectionDropped:
            return
        except HubError as error:
            self.refuse(error)
        except (KeyError, ValueError, TypeError, AttributeError) as error:
            self.refuse(HubError(400, f"Malformed request: {error!r}"))

    do_GET = do_HEAD = do_POST = do_PUT = do_DELETE = handle_request

    def refuse(self, error: HubError):
        headers = {"X-Error-Message": str(error)} | ({"X-Error-Code": error.code} if error.code else {})
        self.answer({"error": str(error)}, error.status, **headers, **error.headers)

    def parameter(self, name: str) -> str:
        return self.query.get(name, [""])[0]

    def blocks(self):
        """The body of the request, block by block."""
        self.body_is_read = True
        length = self.headers.get("Content-Length")
        fault = self.hub.take_fault("upload", self.path, 2**62 if length is None else int(length))
        received = 0
        for block in self.read_chunked() if length is None else self.read_sized(int(length)):
            received += len(block)
            if fault is not None and received > fault.after_bytes:
                self.drop(reset=True)
            yield block

    def read_sized(self, length: int):
        while length > 0:
            block = self.rfile.read1(min(BLOCK_SIZE, length))
            if not block:
                self.close_connection = True
                raise ConnectionDropped
            length -= len(block)
            yield block

    def read_chunked(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while length := int(self.rfile.readline(), 16):
                yield from self.read_sized(length)
                self.rfile.readline()
            self.rfile.readline()

    def drop(self, reset: bool):
        self.close_connection = True
        if reset:
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            self.connection.close()
        raise ConnectionDropped

    def body(self) -> bytes:
        return b"".join(self.blocks())

    def json(self) -> dict:
        return json.loads(self.body() or b"{}")

    def answer(self, content=None, status: int = 200, **headers):
        if not self.body_is_read:
            self.body()
        data = b"" if content is None else json.dumps(content).encode()
        self.send_response(status)
        self.send_headers({"Content-Type": "application/json; charset=utf-8", "Content-Length": len(data)} | headers)
        if self.command != "HEAD":
            self.wfile.write(data)

    def send_headers(self, headers: dict):
        for name, value in headers.items():
            # one line, as far as HTTP allows
            value = " ".join(str(value).split()).encode("latin-1", "replace").decode("latin-1")
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()

    def send_file(self, path: Path, **headers):
        """A file or, of a request with `Range`, a part of it."""
        size = path.stat().st_size
        start, end, status = 0, size, 200
        if match := re.fullmatch(r"bytes=(\d*)-(\d*)", self.headers.get("Range") or ""):
            first, last = match.groups()
            start = int(first) if first else max(0, size - int(last))
            end = min(size, int(last) + 1) if first and last else size
            status = 206
            if start >= end:
                raise HubError(416, "The range is not in the file.", **{"Content-Range": f"bytes */{size}"})
            headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
        self.send_response(status)
        self.send_headers({"Content-Length": end - start, "Accept-Ranges": "bytes"} | headers)
        if self.command == "HEAD":
            return
        fault = self.hub.take_fault("download", self.path, end - start)
        with open(path, "rb") as file:
            file.seek(start)
            remaining = end - start if fault is None else fault.after_bytes
            while remaining > 0:
                block = file.read(min(BLOCK_SIZE, remaining))
                self.wfile.write(block)
                remaining -= len(block)
        if fault is not None:
            self.wfile.flush()
            self.drop(fault.reset)


class StorageHandler(Handler):
    """The host of the large files."""

    def route(self):
        if "Authorization" in self.headers:
            raise HubError(400, "Only one auth mechanism allowed: the address is signed, a token must not come here.")
        parameters = {name: values[0] for name, values in self.query.items() if name != "signature"}
        url = self.hub.signed(self.segments[0], **parameters)
        if not hmac.compare_digest(parse_qs(urlsplit(url).query)["signature"][0], self.parameter("signature")):
            raise HubError(403, "The signature does not match.")
        oid, size = parameters["oid"], int(parameters["size"])
        upload = self.hub.root / "uploads" / oid
        match self.command, self.segments:
            case "GET" | "HEAD", ["file"]:
                self.send_file(self.hub.object(oid), ETag=f'"{oid}"', Content_Type="application/octet-stream")
            case "PUT", ["whole"]:
                self.hub.add_object(self.blocks(), oid, size)
                self.answer(ETag=f'"{oid}"')
            case "PUT", ["part"]:
                upload.mkdir(parents=True, exist_ok=True)
                content = self.body()
                (upload / parameters["number"]).write_bytes(content)
                self.answer(ETag=f'"{hashlib.md5(content).hexdigest()}"')
            case "POST", ["complete"]:
                parts = [upload / str(part["partNumber"]) for part in self.json()["parts"]]
                self.hub.add_object((part.read_bytes() for part in parts), oid, size)
                shutil.rmtree(upload)
                self.answer({"success": True})
            case _:
                raise HubError(404, "There is no such address.")


class HubHandler(Handler):
    """The Hub's own host."""

    def route(self):
        self.account = None
        if (authorization := self.headers.get("Authorization")) is not None:
            self.account = self.hub.accounts.get(authorization.removeprefix("Bearer "))
            if self.account is None:
                raise HubError(401, "Invalid credentials in Authorization header")
        match self.segments:
            case ["api", "whoami-v2"]:
                self.who_am_i()
            case ["api", "validate-yaml"]:
                self.validate_yaml()
            case ["api", "repos", action]:
                self.create_or_delete(action)
            case ["api", ("models" | "datasets") as kind]:
                self.list_repositories(kind)
            case ["api", ("models" | "datasets") as kind, namespace, name, *action]:
                self.repository_api(kind, f"{namespace}/{name}", action)
            case ["datasets", namespace, name, "resolve", revision, *path]:
                self.resolve("datasets", f"{namespace}/{name}", revision, "/".join(path))
            case [namespace, name, "resolve", revision, *path]:
                self.resolve("models", f"{namespace}/{name}", revision, "/".join(path))
            case ["datasets", namespace, name, "info", "lfs", *action]:
                self.large_files("datasets", f"{namespace}/{name.removesuffix('.git')}", action)
            case [namespace, name, "info", "lfs", *action]:
                self.large_files("models", f"{namespace}/{name.removesuffix('.git')}", action)
            case _:
                # among them repositories without a namespace
                raise HubError(404, "Repository not found", "RepoNotFound")

    def who_am_i(self):
        if self.account is None:
            raise HubError(401, "Invalid username or password.")
        access_token = {"displayName": self.account.role, "role": self.account.role}
        self.answer(
            {
                "type": "user",
                "id": self.account.user,
                "name": self.account.user,
                "fullname": self.account.user,
                "orgs": [],
                "auth": {"type": "access_token", "accessToken": access_token},
            }
        )

    def validate_yaml(self):
        request, errors, warnings = self.json(), [], []
        try:
            card = read_card(request["content"])
            if card is None:
                warnings.append("empty or missing yaml metadata in repo card")
            elif not isinstance(card, dict):
                errors.append("the metadata must be a mapping")
            else:
                (DatasetCardData if request["repoType"] == "dataset" else ModelCardData)(**card)
                names = ("license", "pipeline_tag", "library_name", "base_model_relation")
                errors += [
                    f'"{name}" must be a string' for name in names if not isinstance(card.get(name, ""), (str, list))
                ]
        except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError) as error:
            errors.append(f"{type(error).__name__}: {error}")
        messages = {"errors": [{"message": e} for e in errors], "warnings": [{"message": w} for w in warnings]}
        self.answer(messages, 400 if errors else 200)

    def create_or_delete(self, action: str):
        request = self.json()
        if self.account is None:
            raise HubError(401, "Invalid username or password.")
        kind, repo_id = (
            f"{request.get('type') or 'model'}s",
            f"{request.get('organization') or OWNER}/{request['name']}",
        )
        url = f"{self.hub.endpoint}/{'' if kind == 'models' else kind + '/'}{repo_id}"
        match self.command, action:
            case "POST", "create":
                private = request.get("visibility") == "private" or request.get("private", False)
                try:
                    self.hub.create(kind, repo_id, private, self.account)
                except HubError as error:
                    if error.status != 409:
                        raise
                    return self.answer({"error": str(error), "url": url}, 409, X_Error_Message=str(error))
                self.answer({"url": url, "name": repo_id})
            case "DELETE", "delete":
                self.hub.delete(self.hub.repository(kind, repo_id, self.account, write=True))
                self.answer()
            case _:
                raise HubError(404, "There is no such address.")

    def list_repositories(self, kind: str):
        infos = []
        for of_kind, repo_id in list(self.hub.repositories):
            try:
                info = self.hub.info(self.hub.repository(of_kind, repo_id, self.account), "main")
            except HubError:
                continue
            if (
                of_kind == kind
                and self.parameter("author") in ("", info["author"])
                and self.parameter("pipeline_tag") in ("", info.get("pipeline_tag"))
                and self.parameter("search").lower() in repo_id.lower()
                and set(self.query.get("filter", [])) <= {*info["tags"], info.get("pipeline_tag")}
            ):
                infos.append(info)
        self.answer_page(infos, self.hub.page_size)

    def repository_api(self, kind: str, repo_id: str, action: list[str]):
        write = self.command in ("POST", "PUT", "DELETE") and action[0] not in ("paths-info", "preupload")
        write = write or action[:1] == ["preupload"] or action == ["auth-check", "write"]
        repository = self.hub.repository(kind, repo_id, self.account, write)
        match self.command, action:
            case "GET", []:
                self.answer(self.hub.info(repository, "main", bool(self.parameter("blobs"))))
            case "GET", ["revision", revision]:
                self.answer(self.hub.info(repository, revision, bool(self.parameter("blobs"))))
            case "GET", ["auth-check"] | ["auth-check", "write"]:
                self.hub.check_gate(repository, self.account)
                self.answer()
            case "PUT", ["settings"]:
                self.change_settings(repository)
            case "GET", ["refs"]:
                self.list_refs(repository)
            case "GET", ["commits", revision]:
                self.list_commits(repository, revision)
            case "GET", ["tree", revision, *path]:
                self.list_tree(repository, revision, "/".join(path))
            case "POST", ["paths-info", revision]:
                self.paths_info(repository, revision)
            case "POST", ["preupload", revision]:
                self.preupload(repository, revision)
            case "POST", ["commit", branch]:
                self.commit(repository, branch)
            case "POST", ["branch", branch]:
                start = self.json().get("startingPoint", "main")
                self.add_ref(repository, "branches", branch, start)
            case "POST", ["tag", revision]:
                self.add_ref(repository, "tags", self.json()["tag"], revision)
            case "DELETE", [("branch" | "tag") as which, name]:
                self.delete_ref(repository, {"branch": "branches", "tag": "tags"}[which], name)
            case _:
                raise HubError(404, "There is no such address.")

    def change_settings(self, repository: Repository):
        request = self.json()
        with self.hub.lock:
            repository.settings["gated"] = request.get("gated", repository.settings["gated"])
            if "visibility" in request:
                repository.settings["private"] = request["visibility"] == "private"
            repository.save()
        self.answer(repository.settings)

    def list_refs(self, repository: Repository):
        refs = {
            which: [
                {"name": name, "ref": f"refs/{folder}/{name}", "targetCommit": commit}
                for name, commit in sorted(repository.refs[which].items())
            ]
            for which, folder in (("branches", "heads"), ("tags", "tags"))
        }
        self.answer(refs | {"converts": [], "pullRequests": []})

    def add_ref(self, repository: Repository, which: str, name: str, revision: str):
        with self.hub.lock:
            if name in repository.refs[which]:
                raise HubError(409, f"Reference {name} already exists")
            repository.refs[which][name] = repository.resolve(revision)
            repository.save()
        self.answer()

    def delete_ref(self, repository: Repository, which: str, name: str):
        with self.hub.lock:
            if which == "branches" and name == "main":
                raise HubError(403, "The main branch cannot be deleted")
            if repository.refs[which].pop(name, None) is None:
                raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
            repository.save()
        self.answer()

    def list_commits(self, repository: Repository, revision: str):
        commits = [
            {key: commit[key] for key in ("id", "title", "message", "date")} | {"authors": [{"user": commit["user"]}]}
            for commit in repository.history(repository.resolve(revision))
        ]
        self.answer_page(commits, self.hub.page_size)

    def list_tree(self, repository: Repository, revision: str, path: str):
        commit_id = repository.resolve(revision)
        entries = entries_of(repository.commit(commit_id))
        prefix = path.rstrip("/") + "/" if path else ""
        if prefix and entries.get(path.rstrip("/"), {}).get("type") != "directory":
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound", X_Repo_Commit=commit_id)
        is_recursive = self.parameter("recursive") == "true"
        inside = [name for name in sorted(entries) if name.startswith(prefix)]
        listed = [entries[name] for name in inside if is_recursive or "/" not in name[len(prefix) :]]
        self.answer_page([self.expanded(repository, commit_id, entry) for entry in listed], self.hub.page_size)

    def paths_info(self, repository: Repository, revision: str):
        form = parse_qs(self.body().decode())
        self.query |= form
        commit_id = repository.resolve(revision)
        entries = entries_of(repository.commit(commit_id))
        paths = [path.strip("/") for path in form.get("paths", [])]
        self.answer([self.expanded(repository, commit_id, entries[path]) for path in paths if path in entries])

    def expanded(self, repository: Repository, commit_id: str, entry: dict) -> dict:
        """The entry, where it is asked for with the last commit that changed it."""
        if self.parameter("expand") != "true":
            return entry
        last = None
        for commit in repository.history(commit_id):
            if entries_of(commit).get(entry["path"], {}).get("oid") != entry["oid"]:
                break
            last = commit
        return entry | {"lastCommit": {key: last[key] for key in ("id", "title", "date")}}

    def answer_page(self, items: list, size: int):
        start = int(self.parameter("cursor") or 0)
        headers = {}
        if start + size < len(items):
            query = urlencode(self.query | {"cursor": [start + size]}, doseq=True)
            headers["Link"] = f'<{self.hub.endpoint}{urlsplit(self.path).path}?{query}>; rel="next"'
        self.answer(items[start : start + size], **headers)

    def preupload(self, repository: Repository, revision: str):
        files = repository.commit(repository.resolve(revision))["files"]
        answers = []
        for file in self.json()["files"]:
            path, there = file["path"], files.get(file["path"])
            is_binary = b"\0" in b64decode(file["sample"])
            is_large = Path(path).suffix in LFS_SUFFIXES or file["size"] >= LFS_SIZE or is_binary
            answers.append(
                {
                    "path": path,
                    "uploadMode": "lfs" if is_large else "regular",
                    "shouldIgnore": False,
                    "oid": None if there is None else there["sha256"] if there["lfs"] else there["oid"],
                }
            )
        self.answer({"files": answers, "commitOid": repository.resolve(revision)})

    def commit(self, repository: Repository, branch: str):
        if "create_pr" in self.query:
            raise HubError(400, "Pull requests are not kept here.")
        lines = [json.loads(line) for line in self.body().splitlines() if line]
        commit_id = self.hub.make_commit(repository, branch, lines, self.account)
        prefix = "" if repository.kind == "models" else repository.kind + "/"
        url = f"{self.hub.endpoint}/{prefix}{repository.id}/commit/{commit_id}"
        self.answer({"success": True, "commitOid": commit_id, "commitUrl": url, "hookOutput": ""})

    def large_files(self, kind: str, repo_id: str, action: list[str]):
        self.hub.repository(kind, repo_id, self.account, write=True)
        request = self.json()
        match action:
            case ["objects", "batch"]:
                transfer = "multipart" if "multipart" in request["transfers"] else "basic"
                objects = [self.upload_actions(kind, repo_id, item) for item in request["objects"]]
                self.answer({"transfer": transfer, "objects": objects})
            case ["verify"]:
                stored = self.hub.object(request["oid"])
                if not stored.exists() or stored.stat().st_size != request["size"]:
                    raise HubError(404, "The object was not uploaded.")
                self.answer()
            case _:
                raise HubError(404, "There is no such address.")

    def upload_actions(self, kind: str, repo_id: str, item: dict) -> dict:
        oid, size = item["oid"], item["size"]
        if not re.fullmatch("[0-9a-f]{64}", oid):
            raise HubError(422, f"{oid} is not a SHA-256.")
        if self.hub.object(oid).exists():
            return {"oid": oid, "size": size}
        upload = {"href": self.hub.signed("whole", oid=oid, size=size)}
        if size > self.hub.part_size:
            numbers = range(1, -(-size // self.hub.part_size) + 1)
            parts = {f"{n:05d}": self.hub.signed("part", oid=oid, size=size, number=n) for n in numbers}
            header = {"chunk_size": str(self.hub.part_size), **parts}
            upload = {"href": self.hub.signed("complete", oid=oid, size=size), "header": header}
        prefix = "" if kind == "models" else f"{kind}/"
        verify = {"href": f"{self.hub.endpoint}/{prefix}{repo_id}.git/info/lfs/verify"}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    def resolve(self, kind: str, repo_id: str, revision: str, path: str):
        if self.command not in ("GET", "HEAD"):
            raise HubError(405, "Files can only be read here.")
        repository = self.hub.repository(kind, repo_id, self.account)
        self.hub.check_gate(repository, self.account)
        commit_id = repository.resolve(revision)
        file = repository.commit(commit_id)["files"].get(path)
        if file is None:
            raise HubError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit_id)
        if not file["lfs"]:
            stored = self.hub.object(file["sha256"])
            return self.send_file(stored, ETag=f'"{file["oid"]}"', X_Repo_Commit=commit_id, Content_Type="text/plain")
        headers = {
            "Location": self.hub.signed("file", oid=file["sha256"], size=file["size"]),
            "X-Repo-Commit": commit_id,
            "X-Linked-Size": file["size"],
            "X-Linked-ETag": f'"{file["sha256"]}"',
        }
        self.answer(None, 302, **headers)


def check_write(account: Account | None, owner: str) -> None:
    if account is None:
        raise HubError(401, "Invalid username or password.", "RepoNotFound")
    if account.user != owner:
        raise HubError(403, f"You don't have the rights to write under the namespace {owner}")
    if account.role != "write":
        raise HubError(403, "This token can only read; writing needs a token with the write role")


def now() -> str:
    return datetime.now(timezone.utc).strftime("%Y-%m-%dT%H:%M:%S.%f")[:-3] + "Z"


def write_json(path: Path, content: dict) -> None:
    unfinished = path.with_name(f"{path.name}.{uuid.uuid4().hex}")
    unfinished.write_text(json.dumps(content))
    os.replace(unfinished, path)


def git_oid(content: bytes) -> str:
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def regular_file(content: bytes, sha256: str) -> dict:
    return {"oid": git_oid(content), "sha256": sha256, "size": len(content), "lfs": False}


def large_file(sha256: str, size: int) -> dict:
    oid = git_oid(LFS_POINTER.format(sha256=sha256, size=size).encode())
    return {"oid": oid, "sha256": sha256, "size": size, "lfs": True}


def lfs_of(file: dict) -> dict:
    pointer = LFS_POINTER.format(**file)
    return {"oid": file["sha256"], "size": file["size"], "pointerSize": len(pointer)}


def entries_of(commit: dict) -> dict[str, dict]:
    """Files and folders of a commit by their paths, as the Hub lists them."""
    entries = {}
    for path, file in sorted(commit["files"].items()):
        entries[path] = {"type": "file", "path": path, "oid": file["oid"], "size": file["size"]}
        if file["lfs"]:
            entries[path]["lfs"] = lfs_of(file)
        for folder in map(str, Path(path).parents):
            if folder != ".":
                inside = entries.setdefault(folder, {"type": "directory", "path": folder, "oid": "", "size": 0})
                inside["oid"] = git_oid(f"{inside['oid']} {path} {file['oid']}".encode())
    return entries


def read_card(text: str) -> dict | None:
    """The metadata of a card; None where it has none."""
    match = re.match(r"\s*---[ \t]*\r?\n(.*?)\r?\n---[ \t]*(\r?\n|$)", text, re.DOTALL)
    return yaml.safe_load(match[1]) if match else None


def as_list(value) -> list:
    return value if isinstance(value, list) else [] if value is None else [value]


__all__ = ["HubServer"]
