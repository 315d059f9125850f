# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Export: a complete Hub repository, which loads with `trust_remote_code=True` where these packages are not installed.
"""

from pathlib import Path

from transformers import PreTrainedModel, ProcessorMixin

from hub_cards import WRITTEN_BY_US

from .saving_vita_audio import check_is_free, written_whole


# The line `written_by_us` lets `vita-audio card` and `push` write a whole card in its place.
MODEL_CARD = """\
---
library_name: transformers
pipeline_tag: audio-to-audio
---
{written_by_us}

A VITA-Audio model ([arXiv 2505.03739](https://arxiv.org/abs/2505.03739)): a spoken question in, a spoken answer out.

```python
from transformers import pipeline

pipe = pipeline("audio-to-audio", model="{name}", trust_remote_code=True)
answer = pipe("question.wav")  # {{"audio": ..., "sampling_rate": ..., "text": ...}}
for chunk in pipe.stream("question.wav"):  # {{"text": ...}} or {{"audio": ..., "sampling_rate": ...}}
    ...
```
"""


def export_repository(model: PreTrainedModel, processor: ProcessorMixin, folder: str | Path) -> Path:
    r"""
    Writes weights, configurations, generation configuration, tokenizer, processor, codec, model card and code files.

    All files are first written to another folder, which is renamed to `folder` at the end. So an error, such as a full
    disk, leaves nothing behind.

    Args:
        model ([`VitaAudioForConditionalGeneration`]): the model.
        processor ([`VitaAudioProcessor`]): its processor, with the codec.
        folder (`str` or `Path`): a folder that does not exist or is empty.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: the folder has something in it, or the processor has no codec.
        OSError: the folder cannot be written.
    """
    folder = Path(folder).absolute()
    check_is_free(folder)
    if processor.audio_tokenizer is None:
        raise ValueError("The processor has no speech codec, so the exported folder would not be complete.")
    with written_whole(folder) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        (unfinished / "README.md").write_text(
            MODEL_CARD.format(name=folder.name, written_by_us=WRITTEN_BY_US), encoding="utf-8"
        )
    return folder


__all__ = ["export_repository"]
