# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import time
from collections.abc import Callable


def wait_until(condition: Callable[[], bool], seconds: float = 30):
    """Returns as soon as a condition holds, and fails where it still does not after some time."""
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, f"still not so after {seconds} s"
        time.sleep(0.001)
