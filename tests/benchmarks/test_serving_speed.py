# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest
from pictures import drawn_colors
from places import MINI

from benchmarks import serving_speed


@pytest.mark.slow
def test_serving_speed_talks_to_a_server_and_fills_the_readme(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(serving_speed, "QUESTIONS", serving_speed.QUESTIONS[:3])
    monkeypatch.setattr(serving_speed, "LONG_QUESTION_SECONDS", 2.0)
    readme = tmp_path / "README.md"
    readme.write_text("# x\n<!-- serving speed -->\n<!-- end of serving speed -->\n")
    arguments = ["--model", str(MINI), "--clients", "1", "3", "--rounds", "1", "--readme", str(readme)]
    assert serving_speed.main([*arguments, "--output_dir", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "serving_speed.json").read_text())
    for number, row in results["clients"].items():
        assert row["num_answers"] == row["num_same_answers"] == 3 * int(number)
        assert 0 < row["first_audio_seconds"] <= row["first_audio_seconds_p95"]
        assert row["tokens_per_second"] > 0 and row["real_time_factor"] > 0
    assert results["clients"]["1"]["ratio"] == 1
    assert len(results["turn_seconds"]) == 3 and min(*results["turn_seconds"], results["command_seconds"]) > 0
    assert capsys.readouterr().out.strip() in readme.read_text()
    assert drawn_colors(tmp_path / "serving_speed.png") >= 1


def test_the_table_has_a_row_for_each_number_of_clients():
    row = {
        "num_answers": 8,
        "first_audio_seconds": 0.05,
        "first_audio_seconds_p95": 0.1,
        "tokens_per_second": 200.0,
        "real_time_factor": 0.1,
        "ratio": 2.5,
        "num_same_answers": 7,
    }
    results = {"clients": {"4": row}, "question_seconds": 6.0, "turn_seconds": [0.05, 0.04], "command_seconds": 0.2}
    table = serving_speed.serving_table(results)
    assert "| 4 | 50 ms | 100 ms | 200 | 2.5 | 0.100 | 7 of 8 |" in table
    assert "A spoken turn of 6 s" in table and "50 ms, 40 ms in" in table and "takes 200 ms" in table


@pytest.mark.slow
def test_engines_are_compared(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(serving_speed, "QUESTIONS", serving_speed.QUESTIONS[:2])
    readme = tmp_path / "README.md"
    readme.write_text("# x\n<!-- engine speed -->\n<!-- end of engine speed -->\n")
    arguments = ["--model", str(MINI), "--engine", "transformers", "--clients", "1", "2", "--rounds", "1"]
    assert serving_speed.main([*arguments, "--readme", str(readme), "--output_dir", str(tmp_path)]) == 0
    results = json.loads((tmp_path / "engine_speed.json").read_text())
    assert results["engines"]["transformers"].keys() == results["servers"]["transformers"].keys() == {"1", "2"}
    for by_mode in results["engines"]["transformers"].values():
        # 110 tokens each, of which the first eleven are the first chunk
        assert by_mode.keys() == {"vanilla", "boost", "turbo"}
        for row in by_mode.values():
            assert 0 < row["first_chunk_seconds"] < 220 / row["tokens_per_second"]
    assert capsys.readouterr().out.strip() in readme.read_text()


def test_the_table_of_engines_has_ratios_to_vanilla():
    rows = {
        mode: {"tokens_per_second": speed, "first_chunk_seconds": seconds}
        for mode, speed, seconds in (("vanilla", 100.0, 0.2), ("turbo", 250.0, 0.05))
    }
    row = {
        "first_audio_seconds": 0.05,
        "first_audio_seconds_p95": 0.1,
        "tokens_per_second": 200.0,
        "num_same_answers": 7,
        "num_answers": 8,
    }
    table = serving_speed.comparison_table({"engines": {"vllm": {"4": rows}}, "servers": {"vllm": {"4": row}}})
    assert "| vllm | 4 | turbo | 250 | 2.50 | 50 ms | 0.25 |" in table
    assert "| vllm | 4 | 50 ms | 100 ms | 200 | 7 of 8 |" in table
