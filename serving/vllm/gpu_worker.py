# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The worker on GPUs. It was written by vLLM's sources and has never run: there was no GPU with vLLM."""

from vllm.v1.worker.gpu_worker import Worker

from .workers import VitaAudioWorkerMixin


class VitaAudioGPUWorker(VitaAudioWorkerMixin, Worker):
    pass


__all__ = ["VitaAudioGPUWorker"]
