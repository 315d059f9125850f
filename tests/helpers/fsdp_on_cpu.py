# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
`training.train` under FSDP on the CPU: what `accelerate launch` starts in the place of `-m training.train`.

torch shards on the CPU as on GPUs, but accelerate turns no `MULTI_CPU` into `FSDP`: it would train by DDP in silence.
"""

import os

from accelerate.state import DistributedType, PartialState


set_up = PartialState.__init__


def set_up_for_fsdp(self, *args, **kwargs):
    set_up(self, *args, **kwargs)
    # of the types that accelerate makes FSDP of; device and backend are chosen by now
    if self.distributed_type == DistributedType.MULTI_CPU:
        self.distributed_type = DistributedType.MULTI_GPU


if __name__ == "__main__":
    assert os.environ["ACCELERATE_USE_FSDP"] == "true", "the launcher was not told to shard"
    PartialState.__init__ = set_up_for_fsdp
    # as this imports accelerate
    from training.train import main

    main()
