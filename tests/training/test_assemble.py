# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json
import shutil

import numpy as np
import pytest
import soundfile as sf
import torch
from tiny_models import tiny_model, tiny_processor
from transformers import AutoModel, AutoProcessor

from training.assemble import assemble


@pytest.fixture
def stage(tmp_path):
    processor = tiny_processor()
    model = tiny_model(processor)
    model.save_pretrained(tmp_path / "stage")
    processor.save_pretrained(tmp_path / "stage")
    sf.write(tmp_path / "question.wav", 0.1 * np.sin(np.arange(16000) / 10), 16000)
    return tmp_path


@pytest.mark.slow
def test_assembled_folder_is_small_and_without_the_code_that_has_its_source_here(stage):
    output = stage / "mini"
    output.mkdir()
    (output / "stale.txt").write_text("of the checkpoint before")
    assemble(stage / "stage", stage / "question.wav", output, mctp_verify=[0.5, 0.0])
    assert not (output / "stale.txt").exists()
    assert (output / "sample_question.wav").read_bytes() == (stage / "question.wav").read_bytes()
    assert not list(output.glob("*.py"))
    half, whole = (folder / "model.safetensors" for folder in (output, stage / "stage"))
    assert half.stat().st_size < 0.6 * whole.stat().st_size
    model = AutoModel.from_pretrained(output)
    assert model.dtype == torch.float32
    assert model.generation_config.mctp_verify == [0.5, 0.0]
    for name, tensor in AutoModel.from_pretrained(stage / "stage").state_dict().items():
        assert model.state_dict()[name].equal(tensor.half().float())
    assert AutoProcessor.from_pretrained(output).audio_tokenizer.dtype == torch.float32
    assert json.loads((output / "config.json").read_text())["auto_map"]


def test_a_stage_without_a_codec_is_refused_and_nothing_is_lost(stage):
    processor = AutoProcessor.from_pretrained(stage / "stage")
    processor.audio_tokenizer = None
    shutil.rmtree(stage / "stage" / "audio_tokenizer")
    processor.save_pretrained(stage / "stage")
    output = stage / "mini"
    output.mkdir()
    (output / "kept.txt").write_text("kept")
    with pytest.raises(ValueError, match="has no speech codec"):
        assemble(stage / "stage", stage / "question.wav", output)
    assert (output / "kept.txt").read_text() == "kept"
    assert sorted(path.name for path in stage.iterdir()) == ["mini", "question.wav", "stage"]
