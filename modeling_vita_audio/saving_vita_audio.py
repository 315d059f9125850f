# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Writes files and folders whole, or not at all where that fails as on a full disk; adds to Hub folders their code."""

import inspect
import json
import os
import re
import shutil
import socket
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from huggingface_hub import HfApi
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedConfig
from transformers.dynamic_module_utils import get_relative_imports
from transformers.integrations.accelerate import load_offloaded_parameter
from transformers.utils import (
    ADAPTER_CONFIG_NAME,
    ADAPTER_SAFE_WEIGHTS_NAME,
    SAFE_WEIGHTS_INDEX_NAME,
    SAFE_WEIGHTS_NAME,
    cached_file,
)


# The folders that a Hub folder's code is copied from. In a loaded Hub folder all code is beside this file; installed,
# it is in two packages. This one comes first, as the other has a file of the same name as this one.
CODE_FOLDERS = [Path(__file__).resolve().parent, Path(__file__).resolve().parent.parent / "processing"]

REPO_ID = re.compile(r"[\w.-]+/[\w.-]+")

# Arguments of `from_pretrained` that say where on the Hub a file is, and how to get it
HUB_KWARGS = ("cache_dir", "force_download", "proxies", "token", "local_files_only", "revision")

# Arguments that `save_pretrained(push_to_hub=True)` passes on: to `create_repo`, and to the upload
REPO_KWARGS = ("repo_id", "private")
COMMIT_KWARGS = ("commit_message", "commit_description", "create_pr", "revision")

UNFINISHED_SUFFIX = ".unfinished"
# Marks the first write into a folder that had nothing in it: after a kill, such a folder still counts as free
FIRST_SUFFIX = ".first" + UNFINISHED_SUFFIX
# Whether a process of another machine still runs cannot be seen from here, so what it writes on a shared disk is left
# alone for as long as the longest save may take
LONGEST_SAVE_SECONDS = 24 * 3600
# The clocks of files, of processes and of this module differ by less
START_TOLERANCE_SECONDS = 2.0

# What `config.storage_dtype` may be, see `saved_whole`
STORAGE_DTYPES = ("float16", "bfloat16", "float32")

# The kinds of weights, see `kind_of_weights`
WHOLE_WEIGHTS, ADAPTER_WEIGHTS = (
    name.removesuffix(".safetensors") for name in (SAFE_WEIGHTS_NAME, ADAPTER_SAFE_WEIGHTS_NAME)
)
SHARD_NUMBER = re.compile(r"-\d{5}-of-\d{5}$")


@contextmanager
def unfinished_folder(parent: Path, suffix: str = UNFINISHED_SUFFIX) -> Iterator[Path]:
    """
    Makes a hidden folder in `parent` for files that are not whole yet, and removes it at the end. Its name begins with
    [`owner_prefix`], so that the next process to write here removes it where this one is killed.
    """
    prefix = owner_prefix()
    # In the same file system, because only there can a rename replace the old file at once. What cannot be removed
    # now, the next process here removes
    with TemporaryDirectory(prefix=prefix, suffix=suffix, dir=parent, ignore_cleanup_errors=True) as name:
        yield Path(name)
    remove_leftovers(parent)


@contextmanager
def replaced_whole(path: str | os.PathLike) -> Iterator[Path]:
    """
    Lets a file or folder be written whole or not at all: yields a path of the same name in an [`unfinished_folder`]
    beside `path`; what is written there replaces `path` at the end, and is removed where an error is raised.
    """
    path = Path(path).absolute()
    with unfinished_folder(path.parent) as folder:
        yield folder / path.name
        # A rename cannot replace a folder that has files in it, so the old one first moves to what will be removed
        if path.is_dir():
            path.replace(folder / f"{path.name}.old")
        (folder / path.name).replace(path)


@contextmanager
def written_whole(folder: str | os.PathLike) -> Iterator[Path]:
    """
    Lets files be added to a folder all or not at all: yields an empty folder of the same name in an
    [`unfinished_folder`] inside of it; its files are moved to `folder` at the end, over those of their names.

    Raises:
        OSError: the files could not be written. `folder` is as it was before, and not there if it was not.
    """
    folder = Path(folder).absolute()
    # Both are asked before anything is written, because that changes the answers
    is_new, suffix = not folder.exists(), FIRST_SUFFIX if is_free(folder) else UNFINISHED_SUFFIX
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with unfinished_folder(folder, suffix) as outer:
            unfinished = outer / folder.name
            unfinished.mkdir()
            yield unfinished
            put_in_place(unfinished, folder)
        # All files are in place, so the folder must stay
        is_new = False
    # safetensors reports a full disk by an error of its own
    except SafetensorError as error:
        raise OSError(f"Cannot write the weights to {folder}: {error}") from error
    finally:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)


