# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What torchrun starts: loads saved models that are sharded among the processes, and writes what they generate.

    torchrun --nproc_per_node 2 tensor_parallel_answers.py OUTPUT_DIR FOLDER ...

For each folder it writes `OUTPUT_DIR/NAME.json`: `answers`, as `answers_of` returns them, and `whole`, the names of
the matrices that are whole in each process. The model is saved to `OUTPUT_DIR/NAME`.
"""

import json
import sys
from pathlib import Path

import torch
from torch.distributed.tensor import DTensor
from transformers.distributed import DistributedConfig

from modeling_vita_audio import VitaAudioForConditionalGeneration


# a greedy choice may be a close call, and the sums of shards are added up in another order
DTYPE = torch.float64


def answers_of(model: VitaAudioForConditionalGeneration) -> dict[str, list[list[int]]]:
    """New ids in each way of decoding, greedily, for two random prompts of which the second is padded on the left."""
    torch.manual_seed(0)
    input_ids = torch.randint(1, model.config.begin_audio_token_id, (2, 20))
    attention_mask = torch.ones_like(input_ids)
    attention_mask[1, :3] = 0
    answers = {}
    for name, settings in {
        "vanilla": {"mctp_mode": "vanilla"},
        "boost": {"mctp_mode": "boost"},
        "boost, verified": {"mctp_mode": "boost", "mctp_verify": True},
        "turbo, static cache": {"mctp_mode": "turbo", "cache_implementation": "static", "disable_compile": True},
    }.items():
        outputs = model.generate(
            input_ids,
            attention_mask=attention_mask,
            max_new_tokens=40,
            do_sample=False,
            eos_token_id=None,
            pad_token_id=0,
            **settings,
        )
        answers[name] = outputs[:, input_ids.shape[1] :].tolist()
    return answers


def main() -> None:
    output_dir = Path(sys.argv[1])
    for folder in map(Path, sys.argv[2:]):
        model = VitaAudioForConditionalGeneration.from_pretrained(
            folder, dtype=DTYPE, distributed_config=DistributedConfig(tp_plan="auto")
        )
        answers = answers_of(model)
        whole = [name for name, p in model.named_parameters() if p.ndim == 2 and not isinstance(p, DTensor)]
        model.save_pretrained(output_dir / folder.name)
        if torch.distributed.get_rank() == 0:
            (output_dir / f"{folder.name}.json").write_text(json.dumps({"answers": answers, "whole": whole}))
    torch.distributed.destroy_process_group()


if __name__ == "__main__":
    main()
