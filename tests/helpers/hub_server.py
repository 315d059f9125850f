# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
A small Hub on loopback that keeps real files, for `huggingface_hub` as it is. (The self-hosted Hubs there are need an
object store and a database each, and the packaged mirrors have the Hub behind them.)

The fixture `hub` of `conftest.py` starts one, empty, for a test, and `hub_module` one for a module:

    def test_push(hub, tmp_path):
        api = hub.api()                                   # `HfApi`, with the write token; `hub.api(hub.read_token)`
        api.create_repo("vita/mini", private=True)  # everything is of the user `vita`; `guest_token` is another's
        api.upload_folder(repo_id="vita/mini", folder_path=folder)
        subprocess.run([...], env=hub.environment(tmp_path / "home"))  # HF_ENDPOINT, HF_TOKEN, an empty HF_HOME

`huggingface_hub` reads its environment when it is imported: what takes no `endpoint` and `token` (transformers,
datasets, `ModelCard.validate`) needs a process of its own, with `hub.environment`. Uploads come by LFS, the way of a
client without `hf_xet`, which HF_HUB_DISABLE_XET=1 makes of one with it; `conftest.py` sets it for the tests' own
process.

    hub.drop_upload(after_bytes=1000)                     # the next larger upload loses its connection there, once
    hub.drop_download(after_bytes=1000, times=9, how="reset", path="/file")
    hub.fail(503, times=2)                                # the next answers
    hub.requests, hub.ranges                              # [(method, path), ...] and ["bytes=100-", ...] as they came

Large files are served, as by the Hub, from another host (port) by signed addresses that refuse an `Authorization`
header.
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
from base64 import b64decode
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, unquote, urlencode, urlsplit

import yaml
from hub_repositories import LFS_SIZE, LFS_SUFFIXES, Account, Commit, HubError, HubStorage, Repository, read_card
from huggingface_hub import DatasetCardData, HfApi, ModelCardData


OWNER, GUEST = "vita", "guest"

BLOCK_SIZE = 2**16


class ConnectionDropped(Exception):
    """A fault that a test has asked for."""


@dataclass
class Fault:
    kind: str  # upload, download or status
    times: int
    path: str
    after_bytes: int = 0
    how: str = ""
    status: int = 0


