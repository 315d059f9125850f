# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Faults of vLLM that `serving/vllm/cpu_worker.py` works around. Where one of these tests fails, vLLM has mended it, and
its part of that file can go.
"""

import pytest
import torch
from vllm.platforms import current_platform
from vllm.utils import cpu_triton_utils
from vllm.v1.sample import rejection_sampler  # noqa: F401  loads what vLLM has in C++
from vllm.v1.sample.ops.topk_topp_sampler import apply_top_k_only


pytestmark = pytest.mark.skipif(not current_platform.is_cpu(), reason="faults of the CPU build")


def test_expanded_values_are_written_into_a_copy():
    output, ends = torch.full((3,), 7.0), torch.tensor([1, 3], dtype=torch.int32)
    cpu_triton_utils._expand_kernel_impl(output, torch.tensor([0.5, 0.25]), ends, 0, 1)
    assert output.tolist() == [7.0, 7.0, 7.0]


def test_top_k_fails_without_drafts():
    with pytest.raises(RuntimeError, match="numel"):
        apply_top_k_only(torch.empty(0, 5), torch.empty(0, dtype=torch.int32))


def test_generators_on_cpus_have_no_offset():
    with pytest.raises(RuntimeError, match="offset"):
        torch.Generator().get_offset()


def test_our_functions_do_what_vllms_are_to_do():
    from serving.vllm.cpu_worker import apply_constraints_to_drafts, expand_batch_to_tokens

    ends = torch.tensor([2, 2, 5], dtype=torch.int32)
    assert expand_batch_to_tokens(torch.tensor([0.5, 1.0, 0.0]), ends, 5, 0, 1).tolist() == [0.5, 0.5, 1.0, 1.0, 1.0]
    empty = torch.empty(0, 5)
    assert apply_constraints_to_drafts(empty, ends, None) is empty
