# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
import copy
import json
import os
import signal
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import datasets
import pytest
import torch
from datasets import Audio, Dataset, List
from full_disk import on_full_disk
from places import ROOT
from safetensors.numpy import load_file
from tiny_corpus import write_corpus
from tiny_models import tiny_codec, tiny_processor
from waiting import wait_until

from processing.conversation_vita_audio import AUDIO_MARK
from training import temporary
from training.conversations import load_conversations
from training.data import (
    SpeechCodeCache,
    audio_key,
    build_training_dataset,
    codec_fingerprint,
)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    return write_corpus(tmp_path_factory.mktemp("data") / "corpus")


@pytest.fixture(scope="module")
def processor():
    return tiny_processor()


def all_clips(corpus):
    """Paths of the clips by their keys."""
    return {audio_key(path.read_bytes()): str(path) for path in sorted((corpus / "audio").iterdir())}


def encode(cache, clips, processor):
    cache.encode({key: Path(path).stat().st_size for key, path in clips.items()}, clips.get, processor)


def count_encoded(codec, action):
    """How many clips the codec encodes in `action()`."""
    rows = []
    hook = codec.tokenizer.register_forward_hook(lambda module, args, output: rows.append(len(output[0])))
    try:
        action()
    finally:
        hook.remove()
    return sum(rows)


def test_splits_and_tasks_are_chosen(corpus, tmp_path):
    assert len(load_conversations(corpus, "train", cache_dir=tmp_path)) == 18 * 4
    assert len(load_conversations(corpus, "test", ["asr"], tmp_path)) == 6
    twice = load_conversations(corpus / "conversations.jsonl", "train", ["tts", "sqa", "sqa"], tmp_path)
    assert len(twice) == 18 * 3
    spoken = [row for row in twice if len(row["audios"]) == 2]
    assert len(spoken) == 36
    assert all(Path(audio).is_file() for audio in spoken[0]["audios"])


def test_a_changed_file_is_read_anew(tmp_path):
    def write(text):
        row = {"messages": [{"role": "user", "content": text}, {"role": "assistant", "content": "Yes."}]}
        (tmp_path / "conversations.jsonl").write_text(json.dumps(row) + "\n")

    write("Is it?")
    assert load_conversations(tmp_path, cache_dir=tmp_path / "cache")[0]["messages"][0]["content"] == "Is it?"
    write("Is it so?")
    os.utime(tmp_path / "conversations.jsonl", ns=(1, 1))
    assert load_conversations(tmp_path, cache_dir=tmp_path / "cache")[0]["messages"][0]["content"] == "Is it so?"


@pytest.mark.parametrize(
    "line, cause",
    [
        ("{", "is not JSON"),
        ("[]", "is not a JSON object, but a list"),
        ("\udcff", "is not JSON: 'utf-8' codec can't decode byte 0xff|is not JSON: invalid start byte"),
        ("[" * 100_000, "is not JSON"),
        ("{}", "not a conversation: it has no list of `messages`"),
        ('{"messages": [{"role": "user"}]}', "needs a `role` and a `content`"),
        ('{"messages": [{"role": "user", "content": "<|audio|>"}], "audios": []}', "1 marks"),
        ('{"messages": [{"role": "user", "content": "<|audio|>"}]}', "1 marks"),
        (
            '{"messages": [{"role": "user", "content": "<|audio|>"}], "audios": [7]}',
            "`audios` must be a list of paths",
        ),
        (
            '{"messages": [{"role": "user", "content": "<|audio|>"}], "audios": ["no.wav"]}',
            "no.wav, but there is no such",
        ),
        (
            '{"messages": [{"role": "user", "content": "Hi"}], "task": 3}',
            "`task`, `split` and `reference` must be texts",
        ),
        ('{"messages": [{"role": "user", "content": "Hi"}], "accepted_answers": "Hi"}', "must be a list of texts"),
        ('{"messages": [{"role": "user", "content": "Hi"}], "id": "1"}', "has the id '1', as .*, line 1 has"),
    ],
)
def test_a_bad_line_is_named(tmp_path, line, cause):
    good = '{"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "Hi"}]}'
    (tmp_path / "bad.jsonl").write_text(f"{good}\n{line}\n", encoding="utf-8", errors="surrogateescape")
    with pytest.raises((ValueError, FileNotFoundError), match=f"bad.jsonl, line 2.*({cause})"):
        load_conversations(tmp_path / "bad.jsonl", cache_dir=tmp_path)


def test_no_conversation_is_an_error(corpus, tmp_path):
    with pytest.raises(ValueError, match="no conversations of the split 'other'"):
        load_conversations(corpus, "other", cache_dir=tmp_path)


def test_codes_are_those_of_the_codec_alone(corpus, processor, tmp_path):
    clips = all_clips(corpus)
    cache = SpeechCodeCache(tmp_path, processor.audio_tokenizer)
    encode(cache, clips, processor)
    alone = processor.encode_audio(list(clips.values()))
    assert [cache.codes[key].tolist() for key in clips] == alone
    again = SpeechCodeCache(tmp_path, processor.audio_tokenizer)
    assert count_encoded(processor.audio_tokenizer, lambda: encode(again, clips, processor)) == 0
    assert {key: codes.tolist() for key, codes in again.codes.items()} == dict(zip(clips, alone))


