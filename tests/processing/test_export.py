# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import signal
import socket
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from clean_process import BLOCK_OUR_PACKAGES
from full_disk import on_full_disk
from tiny_models import tiny_model, tiny_plus_processor, tiny_processor

from processing import VitaAudioProcessor
from processing.export import export_repository
from processing.pipeline_vita_audio import VitaAudioPipeline
from serving.cli import main


LOAD_AND_ANSWER = """
import numpy as np
import torch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM, AutoProcessor, pipeline

folder, question, out = sys.argv[1:]
config = AutoConfig.from_pretrained(folder, trust_remote_code=True)
model = AutoModel.from_pretrained(folder, trust_remote_code=True)
causal_lm = AutoModelForCausalLM.from_pretrained(folder, trust_remote_code=True)
processor = AutoProcessor.from_pretrained(folder, trust_remote_code=True)
codec = AutoModel.from_pretrained(folder, subfolder="audio_tokenizer", trust_remote_code=True)
pipe = pipeline("audio-to-audio", model=folder, trust_remote_code=True, device="cpu")

for item in (config, model, causal_lm, processor, processor.audio_tokenizer, codec, pipe, pipe.model, pipe.processor):
    assert type(item).__module__.startswith("transformers_modules."), type(item)
assert model.generation_config.mctp_mode == "boost"

answer = pipe(question)
chunks = list(pipe.stream(question))
messages = [{"role": "user", "content": [{"type": "audio", "path": question}]}]
inputs = processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
np.savez(
    out,
    audio=answer["audio"],
    text=answer["text"],
    stream=np.concatenate([chunk["audio"] for chunk in chunks if "audio" in chunk]),
    ids=model.generate(**inputs).numpy(),
    causal_lm_ids=causal_lm.generate(**inputs).numpy(),
)
processor.save_pretrained(folder + "-again")
"""


@pytest.fixture(scope="module")
def pipe():
    processor = tiny_processor()
    return VitaAudioPipeline(tiny_model(processor), processor=processor, device="cpu")


@pytest.fixture
def question(tmp_path):
    path = tmp_path / "question.wav"
    soundfile.write(path, 0.3 * np.sin(np.arange(12000) / 20), 16000)
    return str(path)


@pytest.mark.slow
@pytest.mark.parametrize("make_processor", [tiny_processor, tiny_plus_processor], ids=["codes", "features"])
def test_exported_folder_answers_where_our_packages_are_not(make_processor, question, tmp_path):
    processor = make_processor()
    pipe = VitaAudioPipeline(tiny_model(processor), processor=processor, device="cpu")
    folder = tmp_path / "tiny-vita.audio"
    export_repository(pipe.model, pipe.processor, folder)
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [
        sys.executable,
        "-c",
        BLOCK_OUR_PACKAGES + LOAD_AND_ANSWER,
        str(folder),
        question,
        str(tmp_path / "out.npz"),
    ]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]

    expected = pipe(question)
    got = np.load(tmp_path / "out.npz")
    assert str(got["text"]) == expected["text"] and len(expected["audio"]) > 1280
    # the same ids, below, so the same codes; the vocoder's phase grows rounding differences between processes
    np.testing.assert_allclose(got["audio"], expected["audio"], atol=0.02)
    np.testing.assert_array_equal(got["stream"], got["audio"])
    messages = [{"role": "user", "content": [{"type": "audio", "path": question}]}]
    inputs = pipe.processor.apply_chat_template(messages, tokenize=True, return_dict=True, add_generation_prompt=True)
    ids = pipe.model.generate(**inputs).numpy()
    np.testing.assert_array_equal(got["ids"], ids)
    np.testing.assert_array_equal(got["causal_lm_ids"], ids)
    # what the remote code saved is whole, and loads here
    again = VitaAudioProcessor.from_pretrained(str(folder) + "-again")
    assert again.encode_audio([question]) == pipe.processor.encode_audio([question])


