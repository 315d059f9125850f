# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""transformers' own tests of a model, from the source distribution of the installed release, against our classes."""

import importlib
import os
import re
import subprocess
import sys
import tarfile
import tempfile
import unittest
from pathlib import Path
from unittest.mock import patch

import pytest
import torch
import transformers
from modeling_fixtures import random_config, random_prompt
from plus_fixture import plus_config, plus_features
from transformers import PreTrainedModel

from modeling_vita_audio import VitaAudioForConditionalGeneration, VitaAudioModel


SUITE = f"transformers-{transformers.__version__}"
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "vita-audio"

# All of transformers' tests of a model that are run at once: over a minute on a busy machine
pytestmark = pytest.mark.slow

# Imported by the suite, but not in the distribution: tests of generation and of exporting to other formats
ABSENT = {"generation/test_utils.py": "GenerationTesterMixin", "exporters/test_export.py": "ExportTesterMixin"}


def fetch_suite() -> Path:
    """
    The folder to import the suite from, `transformers_tests`; downloaded once for each release, with pip's settings.

    Raises:
        subprocess.CalledProcessError: it cannot be downloaded.
    """
    folder = CACHE / SUITE
    if folder.exists():
        return folder
    CACHE.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=CACHE) as temporary:
        command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--no-binary", "transformers"]
        requirements = [f"transformers=={transformers.__version__}", "parameterized>=0.9,<1"]
        subprocess.run([*command, "--dest", temporary, *requirements], check=True, capture_output=True, text=True)
        with tarfile.open(Path(temporary, f"{SUITE}.tar.gz")) as archive:
            members = [member for member in archive if member.name.startswith(f"{SUITE}/tests/")]
            archive.extractall(temporary, members, filter="data")
        tests = Path(temporary, SUITE, "tests").rename(Path(temporary, SUITE, "transformers_tests"))
        for name, mixin in ABSENT.items():
            if not (tests / name).exists():
                (tests / name).parent.mkdir(exist_ok=True)
                (tests / name).write_text(f"class {mixin}:\n    pass\n")
        for wheel in Path(temporary).glob("parameterized-*.whl"):
            wheel.rename(Path(temporary, SUITE, "parameterized.whl"))
        try:
            Path(temporary, SUITE).rename(folder)
        except OSError:
            # Another process was first
            if not folder.exists():
                raise
    return folder


@pytest.fixture(scope="module")
def suite(pytestconfig):
    """The module with `ModelTesterMixin`. Without network the test is skipped; under .ci/run it fails."""
    try:
        folder = fetch_suite()
    except (OSError, subprocess.CalledProcessError) as error:
        reason = getattr(error, "stderr", None) or str(error)
        reason = f"The source distribution of {SUITE} cannot be downloaded: {reason}"
        pytest.fail(reason) if os.environ.get("CI") else pytest.skip(reason)
    sys.path += [str(folder), str(folder / "parameterized.whl")]
    # the suite uses marks that only the repository of transformers registers
    for path in (folder / "transformers_tests").glob("test_*.py"):
        for mark in re.findall(r"\bmark\.(\w+)", path.read_text()):
            pytestconfig.addinivalue_line("markers", mark)
    suite = importlib.import_module("transformers_tests.test_modeling_common")
    # The suite looks up what a class is for by its name
    suite.MODEL_MAPPING_NAMES = {**suite.MODEL_MAPPING_NAMES, "vita_audio": "VitaAudioModel"}
    suite.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES = {
        **suite.MODEL_FOR_CAUSAL_LM_MAPPING_NAMES,
        "vita_audio": "VitaAudioForConditionalGeneration",
    }
    return suite


class VitaAudioModelTester:
    batch_size = 3
    seq_length = 7
    num_hidden_layers = 2
    hidden_size = 32
    num_attention_heads = 4
    is_training = True

    def get_config(self):
        return random_config(2, text_config={"hidden_size": self.hidden_size})

    def prepare_config_and_inputs_for_common(self):
        input_ids = random_prompt(self.seq_length, self.batch_size)
        return self.get_config(), {"input_ids": input_ids, "attention_mask": torch.ones_like(input_ids)}


NOT_APPLICABLE = {
    "test_generation_tester_mixin_inheritance": "The sdist has no tests of generation; ours are in another file.",
    "test_causal_lm_loss_honors_shift_labels": "`shift_labels` are refused: each MCTP module shifts labels itself.",
}

# They load checkpoints that lack tensors or have others, which our `from_pretrained` refuses
LOADED_LENIENTLY = {
    "test_base_model_prefix_loads_base_weights",
    "test_can_init_all_missing_weights",
    "test_correct_missing_keys",
    "test_model_weights_reload_no_missing_tied_weights",
}


class VitaAudioModelTest:
    all_model_classes = (VitaAudioModel, VitaAudioForConditionalGeneration)
    _is_composite = True

    def _audio_features_prepare_config_and_inputs(self):
        """Of a model that hears by features; the others take speech as codes."""
        return plus_config(), plus_features(["short", "mid"])

    def _audio_features_get_expected_num_attentions(self, model_tester=None):
        return plus_config().audio_config.num_hidden_layers

    def setUp(self):
        self.model_tester = VitaAudioModelTester()
        if self._testMethodName in NOT_APPLICABLE:
            self.skipTest(NOT_APPLICABLE[self._testMethodName])
        if self._testMethodName in LOADED_LENIENTLY:
            lenient = PreTrainedModel.__dict__["from_pretrained"]
            patcher = patch.object(VitaAudioForConditionalGeneration, "from_pretrained", lenient)
            patcher.start()
            self.addCleanup(patcher.stop)


def test_the_suite_passes(suite, subtests):
    case = type("VitaAudioModelTest", (VitaAudioModelTest, suite.ModelTesterMixin, unittest.TestCase), {})
    results = []
    for test in unittest.defaultTestLoader.loadTestsFromTestCase(case):
        with subtests.test(test._testMethodName):
            result = test.defaultTestResult()
            results.append(result)
            test.run(result)
            assert result.wasSuccessful(), "\n".join(trace for _, trace in result.failures + result.errors)
    num_skipped = sum(bool(result.skipped) for result in results)
    # some are skipped, because they need hardware or parts that this model does not have
    assert len(results) - num_skipped > 60, (len(results), num_skipped)


def test_exceptions_are_tests_of_the_suite(suite):
    assert all(hasattr(suite.ModelTesterMixin, name) for name in {*NOT_APPLICABLE, *LOADED_LENIENTLY})
