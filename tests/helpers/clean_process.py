# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""A process that cannot import our packages, as that of somebody who has a Hub folder alone."""

# code to be run before any other
BLOCK_OUR_PACKAGES = """
import sys

class Block:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in ("modeling_vita_audio", "processing", "training", "hub_cards", "serving"):
            raise ModuleNotFoundError(f"No module named {name!r}")

sys.meta_path.insert(0, Block())
for name in ("modeling_vita_audio", "processing", "training", "hub_cards", "serving"):
    try:
        __import__(name)
    except ModuleNotFoundError:
        continue
    raise SystemExit(f"{name} can be imported")
"""
