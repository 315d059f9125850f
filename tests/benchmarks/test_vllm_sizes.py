# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import pytest
from modeling_fixtures import random_config, random_model

from benchmarks.vllm_sizes import sizes_of, sizes_table


def test_one_gpu_has_all():
    model = random_model(4)
    sizes = sizes_of(model.config, 1)
    assert sizes.weights == 2 * sum(parameter.numel() for parameter in model.parameters())
    # keys and values of 2 + 4 layers with 2 heads of 8
    assert sizes.keys_and_values_per_token == 2 * 2 * 6 * 2 * 8
    # a GPU that vLLM may take 0.9 of, and 2 GiB for other things
    memory = (sizes.weights + 2 * 2**30 + 1000 * sizes.keys_and_values_per_token) / 0.9
    assert sizes.num_tokens(memory + 1) == 1000
    assert sizes.num_tokens(memory / 100) == 0


def test_gpus_share_all_but_norms_and_projections():
    config = random_config(4)
    one, two, four = (sizes_of(config, number) for number in (1, 2, 4))
    assert one.weights / 2 < two.weights < one.weights
    assert two.keys_and_values_per_token * 2 == one.keys_and_values_per_token
    # there are two heads, and each GPU has one
    assert four.keys_and_values_per_token == two.keys_and_values_per_token
    with pytest.raises(ValueError, match="8 GPUs cannot share a model of 4 `num_attention_heads`"):
        sizes_of(config, 8)


def test_the_table_names_gpus_without_room():
    rows = sizes_table(random_config(4), [1, 80], [1]).splitlines()
    assert rows[0].count("|") == rows[1].count("|") == rows[2].count("|")
    assert "| none |" in rows[2]
