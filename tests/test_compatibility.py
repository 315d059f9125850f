# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import os
import re
import subprocess
import sys

import pytest
import torch
import transformers
from clean_process import BLOCK_OUR_PACKAGES
from modeling_fixtures import random_model, random_prompt
from packaging.requirements import Requirement
from places import ROOT
from tiny_models import tiny_codec, tiny_model, tiny_processor

from hub_cards import model_card
from modeling_vita_audio import VitaAudioCache
from modeling_vita_audio.compatibility_vita_audio import HAS_NEW_CACHE_NAME, TESTED_RELEASES


LOAD_ON_ANOTHER_RELEASE = """
from transformers import AutoModel, AutoProcessor, pipeline

sys.modules["transformers"].__version__ = sys.argv[2]
AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
if len(sys.argv) > 3:
    AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
    pipeline("audio-to-audio", model=sys.argv[1], trust_remote_code=True, device="cpu")
"""


def load_on_another_release(folder, release, tmp_path, *arguments):
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", BLOCK_OUR_PACKAGES + LOAD_ON_ANOTHER_RELEASE, str(folder), release, *arguments]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stderr


@pytest.mark.parametrize(
    "release, is_tested", [("5.18.1", False), ("5.25.0", False), ("5.24.3", True), ("6.0.0", False)]
)
def test_a_hub_folder_says_once_that_a_release_is_untested(release, is_tested, tmp_path):
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(tmp_path / "model")
    processor.save_pretrained(tmp_path / "model")
    said = load_on_another_release(tmp_path / "model", release, tmp_path, "all")
    assert said.count(f"this is {release}") == (0 if is_tested else 1)
    assert is_tested or str(TESTED_RELEASES) in said


def test_a_codec_alone_says_it_too(tmp_path):
    tiny_codec().save_pretrained(tmp_path / "codec")
    assert load_on_another_release(tmp_path / "codec", "5.99.0", tmp_path).count("this is 5.99.0") == 1


def test_the_installation_takes_the_releases_that_were_tested():
    (line,) = re.findall(r'"(transformers[^"]*)"', (ROOT / "setup.py").read_text())
    assert Requirement(line).specifier == TESTED_RELEASES == model_card.TESTED_RELEASES
    assert TESTED_RELEASES.contains(transformers.__version__, prereleases=True)


def test_the_constraints_are_what_the_installation_takes():
    constraints = (Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#")
    versions = {constraint.name.lower().replace("_", "-"): constraint.specifier for constraint in constraints}
    for line in re.findall(r'"([A-Za-z][\w-]*[<>]=?\d[^"]*)"', (ROOT / "setup.py").read_text()):
        requirement = Requirement(line)
        (exact,) = versions[requirement.name.lower()]
        assert exact.operator == "==" and requirement.specifier.contains(exact.version), line


def test_the_oldest_stack_is_the_lower_bounds_of_the_installation():
    oldest = dict(line.split("==") for line in (ROOT / ".ci/oldest.txt").read_text().splitlines() if line[0] != "#")
    block = (ROOT / "setup.py").read_text().partition("install_requires=[")[2].partition("]")[0]
    bounds = dict(re.findall(r'"([\w-]+)>=([\d.]+)', block))
    assert {name: tuple(map(int, bound.split("."))) for name, bound in bounds.items()} == {
        name: tuple(map(int, oldest[name].split(".")))[: bounds[name].count(".") + 1] for name in bounds
    }


@pytest.fixture(scope="module")
def model():
    return random_model(4)


@pytest.mark.filterwarnings("ignore:.*past_key_values.*:FutureWarning")
def test_both_names_of_the_cache_do_the_same(model):
    tokens = random_prompt(9)
    with torch.no_grad():
        outputs = model(tokens[:, :5])
        assert outputs.cache is outputs.past_key_values and isinstance(outputs.cache, VitaAudioCache)
        again = model(tokens[:, :5])
        new = model(tokens[:, 5:], cache=outputs.cache)
        old = model(tokens[:, 5:], past_key_values=again.cache)
        base = model.model(tokens[:, :5])
    assert new.logits.equal(old.logits) and base.cache is base.past_key_values
    expected = model.generate(tokens, mctp_mode=[1, 4], max_new_tokens=20)
    for name in ("cache", "past_key_values"):
        with torch.no_grad():
            cache = model(tokens[:, :5]).cache
        output = model.generate(
            tokens, mctp_mode=[1, 4], max_new_tokens=20, return_dict_in_generate=True, **{name: cache}
        )
        assert output.sequences.equal(expected) and output.cache is cache and output.past_key_values is cache


@pytest.mark.skipif(not HAS_NEW_CACHE_NAME, reason="`past_key_values` is the only name of this release")
def test_the_old_name_is_announced_to_go(model):
    with pytest.warns(FutureWarning, match="`past_key_values` is deprecated"):
        model(random_prompt(3), past_key_values=VitaAudioCache(model.config))


def test_a_cache_has_one_place_in_the_outputs(model):
    outputs = model(random_prompt(3))
    assert [key for key in outputs.keys() if "cache" in key or "past" in key] == [
        "cache" if HAS_NEW_CACHE_NAME else "past_key_values"
    ]
    assert outputs[0] is outputs.logits
