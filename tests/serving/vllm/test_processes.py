# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Engines in processes of their own, as users have them: the plugin, tensor parallel, vLLM's server."""

import json
import os
import shlex
import subprocess
import sys

import pytest
from modeling_fixtures import schedules
from places import ROOT
from vllm_models import differences, generated, prompts, save_random_model

from serving.vllm import engine_arguments, serve_arguments


pytestmark = pytest.mark.slow

ENVIRONMENT = {**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1", "PYTHONPATH": str(ROOT)}

WRITE = """
import json, sys

from vllm import LLM, SamplingParams

if __name__ == "__main__":
    arguments, cases = json.loads(sys.argv[1])
    engine = LLM(**arguments)
    params = [
        SamplingParams(temperature=0, max_tokens=30, detokenize=False, ignore_eos=True, extra_args={"mctp_mode": mode})
        for _, mode in cases
    ]
    outputs = engine.generate([{"prompt_token_ids": ids} for ids, _ in cases], params, use_tqdm=False)
    print("TOKENS", json.dumps([list(output.outputs[0].token_ids) for output in outputs]))
"""


def written_by_a_process(tmp_path, arguments, cases):
    script = tmp_path / "write.py"
    script.write_text(WRITE)
    command = [sys.executable, str(script), json.dumps([arguments, cases])]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=600, cwd=tmp_path)
    lines = [line for line in done.stdout.splitlines() if line.startswith("TOKENS ")]
    assert lines, done.stderr[-3000:]
    return json.loads(lines[0].removeprefix("TOKENS "))


@pytest.mark.parametrize("name, is_verified", [("qwen2", False), ("llama", False), ("qwen3", True)])
def test_two_processes_with_half_of_the_model_each(name, is_verified, folders, model_of, tmp_path):
    model = model_of(name)
    modes = schedules(4)
    cases = [(ids, modes[index % 5]) for index, ids in enumerate(prompts(20, 5, 150, 100))]
    reference = [(ids, "vanilla" if is_verified else mode) for ids, mode in cases]
    arguments = engine_arguments(
        folders[name],
        mctp_verify=is_verified,
        tensor_parallel_size=2,
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=256,
        block_size=32,
        max_num_batched_tokens=64,
    )
    got = written_by_a_process(tmp_path, arguments, cases)
    assert differences(model, reference, generated(model, reference, 30), got) == []


def test_compiled(folders, model_of, tmp_path):
    model = model_of("qwen2")
    cases = [(ids, [1, 4]) for ids in prompts(10, 5, 100, 100)]
    arguments = engine_arguments(
        folders["qwen2"], dtype="float32", skip_tokenizer_init=True, max_model_len=256, block_size=32
    )
    got = written_by_a_process(tmp_path, arguments, cases)
    assert differences(model, cases, generated(model, cases, 30), got) == []


def test_a_folder_needs_no_option(folders, model_of, tmp_path):
    """The mode is the model's, and the plugin is found by its entry point. vLLM would round float32 weights."""
    model = model_of("mini")
    cases = [(ids, None) for ids in prompts(4, 20, 60, 1000)]
    got = written_by_a_process(tmp_path, {"model": str(folders["mini"]), "dtype": "float32"}, cases)
    reference = [(ids, "boost") for ids, _ in cases]
    assert differences(model, reference, generated(model, reference, 30), got) == []


@pytest.mark.parametrize("release", ["0.31.2", "0.33.0"])
def test_another_release_of_vllm_is_refused_by_one_line(release, tmp_path):
    folder = save_random_model(tmp_path / "model", 2)
    code = (
        "import sys\n"
        "from serving.vllm import plugin\n"
        "version = plugin.version\n"
        f"plugin.version = lambda name: {release!r} if name == 'vllm' else version(name)\n"
        "from vllm import EngineArgs\n"
        "EngineArgs(model=sys.argv[1], skip_tokenizer_init=True).create_engine_config()\n"
    )
    done = subprocess.run([sys.executable, "-c", code, str(folder)], env=ENVIRONMENT, capture_output=True, text=True)
    assert done.returncode == 1
    assert f"VITA-Audio runs on vllm<0.33,>=0.32, and this is vllm {release}." in done.stderr


def test_the_command_line_is_one_that_vllm_takes(folders):
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.utils.argparse_utils import FlexibleArgumentParser

    options = {"tensor_parallel_size": 2, "enforce_eager": True, "enable_prefix_caching": False}
    words = shlex.split(serve_arguments(folders["mini"], "turbo", mctp_verify=True, **options))
    assert words[:2] == ["vllm", "serve"]
    parser = AsyncEngineArgs.add_cli_args(FlexibleArgumentParser())
    arguments = AsyncEngineArgs.from_cli_args(parser.parse_args(["--model", *words[2:]]))
    for name, value in engine_arguments(folders["mini"], "turbo", mctp_verify=True, **options).items():
        assert getattr(arguments, name) == value, name
