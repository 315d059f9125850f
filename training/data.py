# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Conversations with audio to training examples. Speech codes are made once and kept on disk."""

import copy
import hashlib
import json
import os
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Audio, Dataset, DatasetDict, Features, List, Value, load_dataset, load_from_disk
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from modeling_vita_audio.saving_vita_audio import UNFINISHED_SUFFIX, owner_prefix, remove_leftovers
from processing.conversation_vita_audio import AUDIO_MARK


logger = get_logger(__name__)

CONVERSATIONS_FILE = "conversations.jsonl"

CONVERSATION_FEATURES = Features(
    {
        "messages": List({"role": Value("string"), "content": Value("string")}),
        "audios": List(Value("string")),
    }
)

# Clips that the codec encodes at once, and clips in one file of the cache: what a killed run loses at most.
ENCODING_BATCH_SIZE = 16
CLIPS_PER_FILE = 512


def load_conversations(
    source: str | os.PathLike,
    split: str = "train",
    tasks: list[str] | None = None,
    cache_dir: str | os.PathLike | None = None,
) -> Dataset:
    """
    Loads conversations for training.

    Args:
        source: a JSON-lines file; a folder with `conversations.jsonl` in it, such as `training.corpus.render` writes; or a
            dataset of `datasets`, saved to disk or on the Hub, where `hub_cards.publish_corpus` puts one. Each row has
            `messages`, whose contents have one mark `<|audio|>` per audio, and `audios`: paths relative to the JSON-lines file,
            or an audio column.
        split: of the dataset; JSON lines with a field `split` are chosen by it, those without belong to every split.
        tasks: which tasks to take, by the field `task`. One that is named twice is taken twice.
        cache_dir: where `datasets` keeps what it reads from JSON lines.

    Returns:
        [`Dataset`] with the columns `messages` (`role` and `content`) and `audios` (paths, or `bytes` and `path`).

    Raises:
        FileNotFoundError: there is no such file, nor such a dataset.
        ValueError: a row is malformed (its line is named), or none is left.
    """
    path = Path(source)
    if (path / CONVERSATIONS_FILE).is_file():
        path = path / CONVERSATIONS_FILE
    if path.is_file():
        arguments = {"path": str(path.resolve()), "split": split, "tasks": tasks}
        # once for its errors, which `datasets` would hide in one of its own, and for its number
        num_conversations = sum(1 for _ in read_json_lines(**arguments))
        if num_conversations > 0:
            conversations = Dataset.from_generator(
                read_json_lines,
                features=CONVERSATION_FEATURES,
                cache_dir=None if cache_dir is None else os.fspath(cache_dir),
                # the time of the last change, so that a changed file is read anew
                gen_kwargs=arguments | {"changed": path.stat().st_mtime_ns},
            )
    else:
        conversations = load_from_disk(path) if path.is_dir() else load_dataset(os.fspath(source), split=split)
        conversations = conversations[split] if isinstance(conversations, DatasetDict) else conversations
        conversations = normalize_columns(conversations, tasks, os.fspath(source), split)
        num_conversations = len(conversations)
    if num_conversations == 0:
        raise ValueError(
            f"{source} has no conversations of the split '{split}'" + (f" and the tasks {tasks}." if tasks else ".")
        )
    return conversations


def read_json_lines(path: str, split: str, tasks: list[str] | None, changed: int = 0) -> Iterator[dict]:
    folder, known_tasks = Path(path).parent, set()
    with open(path, encoding="utf-8") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = json.loads(line)
                if row.get("split", split) != split:
                    continue
                messages = [{"role": message["role"], "content": message["content"]} for message in row["messages"]]
                audios = [str(folder / audio) for audio in row.get("audios", [])]
                check_marks(messages, audios)
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                raise ValueError(f"{path}, line {number} is not a conversation: {error!r}") from error
            known_tasks.add(row.get("task"))
            for _ in range(1 if tasks is None else tasks.count(row.get("task"))):
                yield {"messages": messages, "audios": audios}
    check_tasks(path, split, tasks, known_tasks)


def check_tasks(source: str, split: str, tasks: list[str] | None, known_tasks: set[str]) -> None:
    if missing := [task for task in tasks or () if task not in known_tasks]:
        raise ValueError(
            f"{source} has no conversations of the split '{split}' and the tasks {missing}; its tasks are "
            f"{sorted(map(str, known_tasks))}."
        )


def check_marks(messages: list[dict], audios: list) -> None:
    num_marks = sum(message["content"].count(AUDIO_MARK) for message in messages)
    if num_marks != len(audios):
        raise ValueError(f"the messages have {num_marks} marks {AUDIO_MARK}, but there are {len(audios)} audios")


