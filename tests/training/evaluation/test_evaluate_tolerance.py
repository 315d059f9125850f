# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import json

import pytest

from training.evaluation import evaluate_tolerance
from training.evaluation.report import TOLERANCE_TABLE


@pytest.mark.slow
def test_the_curve_lies_between_lossless_and_unverified(model_dir, corpus_dir, tiny_ctc_dir, tmp_path):
    (tmp_path / "results.json").write_text(json.dumps({"modes": {"boost": {"speed": {"tokens_per_second": 3}}}}))
    readme = tmp_path / "README.md"
    readme.write_text(f"<!-- {TOLERANCE_TABLE} -->\n<!-- end of {TOLERANCE_TABLE} -->\n")
    evaluate_tolerance.main(
        ["--model", str(model_dir), "--corpus_dir", str(corpus_dir), "--recognizer", str(tiny_ctc_dir)]
        + ["--mctp_mode", "boost", "--mctp_verify", "1", "0.5", "1,0", "0", "--limit", "3", "--max_new_tokens", "24"]
        + ["--output_dir", str(tmp_path), "--readme", str(readme)]
    )
    results = json.loads((tmp_path / "results.json").read_text())
    # what was measured before stays
    assert results["modes"]["boost"]["speed"] == {"tokens_per_second": 3}
    points = results["tolerance"]["points"]
    assert [point["mctp_verify"] for point in points] == [False, 1, 0.5, [1, 0], 0]
    vanilla, lossless, *_, unverified = points
    for name in ("tts", "sqa"):
        of_vanilla = {key: value for key, value in vanilla[name].items() if "tokens" not in key}
        assert of_vanilla == {key: value for key, value in lossless[name].items() if "tokens" not in key}
        # One token a forward by the model alone; random modules are seldom right, and all they write counts unverified
        assert vanilla[name]["tokens_per_forward"] == 1
        assert 1 <= lossless[name]["tokens_per_forward"] < unverified[name]["tokens_per_forward"]
    table = readme.read_text()
    assert len(table.strip().split("\n")) == 2 + 2 + len(points)
    assert (tmp_path / "results.png").exists()


@pytest.mark.parametrize("tolerance", ["2", "-0.1", "nan", "0.5,0.5,0.5,0.5", "half"])
def test_what_is_no_tolerance_is_refused(tolerance, tmp_path, capsys):
    with pytest.raises(SystemExit):
        evaluate_tolerance.main(["--model", "no", "--corpus_dir", "no", f"--mctp_verify={tolerance}"])
    assert "no number from 0 to 1" in capsys.readouterr().err
