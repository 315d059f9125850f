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