def put_in_place(unfinished: Path, folder: Path) -> None:
    """
    Moves all files of a folder that is whole into another one. Old weights that the new ones replace are removed
    first, those of an adapter in the model's place as well; the new ones are moved last, and their index of shards
    after them. So a process that is killed meanwhile leaves a folder without weights, never one with weights of two
    models.
    """
    paths = [path.relative_to(unfinished) for path in unfinished.rglob("*") if path.is_file()]
    kinds = {(path.parent, kind_of_weights(path)) for path in paths if kind_of_weights(path)}
    for parent, kind in list(kinds):
        if kind == WHOLE_WEIGHTS and parent / ADAPTER_CONFIG_NAME not in paths:
            # Its configuration would have `from_pretrained` load the adapter, and not these
            (folder / parent / ADAPTER_CONFIG_NAME).unlink(missing_ok=True)
            kinds.add((parent, ADAPTER_WEIGHTS))
    for parent in {parent for parent, _ in kinds}:
        for old in (folder / parent).glob("*.safetensors*"):
            if (parent, kind_of_weights(old)) in kinds:
                old.unlink()
    # First what is no weights, then weights, then their index
    for path in sorted(paths, key=lambda path: (kind_of_weights(path) is not None, path.suffix == ".json", path)):
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (unfinished / path).replace(folder / path)


def kind_of_weights(path: Path) -> str | None:
    """The name, such as `model`, that shards and their index have in common; None for files without weights."""
    name, is_weights, _ = path.name.partition(".safetensors")
    return SHARD_NUMBER.sub("", name) if is_weights else None


def owner_prefix() -> str:
    """
    The beginning of the names of all that is unfinished: the machine and the process that write it. The rest of such a
    name has no dash, which [`leftovers`] relies on, and ends in `UNFINISHED_SUFFIX`.
    """
    return f".{socket.gethostname()}-{os.getpid()}-"


def leftovers(folder: Path) -> list[Path]:
    """What processes that were killed have left unfinished in a folder."""
    paths = []
    for path in folder.glob(f".*{UNFINISHED_SUFFIX}"):
        # The name of a machine may have dashes, so the parts are cut off from the right
        host, _, number = path.name[1:].rpartition("-")[0].rpartition("-")
        is_ours = host == socket.gethostname()
        # another process may remove it meanwhile
        with suppress(FileNotFoundError):
            written = path.stat().st_mtime
            if is_ours and number.isdigit() and is_running(int(number), since=written):
                continue
            if is_ours or time.time() - written > LONGEST_SAVE_SECONDS:
                paths.append(path)
    return paths


def remove_leftovers(folder: Path) -> None:
    for path in leftovers(folder):
        if path.is_dir():
            shutil.rmtree(path, ignore_errors=True)
        else:
            path.unlink(missing_ok=True)


def is_running(pid: int, since: float) -> bool:
    """Whether a process that was there at a time, in seconds since the epoch, is still there."""
    try:
        # Signal 0 does nothing but ask whether the process is there
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # the process is another user's
    # Numbers come again: in a container that was restarted, the new process has that of the one that was killed
    start = start_of_process(pid)
    return start is None or start <= since + START_TOLERANCE_SECONDS


def start_of_process(pid: int) -> float | None:
    """When a process began, in seconds since the epoch; None where that cannot be known, as outside of Linux."""
    try:
        # The name, in brackets, may have anything in it. The time is the 22nd field, in ticks since the machine began
        fields = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        seconds = int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return time.time() - time.clock_gettime(time.CLOCK_BOOTTIME) + seconds
    except (OSError, AttributeError, ValueError, IndexError):
        return None


