# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json
import os
import pickle
import shutil
import subprocess
import sys

import pytest
import torch
from clean_process import BLOCK_OUR_PACKAGES
from full_disk import on_full_disk
from places import FIXTURES, ROOT
from safetensors.torch import load_file, save_file

from processing import Glm4VoiceCodec
from processing.convert_glm4_voice_to_hf import convert, main, read_yaml


FIXTURE = FIXTURES / "glm4_voice"


@pytest.fixture
def source(tmp_path):
    """A copy of the published layouts, to be damaged."""
    shutil.copytree(FIXTURE, tmp_path / "source")
    return tmp_path / "source"


@pytest.fixture
def output(tmp_path):
    (tmp_path / "out").mkdir()
    return tmp_path / "out" / "codec"


def refuse(source, output, message):
    with pytest.raises(ValueError, match=message) as caught:
        convert(source / "tokenizer", source / "decoder", output)
    assert list(output.parent.iterdir()) == []
    return str(caught.value)


def edit_json(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def edit_yaml(source, old, new):
    path = source / "decoder" / "config.yaml"
    content = path.read_text()
    assert old in content
    path.write_text(content.replace(old, new, 1))


@pytest.mark.slow
def test_command_writes_a_codec_that_loads_anywhere(output, tmp_path):
    command = [sys.executable, "-m", "processing.convert_glm4_voice_to_hf"]
    arguments = {"tokenizer_dir": FIXTURE / "tokenizer", "decoder_dir": FIXTURE / "decoder", "output_dir": output}
    for name, value in arguments.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout.strip() == str(output), done.stderr
    assert {path.name for path in output.iterdir()} == {
        "config.json",
        "model.safetensors",
        "bounds_vita_audio.py",
        "configuration_glm4_voice_codec.py",
        "configuration_glm4_voice_tokenizer.py",
        "modeling_glm4_voice_codec.py",
        "modeling_glm4_voice_flow.py",
        "modeling_glm4_voice_speech_encoder.py",
        "modeling_glm4_voice_tokenizer.py",
        "modeling_glm4_voice_vocoder.py",
        "compatibility_vita_audio.py",
        "saving_vita_audio.py",
    }
    load = """
from transformers import AutoModel
codec = AutoModel.from_pretrained(sys.argv[1], trust_remote_code=True)
assert type(codec).__module__.startswith("transformers_modules."), type(codec)
print(codec.config.codebook_size, codec.config.flow_config.guidance_scale, codec.vocoder.context)
"""
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    command = [sys.executable, "-c", BLOCK_OUR_PACKAGES + load, str(output)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0 and done.stdout.split() == ["128", "0.7", "14"], done.stderr[-3000:]


@pytest.mark.slow
def test_what_is_said_of_sizes_is_read(output):
    convert(FIXTURE / "tokenizer", FIXTURE / "decoder", output)
    config = Glm4VoiceCodec.from_pretrained(output).config
    assert config.tokenizer_config.encoder_layers == 2 and config.tokenizer_config.attention_block_size == 200
    assert config.flow_config.unet_hidden_sizes == [64, 64] and config.flow_config.attention_block_size == 10
    assert config.vocoder_config.source_noise_std == 0.003 and config.vocoder_config.f0_channels == 64
    assert config.dtype == torch.float32


def test_weight_norm_is_fused(output):
    convert(FIXTURE / "tokenizer", FIXTURE / "decoder", output)
    published = torch.load(FIXTURE / "decoder" / "hift.pt", weights_only=True)
    conv = torch.nn.utils.parametrizations.weight_norm(torch.nn.Conv1d(80, 64, 7))
    conv.parametrizations.weight.original0.data = published["conv_pre.weight_g"]
    conv.parametrizations.weight.original1.data = published["conv_pre.weight_v"]
    converted = load_file(output / "model.safetensors")["vocoder.conv_pre.weight"]
    torch.testing.assert_close(converted, conv.weight.data)


def test_weights_in_several_files_and_other_types(source, output):
    path = source / "tokenizer" / "model.safetensors"
    tensors = load_file(path)
    path.unlink()
    names = sorted(tensors)
    for index, part in enumerate((names[:20], names[20:])):
        save_file({name: tensors[name].half() for name in part}, path.with_name(f"model-0000{index + 1}.safetensors"))
    convert(source / "tokenizer", source / "decoder", output)
    converted = load_file(output / "model.safetensors")
    assert converted["tokenizer.codebook.weight"].equal(tensors["codebook.weight"].half().float())


# Nothing is run


HOSTILE_YAML = [
    "__set_seed1: !!python/object/apply:os.system ['touch {mark}']",
    "x: !!python/object/new:os.system ['touch {mark}']",
    "x: !!python/name:os.system",
    "x: !!python/module:subprocess",
    "x: !new:subprocess.Popen [['touch', '{mark}']]",
    "x: !new:subprocess.Popen {{args: [touch, '{mark}']}}",
    "x: !apply:os.system ['touch {mark}']",
    "x: !name:os.system",
    "x: !new:cosyvoice_evil.run",
    "x: !module:os",
    "x: !include:/etc/passwd",
    "!new:subprocess.Popen [['touch', '{mark}']]: 1",
]


@pytest.mark.parametrize("line", HOSTILE_YAML)
def test_hostile_yaml_does_nothing_but_raise(source, output, tmp_path, line):
    path = source / "decoder" / "config.yaml"
    path.write_text(path.read_text() + "\n" + line.format(mark=tmp_path / "mark") + "\n")
    refuse(source, output, "config.yaml is not valid YAML, or has more than data")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize(
    "tag", ["!!python/object/apply:os.system", "!new:subprocess.Popen", "!new:cosyvoice.other.Flow"]
)
def test_hostile_class_in_the_place_of_a_known_one(source, output, tag):
    edit_yaml(source, "!new:cosyvoice.flow.flow.MaskedDiffWithXvec", tag)
    refuse(
        source, output, "has more than data|flow.! must be 'cosyvoice.flow.flow.MaskedDiffWithXvec', got 'cosyvoice"
    )


def test_hostile_yaml_of_endless_references(source, output):
    lines = ["a0: &a0 [x, x]"] + [f"a{i}: &a{i} [*a{i - 1}, *a{i - 1}]" for i in range(1, 60)]
    path = source / "decoder" / "config.yaml"
    content = (
        path.read_text().replace("channels: [64, 64]", "channels: *a59").replace("act_fn: 'gelu'", "act_fn: *a59")
    )
    path.write_text("\n".join(lines) + "\n" + content)
    message = refuse(source, output, "act_fn must be 'gelu'.*channels must be a value or a list")
    assert len(message) < 1000


class Hostile:
    def __init__(self, command):
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow.pt", "hift.pt"])
@pytest.mark.parametrize("is_zip", [True, False])
def test_hostile_pickle_does_nothing_but_raise(source, output, tmp_path, name, is_zip):
    path = source / "decoder" / name
    tensors = torch.load(path, weights_only=True)
    content = {**tensors, "hostile": Hostile(f"touch {tmp_path / 'mark'}")}
    torch.save(content, path, _use_new_zipfile_serialization=is_zip)
    refuse(source, output, f"{name} is broken, or holds more than tensors, which is refused: .*")
    path.write_bytes(pickle.dumps(content["hostile"]))
    refuse(source, output, f"{name} is broken, or holds more than tensors, which is refused: .*")
    assert not (tmp_path / "mark").exists()


@pytest.mark.parametrize("content", [[1, 2], {"a": 3}, {3: torch.zeros(1)}, torch.zeros(2)])
def test_pickle_of_something_else(source, output, content):
    torch.save(content, source / "decoder" / "flow.pt")
    refuse(source, output, "flow.pt must hold tensors by their names")


def test_tags_are_names(tmp_path):
    path = tmp_path / "config.yaml"
    path.write_text(
        """
rate: 22050
seed: !apply:random.seed [1986]
net: !new:cosyvoice.a.B
    rate: !ref <rate>
    inner: !new:omegaconf.DictConfig
        content: {x: 1}
loader: !name:whisper.tokenizer.get_tokenizer
pipeline: [!ref <loader>, !name:cosyvoice.c , 5]
"""
    )
    assert read_yaml(path) == {
        "rate": 22050,
        "seed": {"!": "random.seed", "arguments": [1986]},
        "net": {
            "!": "cosyvoice.a.B",
            "rate": {"!ref": "<rate>"},
            "inner": {"!": "omegaconf.DictConfig", "content": {"x": 1}},
        },
        "loader": {"!": "whisper.tokenizer.get_tokenizer"},
        "pipeline": [{"!ref": "<loader>"}, {"!": "cosyvoice.c"}, 5],
    }


@pytest.mark.slow
def test_references_to_values_are_followed(source, output):
    edit_yaml(source, "spk_embed_dim: 192\n    output_type", "spk_embed_dim: !ref <spk_embed_dim>\n    output_type")
    edit_yaml(source, "sampling_rate: 22050", "sampling_rate: !ref <sample_rate>")
    config = Glm4VoiceCodec.from_pretrained(convert(source / "tokenizer", source / "decoder", output)).config
    assert config.flow_config.speaker_embedding_size == 192 and config.output_sampling_rate == 22050


# What does not fit


@pytest.mark.slow
def test_all_that_is_wrong_with_the_tensors_is_in_one_error(source, output):
    path = source / "tokenizer" / "model.safetensors"
    tensors = load_file(path)
    tensors["conv1.weight"] = torch.zeros(64, 80, 3)
    del tensors["codebook.weight"]
    save_file(tensors, path)
    path = source / "decoder" / "flow.pt"
    tensors = torch.load(path, weights_only=True)
    del tensors["decoder.estimator.up_blocks.1.2.bias"], tensors["encoder.encoders.1.norm_ff.bias"]
    tensors["extra.weight"] = torch.zeros(1)
    torch.save(tensors, path)
    path = source / "decoder" / "hift.pt"
    tensors = torch.load(path, weights_only=True)
    del tensors["ups.1.weight_g"]
    tensors["resblocks.5.convs2.2.bias"] = torch.zeros(3)
    torch.save(tensors, path)
    assert refuse(source, output, "do not fit the configuration") == (
        "The weights do not fit the configuration. In the tokenizer's weights missing: codebook.weight; misshaped: "
        "conv1.weight (64, 80, 3) instead of (64, 128, 3). In the flow's weights missing: "
        "decoder.estimator.up_blocks.1.2.bias, encoder.encoders.1.norm_ff.bias; unexpected: extra.weight. In the "
        "vocoder's weights missing: ups.1.weight; unexpected: ups.1.weight_v; misshaped: resblocks.5.convs2.2.bias "
        "(3,) instead of (16,)."
    )


@pytest.mark.slow
def test_layers_behind_the_codebook_are_left_out(source, output):
    path = source / "tokenizer" / "model.safetensors"
    tensors = load_file(path)
    save_file({**tensors, "layers.2.fc1.bias": torch.zeros(128), "layer_norm.bias": torch.zeros(64)}, path)
    convert(source / "tokenizer", source / "decoder", output)
    shutil.rmtree(output)
    edit_json(source / "tokenizer" / "config.json", quantize_position=1, pooling_position=1)
    convert(source / "tokenizer", source / "decoder", output)
    assert Glm4VoiceCodec.from_pretrained(output).config.tokenizer_config.encoder_layers == 1


@pytest.mark.slow
@pytest.mark.parametrize("name", ["flow.pt", "hift.pt"])
@pytest.mark.parametrize("keep", [0, 1, 1000, 0.5, 0.999])
def test_truncated_pickle(source, output, name, keep):
    path = source / "decoder" / name
    content = path.read_bytes()
    path.write_bytes(content[: int(keep * len(content)) if isinstance(keep, float) else keep])
    refuse(source, output, f"{name} is broken")


def test_damaged_archive(source, output):
    path = source / "decoder" / "flow.pt"
    content = bytearray(path.read_bytes())
    content[100:3000] = bytes(2900)
    path.write_bytes(content)
    refuse(source, output, "flow.pt is broken")


def test_truncated_pickle_of_the_old_format(source, output):
    path = source / "decoder" / "hift.pt"
    torch.save(torch.load(path, weights_only=True), path, _use_new_zipfile_serialization=False)
    convert(source / "tokenizer", source / "decoder", output)
    shutil.rmtree(output)
    path.write_bytes(path.read_bytes()[:-1000])
    refuse(source, output, "hift.pt is broken")


@pytest.mark.parametrize(
    "damage, message",
    [
        (lambda source: (source / "decoder/flow.pt").unlink(), "decoder has no flow.pt"),
        (lambda source: (source / "decoder/config.yaml").unlink(), "decoder has no config.yaml"),
        (lambda source: (source / "tokenizer/config.json").unlink(), "tokenizer has no config.json"),
        (lambda source: (source / "tokenizer/preprocessor_config.json").unlink(), "no preprocessor_config.json"),
        (lambda source: (source / "tokenizer/model.safetensors").unlink(), "tokenizer has no safetensors file"),
        (lambda source: (source / "tokenizer/model.safetensors").write_bytes(b"x" * 90), "broken or not complete"),
        (lambda source: (source / "tokenizer/config.json").write_text("{"), "not valid JSON"),
        (lambda source: (source / "decoder/config.yaml").write_text("a: ["), "config.yaml is not valid"),
        (lambda source: (source / "decoder/config.yaml").write_text("[1]"), "must be a mapping, got list"),
        (lambda source: (source / "decoder/config.yaml").write_bytes(b"\xff\xfe\x00"), "not a text file"),
        (lambda source: edit_yaml(source, "    vocab_size: 128\n", ""), "does not say flow.vocab_size"),
        (
            lambda source: edit_yaml(source, "use_cnn_module: False", "use_cnn_module: True"),
            "use_cnn_module must be False",
        ),
        (
            lambda source: edit_yaml(source, "solver: 'euler'", "solver: 'midpoint'"),
            "solver must be 'euler', got 'midpoint'",
        ),
        (lambda source: edit_yaml(source, "attention_heads: 4", "attention_heads: four"), "num_attention_heads"),
        (lambda source: edit_yaml(source, "channels: [64, 64]", "channels: [[[1]]]"), "must be a value or a list"),
        (
            lambda source: edit_yaml(source, "vocab_size: 128", "vocab_size: 5"),
            "128 codes, but the flow decoder only 5",
        ),
        (lambda source: edit_json(source / "tokenizer/config.json", pooling_type="max"), "pooling_type must be 'avg'"),
        (lambda source: edit_json(source / "tokenizer/config.json", pooling_position=1), "must be quantize_position"),
        (lambda source: edit_json(source / "tokenizer/config.json", d_model=None), "does not say d_model"),
        (
            lambda source: edit_json(source / "tokenizer/preprocessor_config.json", feature_size=80),
            "feature_size must be 128, got 80",
        ),
        (
            lambda source: edit_json(source / "tokenizer/preprocessor_config.json", sampling_rate=24000),
            "sampling_rate must be 16000, got 24000",
        ),
        (lambda source: edit_yaml(source, "in_channels: 80\n    base", "in_channels: 100\n    base"), "reads 100"),
    ],
)
def test_refuses_by_name(source, output, damage, message):
    damage(source)
    refuse(source, output, message)


def test_folder_that_is_not_empty_is_left_alone(tmp_path, capsys):
    (tmp_path / "notes.txt").write_text("mine")
    arguments = ["--tokenizer_dir", "a", "--decoder_dir", "b", "--output_dir", str(tmp_path)]
    assert main(arguments) == 1
    assert "is not an empty folder" in capsys.readouterr().err
    assert [path.name for path in tmp_path.iterdir()] == ["notes.txt"]


def test_folder_that_is_not_there(output):
    with pytest.raises(OSError, match="'no/such folder' is no folder, and no Hub repository"):
        convert("no/such folder", FIXTURE / "decoder", output)


@pytest.mark.slow
def test_full_disk_leaves_nothing_behind(output):
    with pytest.raises(OSError, match="File too large"):
        on_full_disk(60000, convert, FIXTURE / "tokenizer", FIXTURE / "decoder", output)
    assert list(output.parent.iterdir()) == []
