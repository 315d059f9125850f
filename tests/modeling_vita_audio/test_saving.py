# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import peft
import pytest
import torch
from full_disk import CONTEXT, on_full_disk
from tiny_models import tiny_codec, tiny_model, tiny_processor

from modeling_vita_audio import VitaAudioForConditionalGeneration
from modeling_vita_audio.saving_vita_audio import is_free, leftovers, replaced_whole, written_whole


MAKERS = {"model": lambda: tiny_model(tiny_processor()), "processor": tiny_processor, "codec": tiny_codec}


def contents(folder):
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


@pytest.mark.slow
@pytest.mark.parametrize("kind", MAKERS)
def test_a_full_disk_leaves_a_folder_as_it_was(kind, tmp_path):
    thing = MAKERS[kind]()
    thing.save_pretrained(tmp_path / "whole")
    largest = max(map(len, contents(tmp_path / "whole").values()))
    (tmp_path / "old").mkdir()
    (tmp_path / "old" / "config.json").write_text("{}")
    for folder in ("new", "old"):
        with pytest.raises(OSError, match="File too large"):
            on_full_disk(largest - 1, thing.save_pretrained, tmp_path / folder)
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


@pytest.mark.slow
def test_a_model_takes_the_place_of_the_adapter_that_it_was_loaded_by(tmp_path):
    MAKERS["model"]().save_pretrained(tmp_path / "base")
    base = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "base")
    peft.get_peft_model(base, peft.LoraConfig(target_modules=["q_proj"])).save_pretrained(tmp_path / "adapter")
    model = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "adapter")
    model.lm_head.weight.data *= 2
    model.save_pretrained(tmp_path / "adapter")
    assert not list((tmp_path / "adapter").glob("adapter_*"))
    loaded = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "adapter")
    assert loaded.lm_head.weight.equal(model.lm_head.weight)


@pytest.mark.slow
@pytest.mark.parametrize("before, after", [("20KB", "5GB"), ("5GB", "20KB"), ("20KB", "30KB")])
def test_weights_of_an_earlier_save_are_never_loaded(tmp_path, before, after):
    model = MAKERS["model"]()
    model.save_pretrained(tmp_path, max_shard_size=before)
    with torch.no_grad():
        model.lm_head.weight += 1
    model.save_pretrained(tmp_path, max_shard_size=after)
    loaded = VitaAudioForConditionalGeneration.from_pretrained(tmp_path)
    assert loaded.lm_head.weight.equal(model.lm_head.weight)
    assert any(tmp_path.glob("*.index.json")) == (after != "5GB")
    if after == "5GB":
        assert [path.name for path in tmp_path.glob("*.safetensors")] == ["model.safetensors"]


def save_and_die(source, folder, size, moves):
    """Saves another model than that of `source`, and is killed when it would move the file `moves` into its place."""
    model = VitaAudioForConditionalGeneration.from_pretrained(source)
    replace = Path.replace

    def die_at_last(path, target):
        nonlocal moves
        if moves == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        moves -= 1
        return replace(path, target)

    Path.replace = die_at_last
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 1
    model.save_pretrained(folder, max_shard_size=size)


@pytest.mark.slow
@pytest.mark.parametrize("size", ["5GB", "100KB"])
@pytest.mark.parametrize("moves", [0, 5, 17])
def test_a_save_that_is_killed_is_no_mix_and_can_be_repeated(tmp_path, moves, size):
    model = MAKERS["model"]()
    model.save_pretrained(tmp_path / "model", max_shard_size=size)
    model.save_pretrained(tmp_path / "start")

    def save(moves):
        process = CONTEXT.Process(target=save_and_die, args=(tmp_path / "start", tmp_path / "model", size, moves))
        process.start()
        process.join(300)
        return process.exitcode

    assert save(moves) == -signal.SIGKILL
    try:
        loaded = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "model")
    except OSError:
        pass  # no weights
    else:
        differences = {bool(tensor.equal(model.state_dict()[name])) for name, tensor in loaded.state_dict().items()}
        assert len(differences) == 1
    assert list((tmp_path / "model").glob(".*"))
    assert save(10_000) == 0
    loaded = VitaAudioForConditionalGeneration.from_pretrained(tmp_path / "model")
    assert all(tensor.equal(model.state_dict()[name] + 1) for name, tensor in loaded.state_dict().items())
    assert not list((tmp_path / "model").glob(".*"))


@pytest.mark.slow
def test_what_a_running_process_is_at_is_left_alone(tmp_path):
    model = MAKERS["model"]()
    model.save_pretrained(tmp_path)
    with written_whole(tmp_path) as unfinished:
        (unfinished / "late.json").write_text("{}")
        model.save_pretrained(tmp_path)
        assert (unfinished / "late.json").exists()
    assert (tmp_path / "late.json").exists() and not list(tmp_path.glob(".*"))
    theirs = tmp_path / ".another-host-1-abc.unfinished"
    theirs.mkdir()
    model.save_pretrained(tmp_path)
    assert theirs.exists()
    os.utime(theirs, (0, 0))
    model.save_pretrained(tmp_path)
    assert not theirs.exists()


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_file_or_folder_is_replaced_whole(tmp_path, is_folder):
    path = tmp_path / "results"

    def write(text, fails=False):
        with replaced_whole(path) as unfinished:
            if is_folder:
                unfinished.mkdir()
            (unfinished / f"{text}.txt" if is_folder else unfinished).write_text(text)
            if fails:
                raise OSError("no space left")

    with pytest.raises(OSError, match="no space left"):
        write("half", fails=True)
    assert not list(tmp_path.iterdir())
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    (tmp_path / f".{socket.gethostname()}-{dead.pid}-abc.unfinished").mkdir()
    write("first")
    write("second")
    with pytest.raises(OSError, match="no space left"):
        write("half", fails=True)
    assert list(tmp_path.iterdir()) == [path]
    assert contents(tmp_path) == {"results/second.txt" if is_folder else "results": b"second"}


@pytest.mark.skipif(not Path("/proc/self/stat").exists(), reason="when a process began is read from there")
def test_a_number_that_came_again_is_of_another_process(tmp_path):
    """As in a container that was restarted: host and number are those of the process that was killed."""
    left = tmp_path / f".{socket.gethostname()}-{os.getpid()}-abc.first.unfinished"
    left.mkdir()
    assert leftovers(tmp_path) == [] and not is_free(tmp_path)
    before = time.time() - 7 * 24 * 3600
    os.utime(left, (before, before))
    assert leftovers(tmp_path) == [left] and is_free(tmp_path)


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