def is_free(folder: Path) -> bool:
    """
    Whether a folder is empty or not there. What a process that was killed has left of the first write into it does not
    count.
    """
    if not folder.is_dir():
        return not folder.exists()
    left = leftovers(folder)
    return any(path.name.endswith(FIRST_SUFFIX) for path in left) or not set(folder.iterdir()) - set(left)


def check_is_free(folder: Path) -> None:
    """
    Raises:
        ValueError: `folder` has something in it, see [`is_free`].
    """
    if not is_free(folder):
        raise ValueError(f"{folder} exists and is not an empty folder; write to another one.")


def code_files(modules: Iterable[str], source: str | None = None, **hub_kwargs) -> dict[str, Path]:
    """
    Finds the files of modules and of all that they import relatively.

    Args:
        modules: names of the modules, without a path or `.py`.
        source: the folder or Hub id that a model or processor was loaded from. It has the modules that transformers
            has not copied, as nothing has imported them yet.
        hub_kwargs: arguments that `source` was loaded with, see `HUB_KWARGS`.

    Returns:
        `dict[str, Path]`: the files by the names of the modules, without those that are nowhere.
    """
    files, names = {}, list(modules)
    while names:
        name = names.pop()
        path = None if name in files else find_code(f"{name}.py", source, **hub_kwargs)
        if path is not None:
            files[name] = path
            names += get_relative_imports(path)
    return files


def find_code(file_name: str, source: str | None, **hub_kwargs) -> Path | None:
    for folder in CODE_FOLDERS:
        if (folder / file_name).is_file():
            return folder / file_name
    if not source or not (os.path.isdir(source) or REPO_ID.fullmatch(source)):
        return None
    try:
        path = cached_file(source, file_name, **hub_kwargs)
    except OSError:
        # the file is not there, or there is no network: what is loaded has worked without it so far
        return None
    return path and Path(path)


def keep_code(remote_code: dict[str, dict], source: str, **kwargs) -> None:
    """
    Copies the code that `remote_code` names, and that transformers has not loaded from `source` as nothing has
    imported it yet, beside the code that it has loaded. So a later save finds it even where `source` is gone. `kwargs`
    are those of `from_pretrained`.
    """
    hub_kwargs = {name: kwargs[name] for name in HUB_KWARGS if name in kwargs}
    for path in code_files(modules_of(remote_code), source, **hub_kwargs).values():
        if path.parent not in CODE_FOLDERS:
            shutil.copyfile(path, CODE_FOLDERS[0] / path.name)


def modules_of(remote_code: dict[str, dict]) -> set[str]:
    references = []
    for entries in remote_code.values():
        references += entries["auto_map"].values()
        references += (pipeline["impl"] for pipeline in entries.get("custom_pipelines", {}).values())
    return {reference.partition(".")[0] for reference in references}