def normalize_columns(conversations: Dataset, tasks: list[str] | None, source: str, split: str) -> Dataset:
    if "messages" not in conversations.column_names:
        raise ValueError(f"The dataset needs a column `messages`, it has {conversations.column_names}.")
    if tasks is not None:
        if "task" not in conversations.column_names:
            raise ValueError(f"To choose the tasks {tasks} the dataset needs a column `task`.")
        check_tasks(source, split, tasks, set(conversations["task"]))
        of_task = {task: [i for i, name in enumerate(conversations["task"]) if name == task] for task in set(tasks)}
        conversations = conversations.select([index for task in tasks for index in of_task[task]])
    if "audios" not in conversations.column_names:
        conversations = conversations.add_column("audios", [[]] * len(conversations))
    if isinstance(conversations.features["audios"], List) and isinstance(
        conversations.features["audios"].feature, Audio
    ):
        # files as they are: the processor decodes them
        conversations = conversations.cast_column("audios", List(Audio(decode=False)))
    return conversations.select_columns(["messages", "audios"])


def conversation_texts(conversations: Dataset) -> Iterator[str]:
    """The texts of the conversations, without the marks, for training a tokenizer."""
    for messages in conversations["messages"]:
        for message in messages:
            yield from message["content"].split(AUDIO_MARK)


def codec_fingerprint(codec) -> str:
    """Hash of a codec's configuration and weights: the same codes come out of what has the same fingerprint."""
    config = codec.config.to_dict()
    for key in ("transformers_version", "_name_or_path", "dtype", "storage_dtype", "auto_map", "architectures"):
        config.pop(key, None)
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=12)
    for name, tensor in sorted(codec.state_dict().items()):
        digest.update(name.encode())
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def read_content(audio: str | dict) -> bytes:
    """The audio file itself, of a path or of a row `{"bytes", "path"}` of an audio column."""
    if isinstance(audio, dict) and audio.get("bytes") is not None:
        return audio["bytes"]
    return Path(audio["path"] if isinstance(audio, dict) else audio).read_bytes()


def audio_key(content: bytes) -> str:
    """Hash of an audio file, by which its codes are found."""
    return hashlib.blake2b(content, digest_size=16).hexdigest()


