# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Makes `pipeline("audio-to-audio", model=object)` know a model whose code is that of a Hub folder, as it knows a folder's name."""

from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.pipelines import PIPELINE_REGISTRY


TASK = "audio-to-audio"


class PipelineOfFolder:
    """Called as a pipeline's class, makes the pipeline whose code lies beside the model's. It finds its processor itself."""

    _load_processor = _load_tokenizer = _load_feature_extractor = _load_image_processor = _load_video_processor = False

    def __new__(cls, model, **kwargs):
        reference = model.config.custom_pipelines[TASK]["impl"]
        # of the same commit as the model's, which runs already
        revision = getattr(model.config, "_commit_hash", None)
        return get_class_from_dynamic_module(reference, model.name_or_path, revision=revision)(model=model, **kwargs)


# The installed packages register their own
if __name__.startswith("transformers_modules.") and TASK not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(TASK, PipelineOfFolder, type="multimodal")

__all__ = ["PipelineOfFolder"]