def test_each_codec_has_codes_of_its_own(corpus, processor, tmp_path):
    codec, other = processor.audio_tokenizer, tiny_codec(seed=1)
    codec.save_pretrained(tmp_path / "codec")
    loaded = type(codec).from_pretrained(tmp_path / "codec")
    assert codec_fingerprint(loaded) == codec_fingerprint(codec)
    assert codec_fingerprint(other) != codec_fingerprint(codec)
    SpeechCodeCache(tmp_path, codec).add({"key": torch.arange(3).int().numpy()})
    assert list(SpeechCodeCache(tmp_path, loaded).codes) == ["key"]
    assert not SpeechCodeCache(tmp_path, other).codes


ENCODE = """
import sys
import training.data as data
sys.path.append("tests/helpers")
from tiny_models import tiny_processor
data.CLIPS_PER_FILE = 2
processor = tiny_processor()
clips = {data.audio_key(data.read_content(path)): path for path in sys.argv[2:]}
data.SpeechCodeCache(sys.argv[1], processor.audio_tokenizer).encode(dict.fromkeys(clips, 1), clips.get, processor)
"""


@pytest.mark.slow
def test_a_process_that_comes_late_encodes_its_share(corpus, tmp_path):
    clips = all_clips(corpus)
    # once they have found each other
    late = "import accelerate, os, time\naccelerate.PartialState(cpu=True)\ntime.sleep(4 * int(os.environ['RANK']))\n"
    late += "data.SpeechCodeCache(sys.argv[1]"
    (tmp_path / "encode.py").write_text(ENCODE.replace("data.SpeechCodeCache(sys.argv[1]", late))
    launcher = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", "--main_process_port", "0"]
    launcher += ["--config_file", str(ROOT / "training/configs/accelerate/cpu.yaml")]
    subprocess.run(
        [*launcher, str(tmp_path / "encode.py"), str(tmp_path / "codes"), *clips.values()],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        check=True,
        timeout=300,
    )
    written = [load_file(path) for path in tmp_path.glob("codes/*/*.safetensors")]
    assert set().union(*written) == set(clips)


@pytest.mark.slow
def test_a_killed_run_goes_on_where_it_was(corpus, processor, tmp_path):
    clips = all_clips(corpus)
    process = subprocess.Popen(
        [sys.executable, "-c", ENCODE, str(tmp_path), *clips.values()],
        cwd=ROOT,
        env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        stderr=subprocess.DEVNULL,
    )
    wait_until(lambda: len(list(tmp_path.glob("*/*.safetensors"))) >= 3 or process.poll() is not None, 300)
    process.send_signal(signal.SIGKILL)
    process.wait()
    cache = SpeechCodeCache(tmp_path, processor.audio_tokenizer)
    num_done = len(cache.codes)
    assert 6 <= num_done < len(clips)
    num_encoded = count_encoded(processor.audio_tokenizer, lambda: encode(cache, clips, processor))
    assert num_encoded == len(clips) - num_done
    assert [cache.codes[key].tolist() for key in clips] == processor.encode_audio(list(clips.values()))


def test_what_killed_runs_have_left_is_removed_by_the_next(processor, tmp_path):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    folder = SpeechCodeCache(tmp_path, processor.audio_tokenizer).folder
    for process_id in (dead.pid, os.getpid()):
        (folder / f".{socket.gethostname()}-{process_id}-abc.unfinished").touch()
    SpeechCodeCache(tmp_path, processor.audio_tokenizer)
    assert [path.name.split("-")[-2] for path in folder.iterdir()] == [str(os.getpid())]


USE_DATASETS_AND_DIE = """
import os, signal, sys
from datasets import Dataset
from training.temporary import disable_caching

def use():
    disable_caching()
    Dataset.from_dict({"a": [1]}).map(lambda row: {"b": 2})
    return set(os.listdir(os.environ["TMPDIR"]))

child = os.fork()
if not child:
    use()
    os.kill(os.getpid(), signal.SIGKILL)
os.waitpid(child, 0)
left = set(os.listdir(os.environ["TMPDIR"]))
assert len(left) == 2, left  # another's is the other
assert len(use() - left) == len(use() & left) == 1
"""


@pytest.mark.slow
def test_what_datasets_has_made_for_a_run_that_was_killed_goes_with_the_next(tmp_path):
    (tmp_path / "hf_datasets-another").mkdir()
    environment = os.environ | {"PYTHONPATH": str(ROOT), "TMPDIR": str(tmp_path)}
    command = [sys.executable, "-c", USE_DATASETS_AND_DIE]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-2000:]
    assert [path.name for path in tmp_path.iterdir()] == ["hf_datasets-another"]


