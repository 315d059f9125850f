# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import pytest
from full_disk import full_disk
from tiny_models import tiny_codec, tiny_model, tiny_processor

from modeling_vita_audio import VitaAudioForConditionalGeneration


MAKERS = {"model": lambda: tiny_model(tiny_processor()), "processor": tiny_processor, "codec": tiny_codec}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.parametrize("kind", MAKERS)
def test_a_full_disk_leaves_a_folder_as_it_was(kind, tmp_path):
    thing = MAKERS[kind]()
    thing.save_pretrained(tmp_path / "whole")
    largest = max(map(len, contents(tmp_path / "whole").values()))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    for folder in ("new", "old"):
        with full_disk(largest - 1), pytest.raises(OSError, match="File too large"):
            thing.save_pretrained(tmp_path / folder)
    assert not (tmp_path / "new").exists()
    assert contents(tmp_path / "old") == {"config.json": b"{}"}
    thing.save_pretrained(tmp_path / "old")
    assert contents(tmp_path / "old") == {"config.json": b"{}"} | contents(tmp_path / "whole")
    assert not list((tmp_path / "old").glob(".*"))


def test_shards_of_an_earlier_save_do_not_stay(tmp_path):
    model = MAKERS["model"]()
    model.save_pretrained(tmp_path, max_shard_size="20KB")
    assert len(list(tmp_path.glob("model-*.safetensors"))) > 2
    (tmp_path / "other-00001-of-00002.safetensors").touch()
    model.save_pretrained(tmp_path)
    assert sorted(path.name for path in tmp_path.glob("*.safetensors")) == [
        "model.safetensors",
        "other-00001-of-00002.safetensors",
    ]
    VitaAudioForConditionalGeneration.from_pretrained(tmp_path)


def test_a_processor_leaves_the_shards_of_its_model(tmp_path):
    """Its codec's weights, in a folder of their own, have the name that the model's would have."""
    processor = tiny_processor()
    tiny_model(processor).save_pretrained(tmp_path, max_shard_size="20KB")
    before = contents(tmp_path)
    processor.save_pretrained(tmp_path)
    assert before.items() <= contents(tmp_path).items()
    VitaAudioForConditionalGeneration.from_pretrained(tmp_path)


def test_a_processor_says_which_files_it_wrote(tmp_path):
    assert tiny_processor().save_pretrained(tmp_path) == [str(tmp_path / "processor_config.json")]
