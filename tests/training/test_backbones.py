# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
A new backbone is one YAML: the settings of stage 1 with another `text_config`. Nothing of the code names its type.
"""

import pytest
import yaml
from places import ROOT
from tiny_corpus import TINY_TEXT_CONFIG, write_config, write_corpus
from tiny_models import tiny_codec
from transformers import pipeline

from training.train import main


PATTERN = [2, 3]


@pytest.mark.slow
@pytest.mark.parametrize("backbone", ["llama", "qwen3"])
def test_a_new_backbone_is_one_yaml(tmp_path, backbone):
    write_corpus(tmp_path / "corpus", num_clips=8)
    tiny_codec().save_pretrained(tmp_path / "codec")
    published = yaml.safe_load((ROOT / "training/configs/mini/stage1.yaml").read_text())
    # of the published settings all but the places, the sizes and the duration
    settings = published | {
        "dataset_name": str(tmp_path / "corpus"),
        "codec_name_or_path": str(tmp_path / "codec"),
        "code_cache_dir": str(tmp_path / "codes"),
        "output_dir": str(tmp_path / "stage1"),
        "text_config": TINY_TEXT_CONFIG | {"model_type": backbone},
        "text_vocab_size": 320,
        "max_steps": 2,
    }
    main(["--config", str(write_config(tmp_path / f"{backbone}.yaml", **settings))])
    write_config(
        tmp_path / "stage4.yaml",
        stage=4,
        dataset_name=settings["dataset_name"],
        model_name_or_path=settings["output_dir"],
        output_dir=str(tmp_path / "stage4"),
        num_mctp_modules=3,
        interleave_pattern=PATTERN,
        max_steps=2,
    )
    main(["--config", str(tmp_path / "stage4.yaml")])

    pipe = pipeline("audio-to-audio", model=str(tmp_path / "stage4"), trust_remote_code=True)
    config = pipe.model.config
    assert config.text_config.model_type == backbone and config.num_mctp_modules == 3
    assert backbone in type(pipe.model.model.mctp_modules[0].layer).__name__.lower()
    inputs = pipe.processor.apply_chat_template(
        [{"role": "user", "content": "red dog"}], tokenize=True, return_dict=True, add_generation_prompt=True
    )
    lossless = pipe.model.generate(**inputs, mctp_mode=PATTERN, mctp_verify=True, max_new_tokens=12, min_new_tokens=12)
    vanilla = pipe.model.generate(**inputs, mctp_mode="vanilla", max_new_tokens=12, min_new_tokens=12)
    assert lossless.tolist() == vanilla.tolist()
    assert pipe({"role": "user", "content": "red dog"}, generate_kwargs={"max_new_tokens": 8})["text"] is not None
