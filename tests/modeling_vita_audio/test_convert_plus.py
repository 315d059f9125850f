# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""VITA-Audio-Plus checkpoints: from the released layout, back to it, and as one folder that answers."""

import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
import soundfile
import torch
from clean_process import BLOCK_OUR_PACKAGES
from plus_fixture import PLUS_FIXTURE, plus_expected, plus_features, plus_model, plus_tensors
from safetensors.torch import load_file, save_file
from tiny_models import tiny_codec, tiny_model, tiny_plus_processor
from transformers import AutoConfig

from modeling_vita_audio import VitaAudioForConditionalGeneration
from modeling_vita_audio.convert_vita_audio_to_hf import convert, main
from processing import VitaAudioFeatureExtractor
from serving.cli import main as vita_audio


SENSEVOICE_FILES = ("am.mvn", "config.yaml", "configuration.json", "chn_jpn_yue_eng_ko_spectok.bpe.model")


@pytest.fixture
def released(tmp_path):
    """A copy of the fixture that a test may damage."""
    shutil.copytree(PLUS_FIXTURE, tmp_path / "in", copy_function=shutil.copyfile)
    return tmp_path / "in"


def test_the_fixture_is_converted(tmp_path):
    convert(PLUS_FIXTURE, tmp_path / "ours")
    model = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "ours").eval()
    # a second mapping of the names, apart from the converter's
    expected = plus_model()
    state = model.state_dict()
    assert state.keys() == expected.state_dict().keys()
    assert all(state[name].equal(tensor) for name, tensor in expected.state_dict().items())
    # the fixture has no tokenizer, from which the converter would read these ids
    vocabulary = {"begin_audio_token_id": 509, "end_audio_token_id": 510, "context_audio_token_id": 511}
    for name, token_id in (vocabulary | {"audio_token_id": 520, "speech_token_offset": 521}).items():
        setattr(model.config, name, token_id)
    sequence = plus_expected()["generate"][-1]
    ids = torch.tensor([sequence["input_ids"]])
    options = {"attention_mask": torch.ones_like(ids), "max_new_tokens": len(sequence["tokens"])}
    output = model.generate(ids, mctp_mode=sequence["pattern"], **options, **plus_features(sequence["audios"]))
    assert output[0, ids.shape[1] :].tolist() == sequence["tokens"]
    assert model.config.interleave_pattern == [1, 10, 4, 10] and model.generation_config.mctp_mode == "boost"

    extractor = VitaAudioFeatureExtractor.from_pretrained(tmp_path / "ours")
    for name in ("short", "long"):
        features = extractor(plus_tensors()[f"wave.{name}"].numpy())["input_features"][0]
        np.testing.assert_allclose(features, plus_tensors()[f"features.{name}"], atol=1e-3)


@pytest.mark.parametrize("max_shard_size", ["2GB", "200KB"])
def test_there_and_back_is_bit_equal(tmp_path, max_shard_size):
    convert(PLUS_FIXTURE, tmp_path / "ours", max_shard_size=max_shard_size)
    convert(tmp_path / "ours", tmp_path / "back", to_released=True, max_shard_size=max_shard_size)
    back = {name: t for path in (tmp_path / "back").glob("*.safetensors") for name, t in load_file(path).items()}
    original = load_file(PLUS_FIXTURE / "model.safetensors")
    assert back.keys() == original.keys() and all(back[name].equal(tensor) for name, tensor in original.items())
    for name in SENSEVOICE_FILES:
        assert (tmp_path / "back" / name).read_bytes() == (PLUS_FIXTURE / name).read_bytes()
    config, expected = (
        json.loads((folder / "config.json").read_text()) for folder in (tmp_path / "back", PLUS_FIXTURE)
    )
    names = ("model_type", "architectures", "num_hidden_layers", "num_nextn_predict_layers", "vocab_size")
    assert {name: config[name] for name in names} == {name: expected[name] for name in names}


def test_features_of_another_folder(tmp_path, released, capsys):
    (tmp_path / "sensevoice").mkdir()
    for name in ("am.mvn", "config.yaml"):
        (released / name).rename(tmp_path / "sensevoice" / name)
    arguments = ["--input_dir", str(released), "--output_dir", str(tmp_path / "ours")]
    assert main(arguments) == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert "--sensevoice_dir, such as FunAudioLLM/SenseVoiceSmall" in line and not (tmp_path / "ours").exists()
    assert main([*arguments, "--sensevoice_dir", str(tmp_path / "sensevoice")]) == 0
    assert AutoConfig.from_pretrained(tmp_path / "ours").audio_config.num_attention_heads == 2


def shorten(path):
    path.write_bytes(path.read_bytes()[:-9000])


