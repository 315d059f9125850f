# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import resource
from contextlib import contextmanager


@contextmanager
def full_disk(free_bytes):
    """No file may grow beyond `free_bytes`."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (free_bytes, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
