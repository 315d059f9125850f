# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What a worker of vLLM does besides: it gives the modules what the language model has read, and lets them write."""

from vllm.v1.core.sched.output import SchedulerOutput

from .decoder import ModuleDecoder
from .sampler import AtOnceSampler


class VitaAudioWorkerMixin:
    """Comes before a class of vLLM's workers."""

    def load_model(self, **kwargs) -> None:
        super().load_model(**kwargs)
        runner = self.model_runner
        self.decoder = ModuleDecoder(runner)
        if self.decoder.options.is_verified:
            runner.drafter.decoder = self.decoder
            # Near the end of the positions vLLM would let no request of a batch have drafts. The decoder itself writes
            # none beyond it
            runner.effective_drafter_max_model_len = runner.max_model_len + 2 * self.decoder.options.num_modules + 2
        elif self.decoder.options.num_modules > 0:
            runner.sampler = AtOnceSampler(runner.sampler, self.decoder)

    def execute_model(self, scheduler_output: SchedulerOutput):
        output = super().execute_model(scheduler_output)
        # None where there was nothing to read
        if (state := self.model_runner.execute_model_state) is not None:
            self.decoder.read(state.hidden_states)
        return output


__all__ = ["VitaAudioWorkerMixin"]
