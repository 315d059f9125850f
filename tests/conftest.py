# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import os
import tempfile
from pathlib import Path


# read by huggingface_hub when it is imported: uploads go by LFS, which is what `hub_server` takes
os.environ["HF_HUB_DISABLE_XET"] = "1"
# the tensors of tests are too small to share among threads
os.environ.setdefault("OMP_NUM_THREADS", "1")
if worker := os.environ.get("PYTEST_XDIST_WORKER"):
    # transformers writes a repository's code there, and the other process must not read what is half written
    os.environ["HF_MODULES_CACHE"] = str(Path(tempfile.gettempdir(), f"vita-audio-tests-{os.getuid()}", worker))

import pytest  # noqa: E402
from hub_server import HubServer  # noqa: E402


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items):
    """Adds the markers that follow from the fixtures and the folder of a test; all others stand beside the test."""
    for item in items:
        if {"hub", "hub_module"} & set(getattr(item, "fixturenames", ())):
            item.add_marker("hub")
        # Those of a served model take a minute together
        is_served = {"assistant", "http_servers"} & set(getattr(item, "fixturenames", ()))
        if item.path.parent.name == "fuzz" or is_served:
            item.add_marker("slow")


@pytest.hookimpl(tryfirst=True)
def pytest_warning_recorded(warning_message):
    """pytest-xdist imports the classes of warnings where it collects them, which has no code of Hub folders."""
    if warning_message.category.__module__.startswith("transformers_modules"):
        warning_message.category = UserWarning
        warning_message.message = UserWarning(str(warning_message.message))


@pytest.fixture
def hub(tmp_path_factory):
    """An empty Hub on loopback, see `hub_server`."""
    hub = HubServer(tmp_path_factory.mktemp("hub"))
    yield hub
    hub.stop()


@pytest.fixture(scope="module")
def hub_module(tmp_path_factory):
    """As `hub`, for all the tests of a module."""
    hub = HubServer(tmp_path_factory.mktemp("hub"))
    yield hub
    hub.stop()
