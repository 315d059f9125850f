# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The computed memory of training against measured peaks, and what README says of it."""

import json

import pytest
import torch
from places import ROOT
from tiny_corpus import write_config

from benchmarks.training_memory import (
    CHECKED,
    GPUS,
    OTHER_BYTES,
    RESULTS,
    SHIPPED,
    LiveTensors,
    Shape,
    compute_memory,
    config_of,
    measure_peak,
    recipe_table,
    run,
    settings_of,
)


def test_live_tensors_are_those_that_were_not_freed():
    with LiveTensors(vocab_size=7) as tensors:
        kept = torch.zeros(10, 7)
        freed = torch.zeros(100, 4)
        view = kept[:5]
        assert (tensors.live, tensors.live_logits) == (280 + 1600, 280)
        del freed
        assert (tensors.live, tensors.peak) == (280, 1880)
        del kept
        # a view holds all of its storage
        assert tensors.live == 280
        del view
        assert (tensors.live, tensors.live_logits) == (0, 0)


@pytest.mark.slow
@pytest.mark.parametrize("shape", CHECKED, ids=lambda shape: shape.name)
def test_computed_peaks_are_those_measured(shape, tmp_path):
    computed = compute_memory(config_of(shape, str(SHIPPED)), *settings_of(shape, str(tmp_path)))
    assert computed.total == pytest.approx(measure_peak(shape, str(SHIPPED)), rel=0.1)
    assert min(computed.weights, computed.gradients, computed.optimizer, computed.logits) > 0


@pytest.mark.slow
def test_adapters_of_the_shipped_model_take_less_than_half():
    """Measured: stage 4 at the sizes of the shipped model, on rows as long as those that it was trained on."""
    rows = {"num_mctp_modules": 10, "max_length": 256, "per_device_train_batch_size": 1}
    rows |= {"gradient_checkpointing": True}
    peaks = [measure_peak(Shape("shipped", {}, rows | more), str(SHIPPED)) for more in ({}, {"use_peft": True})]
    assert peaks[1] < peaks[0] / 2


def test_the_results_are_those_of_the_runs_and_say_what_fits():
    results = json.loads(RESULTS.read_text())
    names = {f"lora_7b/{size}/stage{stage}.yaml" for size in ("24gb", "80gb") for stage in (1, 2, 3, 4)}
    assert {row["run"] for row in results["runs"]} == names | {"paper_7b/stage4.yaml"}
    for row in results["checked"]:
        assert row["computed"] == pytest.approx(row["measured"], rel=0.1)
    for row in results["runs"]:
        size = {"24gb": 24, "80gb": 80}.get(row["run"].split("/")[1])
        if size is not None:
            assert row["total"] + OTHER_BYTES < size * 1e9, row["run"]
    table = recipe_table(results)
    assert table.count("| 24 GB |") >= 4 and f"| {GPUS[-1]} GB |" not in table.splitlines()[2]
    assert all((ROOT / "training" / "configs" / name).is_file() for name in names)


def test_an_optimizer_that_is_not_known_is_named(tmp_path, capsys):
    path = write_config(tmp_path / "run.yaml", dataset_name="data", model_name_or_path="model", optim="lomo")
    with pytest.raises(ValueError, match="`optim` must be one of adamw_torch"):
        run([str(path)])
    with pytest.raises(SystemExit):
        run([])
    assert "give a YAML file" in capsys.readouterr().err
