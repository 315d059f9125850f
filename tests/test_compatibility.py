# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import ast
import importlib
import importlib.metadata
import inspect
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_a_codec_alone_says_it_too(tmp_path):
    tiny_codec().save_pretrained(tmp_path / "codec")
    assert load_on_another_release(tmp_path / "codec", "5.99.0", tmp_path).count("this is 5.99.0") == 1


def test_the_installation_takes_the_releases_that_were_tested():
    (line,) = re.findall(r'"(transformers[^"]*)"', (ROOT / "setup.py").read_text())
    assert Requirement(line).specifier == TESTED_RELEASES == model_card.TESTED_RELEASES
    assert TESTED_RELEASES.contains(transformers.__version__, prereleases=True)
    (line,) = re.findall(r'"(torchao[^"]*)"', (ROOT / "setup.py").read_text())
    assert Requirement(line).specifier == model_card.TESTED_TORCHAO


def test_the_newest_of_all_is_tried_but_for_what_has_an_environment_of_its_own():
    (line,) = re.findall(r"^names=.*$", (ROOT / ".ci" / "newest").read_text(), re.MULTILINE)
    done = subprocess.run(["bash", "-c", f"{line}; echo $names"], cwd=ROOT, check=True, capture_output=True, text=True)
    names = set(done.stdout.split())
    assert {"transformers", "trl", "torchao", "ruff"} < names and not {"torch", "vllm"} & names


def test_the_constraints_are_what_the_installation_takes():
    constraints = (Requirement(line) for line in (ROOT / "constraints.txt").read_text().splitlines() if line[0] != "#")
    versions = {constraint.name.lower().replace("_", "-"): constraint.specifier for constraint in constraints}
    for line in re.findall(r'"([A-Za-z][\w-]*[<>]=?\d[^"]*)"', (ROOT / "setup.py").read_text()):
        requirement = Requirement(line)
        # It has an environment of its own, with the versions that it asks for
        if requirement.name == "vllm":
            continue
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


# --- private names of other libraries ---

OUR_FOLDERS = ("benchmarks", "hub_cards", "modeling_vita_audio", "processing", "serving", "training")

# All that this code uses or overrides, by the class or function that has it. The next release may not have it any more
PRIVATE_NAMES = {
    "torch.nn.Module": ["_buffers", "_forward_hooks", "_forward_pre_hooks", "_parameters"],
    "transformers.GenerationConfig": ["_from_model_config"],
    "transformers.GenerationMixin": [
        "_eos_token_tensor",
        "_expand_inputs_for_generation",
        "_get_logits_processor",
        "_has_unfinished_sequences",
        "_pad_token_tensor",
        "_prefill",
        "_prepare_cache_for_generation",
        "_prepare_generated_length",
        "_prepare_generation_config",
        "_prepare_special_tokens",
        "_sample",
        "_update_model_kwargs_for_generation",
        "_valid_auto_compile_criteria",
        "_validate_generation_mode",
    ],
    "transformers.Pipeline": [
        "_forward",
        "_forward_params",
        "_load_feature_extractor",
        "_load_image_processor",
        "_load_processor",
        "_load_tokenizer",
        "_load_video_processor",
        "_pipeline_calls_generate",
        "_preprocess_params",
        "_sanitize_parameters",
    ],
    "transformers.PreTrainedConfig": ["_attn_implementation", "_name_or_path"],
    "transformers.PreTrainedModel": [
        "_can_compile_fullgraph",
        "_default_compile_config",
        "_from_config",
        "_hf_peft_config_loaded",
        "_gradient_checkpointing_func",
        "_init_weights",
        "_keep_in_fp32_modules_strict",
        "_no_split_modules",
        "_skip_keys_device_placement",
        "_supports_attention_backend",
        "_supports_flash_attn",
        "_supports_flex_attn",
        "_supports_sdpa",
        "_tied_weights_keys",
        "_tp_plan",
    ],
    "transformers.Trainer": [
        "_get_output_dir",
        "_get_train_sampler",
        "_internal_call",
        "_load_best_model",
        "_load_from_checkpoint",
        "_load_optimizer_and_scheduler",
        "_load_rng_state",
        "_prepare_inputs",
        "_save",
        "_save_checkpoint",
        "_save_optimizer_and_scheduler",
    ],
    "transformers.cache_utils.QuantizedLayer": ["_quantize"],
    "torch.optim.lr_scheduler.LambdaLR": ["_last_lr"],
    # torch itself, by the name under which that module has it
    "torch.functional.torch": [
        "_convert_weight_to_int4pack_for_cpu",
        "_weight_int4pack_mm_for_cpu",
        "_weight_int8pack_mm",
    ],
    "transformers.utils.PushToHubMixin": ["_get_files_timestamps", "_upload_modified_files"],
    "transformers.utils.hub.cached_files": [
        "_raise_exceptions_for_connection_errors",
        "_raise_exceptions_for_gated_repo",
        "_raise_exceptions_for_missing_entries",
    ],
    "trl.GRPOTrainer": ["_compute_loss", "_get_per_token_logps_and_entropies"],
    "trl.SFTTrainer": ["_metrics", "_tag_names", "_tokenizer"],
}


