# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""However a model is saved, the folder is README's pipeline in a process that cannot import our packages."""

import copy
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import peft
import pytest
import soundfile
import torch
from clean_process import BLOCK_OUR_PACKAGES
from datasets import Dataset
from places import ROOT
from tiny_models import tiny_codec, tiny_model, tiny_processor
from transformers import AutoModel, AutoProcessor, Trainer, TrainingArguments, pipeline
from transformers.distributed import DistributedConfig

from modeling_vita_audio import VitaAudioForConditionalGeneration
from modeling_vita_audio.saving_vita_audio import code_files
from processing.pipeline_vita_audio import VitaAudioPipeline
from training.storage import round_to_half


pytestmark = pytest.mark.slow

LOAD_AND_ANSWER = """
import json
from transformers import pipeline

folder, question = sys.argv[1:]
pipe = pipeline("audio-to-audio", model=folder, trust_remote_code=True, device="cpu")
assert type(pipe).__module__.startswith("transformers_modules.")
answer = pipe(question)
print(json.dumps({"text": answer["text"], "num_samples": len(answer["audio"]), "dtype": str(pipe.model.dtype)}))
"""

# in processes without our packages, from what was saved with them
REMOTE = {
    "remote model and processor": """
from transformers import AutoModel, AutoProcessor
AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained(sys.argv[2])
AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True).save_pretrained(sys.argv[2])
""",
    "remote pipeline": """
from transformers import pipeline
pipeline("audio-to-audio", model=sys.argv[1], trust_remote_code=True, device="cpu").save_pretrained(sys.argv[2])
""",
}

# `huggingface_hub` reads where the Hub is when it is imported
PUSH = {
    "push of either": "model.push_to_hub('vita/mini'); processor.push_to_hub('vita/mini')",
    "push of the pipeline": "VitaAudioPipeline(model, processor=processor).push_to_hub('vita/mini')",
    "save with push": """
for thing in (model, processor):
    thing.save_pretrained('saved', push_to_hub=True, repo_id='vita/mini', commit_message='As told', private=True)
""",
}


def save_both(pipe, folder, **kwargs):
    pipe.model.save_pretrained(folder, **kwargs)
    pipe.processor.save_pretrained(folder)


def save_by_trainer(pipe, folder):
    model = copy.deepcopy(pipe.model)
    rows = Dataset.from_list(3 * [{"input_ids": [5, 6, 7, 8], "labels": [5, 6, 7, 8]}])
    # at this rate the answer stays what it was
    args = TrainingArguments(
        folder, max_steps=1, learning_rate=0.0, save_strategy="no", use_cpu=True, report_to="none"
    )
    trainer = Trainer(model, args, train_dataset=rows, processing_class=pipe.processor)
    trainer.train()
    trainer.save_model()


def save_merged(pipe, folder):
    adapted = peft.get_peft_model(copy.deepcopy(pipe.model), peft.LoraConfig(target_modules=["q_proj", "v_proj"]))
    adapted.merge_and_unload().save_pretrained(folder)
    pipe.processor.save_pretrained(folder)


WAYS = {
    "model and processor": save_both,
    "processor and model": lambda pipe, folder: (
        pipe.processor.save_pretrained(folder),
        pipe.model.save_pretrained(folder),
    ),
    "pipeline": lambda pipe, folder: pipe.save_pretrained(folder),
    "sharded": lambda pipe, folder: save_both(pipe, folder, max_shard_size="20KB"),
    "trainer": save_by_trainer,
    "merged": save_merged,
}


@pytest.fixture(scope="module")
def pipe():
    processor = tiny_processor()
    return VitaAudioPipeline(tiny_model(processor), processor=processor, device="cpu")


@pytest.fixture(scope="module")
def saved(pipe, tmp_path_factory):
    folder = tmp_path_factory.mktemp("saved") / "model"
    save_both(pipe, folder)
    return folder


def run(code, *arguments, environment=None, cwd=None):
    environment = {**os.environ, **(environment or {"HF_HUB_OFFLINE": "1"})}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, env=environment, cwd=cwd, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def size_of_weights(folder):
    return sum(path.stat().st_size for path in folder.rglob("*.safetensors"))


def assert_answers(pipe, folder, tmp_path, environment=None):
    soundfile.write(tmp_path / "question.wav", 0.3 * np.sin(np.arange(12000) / 20), 16000)
    environment = {"HF_HUB_OFFLINE": "1"} if environment is None else environment
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules")}
    output = run(BLOCK_OUR_PACKAGES + LOAD_AND_ANSWER, folder, tmp_path / "question.wav", environment=environment)
    expected = pipe(str(tmp_path / "question.wav"))
    assert json.loads(output.splitlines()[-1]) == {
        "text": expected["text"],
        "num_samples": len(expected["audio"]),
        "dtype": "torch.float32",
    }
    assert len(expected["audio"]) > 1280


@pytest.mark.parametrize("way", WAYS)
def test_a_saved_folder_answers_where_our_packages_are_not(way, pipe, saved, tmp_path):
    WAYS[way](pipe, tmp_path / "out")
    assert_answers(pipe, tmp_path / "out", tmp_path)
    # the headers of shards are a few bytes more
    assert size_of_weights(tmp_path / "out") == pytest.approx(size_of_weights(saved), rel=0.02)