class SpeechCodeCache:
    """
    Speech codes on disk, by the codec and the content of the audio files.

    The files appear whole or not at all. A run that was stopped has lost the last few hundred clips at most; runs may share
    a folder.

    Args:
        cache_dir: the folder; each codec has its own inside.
        codec ([`PreTrainedAudioTokenizerBase`]): what the codes are made with.
    """

    def __init__(self, cache_dir: str | os.PathLike, codec):
        self.folder = Path(cache_dir) / codec_fingerprint(codec)
        self.folder.mkdir(parents=True, exist_ok=True)
        remove_leftovers(self.folder)
        self.codes: dict[str, np.ndarray] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads what is on disk."""
        for path in sorted(self.folder.glob("*.safetensors")):
            self.codes |= load_file(path)

    def add(self, codes: dict[str, np.ndarray]) -> None:
        """Adds codes, `int32` of shape `(num_codes,)` by the keys of their audios, in a file of their own."""
        name = hashlib.blake2b("".join(sorted(codes)).encode(), digest_size=12).hexdigest()
        unfinished = self.folder / f"{owner_prefix()}{name}{UNFINISHED_SUFFIX}"
        try:
            save_file(codes, unfinished)
            os.replace(unfinished, self.folder / f"{name}.safetensors")
        finally:
            unfinished.unlink(missing_ok=True)
        self.codes |= codes

    def encode(self, sizes: dict[str, int], read: Callable[[str], str | dict], processor) -> None:
        """
        Encodes the audios whose codes are missing. Several processes share the work.

        Args:
            sizes: of the audio files in bytes, by their keys.
            read: gives the audio of a key, a path or `{"bytes", "path"}`.
            processor ([`VitaAudioProcessor`]): loads the audio and has the codec, on the device it is to run on.

        Raises:
            ValueError, OSError: a file cannot be read, or is refused by the processor; it is named.
        """
        state = PartialState()
        # like lengths together, the longest first: if memory falls short, it does so at once
        missing = sorted((key for key in sizes if key not in self.codes), key=lambda key: (-sizes[key], key))
        missing = missing[state.process_index :: state.num_processes]
        new_codes = {}
        with tqdm(
            total=len(missing), desc="Encoding speech", unit="clip", disable=not state.is_main_process
        ) as progress:
            for start in range(0, len(missing), ENCODING_BATCH_SIZE):
                keys = missing[start : start + ENCODING_BATCH_SIZE]
                new_codes |= zip(keys, encode_batch([read(key) for key in keys], processor))
                progress.update(len(keys))
                if len(new_codes) >= CLIPS_PER_FILE or start + ENCODING_BATCH_SIZE >= len(missing):
                    self.add(new_codes)
                    new_codes = {}
        state.wait_for_everyone()
        self.refresh()


@torch.no_grad()
def encode_batch(audios: list[str | dict], processor) -> list[np.ndarray]:
    codec, extractor = processor.audio_tokenizer, processor.feature_extractor
    waveforms = [processor.load_audio(audio) for audio in audios]
    features = extractor(waveforms, sampling_rate=extractor.sampling_rate, padding=True, return_tensors="pt")
    output = codec.encode(
        features["input_values"].to(codec.device, codec.dtype), padding_mask=features["padding_mask"].to(codec.device)
    )
    codes, masks = output.audio_codes[:, 0].cpu(), output.audio_codes_mask.cpu()
    return [row[mask].numpy().astype(np.int32) for row, mask in zip(codes, masks)]


def roles_of_audios(messages: list[dict]) -> list[str]:
    return [message["role"] for message in messages for _ in range(message["content"].count(AUDIO_MARK))]


def build_training_dataset(
    conversations: Dataset,
    processor,
    cache_dir: str | os.PathLike,
    max_length: int | None = None,
    num_proc: int | None = None,
    answer_codec=None,
) -> Dataset:
    """
    Turns conversations into training examples.

    Args:
        conversations ([`Dataset`]): from [`load_conversations`].
        processor ([`VitaAudioProcessor`]): with its codec.
        cache_dir: where the speech codes are kept, see [`SpeechCodeCache`].
        max_length: conversations of more tokens are left out, for cut off they would teach to never stop.
        num_proc: processes that tokenise.
        answer_codec ([`PreTrainedAudioTokenizerBase`], *optional*): what assistants' audio is encoded with instead of the
            processor's codec, which has the same codebook.

    Returns:
        [`Dataset`] with the columns `input_ids` and `labels`, lists of one length.

    Raises:
        ValueError: an audio or a conversation is bad, or all of them are too long.
    """
    keys, sizes, places, keys_of_paths = [], {}, {}, {}
    for row, audios in enumerate(
        tqdm(conversations["audios"], desc="Hashing audio", disable=not PartialState().is_main_process)
    ):
        keys.append([])
        for place, audio in enumerate(audios):
            key = keys_of_paths.get(audio) if isinstance(audio, str) else None
            if key is None:
                content = read_content(audio)
                key = audio_key(content)
                sizes[key], places[key] = len(content), (row, place)
                if isinstance(audio, str):
                    keys_of_paths[audio] = key
            keys[row].append(key)

    def read(key):
        row, place = places[key]
        return conversations[row]["audios"][place]

    cache = SpeechCodeCache(cache_dir, processor.audio_tokenizer)
    cache.encode(sizes, read, processor)
    codes = answer_codes = cache.codes
    if answer_codec is not None:
        answer_processor = copy.copy(processor)
        answer_processor.audio_tokenizer = answer_codec
        answers = {
            key: sizes[key]
            for messages, row_keys in zip(conversations["messages"], keys)
            for key, role in zip(row_keys, roles_of_audios(messages))
            if role == "assistant"
        }
        answer_cache = SpeechCodeCache(cache_dir, answer_codec)
        answer_cache.encode(answers, read, answer_processor)
        answer_codes = answer_cache.codes

    # `num_proc` workers get a copy each, which a codec on a GPU can not be in
    tokenizing_processor = copy.copy(processor)
    tokenizing_processor.audio_tokenizer = None

    def build_example(messages, index):
        audio_codes = [
            (answer_codes if role == "assistant" else codes)[key].tolist()
            for role, key in zip(roles_of_audios(messages), keys[index])
        ]
        return tokenizing_processor.build_training_example(messages, audio_codes)

    # A fingerprint of its own: the one that `datasets` makes would hash the codec and all codes
    examples = conversations.map(
        build_example,
        with_indices=True,
        input_columns="messages",
        remove_columns=conversations.column_names,
        num_proc=num_proc,
        desc="Tokenizing conversations",
        new_fingerprint=uuid.uuid4().hex[:16],
    )
    if max_length is None:
        return examples
    lengths = [len(ids) for ids in examples["input_ids"]]
    fitting = [index for index, length in enumerate(lengths) if length <= max_length]
    if not fitting:
        raise ValueError(
            f"All conversations are longer than max_length = {max_length}; the shortest has {min(lengths)} tokens."
        )
    if len(fitting) < len(examples):
        logger.warning(
            f"{len(examples) - len(fitting)} of {len(examples)} conversations are longer than max_length = {max_length} and "
            f"are left out; the longest has {max(lengths)} tokens."
        )
    return examples.select(fitting)
