# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What somebody adds in one file of their own, without a change of ours."""

import importlib.util
import os
import subprocess
import sys

import numpy as np
import pytest
from tiny_corpus import write_corpus
from tiny_models import tiny_model, tiny_tokenizer

from processing import VitaAudioPipeline, VitaAudioProcessor
from training.conversations import load_conversations
from training.data import build_training_dataset


CODEC = '''
from dataclasses import dataclass

import torch
from transformers import AutoConfig, AutoModel, PreTrainedConfig, PreTrainedModel
from transformers.utils import ModelOutput


class LoudnessCodecConfig(PreTrainedConfig):
    model_type = "loudness_codec"
    sampling_rate: int = 8000
    output_sampling_rate: int = 12000
    codebook_size: int = 16


@dataclass
class LoudnessCodecOutput(ModelOutput):
    audio_codes: torch.LongTensor | None = None
    audio_values: torch.FloatTensor | None = None
    decoder_state: dict | None = None


class LoudnessCodec(PreTrainedModel):
    """A code for the loudness of 80 ms, which it speaks as a tone that goes on in phase."""

    config_class = LoudnessCodecConfig

    def __init__(self, config):
        super().__init__(config)
        self.levels = torch.nn.Parameter(torch.linspace(0, 1, config.codebook_size))
        self.post_init()

    def encode(self, input_values):
        frames = torch.nn.functional.pad(input_values, (0, -input_values.shape[-1] % 640)).unflatten(-1, (-1, 640))
        loudness = frames.square().mean(-1, keepdim=True).sqrt()
        return LoudnessCodecOutput(audio_codes=(loudness - self.levels).abs().argmin(-1))

    def init_decoder_state(self, batch_size):
        return {"num_samples": 0}

    def decode(self, audio_codes, decoder_state=None, is_final=True):
        state = decoder_state or self.init_decoder_state(len(audio_codes))
        times = state["num_samples"] + torch.arange(960 * audio_codes.shape[-1])
        state["num_samples"] += len(times)
        audio = self.levels[audio_codes].repeat_interleave(960, dim=-1) * (times / 5).sin()
        return LoudnessCodecOutput(audio_values=audio, decoder_state=None if is_final else state)


AutoConfig.register("loudness_codec", LoudnessCodecConfig)
AutoModel.register(LoudnessCodecConfig, LoudnessCodec)
LoudnessCodecConfig.register_for_auto_class()
LoudnessCodec.register_for_auto_class("AutoModel")
'''

ANSWER_ELSEWHERE = """
import sys
import numpy as np
from transformers import pipeline

pipe = pipeline("audio-to-audio", model=sys.argv[1], trust_remote_code=True, device="cpu")
np.save(sys.argv[2], pipe(np.load(sys.argv[3]))["audio"])
"""


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    """The codec of a file that was imported as any other."""
    path = tmp_path_factory.mktemp("codec") / "loudness_codec.py"
    path.write_text(CODEC, encoding="utf-8")
    spec = importlib.util.spec_from_file_location("loudness_codec", path)
    module = sys.modules["loudness_codec"] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.LoudnessCodec(module.LoudnessCodecConfig()).eval()


def test_what_is_no_codec_is_named(codec, monkeypatch):
    processor = VitaAudioProcessor.from_codec(tiny_tokenizer(), codec)
    with pytest.raises(TypeError, match="`codec` must be a speech codec, got a VitaAudio.* without encode, decode"):
        VitaAudioProcessor.from_codec(tiny_tokenizer(), tiny_model(processor))
    # more than one codebook is found where it encodes
    encode = codec.encode
    monkeypatch.setattr(
        codec, "encode", lambda values: type(encode(values))(encode(values).audio_codes.repeat(1, 2, 1))
    )
    with pytest.raises(ValueError, match=r"one codebook.* those of LoudnessCodec are \(1, 2, 7\)"):
        processor.encode_audio([np.ones(4000, dtype=np.float32)])


@pytest.mark.slow
def test_a_new_codec(codec, tmp_path):
    processor = VitaAudioProcessor.from_codec(tiny_tokenizer(), codec)
    # half a second that becomes louder; a code is the loudness of 80 ms in fifteenths
    question = (np.linspace(0, 0.9, 4000) * np.sign(np.sin(np.arange(4000)))).astype(np.float32)
    (codes,) = processor.encode_audio([question])
    assert codes == [1, 3, 5, 8, 10, 12, 7]
    (ids,) = processor([f"{processor.audio_token}"], question)["input_ids"].tolist()
    assert ids == processor.speech_vocabulary.wrap(codes)

    (heard,) = processor.post_process_generation([ids])
    (audio,) = processor.decode_audio([heard["audio_codes"]])
    assert processor.output_sampling_rate == 12000 and audio.shape == (7 * 960,)
    np.testing.assert_allclose(audio[::960], [c / 15 * np.sin(192 * i) for i, c in enumerate(codes)], atol=1e-4)

    conversations = load_conversations(write_corpus(tmp_path / "corpus", 4), "train", ["sqa"], tmp_path)
    for row, example in zip(conversations, build_training_dataset(conversations, processor, tmp_path)):
        assert example == processor.build_training_example(row["messages"], processor.encode_audio(row["audios"]))

    model = tiny_model(processor)
    pipe = VitaAudioPipeline(model, processor=processor, device="cpu")
    # a random model would stop before it has spoken much
    model.generation_config.update(min_new_tokens=80, max_new_tokens=80)
    answer = pipe(question)
    assert len(answer["audio"]) > 10 * 960
    chunks = [chunk["audio"] for chunk in pipe.stream(question, codes_per_chunk=3) if "audio" in chunk]
    assert len(chunks) > 3
    np.testing.assert_array_equal(np.concatenate(chunks), answer["audio"])

    pipe.save_pretrained(tmp_path / "saved")
    loaded = VitaAudioPipeline(model, processor=VitaAudioProcessor.from_pretrained(tmp_path / "saved"), device="cpu")
    assert type(loaded.processor.audio_tokenizer) is type(codec)
    np.testing.assert_array_equal(loaded(question)["audio"], answer["audio"])
    # somebody who has neither the file nor our packages, but the folder
    np.save(tmp_path / "question.npy", question)
    places = [tmp_path / name for name in ("saved", "answer.npy", "question.npy")]
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, "-P", "-c", ANSWER_ELSEWHERE, *map(str, places)],
        cwd=tmp_path,
        env=environment | {"HF_MODULES_CACHE": str(tmp_path / "modules"), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    np.testing.assert_array_equal(np.load(tmp_path / "answer.npy"), answer["audio"])