def names_of(owner):
    """The attributes of a class or function, and all that its module assigns to attributes or takes as arguments."""
    names = {*dir(owner), *inspect.get_annotations(owner)}
    for node in ast.walk(ast.parse(inspect.getsource(inspect.getmodule(owner)))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Store):
            names.add(node.attr)
        elif isinstance(node, ast.arg):
            names.add(node.arg)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) == "setattr":
            names.add(getattr(node.args[1], "value", None))
    return names


@pytest.mark.slow
@pytest.mark.parametrize("path", PRIVATE_NAMES)
def test_no_private_name_is_gone(path):
    module, _, name = path.rpartition(".")
    gone = set(PRIVATE_NAMES[path]) - names_of(getattr(importlib.import_module(module), name))
    library = path.partition(".")[0]
    assert not gone, f"{path} of {library} {importlib.metadata.version(library)} has no {', '.join(sorted(gone))}"


def names_of_others(tree):
    """Private names that code uses, apart from those of its own functions, arguments and attributes of `self`."""
    used, defined = set(), set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            is_own = isinstance(node.ctx, ast.Store) and getattr(node.value, "id", None) == "self"
            (defined if is_own else used).add(node.attr)
        elif isinstance(node, ast.keyword):
            used.add(node.arg)
        elif isinstance(node, ast.alias):
            used.add(node.name)
        elif isinstance(node, ast.Call) and getattr(node.func, "id", None) in ("getattr", "hasattr", "setattr"):
            used.add(getattr(node.args[1], "value", None))
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            defined |= {node.name} | {argument.arg for argument in node.args.args}
    return {name for name in used - defined if re.match("_[a-z]", str(name))}


def overridden_names(class_):
    """Private names that a class and its bases have of this code, and a base of another library has, too."""
    ours, others = set(), set()
    for base in class_.__mro__:
        (ours if base.__module__.partition(".")[0] in OUR_FOLDERS else others).update(vars(base))
    return {name for name in ours & others if re.match("_[a-z]", name)} - {
        "_abc_impl",
        "_is_protocol",
        "_is_runtime_protocol",
    }


@pytest.mark.slow
def test_every_private_name_of_others_is_listed():
    # vLLM is not installed here; tests/serving/vllm runs what uses it against the one release that is accepted
    trees = {
        path: ast.parse(path.read_text())
        for folder in OUR_FOLDERS
        for path in (ROOT / folder).rglob("*.py")
        if "vllm" not in path.relative_to(ROOT).parts and path.name != "vllm_engine.py"
    }
    # `_replace` is of named tuples, and documented
    used = names_of_others(ast.Module(list(trees.values()), [])) - {"_replace"}
    overridden = set()
    for path, tree in trees.items():
        module = importlib.import_module(
            ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        )
        for node in tree.body:
            if isinstance(node, ast.ClassDef):
                overridden |= overridden_names(getattr(module, node.name))
    listed = {name for names in PRIVATE_NAMES.values() for name in names}
    assert used | overridden == listed, (sorted((used | overridden) - listed), sorted(listed - used - overridden))


def test_one_that_is_not_listed_is_noticed():
    class Model(transformers.PreTrainedModel):
        _ours, _keys_to_ignore_on_load_missing = 1, []

    Model.__module__ = "processing.some_module"
    assert overridden_names(Model) == {"_keys_to_ignore_on_load_missing"}
    code = "self._own = model._get_name(_private=getattr(self._own, '_hidden'))\nfrom a import _b"
    assert names_of_others(ast.parse(code)) == {"_get_name", "_private", "_hidden", "_b"}
