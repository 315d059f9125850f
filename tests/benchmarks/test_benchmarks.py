# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from modeling_fixtures import random_config, random_model
from places import FIXTURES

from benchmarks import codec_speed, decode_speed
from modeling_vita_audio import MCTP_MODES
from processing.convert_glm4_voice_to_hf import convert


@pytest.mark.slow
def test_decode_speed_measures_every_mode_and_fills_the_readme(tmp_path, capsys):
    random_config().save_pretrained(tmp_path / "shape")
    readme = tmp_path / "README.md"
    readme.write_text("# x\n<!-- decode speed -->\n<!-- end of decode speed -->\n")
    arguments = ["--shape", str(tmp_path / "shape"), "--device", "cpu", "--dtype", "float32", "--rounds", "1"]
    arguments += ["--num_new_tokens", "26", "--output_dir", str(tmp_path / "out"), "--readme", str(readme)]
    decode_speed.main(arguments)
    results = json.loads((tmp_path / "out" / "decode_speed.json").read_text())
    rows = results["rows"]
    for mode in MCTP_MODES:
        assert rows[mode]["floor_tokens_per_second"] > rows[mode]["tokens_per_second"] > 0
        assert 0 < rows[mode]["first_chunk_seconds"] < 26 / rows[mode]["tokens_per_second"]
        assert rows[mode]["peak_memory_bytes"] > 2**20
    assert rows["vanilla"]["ratio"] == 1
    assert rows["turbo, lossless, all drafts right"]["accepted_drafts"] == 1
    assert rows["boost, lossless, no draft right"]["accepted_drafts"] < 0.5
    table = readme.read_text()
    assert f"| turbo | {rows['turbo']['tokens_per_second']:.1f} | {rows['turbo']['ratio']:.2f} |" in table
    assert table.strip().split("\n")[2:-1] == capsys.readouterr().out.strip().split("\n")
    assert (tmp_path / "out" / "decode_speed.png").stat().st_size > 10000


def test_floor_reads_each_weight_once_for_each_forward():
    model = random_model(10)
    config = model.config.text_config
    head = config.vocab_size * config.hidden_size
    layer = sum(p.numel() for p in model.model.language_model.layers[0].parameters())
    module = layer + 2 * config.hidden_size * (config.hidden_size + 1)
    language_model = 2 * layer + config.hidden_size + head
    # at one byte per second, in float32
    expected = 11 / (4 * (language_model + 10 * (module + head)))
    assert decode_speed.floor_of(model, "turbo", False, 1) == pytest.approx(expected)
    expected = 14 / (4 * (4 * language_model + 10 * (module + head * 20 / 120)))
    assert decode_speed.floor_of(model, "boost", True, 1) == pytest.approx(expected)
    assert decode_speed.floor_of(model, "vanilla", False, 1) == pytest.approx(1 / (4 * language_model))


@pytest.mark.slow
def test_codec_speed_measures_both_codecs(tmp_path):
    fixture = FIXTURES / "glm4_voice"
    convert(fixture / "tokenizer", fixture / "decoder", tmp_path / "codec")
    arguments = ["--glm4_voice", str(tmp_path / "codec"), "--seconds", "2", "--rounds", "1", "--device", "cpu"]
    codec_speed.main([*arguments, "--output_dir", str(tmp_path)])
    results = json.loads((tmp_path / "codec_speed.json").read_text())
    assert list(results["codecs"]) == ["compact", "GLM-4-Voice"]
    for row in results["codecs"].values():
        assert 0 < row["first_audio_seconds"] < 2 * row["streaming_real_time_factor"]
        assert row["encode_real_time_factor"] > 0 and row["decode_real_time_factor"] > 0
    assert (tmp_path / "codec_speed.png").stat().st_size > 10000
