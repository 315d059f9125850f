# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Saving that leaves a folder as it was where it fails, as on a full disk."""

import os
import re
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from tempfile import TemporaryDirectory

from safetensors import SafetensorError


SHARD_NUMBER = re.compile(r"-\d{5}-of-\d{5}$")


@contextmanager
def written_whole(folder: str | os.PathLike) -> Iterator[Path]:
    """
    A folder inside of `folder` to write to, whose files are moved to `folder` at the end.

    Raises:
        OSError: the files could not be written; `folder` is as it was, and not there if it was not.
    """
    folder = Path(folder).absolute()
    is_new = not folder.exists()
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with TemporaryDirectory(prefix=".", suffix=".unfinished", dir=folder, ignore_cleanup_errors=True) as name:
            unfinished = Path(name)
            yield unfinished
            paths = [path.relative_to(unfinished) for path in unfinished.rglob("*") if path.is_file()]
            for path in paths:
                (folder / path).parent.mkdir(parents=True, exist_ok=True)
                (unfinished / path).replace(folder / path)
        remove_old_shards(folder, {path.name for path in paths if len(path.parts) == 1})
        is_new = False
    except SafetensorError as error:
        raise OSError(f"Cannot write the weights to {folder}: {error}") from error
    finally:
        if is_new:
            shutil.rmtree(folder, ignore_errors=True)


def remove_old_shards(folder: Path, new_names: set[str]) -> None:
    """Removes shards of weights that were in `folder` itself before and are not among those of the same kind that came."""
    kinds = {SHARD_NUMBER.sub("", Path(name).stem) for name in new_names if name.endswith(".safetensors")}
    for path in folder.glob("*.safetensors"):
        kind, num_shards = SHARD_NUMBER.subn("", path.stem)
        if num_shards and kind in kinds and path.name not in new_names:
            path.unlink()


def saved_whole(save_pretrained: Callable) -> Callable:
    """
    Decorates a `save_pretrained` of transformers: where it fails, it leaves the folder as it was. With `push_to_hub` or
    `distributed_checkpoint` it writes by itself, as processes or the Hub look for its files meanwhile.
    """

    @wraps(save_pretrained)
    def save_pretrained_whole(self, save_directory: str | os.PathLike, *args, **kwargs):
        if kwargs.get("push_to_hub") or kwargs.get("distributed_checkpoint"):
            return save_pretrained(self, save_directory, *args, **kwargs)
        with written_whole(save_directory) as unfinished:
            files = save_pretrained(self, unfinished, *args, **kwargs)
        return files and [str(Path(save_directory, Path(file).relative_to(unfinished))) for file in files]

    return save_pretrained_whole


__all__ = ["saved_whole", "written_whole"]
