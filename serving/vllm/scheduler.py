# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""vLLM's scheduler, but for what counts as the same prefix."""

from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import BlockHash, generate_block_hash_extra_keys, hash_block_tokens
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request


class VitaAudioScheduler(Scheduler):
    """
    Column i of module k depends on the token i + k, so the last columns of a block depend on tokens of the next one.
    Here two blocks are the same only if the K tokens after them are, too; and no block is shared before these tokens
    are known.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.num_modules = self.vllm_config.model_config.hf_config.num_mctp_modules
        self.hash_function = get_hash_fn_by_name(self.cache_config.prefix_caching_hash_algo)
        self.kv_cache_manager.coordinator.num_reprefillable_tokens = self.num_modules

    def add_request(self, request: Request) -> None:
        # without prefix caching there is none
        if request._block_hasher is not None:
            request._block_hasher = self.hashes_of_new_blocks
            request.block_hashes.clear()
            request.update_block_hashes()
        super().add_request(request)

    def hashes_of_new_blocks(self, request: Request) -> list[BlockHash]:
        """The hashes of the blocks of a request that have none yet."""
        hashes, size = [], self.hash_block_size
        start = len(request.block_hashes) * size
        previous = request.block_hashes[-1] if request.block_hashes else None
        while start + size + self.num_modules <= request.num_tokens:
            end = start + size
            keys, _ = generate_block_hash_extra_keys(request, start, end, 0)
            following = tuple(request.all_token_ids[end : end + self.num_modules])
            previous = hash_block_tokens(
                self.hash_function, previous, request.all_token_ids[start:end], (*(keys or ()), following)
            )
            hashes.append(previous)
            start = end
        return hashes


__all__ = ["VitaAudioScheduler"]
