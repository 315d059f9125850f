# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""A saved model that two processes share out, weight by weight, against one process."""

import json
import os
import subprocess
import sys

import pytest
from modeling_fixtures import random_model
from places import ROOT
from safetensors.torch import load_file
from tensor_parallel_answers import DTYPE, answers_of

from modeling_vita_audio import VitaAudioForConditionalGeneration


SCRIPT = ROOT / "tests" / "helpers" / "tensor_parallel_answers.py"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A random model and the shipped one, and in `out` what two processes made of them."""
    folder = tmp_path_factory.mktemp("sharded")
    # as in a model that others stored in half precision; what float16 cannot store stays as it is
    random_model(10, storage_dtype="float16").save_pretrained(folder / "random")
    (folder / "shipped").symlink_to(ROOT / "pretrained" / "vita-audio-mini")
    launcher = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    done = subprocess.run(
        [*launcher, SCRIPT, folder / "out", folder / "random", folder / "shipped"],
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return folder


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "shipped"])
def test_two_processes_answer_as_one(folder, name):
    report = json.loads((folder / "out" / f"{name}.json").read_text())
    # the language model, the modules' layers and the head are shared out; embeddings by newer releases of transformers
    whole = [name for name in report["whole"] if name != "model.language_model.embed_tokens.weight"]
    assert whole == [f"model.mctp_modules.{k}.proj.weight" for k in range(10)]
    model = VitaAudioForConditionalGeneration.from_pretrained(folder / name, dtype=DTYPE)
    assert report["answers"] == answers_of(model)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["random", "shipped"])
def test_a_model_in_shards_is_saved_whole(folder, name):
    before, after = (load_file(path / "model.safetensors") for path in (folder / name, folder / "out" / name))
    assert before.keys() <= after.keys()
    for key, tensor in after.items():
        # a tied head is saved, too
        original = before.get(key, before["model.language_model.embed_tokens.weight"])
        assert tensor.to(original.dtype).equal(original), key
    VitaAudioForConditionalGeneration.from_pretrained(folder / "out" / name)
