# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Lets `pipeline("audio-to-audio", model=model)` take a model, too, that runs with the code of its Hub folder."""

from typing import Any

from transformers import Pipeline, PreTrainedModel
from transformers.dynamic_module_utils import get_class_from_dynamic_module
from transformers.pipelines import PIPELINE_REGISTRY


TASK = "audio-to-audio"


class PipelineOfFolder:
    """Stands for the pipeline's class, whose code lies beside the model's, and makes an object of it."""

    # The pipeline loads its processor by itself; transformers must not look for the parts
    _load_processor = _load_tokenizer = _load_feature_extractor = _load_image_processor = _load_video_processor = False

    def __new__(cls, model: PreTrainedModel, **kwargs: Any) -> Pipeline:
        reference = model.config.custom_pipelines[TASK]["impl"]
        # The code of the pipeline has to be of the same commit as the model's, which runs already
        pipeline_class = get_class_from_dynamic_module(reference, model.name_or_path, revision=model.revision)
        return pipeline_class(model=model, **kwargs)


# The installed packages register their own
if __name__.startswith("transformers_modules.") and TASK not in PIPELINE_REGISTRY.get_supported_tasks():
    PIPELINE_REGISTRY.register_pipeline(TASK, PipelineOfFolder, type="multimodal")

__all__ = ["PipelineOfFolder"]