def test_processes_that_start_together_remove_the_same_folders(tmp_path, monkeypatch):
    dead = subprocess.Popen([sys.executable, "-c", ""])
    dead.wait()
    for number in range(300):
        folder = tmp_path / f"hf_datasets-{number}"
        folder.mkdir()
        (folder / f".{socket.gethostname()}-{dead.pid}-datasets.unfinished").touch()
    (tmp_path / "hf_datasets-own").mkdir()
    monkeypatch.setattr(temporary, "get_temporary_cache_files_directory", lambda: str(tmp_path / "hf_datasets-own"))
    with ThreadPoolExecutor(8) as threads:
        list(threads.map(lambda _: temporary.disable_caching(), range(8)))
    datasets.enable_caching()
    assert [path.name for path in tmp_path.iterdir()] == ["hf_datasets-own"]


@pytest.mark.slow
def test_a_full_disk_leaves_nothing_half_written(processor, tmp_path):
    cache = SpeechCodeCache(tmp_path, processor.audio_tokenizer)
    with pytest.raises(Exception, match="(?i)file too large|I/O"):
        on_full_disk(2000, cache.add, {"key": torch.arange(5000).int().numpy()})
    assert list(cache.folder.iterdir()) == []


def test_examples_are_the_processors(corpus, processor, tmp_path):
    conversations = load_conversations(corpus, "train", cache_dir=tmp_path)
    examples = build_training_dataset(conversations, processor, tmp_path)
    assert examples.column_names == ["input_ids", "labels"] and len(examples) == len(conversations)
    for row, example in zip(conversations, examples):
        assert example == processor.build_training_example(row["messages"], processor.encode_audio(row["audios"]))


@pytest.mark.slow
def test_workers_that_tokenise_get_no_codec(corpus, processor, tmp_path):
    """A codec on a GPU cannot be sent to them."""

    class NotSent:
        def __reduce__(self):
            raise RuntimeError("the codec was sent to a worker")

    conversations = load_conversations(corpus, "train", cache_dir=tmp_path)
    examples = build_training_dataset(conversations, processor, tmp_path)
    processor = copy.copy(processor)
    processor.audio_tokenizer = copy.deepcopy(processor.audio_tokenizer)
    processor.audio_tokenizer.not_sent = NotSent()
    assert build_training_dataset(conversations, processor, tmp_path, num_proc=2)[:] == examples[:]


@pytest.mark.slow
def test_a_dataset_with_an_audio_column_makes_the_same_examples(corpus, processor, tmp_path):
    conversations = load_conversations(corpus, "train", cache_dir=tmp_path)
    rows = [
        {
            "messages": row["messages"],
            "task": "any",
            "audios": [{"bytes": Path(a).read_bytes(), "path": None} for a in row["audios"]],
        }
        for row in conversations
    ]
    Dataset.from_list(rows).cast_column("audios", List(Audio())).save_to_disk(tmp_path / "saved")
    loaded = load_conversations(tmp_path / "saved", tasks=["any"])
    expected = build_training_dataset(conversations, processor, tmp_path)
    assert build_training_dataset(loaded, processor, tmp_path)[:] == expected[:]


def test_what_is_too_long_is_left_out(corpus, processor, tmp_path):
    conversations = load_conversations(corpus, "train", ["asr", "tts"], tmp_path)
    lengths = sorted(len(ids) for ids in build_training_dataset(conversations, processor, tmp_path)["input_ids"])
    shorter = build_training_dataset(conversations, processor, tmp_path, max_length=lengths[-3])
    assert sorted(len(ids) for ids in shorter["input_ids"]) == [length for length in lengths if length <= lengths[-3]]
    with pytest.raises(ValueError, match=f"the shortest has {lengths[0]} tokens"):
        build_training_dataset(conversations, processor, tmp_path, max_length=5)


def test_copies_have_what_users_say_in_other_voices_and_places(corpus, processor, tmp_path):
    conversations = load_conversations(str(corpus), "train")

    def build(name, **kwargs):
        return build_training_dataset(conversations, processor, tmp_path / name, **kwargs)

    plain, copied = build("plain"), build("copied", num_disturbed_copies=2)
    heard = [row for row, messages in enumerate(conversations["messages"]) if AUDIO_MARK in messages[-2]["content"]]
    assert 0 < len(heard) < len(plain)
    assert len(copied) == len(plain) + 2 * len(heard)
    assert copied[: len(plain)] == plain[:]
    changed = []
    for place, row in enumerate(heard):
        first, second = copied[len(plain) + place], copied[len(plain) + len(heard) + place]
        prompts = [
            [token for token, label in zip(example["input_ids"], example["labels"]) if label == -100]
            for example in (plain[row], first, second)
        ]
        # an encoder with random weights does not hear each of them differently
        changed.append(prompts[0] != prompts[1] != prompts[2] != prompts[0])
        # what is learnt is the same: the assistant's text, and its speech as it was recorded
        for example in (first, second):
            assert [label for label in example["labels"] if label != -100] == [
                label for label in plain[row]["labels"] if label != -100
            ]
    assert any(changed)
    # each run draws the same
    assert build("again", num_disturbed_copies=2)[:] == copied[:]