@pytest.mark.parametrize("way", REMOTE)
def test_so_does_what_remote_code_has_saved(way, pipe, saved, tmp_path):
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules-of-the-first"), "HF_HUB_OFFLINE": "1"}
    run(BLOCK_OUR_PACKAGES + REMOTE[way], saved, tmp_path / "out", environment=environment, cwd=tmp_path)
    assert_answers(pipe, tmp_path / "out", tmp_path)
    assert size_of_weights(tmp_path / "out") == size_of_weights(saved)
    assert {path.name for path in saved.iterdir()} == {path.name for path in (tmp_path / "out").iterdir()}


@pytest.mark.parametrize("way", PUSH)
def test_so_does_what_was_pushed(way, pipe, saved, hub, tmp_path):
    code = "import sys\nsys.path[:0] = [sys.argv[2]]\n"
    code += "from modeling_vita_audio import VitaAudioForConditionalGeneration\n"
    code += "from processing import VitaAudioPipeline, VitaAudioProcessor\n"
    code += "model = VitaAudioForConditionalGeneration.from_pretrained(sys.argv[1])\n"
    code += "processor = VitaAudioProcessor.from_pretrained(sys.argv[1])\n"
    run(code + PUSH[way], saved, ROOT, environment=hub.environment(tmp_path / "home"), cwd=tmp_path)
    assert_answers(pipe, "vita/mini", tmp_path, environment=hub.environment(tmp_path / "another-home"))
    if way == "save with push":
        assert size_of_weights(tmp_path / "saved") == size_of_weights(saved)
        assert hub.api().model_info("vita/mini").private
        assert hub.api().list_repo_commits("vita/mini")[0].title == "As told"


def test_names_of_a_config_are_of_files_that_are_there(saved, tmp_path):
    tiny_codec().save_pretrained(tmp_path / "codec")
    for path in [*saved.rglob("*.json"), *(tmp_path / "codec").glob("*.json")]:
        content = json.loads(path.read_text())
        references = [*content.get("auto_map", {}).values()]
        references += [pipeline["impl"] for pipeline in content.get("custom_pipelines", {}).values()]
        folder = saved if saved in path.parents else tmp_path / "codec"
        for reference in references:
            assert (folder / f"{reference.partition('.')[0]}.py").is_file(), (path, reference)


def test_a_codec_alone_loads_where_our_packages_are_not(tmp_path):
    tiny_codec().save_pretrained(tmp_path / "codec")
    code = "from transformers import AutoModel; AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)"
    run(BLOCK_OUR_PACKAGES + code, tmp_path / "codec", environment={"HF_MODULES_CACHE": str(tmp_path / "modules")})


