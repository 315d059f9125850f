# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import multiprocessing
import resource
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor


# Its server imports once what all children need, and has no threads that a fork could tear apart
CONTEXT = multiprocessing.get_context("forkserver")
CONTEXT.set_forkserver_preload(["processing", "modeling_vita_audio"])


def limit_files(free_bytes: int):
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, free_bytes))


def on_full_disk(free_bytes: int, function: Callable, *arguments):
    """
    Calls a function in a process of its own in which no file may grow beyond `free_bytes`; returns or raises what it
    does.
    """
    with ProcessPoolExecutor(1, CONTEXT, limit_files, (free_bytes,)) as process:
        return process.submit(function, *arguments).result(timeout=300)
