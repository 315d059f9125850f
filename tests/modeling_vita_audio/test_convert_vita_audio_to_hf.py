# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import inspect
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import huggingface_hub
import pytest
import torch
from full_disk import on_full_disk
from modeling_fixtures import RELEASED_FIXTURE, original_mctp_losses, random_model, random_prompt
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tiny_models import tiny_model, tiny_processor, tiny_tokenizer
from transformers import AutoModel, AutoTokenizer

from modeling_vita_audio import VitaAudioForConditionalGeneration
from modeling_vita_audio.convert_vita_audio_to_hf import convert, convert_config, main
from processing import VitaAudioProcessor
from processing.export import export_repository
from serving.cli import main as vita_audio


def read(path: Path) -> dict:
    return json.loads(path.read_text())


def edit(path: Path, **changes) -> None:
    """Changes entries of a JSON file; None removes one."""
    content = {**read(path), **changes} if path.exists() else changes
    path.write_text(json.dumps({key: value for key, value in content.items() if value is not None}))


def tensors(folder: Path) -> dict[str, torch.Tensor]:
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


def assert_same_tensors(folder: Path, other: Path) -> None:
    ours, theirs = tensors(folder), tensors(other)
    assert ours.keys() == theirs.keys() and len(ours) > 0
    for name, tensor in ours.items():
        assert tensor.dtype == theirs[name].dtype and torch.equal(tensor, theirs[name]), name


def released_checkpoint(folder: Path, num_mctp_modules: int = 2, **kwargs) -> Path:
    """A random checkpoint in the released layout."""
    random_model(num_mctp_modules, **kwargs).save_pretrained(folder / "ours")
    return convert(folder / "ours", folder / "released", to_released=True)


@pytest.fixture
def released(tmp_path) -> Path:
    """A copy of the fixture that a test may damage."""
    shutil.copytree(RELEASED_FIXTURE, tmp_path / "in", copy_function=shutil.copyfile)
    return tmp_path / "in"


# --- the released fixture ---

DECODE_AND_SCORE = """
import importlib.util, json, sys
import torch
from transformers import AutoModelForCausalLM

# original_mctp_losses
assert importlib.util.find_spec("modeling_vita_audio") is None
expected = json.load(open(sys.argv[2]))
model = AutoModelForCausalLM.from_pretrained(sys.argv[1], trust_remote_code=True)
sequences, losses = [], []
for run in expected["generate"]:
    prompt = torch.tensor([run["prompt"]])
    output = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        mctp_mode=run["mode"],
        max_new_tokens=len(run["tokens"]),
    )
    sequences.append(output[0, prompt.shape[1] :].tolist())
for batch in expected["loss"]:
    names = ("input_ids", "position_ids", "labels")
    output = model(**{name: torch.tensor([batch[name]]) for name in names})
    losses.append([output.lm_loss.item(), *original_mctp_losses(model, batch)])
print(json.dumps({"sequences": sequences, "losses": losses}))
"""