def test_weights_that_are_stored_in_half_precision_stay_so(pipe, tmp_path):
    model = round_to_half(copy.deepcopy(pipe.model))
    processor = copy.copy(pipe.processor)
    processor.audio_tokenizer = round_to_half(copy.deepcopy(pipe.processor.audio_tokenizer))
    half = VitaAudioPipeline(model, processor=processor, device="cpu")
    half.save_pretrained(tmp_path / "half")
    pipe.save_pretrained(tmp_path / "whole")
    assert size_of_weights(tmp_path / "half") < 0.6 * size_of_weights(tmp_path / "whole")
    loaded = AutoModel.from_pretrained(tmp_path / "half")
    assert loaded.dtype == torch.float32
    loaded.save_pretrained(tmp_path / "again", max_shard_size="10KB")
    AutoProcessor.from_pretrained(tmp_path / "half").save_pretrained(tmp_path / "again")
    assert size_of_weights(tmp_path / "again") == pytest.approx(size_of_weights(tmp_path / "half"), rel=0.1)
    loaded = AutoModel.from_pretrained(tmp_path / "again")
    assert all(tensor.equal(model.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    # what was trained since is not rounded
    with torch.no_grad():
        loaded.lm_head.weight += 1e-6
    loaded.save_pretrained(tmp_path / "trained")
    assert AutoModel.from_pretrained(tmp_path / "trained").lm_head.weight.equal(loaded.lm_head.weight)


def test_tied_weights_are_stored_once_in_half_precision_too(tmp_path):
    processor = tiny_processor()
    config = copy.deepcopy(tiny_model(processor).config)
    config.tie_word_embeddings = config.text_config.tie_word_embeddings = True
    model = round_to_half(VitaAudioForConditionalGeneration(config))
    model.save_pretrained(tmp_path)
    assert size_of_weights(tmp_path) < 2.2 * sum(parameter.numel() for parameter in model.parameters())
    loaded = VitaAudioForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight is loaded.model.language_model.embed_tokens.weight


def test_a_model_loaded_in_another_type_is_saved_in_it(pipe, tmp_path):
    pipe.model.save_pretrained(tmp_path / "whole")
    for dtype in (torch.float16, torch.bfloat16):
        VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "whole", dtype=dtype).save_pretrained(
            tmp_path / "x"
        )
        assert AutoModel.from_pretrained(tmp_path / "x").dtype == dtype
        assert size_of_weights(tmp_path / "x") < 0.6 * size_of_weights(tmp_path / "whole")


HASH = """
import json, pickle, time
from datasets import Dataset
from datasets.fingerprint import Hasher
from transformers import AutoModel, AutoProcessor

processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(processor).__module__.startswith("transformers_modules.")
# by the names of their classes: by what they are made of, it is ten times as much, and fails
sizes = {}
for thing in (processor, processor.audio_tokenizer, model, model.config):
    assert type(pickle.loads(pickle.dumps(thing))) is type(thing)
    assert Hasher.hash(thing) == Hasher.hash(thing)
rows = Dataset.from_dict({"text": ["What is two", "hello"]})
examples = rows.map(lambda row: {"ids": processor(row["text"], return_tensors=None)["input_ids"][0]}, num_proc=2)
# a model of transformers has sets in it, which are in another order in each process
print(json.dumps([Hasher.hash(processor), examples["ids"][0]]))
"""


def test_datasets_hashes_and_sends_what_remote_code_is_made_of(pipe, saved, tmp_path):
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    code = BLOCK_OUR_PACKAGES + "import transformers.dynamic_module_utils as d; d.init_hf_modules()\n" + HASH
    outputs = [run(code, saved, environment=environment, cwd=tmp_path).splitlines()[-1] for _ in range(2)]
    assert outputs[0] == outputs[1]
    assert json.loads(outputs[0])[1] == pipe.processor("What is two", return_tensors=None)["input_ids"][0]


REMOTE_SAVES_ELSEWHERE = """
import shutil
from transformers import AutoModel, AutoProcessor
model = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
processor = AutoProcessor.from_pretrained(sys.argv[1], trust_remote_code=True)
shutil.rmtree(sys.argv[1])
model.save_pretrained(sys.argv[2])
processor.save_pretrained(sys.argv[2])
"""


def test_remote_code_saves_all_of_it_when_its_source_is_gone(pipe, saved, tmp_path):
    shutil.copytree(saved, tmp_path / "source")
    environment = {"HF_MODULES_CACHE": str(tmp_path / "modules-of-the-first"), "HF_HUB_OFFLINE": "1"}
    run(BLOCK_OUR_PACKAGES + REMOTE_SAVES_ELSEWHERE, "source", "out", environment=environment, cwd=tmp_path)
    assert_answers(pipe, tmp_path / "out", tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, "bfloat16"])
def test_a_pipeline_of_another_type_is_saved(saved, tmp_path, dtype):
    loaded = pipeline("audio-to-audio", model=str(saved), trust_remote_code=True, device="cpu", dtype=dtype)
    loaded.save_pretrained(tmp_path / "out")
    assert str(AutoModel.from_pretrained(tmp_path / "out").dtype).endswith(str(dtype).removeprefix("torch."))
    assert "dtype" not in json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())


def test_keywords_of_the_model_are_not_kept_with_the_processor(saved, tmp_path):
    for_the_model = {
        "offload_folder": tmp_path,
        "low_cpu_mem_usage": True,
        "use_safetensors": True,
        "max_memory": {"cpu": "4GB"},
        "distributed_config": DistributedConfig(),
    }
    processor = AutoProcessor.from_pretrained(saved, padding_side="left", **for_the_model)
    processor.save_pretrained(tmp_path / "out")
    kept = json.loads((tmp_path / "out" / "tokenizer_config.json").read_text())
    assert kept["padding_side"] == "left" and not for_the_model.keys() & kept.keys()


def test_offloaded_weights_keep_the_type_they_are_stored_in(pipe, tmp_path):
    round_to_half(copy.deepcopy(pipe.model)).save_pretrained(tmp_path / "half")
    places = {"model.language_model": "cpu", "model.mctp_modules": "disk", "lm_head": "cpu"}
    loaded = AutoModel.from_pretrained(tmp_path / "half", device_map=places, offload_folder=tmp_path / "offload")
    loaded.save_pretrained(tmp_path / "again")
    assert size_of_weights(tmp_path / "again") == size_of_weights(tmp_path / "half")


def test_one_process_of_several_writes(pipe, tmp_path):
    pipe.save_pretrained(tmp_path / "out", is_main_process=False)
    assert not list((tmp_path / "out").rglob("*.*"))


def test_a_config_alone_keeps_the_names_of_the_code(pipe, tmp_path):
    pipe.model.save_pretrained(tmp_path)
    before = json.loads((tmp_path / "config.json").read_text())
    pipe.model.config.save_pretrained(tmp_path)
    assert json.loads((tmp_path / "config.json").read_text()) == before


def test_code_of_all_that_is_imported():
    names = code_files(["modeling_vita_audio", "pipeline_vita_audio", "nothing_vita_audio"]).keys()
    assert {"saving_vita_audio", "compatibility_vita_audio", "streaming_vita_audio"} <= names
    assert not names & {"nothing_vita_audio", "processing_vita_audio"}