def test_exported_files(pipe, tmp_path):
    export_repository(pipe.model, pipe.processor, tmp_path / "out")
    files = {str(path.relative_to(tmp_path / "out")) for path in (tmp_path / "out").rglob("*") if path.is_file()}
    assert files >= {
        "README.md",
        "config.json",
        "generation_config.json",
        "model.safetensors",
        "processor_config.json",
        "tokenizer.json",
        "tokenizer_config.json",
        "chat_template.jinja",
        "audio_tokenizer/config.json",
        "audio_tokenizer/model.safetensors",
        "configuration_vita_audio.py",
        "modeling_vita_audio.py",
        "generation_vita_audio.py",
        "processing_vita_audio.py",
        "pipeline_vita_audio.py",
        "streaming_vita_audio.py",
        "modeling_vita_audio_codec.py",
    }
    assert not files & {"__init__.py", "cli.py", "export.py"}
    assert json.loads((tmp_path / "out/generation_config.json").read_text())["mctp_mode"] == "boost"
    assert list(tmp_path.iterdir()) == [tmp_path / "out"]
    assert getattr(pipe.model.config, "custom_pipelines", None) is None


@pytest.mark.slow
def test_exported_folder_loads_where_our_packages_are(pipe, question, tmp_path):
    from transformers import AutoModel, AutoProcessor, pipeline

    folder = export_repository(pipe.model, pipe.processor, tmp_path / "out")
    assert type(AutoModel.from_pretrained(folder)) is type(pipe.model)
    assert type(AutoProcessor.from_pretrained(folder)) is VitaAudioProcessor
    loaded = pipeline("audio-to-audio", model=str(folder), trust_remote_code=True, device="cpu")
    assert loaded(question)["text"] == pipe(question)["text"]


def test_folder_that_is_not_empty_is_left_alone(pipe, tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not an empty folder"):
        export_repository(pipe.model, pipe.processor, tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


EXPORT_AND_DIE = """
import os, pathlib, signal, sys
from serving.cli import main

folder, model, last = sys.argv[1:]
replace = pathlib.Path.replace

def die_at_last(path, target):
    if target == pathlib.Path(folder, last):
        os.kill(os.getpid(), signal.SIGKILL)
    return replace(path, target)

pathlib.Path.replace = die_at_last
main(["export", folder, "--model", model])
"""


# the first and the last of the files that are put in place
@pytest.mark.slow
@pytest.mark.parametrize("last", ["README.md", "model.safetensors"])
def test_an_export_that_was_killed_can_be_repeated(pipe, tmp_path, last):
    pipe.save_pretrained(tmp_path / "model")
    folder = tmp_path / "out" / "mini"
    command = [sys.executable, "-c", EXPORT_AND_DIE, folder, tmp_path / "model", last]
    assert subprocess.run(command, capture_output=True, timeout=300).returncode == -signal.SIGKILL
    assert list(folder.glob(".*")) and (folder / "config.json").exists() == (last == "model.safetensors")
    assert main(["export", str(folder), "--model", str(tmp_path / "model")]) == 0
    assert main(["export", str(tmp_path / "whole" / "mini"), "--model", str(tmp_path / "model")]) == 0
    files = [
        {path.relative_to(root): path.read_bytes() for path in root.rglob("*") if path.is_file()}
        for root in (tmp_path / "out", tmp_path / "whole")
    ]
    assert files[0] == files[1] and not list(folder.glob(".*"))
    with pytest.raises(ValueError, match="not an empty folder"):
        export_repository(pipe.model, pipe.processor, folder)


def test_what_a_save_that_was_killed_has_left_beside_other_things_is_no_leave_to_export(pipe, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".{socket.gethostname()}-{dead.pid}-abcdefgh.unfinished").mkdir()
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(ValueError, match="not an empty folder"):
        export_repository(pipe.model, pipe.processor, tmp_path)
    (tmp_path / "notes.txt").unlink()
    export_repository(pipe.model, pipe.processor, tmp_path)
    assert not list(tmp_path.glob(".*")) and (tmp_path / "model.safetensors").is_file()


@pytest.mark.slow
def test_full_disk_leaves_nothing_behind(pipe, tmp_path):
    # no file may grow beyond a size that the configurations and the codec stay below, but the weights do not
    with pytest.raises(OSError, match="File too large"):
        on_full_disk(60000, export_repository, pipe.model, pipe.processor, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


def test_export_needs_a_codec(pipe, tmp_path):
    processor = VitaAudioProcessor(pipe.processor.feature_extractor, pipe.processor.tokenizer)
    with pytest.raises(ValueError, match="no speech codec"):
        export_repository(pipe.model, processor, tmp_path / "out")
    assert torch.is_tensor(pipe.model.lm_head.weight) and not (tmp_path / "out").exists()