@pytest.mark.slow
def test_released_fixture_decodes_and_scores_as_the_original(tmp_path):
    """By the command line, and with the code of the converted folder alone."""
    command = ["-m", "modeling_vita_audio.convert_vita_audio_to_hf", "--output_dir", tmp_path / "out"]
    subprocess.run([sys.executable, *command, "--input_dir", RELEASED_FIXTURE], check=True, capture_output=True)

    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    environment |= {"HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    # Without site packages of the project either: an editable install is a path file that `-S` leaves out
    program = f"import sys; sys.path[:0] = {[p for p in sys.path if 'site-packages' in p]}\n"
    program += DECODE_AND_SCORE.replace("# original_mctp_losses", inspect.getsource(original_mctp_losses))
    process = subprocess.run(
        [sys.executable, "-S", "-c", program, tmp_path / "out", RELEASED_FIXTURE / "expected.json"],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 0, process.stderr
    result, expected = json.loads(process.stdout.splitlines()[-1]), read(RELEASED_FIXTURE / "expected.json")
    assert len(expected["generate"]) == 8 and len(expected["loss"]) == 2
    assert result["sequences"] == [run["tokens"] for run in expected["generate"]]
    for losses, batch in zip(result["losses"], expected["loss"]):
        assert losses == pytest.approx([batch["lm_loss"], *batch["mctp_losses"]], abs=1e-4)


@pytest.mark.parametrize("max_shard_size", ["2GB", "200KB"])
def test_released_fixture_there_and_back(tmp_path, max_shard_size):
    ours = convert(RELEASED_FIXTURE, tmp_path / "ours", max_shard_size=max_shard_size)
    assert (len(list(ours.glob("*.safetensors"))) > 1) == (max_shard_size != "2GB")
    back = convert(ours, tmp_path / "back", to_released=True, max_shard_size=max_shard_size)
    assert_same_tensors(RELEASED_FIXTURE, back)
    before, after = read(RELEASED_FIXTURE / "config.json"), read(back / "config.json")
    # The fixture's is not in its own vocabulary
    assert before.pop("speech_token_offset") > before["vocab_size"] > after.pop("speech_token_offset")
    assert {"num_hidden_layers", "num_nextn_predict_layers", "mtp_loss_weight", "architectures"} < after.keys()
    assert {key: value for key, value in after.items() if key in before and before[key] != value} == {}
    # The tensors that each shard is said to have are in it
    if max_shard_size != "2GB":
        for filename, names in by_file(back / "model.safetensors.index.json").items():
            with safe_open(back / filename, framework="pt") as file:
                assert sorted(file.keys()) == sorted(names)


def by_file(path: Path) -> dict[str, list[str]]:
    weight_map = read(path)["weight_map"]
    return {filename: [n for n in weight_map if weight_map[n] == filename] for filename in weight_map.values()}


# --- there and back ---


def test_names_of_the_released_layout(tmp_path):
    names = set(tensors(released_checkpoint(tmp_path, num_mctp_modules=3)))
    modules = {f"mtp_{part}.{k}.weight" for part in ("projs", "embed_norms", "hidden_norms") for k in range(3)}
    assert {name for name in names if ".layers." not in name} == modules | {
        "model.embed_tokens.weight",
        "model.norm.weight",
        "lm_head.weight",
    }
    # Two layers of the language model and one for each module
    assert {name.split(".")[2] for name in names if ".layers." in name} == {"0", "1", "2", "3", "4"}


@pytest.mark.parametrize("key", ["type", "rope_type"])
def test_the_scaling_of_positions_is_taken_by_both_of_its_names(tmp_path, key):
    config = read(RELEASED_FIXTURE / "config.json")
    scaling = {"factor": 4.0, "original_max_position_embeddings": 64}
    (tmp_path / "config.json").write_text(json.dumps(config | {"rope_scaling": {key: "yarn", **scaling}}))
    parameters = convert_config(tmp_path).text_config.rope_parameters
    assert {"rope_type": "yarn", **scaling}.items() <= parameters.items()


@pytest.mark.slow
@pytest.mark.parametrize(
    "num_mctp_modules, kwargs",
    [
        (0, {}),
        (1, {"text_config": {"tie_word_embeddings": True}}),
        (4, {}),
        (10, {"text_config": {"rope_parameters": {"rope_type": "yarn", "factor": 2.0, "rope_theta": 5e4}}}),
    ],
    ids=str,
)
def test_ours_there_and_back(tmp_path, num_mctp_modules, kwargs):
    model = random_model(num_mctp_modules, **kwargs).to(torch.bfloat16)
    model.generation_config.mctp_mode = [2, num_mctp_modules, 1, 0]
    model.generation_config.eos_token_id = [3, 5]
    model.save_pretrained(tmp_path / "ours", max_shard_size="30KB")
    released = convert(tmp_path / "ours", tmp_path / "released", to_released=True, max_shard_size="50KB")
    assert read(released / "config.json")["torch_dtype"] == "bfloat16"
    assert read(released / "generation_config.json")["mtp_inference_mode"] == [2, num_mctp_modules, 1, 0]
    again = convert(released, tmp_path / "again")
    assert_same_tensors(tmp_path / "ours", again)

    loaded, model = AutoModel.from_pretrained(again), AutoModel.from_pretrained(tmp_path / "ours")
    assert loaded.dtype == torch.bfloat16
    config, expected = loaded.config.to_dict(), model.config.to_dict()
    # The language model's own, where ours has both
    assert config["text_config"].pop("dtype", "bfloat16") == expected["text_config"].pop("dtype", "bfloat16")
    # What transformers adds for yarn
    config["text_config"]["rope_parameters"].pop("type", None)
    assert {**config, "_name_or_path": ""} == {**expected, "_name_or_path": ""}
    assert loaded.generation_config.mctp_mode == [2, num_mctp_modules, 1, 0]
    assert loaded.generation_config.eos_token_id == [3, 5]
    prompt = random_prompt(5)
    assert torch.equal(loaded.generate(prompt, max_new_tokens=12), model.generate(prompt, max_new_tokens=12))


@pytest.mark.slow
def test_a_release_of_the_full_vocabulary_there_and_back(tmp_path):
    """As the released 7B checkpoints, but for the sizes: no key of the config is added, none is lost."""
    text_config = {"vocab_size": 168072, "hidden_size": 8, "intermediate_size": 16, "eos_token_id": 151645}
    ids = {"audio_token_id": 151684, "begin_audio_token_id": 151674, "end_audio_token_id": 151675}
    model = random_model(10, text_config=text_config).to(torch.bfloat16)
    for key, value in {**ids, "speech_token_offset": 151685, "num_speech_tokens": 16384}.items():
        setattr(model.config, key, value)
    model.save_pretrained(tmp_path / "made")
    released = convert(tmp_path / "made", tmp_path / "released", to_released=True)
    assert not {*ids, "num_speech_tokens"} & read(released / "config.json").keys()
    edit(released / "generation_config.json", mtp_inference_mode=[1, 4, 3, 8, 4, 10], repetition_penalty=1.05)
    edit(released / "config.json", speech_token_offset=None)

    ours = convert(released, tmp_path / "ours")
    loaded = VitaAudioForConditionalGeneration.from_pretrained(ours)
    assert {key: getattr(loaded.config, key) for key in ids} == ids
    assert (loaded.config.speech_token_offset, loaded.config.num_speech_tokens) == (151685, 16384)
    assert loaded.generation_config.mctp_mode == "balance"
    assert loaded.config.interleave_pattern == [1, 4, 3, 8, 4, 10]
    assert loaded.generation_config.repetition_penalty == 1.05
    back = convert(ours, tmp_path / "back", to_released=True)
    assert_same_tensors(released, back)
    edit(back / "config.json", speech_token_offset=None)
    for name in ("config.json", "generation_config.json"):
        assert read(back / name) == read(released / name)


@pytest.mark.parametrize("mode, layout", [("turbo", [1, 10, 4, 10]), ("boost", [1, 10, 4, 10]), ("vanilla", None)])
def test_the_layout_of_training_there_and_back(tmp_path, mode, layout):
    model = random_model(10)
    model.generation_config.mctp_mode, model.config.interleave_pattern = mode, layout
    model.save_pretrained(tmp_path / "ours")
    released = convert(tmp_path / "ours", tmp_path / "released", to_released=True)
    # the original has no such key, and needs none where the mode says it
    assert ("interleave_pattern" in read(released / "config.json")) == (mode == "turbo")
    again = convert(released, tmp_path / "again")
    assert read(again / "config.json")["interleave_pattern"] == layout
    assert read(again / "generation_config.json")["mctp_mode"] == mode


# --- tokenizer and processor ---


@pytest.mark.slow
def test_tokenizer_is_copied_and_says_which_tokens_are_speech(tmp_path):
    tokenizer = tiny_tokenizer()
    released = released_checkpoint(tmp_path, text_config={"vocab_size": len(tokenizer)})
    for key in ("audio_token_id", "begin_audio_token_id", "end_audio_token_id", "num_speech_tokens"):
        edit(released / "config.json", **{key: None})
    tokenizer.save_pretrained(released)
    converted = convert(released, tmp_path / "converted")
    for name in ("tokenizer.json", "tokenizer_config.json", "chat_template.jinja"):
        assert (converted / name).read_bytes() == (released / name).read_bytes()
    config = read(converted / "config.json")
    loaded = AutoTokenizer.from_pretrained(converted)
    assert config["speech_token_offset"] == loaded.convert_tokens_to_ids("<|audio_0|>")
    assert config["begin_audio_token_id"] == loaded.convert_tokens_to_ids("<|begin_of_audio|>")
    assert config["end_audio_token_id"] == loaded.convert_tokens_to_ids("<|end_of_audio|>")
    assert config["audio_token_id"] == loaded.convert_tokens_to_ids("<|audio|>")
    assert config["num_speech_tokens"] == 16

    # One that does not know speech, and one whose speech tokens are in the wrong order
    text = (released / "tokenizer.json").read_text()
    (released / "tokenizer.json").write_text(text.replace("<|audio|>", "<|sound|>"))
    with pytest.raises(ValueError, match=r"has no <\|audio\|>"):
        convert(released, tmp_path / "other")
    text = text.replace("<|audio_3|>", "<|swap|>").replace("<|audio_4|>", "<|audio_3|>")
    (released / "tokenizer.json").write_text(text.replace("<|swap|>", "<|audio_4|>"))
    with pytest.raises(ValueError, match="not contiguous"):
        convert(released, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.slow
def test_processor_is_copied_with_its_codec_and_code(tmp_path):
    processor = tiny_processor()
    folder = export_repository(tiny_model(processor), processor, tmp_path / "ours")
    released = convert(folder, tmp_path / "released", to_released=True)
    again = convert(released, tmp_path / "again")
    loaded = VitaAudioProcessor.from_pretrained(again)
    assert loaded.to_dict() == VitaAudioProcessor.from_pretrained(folder).to_dict()
    codec = processor.audio_tokenizer.state_dict()
    assert all(torch.equal(tensor, codec[name]) for name, tensor in loaded.audio_tokenizer.state_dict().items())
    assert_same_tensors(folder, again)
    assert (again / "processing_vita_audio.py").read_bytes() == (folder / "processing_vita_audio.py").read_bytes()
    code = {path.name for path in folder.glob("*.py")}
    assert {path.name for path in again.glob("*.py")} == code
    assert read(again / "generation_config.json")["mctp_mode"] == "boost"


# --- refusals: nothing is written ---


def refused(tmp_path, folder, message, **kwargs):
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(ValueError, match=message) as error:
        convert(folder, tmp_path / "out", **kwargs)
    assert sorted(tmp_path.rglob("*")) == before
    return str(error.value)


def test_all_wrong_tensors_are_listed_at_once(tmp_path, released):
    weights = load_file(released / "model.safetensors")
    del weights["mtp_projs.3.weight"], weights["model.layers.0.mlp.up_proj.weight"]
    weights["mtp_projs.10.weight"] = torch.zeros(64, 128)
    weights["lm_head.bias"] = torch.zeros(640)
    weights["model.layers.12.self_attn.q_proj.weight"] = torch.zeros(64, 32)
    weights["model.norm.weight"] = torch.zeros(65)
    save_file(weights, released / "model.safetensors")
    message = refused(tmp_path, released, "do not fit its config.json")
    assert message.endswith(
        "missing: model.layers.0.mlp.up_proj.weight, mtp_projs.3.weight; "
        "unexpected: lm_head.bias, mtp_projs.10.weight; "
        "misshaped: model.layers.12.self_attn.q_proj.weight (64, 32) instead of (64, 64), "
        "model.norm.weight (65,) instead of (64,)."
    )


def test_config_with_another_number_of_modules_is_refused(tmp_path, released):
    edit(released / "config.json", num_hidden_layers=14, num_nextn_predict_layers=11)
    message = refused(tmp_path, released, "missing: model.layers.13.input_layernorm.weight")
    assert "mtp_projs.10.weight" in message and "unexpected" not in message
    edit(released / "config.json", num_hidden_layers=10, num_nextn_predict_layers=10)
    refused(tmp_path, released, "That leaves no language model")
    edit(released / "config.json", num_nextn_predict_layers=None)
    refused(tmp_path, released, "does not say num_nextn_predict_layers")


@pytest.mark.parametrize("to_released", [False, True])
def test_truncated_and_absent_shards_are_refused(tmp_path, to_released):
    released_checkpoint(tmp_path)
    source = tmp_path / "source"
    convert(tmp_path / ("released" if to_released else "ours"), source, not to_released, max_shard_size="30KB")
    kwargs = {"to_released": to_released}
    shard = sorted(source.glob("model-*.safetensors"))[2]
    content = shard.read_bytes()
    for length in (len(content) - 8, 100, 4, 0):
        shard.write_bytes(content[:length])
        refused(tmp_path, source, f"{shard.name} is broken or not complete", **kwargs)
    shard.unlink()
    refused(tmp_path, source, f"has no {shard.name}", **kwargs)
    (source / "model.safetensors.index.json").unlink()
    refused(tmp_path, source, "weights are to be in safetensors.* has no model.safetensors", **kwargs)
    (source / "config.json").write_text('{"model_type": ')
    refused(tmp_path, source, "not valid JSON", **kwargs)
    (source / "config.json").unlink()
    refused(tmp_path, source, "has no config.json", **kwargs)


@pytest.mark.parametrize(
    "changes, message",
    [
        (
            {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]},
            "'qwen2' and architecture 'Qwen2ForCausalLM'",
        ),
        ({"architectures": None}, "architecture 'None'"),
        (
            {"model_type": "qwen2_mtp_sensevoice"},
            "takes 'qwen2_mtp_sensevoice' and 'Qwen2MTPSenseVoiceForCausalLM'",
        ),
        ({"use_sliding_window": True, "sliding_window": 8}, "use_sliding_window"),
    ],
    ids=str,
)
def test_another_architecture_is_refused(tmp_path, released, changes, message):
    edit(released / "config.json", **changes)
    # Before anything is read
    (released / "model.safetensors").unlink()
    refused(tmp_path, released, message)


def test_the_other_direction_is_refused(tmp_path):
    released_checkpoint(tmp_path)
    refused(tmp_path, tmp_path / "ours", "'vita_audio' .* takes 'qwen2_mtp' and 'Qwen2MTPForCausalLM'")
    refused(tmp_path, tmp_path / "released", "'qwen2_mtp' .* takes 'vita_audio'", to_released=True)
    random_model(1, "llama").save_pretrained(tmp_path / "llama")
    refused(tmp_path, tmp_path / "llama", "'qwen2', not 'llama'", to_released=True)


def test_a_mode_that_the_modules_cannot_do_is_refused(tmp_path, released):
    edit(released / "generation_config.json", mtp_inference_mode=[1, 11])
    refused(tmp_path, released, r"takes 11 MCTP steps, but the model has 10 modules")


def test_folder_that_is_not_empty_is_left_alone(tmp_path, released):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "notes.txt").write_text("mine")
    refused(tmp_path, released, "not an empty folder")


@pytest.mark.slow
def test_full_disk_leaves_nothing_behind(tmp_path, released):
    with pytest.raises(OSError, match="Cannot write the weights"):
        on_full_disk(300000, convert, released, tmp_path / "out")
    assert list(tmp_path.iterdir()) == [released]


def test_command_says_in_one_line_why_it_failed(tmp_path, released, capsys):
    edit(released / "config.json", model_type="qwen2")
    assert main(["--input_dir", str(released), "--output_dir", str(tmp_path / "out")]) == 1
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "error: The checkpoint is of model type 'qwen2'" in error


# --- memory ---

CONVERT_IN_LITTLE_MEMORY = """
import re, sys
from pathlib import Path
from modeling_vita_audio.convert_vita_audio_to_hf import convert

def peak():
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024

# Forget the peak of the imports
Path("/proc/self/clear_refs").write_text("5")
before = peak()
convert(sys.argv[1], sys.argv[2], max_shard_size="10MB")
print(peak() - before)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/clear_refs").exists(), reason="The peak of memory is read as Linux has it")
def test_memory_is_that_of_one_shard(tmp_path):
    sizes = {"hidden_size": 512, "intermediate_size": 2048, "num_hidden_layers": 2, "vocab_size": 4096}
    released = released_checkpoint(tmp_path, 4, text_config=sizes)
    total = (released / "model.safetensors").stat().st_size / 2**20
    command = [sys.executable, "-c", CONVERT_IN_LITTLE_MEMORY, released, tmp_path / "out"]
    process = subprocess.run(command, capture_output=True, text=True, check=True)
    peak = float(process.stdout.splitlines()[-1])
    assert total > 90 and peak < 30, (total, peak)


# --- the Hub ---


def test_hub_id_is_downloaded(tmp_path, monkeypatch, capsys):
    """From a download cache, as there is no network here."""
    repository = tmp_path / "hub" / "models--someone--vita"
    (repository / "refs").mkdir(parents=True)
    (repository / "refs" / "main").write_text("0" * 40)
    shutil.copytree(RELEASED_FIXTURE, repository / "snapshots" / ("0" * 40))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    convert("someone/vita", tmp_path / "out")
    assert len(tensors(tmp_path / "out")) == len(tensors(RELEASED_FIXTURE))

    arguments = ["--output_dir", str(tmp_path / "other"), "--input_dir"]
    assert main([*arguments, "someone/else"]) == 1
    assert "'someone/else' is no folder, and no Hub repository" in capsys.readouterr().err
    assert main([*arguments, "no folder"]) == 1
    assert "'no folder' is no folder, and no Hub repository" in capsys.readouterr().err
    assert not (tmp_path / "other").exists()


def test_it_says_how_to_publish(tmp_path, capsys):
    """As the commands of publishing have it, which write a card and look for secrets."""
    arguments = ["--input_dir", str(RELEASED_FIXTURE), "--output_dir", str(tmp_path / "out")]
    with pytest.raises(SystemExit):
        main([*arguments, "--push_to_hub", "me/vita"])
    assert not (tmp_path / "out").exists()
    assert main(arguments) == 0
    _, card, push = capsys.readouterr().out.splitlines()
    assert card == f"vita-audio card {tmp_path / 'out'} --converted_from REPO --license LICENSE"
    run_card = card.replace("REPO", "VITA-MLLM/VITA-Audio-Boost").replace("LICENSE", "mit").split()[1:]
    assert vita_audio(run_card) == 0
    assert vita_audio([*push.replace("USER/NAME", "me/vita").split()[1:], "--dry_run"]) == 0
    data = huggingface_hub.ModelCard.load(tmp_path / "out" / "README.md").data
    assert (data.base_model, data.license) == ("VITA-MLLM/VITA-Audio-Boost", "mit")
    # Nothing of ours is published of what goes back
    back = ["--to_released", "--input_dir", str(tmp_path / "out"), "--output_dir", str(tmp_path / "back")]
    capsys.readouterr()
    assert main(back) == 0 and not capsys.readouterr().out
