# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The released checkpoints without a conversion: the model is that of the converter, and is saved as ours."""

import json
import shutil

import pytest
import torch
from modeling_fixtures import RELEASED_FIXTURE, random_model
from plus_fixture import PLUS_FIXTURE
from safetensors.torch import load_file, save_file

from modeling_vita_audio import VitaAudioForConditionalGeneration
from modeling_vita_audio.convert_vita_audio_to_hf import convert


FIXTURES = {"codes": RELEASED_FIXTURE, "features": PLUS_FIXTURE}


@pytest.mark.slow
@pytest.mark.parametrize("hearing", FIXTURES)
def test_a_released_checkpoint_is_loaded_as_it_is(tmp_path, hearing):
    direct = VitaAudioForConditionalGeneration.from_pretrained(FIXTURES[hearing])
    convert(FIXTURES[hearing], tmp_path / "ours")
    converted = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "ours")
    assert_same(direct, converted)
    # saved and loaded again it is a folder of ours
    direct.save_pretrained(tmp_path / "saved")
    assert load_file(tmp_path / "saved" / "model.safetensors").keys() == converted.state_dict().keys()
    assert_same(VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "saved"), converted)


def assert_same(model, other):
    state = model.state_dict()
    assert state.keys() == other.state_dict().keys()
    assert all(state[name].equal(tensor) for name, tensor in other.state_dict().items())
    for key in ("text_config", "audio_config", "num_mctp_modules", "interleave_pattern", "speech_token_offset"):
        values = [getattr(one.config, key) for one in (model, other)]
        values = [value.to_dict() if hasattr(value, "to_dict") else value for value in values]
        for value in values:
            if isinstance(value, dict):
                for noise in ("dtype", "_name_or_path", "architectures", "transformers_version"):
                    value.pop(noise, None)
        assert values[0] == values[1], key
    configs = [one.generation_config.to_dict() for one in (model, other)]
    for config in configs:
        config.pop("_from_model_config", None)
    assert configs[0] == configs[1]
    prompt = torch.arange(1, 12)[None]
    sequences = [one.eval().generate(prompt, max_new_tokens=12) for one in (model, other)]
    assert sequences[0].tolist() == sequences[1].tolist()


@pytest.mark.slow
@pytest.mark.parametrize("hearing", FIXTURES)
def test_a_checkpoint_in_a_subfolder(tmp_path, hearing):
    shutil.copytree(FIXTURES[hearing], tmp_path / "inner")
    direct = VitaAudioForConditionalGeneration.from_pretrained(tmp_path, subfolder="inner")
    assert_same(direct, VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "inner"))


@pytest.mark.parametrize("num_mctp_modules", [0, 1])
def test_other_numbers_of_modules(tmp_path, num_mctp_modules):
    random_model(num_mctp_modules).save_pretrained(tmp_path / "ours")
    convert(tmp_path / "ours", tmp_path / "released", to_released=True, max_shard_size="40KB")
    assert (tmp_path / "released" / "model.safetensors.index.json").is_file()
    direct = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "released")
    state = direct.state_dict()
    expected = random_model(num_mctp_modules).state_dict()
    assert state.keys() == expected.keys() and all(state[name].equal(tensor) for name, tensor in expected.items())


@pytest.mark.parametrize("hearing", FIXTURES)
def test_tensors_that_do_not_fit_are_named(tmp_path, hearing):
    shutil.copytree(FIXTURES[hearing], tmp_path / "in", copy_function=shutil.copyfile)
    tensors = load_file(tmp_path / "in" / "model.safetensors")
    save_file(
        {("more" if name == "mtp_projs.0.weight" else name): tensor for name, tensor in tensors.items()},
        tmp_path / "in" / "model.safetensors",
    )
    with pytest.raises(ValueError, match=r"missing: model.mctp_modules.0.proj.weight; unexpected: more"):
        VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "in")
    config = json.loads((tmp_path / "in" / "config.json").read_text())
    (tmp_path / "in" / "config.json").write_text(
        json.dumps(config | {"use_sliding_window": True, "sliding_window": 8})
    )
    with pytest.raises(ValueError, match="use_sliding_window"):
        VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "in")
