# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Export: a complete Hub repository, which loads with `trust_remote_code=True` where these packages are not installed."""

import inspect
import json
import shutil
from pathlib import Path

from transformers.dynamic_module_utils import get_relative_import_files

from .processing_vita_audio import AUDIO_TOKENIZER_SUBFOLDER
from .saving_vita_audio import written_whole


PROCESSING_FOLDER = Path(__file__).resolve().parent
MODELING_FOLDER = PROCESSING_FOLDER.parent / "modeling_vita_audio"

MODEL_CLASS = "modeling_vita_audio.VitaAudioForConditionalGeneration"
MODEL_CODE = {
    "auto_map": {
        "AutoConfig": "configuration_vita_audio.VitaAudioConfig",
        "AutoModel": MODEL_CLASS,
        "AutoModelForCausalLM": MODEL_CLASS,
    },
    "custom_pipelines": {
        "audio-to-audio": {"impl": "pipeline_vita_audio.VitaAudioPipeline", "pt": ["AutoModel"], "type": "multimodal"}
    },
}
PROCESSOR_CODE = {"auto_map": {"AutoProcessor": "processing_vita_audio.VitaAudioProcessor"}}

ENTRY_FILES = [
    MODELING_FOLDER / "modeling_vita_audio.py",
    PROCESSING_FOLDER / "processing_vita_audio.py",
    PROCESSING_FOLDER / "pipeline_vita_audio.py",
]

# Its first line lets `vita-audio card` and `push` write a whole card in its place.
MODEL_CARD = """\
---
library_name: transformers
pipeline_tag: audio-to-audio
---
<!-- Written by `vita-audio card` from the files of this folder. To edit it, delete this line first. -->

A VITA-Audio model ([arXiv 2505.03739](https://arxiv.org/abs/2505.03739)): a spoken question in, a spoken answer out.

```python
from transformers import pipeline

pipe = pipeline("audio-to-audio", model="{name}", trust_remote_code=True)
answer = pipe("question.wav")  # {{"audio": ..., "sampling_rate": ..., "text": ...}}
for chunk in pipe.stream("question.wav"):  # {{"text": ...}} or {{"audio": ..., "sampling_rate": ...}}
    ...
```
"""


def export_repository(model, processor, folder: str | Path) -> Path:
    r"""
    Writes weights, configurations, generation configuration, tokenizer, processor, codec, model card and code files.

    All is written apart first and moved to `folder` at the end: where anything goes wrong, such as a full disk, there is
    nothing new.

    Args:
        model ([`VitaAudioForConditionalGeneration`]): the model.
        processor ([`VitaAudioProcessor`]): its processor, with the codec.
        folder: to write to; it must not exist or be empty.

    Returns:
        `Path`: the folder.

    Raises:
        ValueError: the folder has something in it, or the processor has no codec.
        OSError: it cannot be written.
    """
    folder = Path(folder).absolute()
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ValueError(f"{folder} exists and is not an empty folder; export to another one.")
    if processor.audio_tokenizer is None:
        raise ValueError("The processor has no codec (audio tokenizer), so the exported folder would not be complete.")
    with written_whole(folder) as unfinished:
        model.save_pretrained(unfinished)
        processor.save_pretrained(unfinished)
        add_code(unfinished, processor)
        (unfinished / "README.md").write_text(MODEL_CARD.format(name=folder.name), encoding="utf-8")
    return folder


def add_code(folder: str | Path, processor) -> None:
    """Completes a folder in which a model and its processor are saved: code files, and where the configurations find them."""
    folder = Path(folder)
    for path in code_files():
        shutil.copyfile(path, folder / path.name)
    add_to_json(folder / "config.json", MODEL_CODE)
    add_to_json(folder / "processor_config.json", PROCESSOR_CODE)
    add_codec_code(folder, folder / AUDIO_TOKENIZER_SUBFOLDER, processor.audio_tokenizer)


def add_codec_code(folder: Path, codec_folder: Path, codec) -> None:
    """The same for a codec saved in `codec_folder`, where it is one of ours; the code is looked for in `folder`."""
    if codec is None:
        return
    file = Path(inspect.getfile(type(codec)))
    if file.parent == PROCESSING_FOLDER:
        for path in code_files([file]):
            shutil.copyfile(path, folder / path.name)
        classes = {"AutoConfig": type(codec.config), "AutoModel": type(codec)}
        auto_map = {name: f"{Path(inspect.getfile(item)).stem}.{item.__name__}" for name, item in classes.items()}
        add_to_json(codec_folder / "config.json", {"auto_map": auto_map})


def code_files(entry_files: list[Path] = ENTRY_FILES) -> list[Path]:
    """The code files that a repository needs: the entry points and all that they import from their folders."""
    imported = (Path(file) for entry in entry_files for file in get_relative_import_files(entry))
    # one of them is in both folders, linked
    return sorted({path.resolve() for path in (*entry_files, *imported)})


def add_to_json(path: Path, entries: dict) -> None:
    """Adds entries to a JSON file."""
    content = json.loads(path.read_text(encoding="utf-8"))
    path.write_text(json.dumps({**content, **entries}, indent=2, sort_keys=True) + "\n", encoding="utf-8")


__all__ = ["add_code", "add_codec_code", "export_repository"]