class HubServer:
    """See the module."""

    def __init__(self, root: Path):
        self.root = Path(root)
        self.storage = HubStorage(self.root)
        self.write_token, self.read_token, self.guest_token = (f"hf_{secrets.token_hex(17)}" for _ in range(3))
        self.accounts = {
            self.write_token: Account(OWNER, "write"),
            self.read_token: Account(OWNER, "read"),
            self.guest_token: Account(GUEST, "write"),
        }
        self.key = secrets.token_bytes(32)
        # uploads larger than this come in parts of this size; a listing has so many items a page
        self.part_size, self.page_size = 2**20, 1000
        self.faults: list[Fault] = []
        self.requests: list[tuple[str, str]] = []
        self.ranges: list[str] = []
        handlers = (type(handler.__name__, (handler,), {"hub": self}) for handler in (HubHandler, StorageHandler))
        self.servers = [QuietServer(("127.0.0.1", 0), handler) for handler in handlers]
        self.endpoint, self.storage_endpoint = (f"http://127.0.0.1:{s.server_address[1]}" for s in self.servers)
        for server in self.servers:
            threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()

    def stop(self) -> None:
        for server in self.servers:
            server.shutdown()
            server.server_close()

    def api(self, token: str | bool | None = None) -> HfApi:
        return HfApi(endpoint=self.endpoint, token=self.write_token if token is None else token)

    def environment(self, home: Path, token: str | None = None, **variables) -> dict[str, str]:
        """
        Variables of a process that knows this Hub only; `home` is its HF_HOME, and `token=""` leaves it without a
        token.
        """
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

    def drop_upload(self, after_bytes: int, times: int = 1, how: str = "reset", path: str = "") -> None:
        """
        The next requests whose bodies are larger than `after_bytes`, and whose paths have `path` in them, get no
        further. `how` the connection goes: "end", which is early, "reset", or "stall", which is as long as the client
        waits.
        """
        self.faults.append(Fault("upload", times, path, after_bytes, how))

    def drop_download(self, after_bytes: int, times: int = 1, how: str = "end", path: str = "") -> None:
        """As `drop_upload`, of the files that are answered."""
        self.faults.append(Fault("download", times, path, after_bytes, how))

    def fail(self, status: int, times: int = 1, path: str = "") -> None:
        """The next requests whose paths have `path` in them are answered with `status`."""
        self.faults.append(Fault("status", times, path, status=status))

    def take_fault(self, kind: str, path: str, size: int = 0) -> Fault | None:
        with self.storage.lock:
            for fault in self.faults:
                if fault.kind == kind and fault.path in path and (kind == "status" or size > fault.after_bytes):
                    fault.times -= 1
                    if fault.times == 0:
                        self.faults.remove(fault)
                    return fault

    def signed(self, action: str, **parameters) -> str:
        """An address at the storage host that allows one action."""
        text = "&".join(f"{name}={value}" for name, value in parameters.items())
        signature = hmac.new(self.key, f"{action}?{text}".encode(), "sha256").hexdigest()
        return f"{self.storage_endpoint}/{action}?{urlencode(parameters | {'signature': signature})}"


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
        except (LookupError, ValueError, TypeError, AttributeError) as error:
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
                self.drop(fault.how)
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

    def drop(self, how: str):
        self.close_connection = True
        if how == "stall":
            while self.connection.recv(BLOCK_SIZE):
                pass
        elif how == "reset":
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
            self.hub.ranges.append(match[0])
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
            self.drop(fault.how)


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
        storage, upload = self.hub.storage, self.hub.root / "uploads" / oid
        match self.command, self.segments:
            case "GET" | "HEAD", ["file"]:
                self.send_file(storage.object(oid), ETag=f'"{oid}"', Content_Type="application/octet-stream")
            case "PUT", ["whole"]:
                storage.add_object(self.blocks(), oid, size)
                self.answer(ETag=f'"{oid}"')
            case "PUT", ["part"]:
                upload.mkdir(parents=True, exist_ok=True)
                content = self.body()
                (upload / parameters["number"]).write_bytes(content)
                self.answer(ETag=f'"{hashlib.md5(content).hexdigest()}"')
            case "POST", ["complete"]:
                parts = [upload / str(part["partNumber"]) for part in self.json()["parts"]]
                storage.add_object((part.read_bytes() for part in parts), oid, size)
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
        kind = f"{request.get('type') or 'model'}s"
        repo_id = f"{request.get('organization') or self.account.user}/{request['name']}"
        url = f"{self.hub.endpoint}/{url_prefix(kind)}{repo_id}"
        match self.command, action:
            case "POST", "create":
                private = request.get("visibility") == "private" or request.get("private", False)
                try:
                    self.hub.storage.create(kind, repo_id, private, self.account)
                except HubError as error:
                    if error.status != 409:
                        raise
                    return self.answer({"error": str(error), "url": url}, 409, X_Error_Message=str(error))
                self.answer({"url": url, "name": repo_id})
            case "DELETE", "delete":
                self.hub.storage.repository(kind, repo_id, self.account, write=True)
                del self.hub.storage.repositories[kind, repo_id]
                self.answer()
            case _:
                raise HubError(404, "There is no such address.")

    def list_repositories(self, kind: str):
        infos, storage = [], self.hub.storage
        for of_kind, repo_id in list(storage.repositories):
            try:
                info = storage.info(storage.repository(of_kind, repo_id, self.account), "main")
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
        self.answer_page(infos)

    def repository_api(self, kind: str, repo_id: str, action: list[str]):
        write = self.command != "GET" and action[:1] != ["paths-info"] or action == ["auth-check", "write"]
        repository = self.hub.storage.repository(kind, repo_id, self.account, write)
        match self.command, action:
            case "GET", []:
                self.answer(self.hub.storage.info(repository, "main", bool(self.parameter("blobs"))))
            case "GET", ["revision", revision]:
                self.answer(self.hub.storage.info(repository, revision, bool(self.parameter("blobs"))))
            case "GET", ["auth-check"] | ["auth-check", "write"]:
                self.check_gate(repository)
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
            case "POST", ["branch", name]:
                self.add_ref(repository, repository.branches, name, self.json().get("startingPoint", "main"))
            case "POST", ["tag", revision]:
                self.add_ref(repository, repository.tags, self.json()["tag"], revision)
            case "DELETE", ["branch", name]:
                self.delete_ref(repository.branches, name)
            case "DELETE", ["tag", name]:
                self.delete_ref(repository.tags, name)
            case _:
                raise HubError(404, "There is no such address.")

    def check_gate(self, repository: Repository):
        if repository.gated and (self.account is None or self.account.user != repository.owner):
            message = f"Access to {repository.id} is restricted and you are not in the authorized list."
            raise HubError(401 if self.account is None else 403, message, "GatedRepo")

    def change_settings(self, repository: Repository):
        request = self.json()
        repository.gated = request.get("gated", repository.gated)
        repository.private = request.get("visibility", "private" if repository.private else "public") == "private"
        self.answer({"gated": repository.gated, "private": repository.private})

    def list_refs(self, repository: Repository):
        branches, tags = (
            [{"name": n, "ref": f"refs/{folder}/{n}", "targetCommit": commit} for n, commit in sorted(refs.items())]
            for refs, folder in ((repository.branches, "heads"), (repository.tags, "tags"))
        )
        self.answer({"branches": branches, "tags": tags, "converts": [], "pullRequests": []})

    def add_ref(self, repository: Repository, refs: dict, name: str, revision: str):
        with self.hub.storage.lock:
            if name in refs:
                raise HubError(409, f"Reference {name} already exists")
            refs[name] = repository.commit(revision).id
        self.answer()

    def delete_ref(self, refs: dict, name: str):
        if name == "main":
            raise HubError(403, "The main branch cannot be deleted")
        if refs.pop(name, None) is None:
            raise HubError(404, f"Invalid rev id: {name}", "RevisionNotFound")
        self.answer()

    def list_commits(self, repository: Repository, revision: str):
        self.answer_page(
            [
                {"id": c.id, "title": c.title, "message": c.message, "date": c.date, "authors": [{"user": c.user}]}
                for c in repository.history(repository.commit(revision))
            ]
        )

    def list_tree(self, repository: Repository, revision: str, path: str):
        commit = repository.commit(revision)
        entries, folder = commit.entries(), path.rstrip("/")
        if folder and entries.get(folder, {}).get("type") != "directory":
            raise HubError(404, f"{path} does not exist on {revision}", "EntryNotFound", X_Repo_Commit=commit.id)
        prefix, is_recursive = folder + "/" if folder else "", self.parameter("recursive") == "true"
        inside = [name for name in sorted(entries) if name.startswith(prefix)]
        listed = [entries[name] for name in inside if is_recursive or "/" not in name[len(prefix) :]]
        self.answer_page([self.expanded(repository, commit, entry) for entry in listed])

    def paths_info(self, repository: Repository, revision: str):
        self.query |= parse_qs(self.body().decode())
        commit = repository.commit(revision)
        entries, paths = commit.entries(), [path.strip("/") for path in self.query.get("paths", [])]
        self.answer([self.expanded(repository, commit, entries[path]) for path in paths if path in entries])

    def expanded(self, repository: Repository, commit: Commit, entry: dict) -> dict:
        """The entry, where it is asked for with the last commit that changed it."""
        if self.parameter("expand") != "true":
            return entry
        for earlier in repository.history(commit):
            if earlier.entries().get(entry["path"], {}).get("oid") != entry["oid"]:
                break
            commit = earlier
        return entry | {"lastCommit": {"id": commit.id, "title": commit.title, "date": commit.date}}

    def answer_page(self, items: list):
        start, stop = (int(self.parameter("cursor") or 0) + size for size in (0, self.hub.page_size))
        headers = {}
        if stop < len(items):
            query = urlencode(self.query | {"cursor": [stop]}, doseq=True)
            headers["Link"] = f'<{self.hub.endpoint}{urlsplit(self.path).path}?{query}>; rel="next"'
        self.answer(items[start:stop], **headers)

    def preupload(self, repository: Repository, revision: str):
        commit, answers = repository.commit(revision), []
        for file in self.json()["files"]:
            path, there = file["path"], commit.files.get(file["path"])
            is_large = Path(path).suffix in LFS_SUFFIXES or file["size"] >= LFS_SIZE
            is_large = is_large or b"\0" in b64decode(file["sample"])
            oid = None if there is None else there.sha256 if there.is_large else there.oid
            mode = "lfs" if is_large else "regular"
            answers.append({"path": path, "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.answer({"files": answers, "commitOid": commit.id})

    def commit(self, repository: Repository, branch: str):
        if "create_pr" in self.query:
            raise HubError(400, "Pull requests are not kept here.")
        lines = [json.loads(line) for line in self.body().splitlines() if line]
        commit = self.hub.storage.make_commit(repository, branch, lines, self.account)
        url = f"{self.hub.endpoint}/{url_prefix(repository.kind)}{repository.id}/commit/{commit.id}"
        self.answer({"success": True, "commitOid": commit.id, "commitUrl": url, "hookOutput": ""})

    def large_files(self, kind: str, repo_id: str, action: list[str]):
        self.hub.storage.repository(kind, repo_id, self.account, write=True)
        request = self.json()
        match action:
            case ["objects", "batch"]:
                objects = [self.upload_actions(kind, repo_id, item) for item in request["objects"]]
                self.answer({"transfer": "multipart", "objects": objects})
            case ["verify"]:
                stored = self.hub.storage.object(request["oid"])
                if not stored.exists() or stored.stat().st_size != request["size"]:
                    raise HubError(404, "The object was not uploaded.")
                self.answer()
            case _:
                raise HubError(404, "There is no such address.")

    def upload_actions(self, kind: str, repo_id: str, item: dict) -> dict:
        oid, size, part_size = item["oid"], item["size"], self.hub.part_size
        if not re.fullmatch("[0-9a-f]{64}", oid):
            raise HubError(422, f"{oid} is not a SHA-256.")
        if self.hub.storage.object(oid).exists():
            return {"oid": oid, "size": size}
        upload = {"href": self.hub.signed("whole", oid=oid, size=size)}
        if size > part_size:
            numbers = range(1, -(-size // part_size) + 1)
            parts = {f"{n:05d}": self.hub.signed("part", oid=oid, size=size, number=n) for n in numbers}
            upload = {
                "href": self.hub.signed("complete", oid=oid, size=size),
                "header": {"chunk_size": str(part_size), **parts},
            }
        verify = {"href": f"{self.hub.endpoint}/{url_prefix(kind)}{repo_id}.git/info/lfs/verify"}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": verify}}

    def resolve(self, kind: str, repo_id: str, revision: str, path: str):
        repository = self.hub.storage.repository(kind, repo_id, self.account)
        self.check_gate(repository)
        commit = repository.commit(revision)
        file = commit.files.get(path)
        if file is None:
            raise HubError(404, "Entry not found", "EntryNotFound", X_Repo_Commit=commit.id)
        if not file.is_large:
            stored = self.hub.storage.object(file.sha256)
            return self.send_file(stored, ETag=f'"{file.oid}"', X_Repo_Commit=commit.id, Content_Type="text/plain")
        headers = {"X-Linked-Size": file.size, "X-Linked-ETag": f'"{file.sha256}"', "X-Repo-Commit": commit.id}
        self.answer(None, 302, Location=self.hub.signed("file", oid=file.sha256, size=file.size), **headers)


def url_prefix(kind: str) -> str:
    return "" if kind == "models" else f"{kind}/"