def add_code(folder: Path, remote_code: dict[str, dict], source: str | None = None) -> None:
    """
    Completes a saved folder so that it loads with `trust_remote_code=True`. This is the only place that writes
    `auto_map`, for models, configurations, processors and codecs alike: `register_for_auto_class` of transformers
    writes one entry a class, but four auto classes find our model, and it copies no code of the pipeline, which no
    model imports. (Where classes were loaded as remote code, transformers has registered them and writes the one entry
    that it knows first; it is completed here.)

    Args:
        folder: the saved folder; the code is copied to it.
        remote_code: entries `auto_map` and `custom_pipelines` by the names of the JSON files that get them. A file
            that the folder does not have is passed over: an adapter alone has no `config.json`.
        source: see [`code_files`]. A pipeline whose code is nowhere is not named.
    """
    for file_name, entries in remote_code.items():
        if not (folder / file_name).is_file():
            continue
        content = json.loads((folder / file_name).read_text(encoding="utf-8"))
        pipelines = entries.get("custom_pipelines", {})
        files = code_files(modules_of({file_name: entries}), source)
        for path in files.values():
            shutil.copyfile(path, folder / path.name)
        content["auto_map"] = {**content.get("auto_map", {}), **entries["auto_map"]}
        content.pop("custom_pipelines", None)
        if named := {
            task: pipeline for task, pipeline in pipelines.items() if pipeline["impl"].partition(".")[0] in files
        }:
            content["custom_pipelines"] = named
        (folder / file_name).write_text(json.dumps(content, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def describe_misfit(
    missing: Iterable[str], unexpected: Iterable[str], misshaped: Iterable[tuple[str, Sequence[int], Sequence[int]]]
) -> str:
    """
    Lists the tensors of a checkpoint that are not those of its model, for an error.

    Args:
        missing: names of those that the checkpoint lacks.
        unexpected: names of those that the model has not.
        misshaped: name, shape in the checkpoint, and shape in the model.

    Returns:
        `str`: such as "missing: a, b; misshaped: c (3,) instead of (4,)", empty where all fit.
    """
    problems = {
        "missing": sorted(missing),
        "unexpected": sorted(unexpected),
        "misshaped": [
            f"{name} {tuple(found)} instead of {tuple(expected)}" for name, found, expected in sorted(misshaped)
        ],
    }
    return "; ".join(f"{problem}: {', '.join(names)}" for problem, names in problems.items() if names)


@torch.no_grad()
def check_weights(model: torch.nn.Module, source: str, subfolder: str = "", **kwargs) -> None:
    """
    Checks the weights of a loaded model, and the types that its files store them in: `from_pretrained` converts whole
    numbers to floating point without a warning.

    Args:
        model: the loaded model.
        source: the folder or Hub id that the model was loaded from.
        subfolder: the subfolder of `source` that has the model.
        kwargs: those of `from_pretrained`.

    Raises:
        ValueError: a weight has NaN or infinite values, or is stored as whole numbers. All answers would be nonsense.
    """
    place = f"{source}/{subfolder}" if subfolder else source
    weights = {name: weight for name, weight in model.named_parameters() if is_plain(weight)}
    for name, weight in weights.items():
        # NaN and infinity both reach the extremes, so two numbers tell of the whole tensor
        if not weight.is_meta and weight.numel() and not torch.stack(torch.aminmax(weight)).isfinite().all():
            raise ValueError(f"The weights in '{place}' have NaN or infinite values in {name}.")
    for path in weight_files(source, subfolder, **{name: kwargs[name] for name in HUB_KWARGS if name in kwargs}):
        with safe_open(path, framework="pt") as file:
            for name in weights.keys() & set(file.keys()):
                # safetensors calls floating point types F64, F32, F16, BF16, F8_E4M3 and so on
                if "F" not in (dtype := file.get_slice(name).get_dtype()):
                    raise ValueError(
                        f"The weights in '{place}' are no floating point numbers, but {dtype}, in {name}."
                    )


def is_plain(weight: torch.nn.Parameter) -> bool:
    """Whether a weight is a plain parameter of floating point numbers, as those of quantised layers are not."""
    return type(weight) is torch.nn.Parameter and weight.is_floating_point() and weight.itemsize > 1


def weight_files(source: str, subfolder: str, **hub_kwargs) -> list[Path]:
    """The safetensors files that a model was loaded from, on this machine by now; none for one in another format."""
    # `from_pretrained` has just downloaded them, so nothing is asked of the network
    hub_kwargs |= {"subfolder": subfolder, "local_files_only": True, "force_download": False}
    names = (SAFE_WEIGHTS_NAME, SAFE_WEIGHTS_INDEX_NAME)
    if not os.path.isdir(source) and not REPO_ID.fullmatch(source):
        return []
    weights, index = (
        cached_file(source, name, _raise_exceptions_for_missing_entries=False, **hub_kwargs) for name in names
    )
    if weights is not None or index is None:
        return [Path(weights)] if weights is not None else []
    shards = json.loads(Path(index).read_text(encoding="utf-8"))["weight_map"].values()
    return [Path(index).parent / shard for shard in sorted(set(shards))]


def narrowed(
    model: torch.nn.Module, dtype: torch.dtype, state_dict: dict[str, torch.Tensor] | None = None
) -> dict[str, torch.Tensor]:
    """
    Converts the tensors of a model, or those of `state_dict`, to a smaller `dtype` where that loses nothing: weights
    that were stored in it and that training has not changed.
    """
    narrow, state_dict = {}, state_dict or model.state_dict()
    for name, tensor in state_dict.items():
        if tensor.device.type == "meta":
            # An offloaded weight has no values in memory
            tensor, place = load_offloaded_parameter(model, name), name
        else:
            # tensors that share memory are converted once, so that tied weights stay tied; a `DTensor`, a weight that
            # several processes share out, has its memory inside
            local = tensor.to_local() if hasattr(tensor, "to_local") else tensor
            place = (local.data_ptr(), tensor.shape)
        if not tensor.is_floating_point() or tensor.itemsize <= dtype.itemsize:
            narrow[name] = tensor
            continue
        if place not in narrow:
            # Loses nothing if the way there and back changes no value
            candidate = tensor.to(dtype)
            narrow[place] = candidate if candidate.to(tensor.dtype).equal(tensor) else tensor
        narrow[name] = narrow[place]
    # Without the keys that are places
    return {name: tensor for name, tensor in narrow.items() if name in state_dict}


def check_storage_dtype(config: PreTrainedConfig) -> None:
    """
    Raises:
        ValueError: `config.storage_dtype` is no type that weights are saved in.
    """
    if config.storage_dtype not in (None, *STORAGE_DTYPES):
        raise ValueError(
            f"`storage_dtype` must be one of {', '.join(STORAGE_DTYPES)}, got {config.storage_dtype!r:.200}."
        )


def saved_whole(save_pretrained: Callable) -> Callable:
    """
    Decorates a `save_pretrained` of transformers:

    - A save that fails leaves the folder as it was, see [`written_whole`].
    - The folder gets the code that the attribute `remote_code` of the class names, see [`add_code`].
    - Weights that are not quantised are stored in the type `config.storage_dtype` where that loses nothing, see
      [`narrowed`].

    With `distributed_checkpoint` the files are written in place, as the processes look for one another's files
    meanwhile.
    """
    signature = inspect.signature(save_pretrained)

    @wraps(save_pretrained)
    def save_pretrained_whole(self, save_directory: str | os.PathLike, *args, **kwargs):
        # All arguments by name, also those that the caller gave by position
        arguments = signature.bind(self, save_directory, *args, **kwargs).arguments
        kwargs = {**arguments, **arguments.get("kwargs", {})}
        for name in (*list(signature.parameters)[:2], "kwargs"):
            kwargs.pop(name, None)
        config = getattr(self, "config", None)
        # Models and codecs have the name in their config, processors in their tokenizer, configs themselves
        source = getattr(config or getattr(self, "tokenizer", None) or self, "name_or_path", None)
        if kwargs.get("distributed_checkpoint"):
            saved = save_pretrained(self, save_directory, **kwargs)
            if kwargs.get("is_main_process", True):
                add_code(Path(save_directory), self.remote_code, source)
            return saved
        # What is quantised has its own types, and transformers collects its tensors itself
        is_quantized = getattr(self, "hf_quantizer", None) is not None
        if (storage_dtype := getattr(config, "storage_dtype", None)) is not None and not is_quantized:
            kwargs["state_dict"] = narrowed(self, getattr(torch, storage_dtype), kwargs.get("state_dict"))

        # transformers would push before the code is in the folder, so the push is done here
        push = kwargs.pop("push_to_hub", False) and kwargs.get("is_main_process", True)
        if push:
            commit = {name: kwargs.pop(name) for name in COMMIT_KWARGS if name in kwargs}
            place = {name: kwargs.pop(name) for name in REPO_KWARGS if name in kwargs}
            place |= {"token": kwargs.get("token"), "repo_id": place.get("repo_id", Path(save_directory).name)}
            commit["token"] = kwargs.get("token")
            repo_id = HfApi().create_repo(exist_ok=True, **place).repo_id
            # Only files that are newer than these are uploaded
            timestamps = self._get_files_timestamps(save_directory) if os.path.isdir(save_directory) else {}
        with written_whole(save_directory) as unfinished:
            files = save_pretrained(self, unfinished, **kwargs)
            add_code(unfinished, self.remote_code, source)
        if push:
            self._upload_modified_files(save_directory, repo_id, timestamps, **commit)
        # transformers names the files where it wrote them; they have moved since
        return files and [str(Path(save_directory, Path(file).relative_to(unfinished))) for file in files]

    return save_pretrained_whole


__all__ = [
    "UNFINISHED_SUFFIX",
    "add_code",
    "check_is_free",
    "check_storage_dtype",
    "check_weights",
    "code_files",
    "describe_misfit",
    "keep_code",
    "leftovers",
    "owner_prefix",
    "put_in_place",
    "remove_leftovers",
    "replaced_whole",
    "saved_whole",
    "written_whole",
]