DAMAGES = {
    "constructors": (
        lambda folder: (folder / "config.yaml").write_text(
            "encoder_conf: !!python/object/apply:os.system ['touch x']"
        ),
        "config.yaml is no YAML of plain values",
    ),
    "a list": (lambda folder: (folder / "config.yaml").write_text("- 1"), "must have mappings"),
    "heads": (
        lambda folder: (folder / "config.yaml").write_text("encoder_conf: {attention_heads: many}"),
        "`attention_heads` must be a number",
    ),
    "heads without end": (
        lambda folder: (folder / "config.yaml").write_text("encoder_conf: {attention_heads: .inf}"),
        "config.yaml: `attention_heads` must be a number",
    ),
    "dropout": (
        lambda folder: (folder / "config.yaml").write_text("encoder_conf: {dropout_rate: 5}"),
        "config.yaml: `dropout_rate` must be a number from 0 to 1",
    ),
    "no rate": (
        lambda folder: (folder / "config.yaml").write_text("frontend_conf: {fs: 0}"),
        "config.yaml: `fs` must be a number that is whole and at least 1",
    ),
    "a value that is not of its tag": (
        lambda folder: (folder / "config.yaml").write_text("x: !!bool maybe"),
        "config.yaml is no YAML of plain values",
    ),
    "a date": (
        lambda folder: (folder / "config.yaml").write_text("x: 2026-99-99"),
        "config.yaml is no YAML of plain values",
    ),
    "cmvn of NaN": (
        lambda folder: (folder / "am.mvn").write_text(f"<AddShift> 1 1\n<LearnRateCoef> 0 [ {'nan ' * 560}]\n"),
        "finite numbers after <AddShift>",
    ),
    "window": (
        lambda folder: (folder / "config.yaml").write_text("frontend_conf: {window: povey}"),
        "only the window 'hamming'",
    ),
    "cmvn cut off": (lambda folder: shorten(folder / "am.mvn"), "<Rescale>, but has 0: it may be cut off"),
    "cmvn of words": (
        lambda folder: (folder / "am.mvn").write_text("<AddShift> 1 1\n<LearnRateCoef> 0 [ a b ]\n"),
        "must have 560 numbers",
    ),
    "no encoder": (
        lambda folder: save_file({"lm_head.weight": torch.ones(2, 2)}, folder / "model.safetensors"),
        "none of VITA-Audio-Plus",
    ),
    "a tensor less": (
        lambda folder: save_file(
            {
                name: tensor
                for name, tensor in load_file(PLUS_FIXTURE / "model.safetensors").items()
                if not name.endswith("tp_norm.bias")
            },
            folder / "model.safetensors",
        ),
        r"missing: model.audio_model.model.encoder.tp_norm.bias",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_damaged_checkpoints_are_named(tmp_path, released, damage):
    harm, message = DAMAGES[damage]
    harm(released)
    with pytest.raises(ValueError, match=message):
        convert(released, tmp_path / "ours")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["in"]


ANSWER = """
import sys
from transformers import pipeline

answer = pipeline("audio-to-audio", model=sys.argv[1], trust_remote_code=True)(sys.argv[2], max_new_tokens=24)
print("TEXT" + repr(answer["text"]))
"""


@pytest.mark.slow
def test_a_converted_model_and_a_codec_are_one_folder_that_answers(tmp_path, monkeypatch, capsys):
    processor = tiny_plus_processor()
    model = tiny_model(processor)
    model.save_pretrained(tmp_path / "trained")
    processor.tokenizer.save_pretrained(tmp_path / "trained")
    convert(tmp_path / "trained", tmp_path / "released", to_released=True, sensevoice_dir=PLUS_FIXTURE)
    convert(tmp_path / "released", tmp_path / "ours")
    tiny_codec().save_pretrained(tmp_path / "codec")
    monkeypatch.chdir(tmp_path)
    shutil.copytree("ours", "earless", ignore=shutil.ignore_patterns("preprocessor_config.json"))
    assert vita_audio(["export", "--model", "earless", "--codec", "codec", "never"]) == 1
    assert "Convert the released checkpoint again" in capsys.readouterr().err
    assert vita_audio(["export", "--model", "ours", "--codec", "codec", "whole"]) == 0
    soundfile.write("question.wav", 0.3 * np.sin(np.arange(16000) / 20), 16000)
    capsys.readouterr()
    assert vita_audio(["answer", "question.wav", "--model", "whole", "--max_new_tokens", "24", "--json"]) == 0
    text = json.loads(capsys.readouterr().out)["text"]
    environment = {**os.environ, "HF_MODULES_CACHE": str(tmp_path / "modules"), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONPATH", None)
    done = subprocess.run(
        [sys.executable, "-c", BLOCK_OUR_PACKAGES + ANSWER, "whole", "question.wav"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    assert f"TEXT{text!r}" in done.stdout
