# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Pushes a complete folder to the Hub: chooses the files, looks for secrets, and tries again if the connection fails.
"""

import fnmatch
import glob
import re
import sys
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from httpx2 import RequestError
from huggingface_hub import HfApi, constants, get_token
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    LocalTokenNotFoundError,
    OfflineModeIsEnabled,
    RepositoryNotFoundError,
    RevisionNotFoundError,
)
from tqdm import tqdm

from .model_card import (
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    CARD_FILE,
    FILES_OF_THE_CARD,
    INDEX_FILE,
    LOSSES_PICTURE,
    PROCESSOR_FILE,
    TRAINING_RECORD_FILE,
    WEIGHTS_FILE,
    check_metadata,
    is_ours,
    load_card,
    read_json,
    read_model_config,
    render_model_card,
    write_model_card,
)
from .results import is_hub_id
from .secret_scan import check_for_secrets, environment_secrets


# The files of a repository. All others are left out: pickles, optimizer states, logs, hidden files.
SENT_SUFFIXES = {".safetensors", ".json", ".jinja", ".py", ".md", ".txt", ".model", ".png", ".wav", ".flac"}
SENT_NAMES = {"LICENSE", "NOTICE"}
# Further files of checkpoints, if those are pushed
CHECKPOINT_SUFFIXES = {".pt", ".pth"}
# This file is written last into a checkpoint's folder. Without it, the checkpoint is not whole.
COMPLETE_FILE = "complete"
# The names that transformers gives them, in the folder of a run and on the Hub
CHECKPOINT_FOLDERS = ("checkpoint-*", "last-checkpoint")
# In turn: a save of the trainer that is going on, the model that adapters are for, the logs of TensorBoard and of
# Weights & Biases, compiled code
NEVER_SENT_FOLDERS = ("unfinished", "base", "runs", "wandb", "__pycache__")

# Files of an earlier model in the repository, which are deleted before a push: they would pass for files of the new
# model.
REPLACED_FILES = [
    "model*.safetensors",
    INDEX_FILE,
    ADAPTER_CONFIG_FILE,
    ADAPTER_WEIGHTS_FILE,
    LOSSES_PICTURE,
    *FILES_OF_THE_CARD,
]

# Seconds before each further try. Within a try, the client itself repeats requests.
RETRY_WAITS_S = (1, 4, 15, 60)
# Failures that may pass: a timeout, somebody else's change at the same time (409, 412), too many requests, and errors
# of the Hub itself. Other codes say that the request is wrong, which another try would not change.
RETRIED_STATUS_CODES = {408, 409, 412, 429, 500, 502, 503, 504}


# Names that `git check-ref-format` refuses
BAD_BRANCH = re.compile(r"[\s~^:?*\[\\\x00-\x1f\x7f]|\.\.|//|@\{|^[-/]|(^|/)\.|(\.lock|[./])$|^@$")


# As an OSError it becomes one line in `explain`, without a traceback.
class PushError(OSError):
    """The Hub has got nothing, or not all. The files here are untouched, and the push can be repeated."""


@dataclass(frozen=True)
class PushPlan:
    """The files of a folder that are sent, with their sizes in bytes, and the paths that are `left_out`."""

    files: dict[str, int]
    left_out: list[str]

    @property
    def warning(self) -> str:
        """A line about what the folder lacks; empty if it lacks nothing."""
        return (
            "" if PROCESSOR_FILE in self.files else "No processor: it can be converted or exported, but not be asked."
        )

    def __str__(self) -> str:
        lines = [f"{format_size(size):>10}  {path}" for path, size in self.files.items()]
        lines.append(f"{format_size(sum(self.files.values())):>10}  in {len(self.files)} files")
        if self.left_out:
            lines.append(f"Not sent: {', '.join(self.left_out)}")
        return "\n".join(lines + [self.warning] * bool(self.warning))


def plan_push(folder: str | Path, with_checkpoints: bool = False, secrets: dict[str, str] | None = None) -> PushPlan:
    """
    Args:
        folder: a complete model with its card.
        with_checkpoints: whether folders with what a run goes on from are sent, too.
        secrets: by their names, values that must not be in a file, besides those of the environment.

    Raises:
        FileNotFoundError: the folder has no model, not all files of its weights, or not the speech codec that its
            processor names; links do not count.
        ValueError: the model is of another type, or an adapter of a model that is not on the Hub; or there is a secret
            in a file, which is named, the secret is not.
    """
    folder = Path(folder)
    read_model_config(folder)
    adapter = read_json(folder / ADAPTER_CONFIG_FILE)
    if adapter is not None and not is_hub_id(base := adapter.get("base_model_name_or_path") or ""):
        raise ValueError(
            f"{folder} is an adapter of {base or 'an unnamed model'}, which is not on the Hub, so nobody else could "
            f"load it. Push that model first and write its id into {folder / ADAPTER_CONFIG_FILE} as "
            "`base_model_name_or_path`, or push what `vita-audio merge` writes."
        )
    files, left_out = {}, []
    walk(folder, folder, files, left_out, with_checkpoints)
    for name in ("config.json", "*.safetensors"):
        # The codec's weights, which are in a subfolder, do not make a model.
        if not fnmatch.filter((path for path in files if "/" not in path), name):
            raise FileNotFoundError(
                f"There is no {name} among the regular files of {folder}, so it is no whole model."
            )
    names_codec = "audio_tokenizer_type" in (read_json(folder / PROCESSOR_FILE) or {})
    for name in ("audio_tokenizer/config.json", "audio_tokenizer/*.safetensors") if names_codec else ():
        if not fnmatch.filter(files, name):
            raise FileNotFoundError(
                f"{folder / PROCESSOR_FILE} names a speech codec, but there is no {name} among the regular files of "
                f"{folder}."
            )
    for name in fnmatch.filter(files, f"*{INDEX_FILE}"):
        check_shards(folder, name, files)
    secrets = (secrets or {}) | environment_secrets()
    # The search for secrets comes last, because it reads all files.
    for path in files:
        check_for_secrets(folder / path, secrets, path)
    return PushPlan(files, left_out)


def check_shards(folder: Path, index: str, files: Iterable[str]) -> None:
    """
    Raises:
        FileNotFoundError: `files` lack one that an index of weights in several files names.
        ValueError: the index is malformed.
    """
    place = index.removesuffix(INDEX_FILE)
    # Beside weights in one file, nobody reads the index.
    if f"{place}{WEIGHTS_FILE}" in files:
        return
    shards = {place + shard for shard in read_json(folder / index)["weight_map"].values()}
    if missing := sorted(shards.difference(files)):
        raise FileNotFoundError(
            f"{folder / index} names {', '.join(missing[:3])}{', ...' * (len(missing) > 3)}, which "
            f"{'is' if len(missing) == 1 else 'are'} not among the regular files of {folder}, so the weights are not "
            "whole."
        )


def walk(folder: Path, root: Path, files: dict[str, int], left_out: list[str], with_checkpoints: bool) -> None:
    suffixes, names = SENT_SUFFIXES, SENT_NAMES
    if with_checkpoints:
        suffixes, names = suffixes | CHECKPOINT_SUFFIXES, names | {COMPLETE_FILE}
    for path in sorted(folder.iterdir()):
        name = path.relative_to(root).as_posix()
        target = path.resolve()
        if path.is_symlink() and not (target.is_file() and root.resolve() in target.parents):
            # Links to other folders are not followed: their targets were not put here to be shared, and may contain
            # this folder.
            left_out.append(f"{name} (a link)")
        elif path.is_dir():
            never = path.name.startswith(".") or path.name in NEVER_SENT_FOLDERS
            of_checkpoint = any(fnmatch.fnmatch(path.name, pattern) for pattern in CHECKPOINT_FOLDERS)
            if never or (of_checkpoint and not with_checkpoints):
                left_out.append(f"{name}/")
            else:
                walk(path, root, files, left_out, with_checkpoints)
        elif not path.is_file():
            left_out.append(f"{name} (no regular file)")
        elif not path.name.startswith(".") and (path.suffix in suffixes or path.name in names):
            files[name] = path.stat().st_size
        else:
            left_out.append(name)


def push_folder(
    folder: str | Path,
    repo_id: str,
    revision: str | None = None,
    private: bool | None = None,
    commit_message: str = "Upload model",
    with_checkpoints: bool = False,
    api: HfApi | None = None,
) -> str:
    """
    Sends a complete model with its card. The card is written first, unless it was edited by hand.

    If a push breaks off, the next one goes on where it was: files that the Hub has are not sent again.

    Args:
        folder: folder of the model.
        repo_id: Hub id such as `"user/name"`, or a name alone, which is one of the token's owner; the repository is
            created if there is none.
        revision: branch, created if there is none. By default the main one and, before it, that of the model's stage.
        private: whether a new repository is private; by default as the owner's account has it.
        commit_message: the first line of the commit.
        with_checkpoints: as of [`plan_push`].
        api ([`HfApi`]): its endpoint and token; by default those of the environment.

    Returns:
        `str`: URL of the last commit.

    Raises:
        FileNotFoundError, ValueError: as of [`plan_push`], or the card lacks metadata. Nothing was sent.
        PushError: the Hub refused, or could not be reached.
    """
    api, folder = api or HfApi(), Path(folder)
    # Before the card is written, because a folder without a model shall not get one
    read_model_config(folder)
    revisions = branches_of(folder, revision)
    if "/" not in repo_id:
        # The commands on the card need the whole id.
        repo_id = f"{owner_of_token(repo_id, api)}/{repo_id}"
    if is_ours(folder / CARD_FILE):
        # The example on the card loads the model from the first branch.
        write_model_card(folder, repo_id=repo_id, revision=revisions[0])
    # The plan comes after the card, because the card is searched for secrets, too. The token of `api` may be in no
    # variable of the environment.
    plan = plan_push(folder, with_checkpoints, {"the token of the Hub": api.token} if api.token else None)
    card = load_card(folder / CARD_FILE)
    check_metadata(card, folder / CARD_FILE)
    if plan.warning:
        print(plan.warning, file=sys.stderr)
    repo_id = create_repository(repo_id, private, api)
    for branch in revisions:
        if branch is not None:
            # An upload to a branch that does not exist is refused.
            call_hub(partial(api.create_branch, repo_id, branch=branch, exist_ok=True), repo_id, api)
        upload = partial(
            api.upload_folder,
            repo_id=repo_id,
            folder_path=folder,
            revision=branch,
            commit_message=commit_message,
            # Without the escape, brackets in the name of a file would count as a pattern.
            allow_patterns=[glob.escape(path) for path in plan.files],
            # They are deleted in the commit that brings the new files, so the branch has a whole model at any time.
            delete_patterns=REPLACED_FILES,
        )
        commit = call_hub(upload, repo_id, api)
    return commit.commit_url


def describe_push(folder: str | Path, repo_id: str, revision: str | None = None) -> str:
    """
    Says what [`push_folder`] would send. Writes nothing, and asks the Hub only whose token it is where `repo_id` has
    no owner.

    Raises:
        FileNotFoundError, ValueError, PushError: as of [`push_folder`].
    """
    folder = Path(folder)
    read_model_config(folder)
    revisions = branches_of(folder, revision)
    owner = ""
    if "/" not in repo_id:
        if get_token():
            repo_id = f"{owner_of_token(repo_id, HfApi())}/{repo_id}"
        else:
            owner = " of the account of your token (there is none here, so its name is not known)"
    path, plan = folder / CARD_FILE, plan_push(folder)
    card = render_model_card(folder, repo_id, revisions[0]) if is_ours(path) else load_card(path)
    check_metadata(card, path)
    # The card on disk may be missing or outdated, because only a real push writes it.
    plan.files[CARD_FILE] = len(str(card).encode())
    branches = " and ".join(branch or constants.DEFAULT_REVISION for branch in revisions)
    return f"Would be sent to {repo_id}{owner}, {branches}:\n{plan}"


def branches_of(folder: Path, revision: str | None) -> list[str | None]:
    """
    The branches that a model is pushed to: `revision` or, by default, those of [`default_revisions`].

    Raises:
        ValueError: as of [`check_branch`].
    """
    check_branch(revision)
    return [revision] if revision else default_revisions(read_json(folder / TRAINING_RECORD_FILE) or {})


def check_branch(revision: str | None) -> None:
    """
    Raises:
        ValueError: git accepts no branch of that name.
    """
    if revision and BAD_BRANCH.search(revision):
        raise ValueError(f"{revision!r:.200} cannot be the name of a branch; one such as stage1 or my-branch can.")


def default_revisions(record: dict) -> list[str | None]:
    """The branches that a model goes to by default: that of its stage, if it is one, and the main branch (None)."""
    return [f"stage{record['stage']}", None] if "stage" in record else [None]


def owner_of_token(repo_id: str, api: HfApi) -> str:
    """
    The account that a token is of, for a `repo_id` that names no owner.

    Raises:
        PushError: there is no token, it is wrong, or the Hub could not be reached.
    """
    return call_hub(lambda: api.whoami()["name"], repo_id, api)


def create_repository(
    repo_id: str, private: bool | None = None, api: HfApi | None = None, repo_type: str | None = None
) -> str:
    """
    Creates a repository if there is none.

    Returns:
        `str`: the whole Hub id, with the owner.

    Raises:
        PushError: the token is wrong or may not write there, or the Hub could not be reached.
    """
    api = api or HfApi()
    url = call_hub(lambda: api.create_repo(repo_id, private=private, exist_ok=True, repo_type=repo_type), repo_id, api)
    return url.repo_id


def call_hub(call: Callable, repo_id: str, api: HfApi):
    """
    Calls the Hub. Tries again if the connection or the Hub itself fails.

    Raises:
        PushError: the Hub refused, or all tries failed. The message is one line.
    """
    for wait in (*RETRY_WAITS_S, None):
        try:
            return call()
        # These come first, because they are also ValueError, OSError and ConnectionError. Another try would not help.
        except (HFValidationError, LocalTokenNotFoundError, OfflineModeIsEnabled) as error:
            raise PushError(describe(error, repo_id, api.endpoint)) from error
        except (HfHubHTTPError, RequestError, ConnectionError, TimeoutError) as error:
            status_code = error.response.status_code if isinstance(error, HfHubHTTPError) else None
            if wait is None or (status_code is not None and status_code not in RETRIED_STATUS_CODES):
                raise PushError(describe(error, repo_id, api.endpoint)) from error
            # This leaves the client's progress bar whole, which `print` would tear apart.
            tqdm.write(f"{describe(error, repo_id, api.endpoint)} Another try in {wait} s.", file=sys.stderr)
            time.sleep(wait)
        # The client raises any of these if the answer is not that of a Hub but, for example, of a login page.
        except (ValueError, TypeError, LookupError, AttributeError, AssertionError) as error:
            reason = f"{type(error).__name__}: {' '.join(str(error).split()):.200}"
            raise PushError(f"The answer of {api.endpoint} for {repo_id} is not that of a Hub ({reason}).") from error


def describe(error: Exception, repo_id: str, endpoint: str = constants.ENDPOINT) -> str:
    """One line about an error of the Hub and what to do, without tokens and request ids."""
    status_code = error.response.status_code if isinstance(error, HfHubHTTPError) else None
    # `server_message` is what the Hub said. The error's own text has request ids in it, and several lines.
    reason = " ".join(str(getattr(error, "server_message", None) or error).split()).rstrip(".")
    if isinstance(error, RevisionNotFoundError):
        return f"{repo_id} has no such revision ({reason})."
    # The order matters: for the client, a gated repository is a missing one as well, and a missing one may have the
    # status 401.
    if isinstance(error, GatedRepoError):
        return f"{repo_id} is gated: ask for access on its page at {endpoint}, with the account of the token."
    if isinstance(error, RepositoryNotFoundError):
        return (
            f"There is no repository {repo_id} at {endpoint}, or it is private: set HF_TOKEN to a token that may read "
            "it, or log in with `hf auth login`."
        )
    if status_code == 401 or isinstance(error, LocalTokenNotFoundError):
        return f"The Hub at {endpoint} does not know the token: set HF_TOKEN, or log in with `hf auth login`."
    if status_code == 403:
        return f"The token may not write to {repo_id}: {reason}."
    if isinstance(error, HfHubHTTPError):
        return f"The Hub at {endpoint} refused {repo_id} ({status_code}): {reason}."
    if isinstance(error, HFValidationError):
        return f"{reason}."
    return f"The Hub at {endpoint} cannot be reached: {reason or type(error).__name__}."


def format_size(size: int) -> str:
    """Such as 12.3 MB, in powers of ten as the Hub has it."""
    value, units = float(size), ["B", "kB", "MB", "GB"]
    while value >= 1000 and len(units) > 1:
        value, _ = value / 1000, units.pop(0)
    return f"{value:.0f} {units[0]}" if units[0] == "B" else f"{value:.1f} {units[0]}"
