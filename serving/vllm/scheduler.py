# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""vLLM's scheduler, but for what counts as the same prefix."""

from vllm.utils.hashing import get_hash_fn_by_name
from vllm.v1.core.kv_cache_utils import BlockHash, generate_block_hash_extra_keys, hash_block_tokens
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from .requests import DecodingOptions
from .schedules import uses_modules


class VitaAudioScheduler(Scheduler):
    """
    Column i of module k depends on the token i + k, so the last columns of a block depend on tokens of the next one.
    Here two blocks are the same only if the K tokens after them are, too; and no block is shared before these tokens
    are known. Requests for which no module writes have blocks without the modules' columns, which they share among
    themselves.
    """

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **kwargs)
        self.options = DecodingOptions(self.vllm_config)
        self.hash_function = get_hash_fn_by_name(self.cache_config.prefix_caching_hash_algo)
        self.kv_cache_manager.coordinator.num_reprefillable_tokens = self.options.num_modules

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
        if start + size > request.num_tokens:
            return hashes
        previous = request.block_hashes[-1] if request.block_hashes else None
        has_modules = uses_modules(self.options.schedule_of(request.sampling_params))
        num_following = self.options.num_modules if has_modules else 0
        while start + size + num_following <= request.num_tokens:
            end = start + size
            keys, _ = generate_block_hash_extra_keys(request, start, end, 0)
            following = tuple(request.all_token_ids[end : end + num_following])
            previous = hash_block_tokens(
                self.hash_function, previous, request.all_token_ids[start:end], (*(keys or ()), following)
            )
            hashes.append(previous)
            start = end
        return hashes


__all__ = ["VitaAudioScheduler"]
