# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Conversations with audio to training examples. Speech codes are made once and kept on disk."""

import copy
import hashlib
import io
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path

import numpy as np
import soundfile as sf
import torch
from accelerate import PartialState
from accelerate.logging import get_logger
from datasets import Dataset, concatenate_datasets
from safetensors.numpy import load_file, save_file
from tqdm import tqdm

from hub_cards.corpus_rows import count_marks
from modeling_vita_audio.saving_vita_audio import remove_leftovers, replaced_whole
from processing import VitaAudioProcessor
from processing.codec_vita_audio import SpeechCodec
from processing.conversation_vita_audio import AUDIO_MARK

from .conversations import TTS, has_tts_prompt, list_lengths, reference_of, task_of
from .speech_input import SpeechInput


logger = get_logger(__name__)

# Clips in one file of the cache. A run that is killed loses at most as many.
CLIPS_PER_FILE = 512
# In the key of a recording's disturbed copy, between that of the recording and the copy's number
COPY_MARK = "-disturbed-"


def codec_fingerprint(codec: SpeechCodec) -> str:
    """Hash of a codec's configuration and weights. Codecs with the same hash make the same codes."""
    config = codec.config.to_dict()
    # These say how a codec, or a part of it, was stored and loaded, and its codes do not depend on them.
    for part in (config, *(value for value in config.values() if isinstance(value, dict))):
        for key in ("transformers_version", "_name_or_path", "dtype", "storage_dtype", "auto_map", "architectures"):
            part.pop(key, None)
    digest = hashlib.blake2b(json.dumps(config, sort_keys=True, default=str).encode(), digest_size=12)
    for name, tensor in sorted(codec.state_dict().items()):
        digest.update(name.encode())
        # As bytes, because NumPy has no bfloat16.
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
    return digest.hexdigest()


def read_content(audio: str | dict) -> bytes:
    """The audio file itself, of a path or of a row `{"bytes", "path"}` of an audio column."""
    if isinstance(audio, dict) and audio.get("bytes") is not None:
        return audio["bytes"]
    return Path(audio["path"] if isinstance(audio, dict) else audio).read_bytes()


def audio_key(content: bytes) -> str:
    """Hash of an audio file, by which its codes are found."""
    # The content and not the path, so that a file that was moved or copied is not encoded again.
    return hashlib.blake2b(content, digest_size=16).hexdigest()


def disturb(audio: str | dict, key: str, processor: VitaAudioProcessor) -> dict:
    """
    `audio` in another voice and place, which are drawn by `key`, as a row `{"bytes", "path"}` of an audio column.
    """
    # here, because evaluation reads recordings with this module and needs no audiomentations
    from .augmentation import heard_elsewhere

    sampling_rate = processor.audio_tokenizer.config.sampling_rate
    waveform = processor.load_audio(audio)
    # a hash that is the same in every process
    seed = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=4).digest(), "little")
    content = io.BytesIO()
    sf.write(content, heard_elsewhere(waveform, sampling_rate, seed), sampling_rate, format="WAV", subtype="PCM_16")
    return {"bytes": content.getvalue(), "path": None}


class SpeechCodeCache:
    """
    Speech codes on disk, by the codec and the content of the audio files.

    A file is written whole or not at all, so several runs can share a folder, and a run that is stopped loses at most
    `CLIPS_PER_FILE` clips.

    Args:
        cache_dir: the folder; each codec has its own inside.
        codec ([`SpeechCodec`]): the codec that makes the codes.
    """

    def __init__(self, cache_dir: str | os.PathLike, codec: SpeechCodec):
        self.folder = Path(cache_dir) / codec_fingerprint(codec)
        self.folder.mkdir(parents=True, exist_ok=True)
        # What runs that were killed have left half written
        remove_leftovers(self.folder)
        self.codes: dict[str, np.ndarray] = {}
        self.refresh()

    def refresh(self) -> None:
        """Reads what is on disk."""
        for path in sorted(self.folder.glob("*.safetensors")):
            self.codes |= load_file(path)

    def add(self, codes: dict[str, np.ndarray]) -> None:
        """Adds codes, `int32` of shape `(num_codes,)` by the keys of their audios, in a file of their own."""
        # The name depends on the clips alone, so two runs that encode the same ones write one file.
        name = hashlib.blake2b("".join(sorted(codes)).encode(), digest_size=12).hexdigest()
        with replaced_whole(self.folder / f"{name}.safetensors") as unfinished:
            save_file(codes, unfinished)
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
        # The largest files come first, so that too little memory shows at once.
        missing = sorted((key for key in sizes if key not in self.codes), key=lambda key: (-sizes[key], key))
        # None begins before all know what is missing: what one has written is not missing to the others any more.
        state.wait_for_everyone()
        # Taken in turns, so that no process gets all the long ones.
        missing = missing[state.process_index :: state.num_processes]
        new_codes = {}
        with tqdm(
            total=len(missing), desc="Encoding speech", unit="clip", disable=not state.is_main_process
        ) as progress:
            for number, key in enumerate(missing, 1):
                # One by one, because codes must not depend on what else is in a batch.
                (codes,) = processor.encode_audio([read(key)])
                new_codes[key] = np.array(codes, dtype=np.int32)
                progress.update()
                if len(new_codes) == CLIPS_PER_FILE or number == len(missing):
                    self.add(new_codes)
                    new_codes = {}
        # Each process needs all codes, and the others have written theirs to the folder.
        state.wait_for_everyone()
        self.refresh()


def roles_of_audios(messages: list[dict]) -> list[str]:
    """The role of the message that each audio of a conversation is in."""
    return [message["role"] for message in messages for _ in range(message["content"].count(AUDIO_MARK))]


def hash_audios(conversations: Dataset) -> tuple[list[list[str]], dict[str, int], dict[str, tuple[int, int]]]:
    """
    Reads all audio files of the conversations once.

    Returns:
        The keys of each conversation's audios; and, by their keys, the sizes of the files in bytes, and where one of
        them is: the row, and the place among its audios.

    Raises:
        OSError: a file cannot be read.
    """
    keys, sizes, places, keys_of_paths = [], {}, {}, {}
    for row, audios in enumerate(
        tqdm(conversations["audios"], desc="Hashing audio", disable=not PartialState().is_main_process)
    ):
        keys.append([])
        for place, audio in enumerate(audios or ()):
            # Many conversations may share a recording, such as an answer, so each path is read once.
            key = keys_of_paths.get(audio) if isinstance(audio, str) else None
            if key is None:
                content = read_content(audio)
                key = audio_key(content)
                sizes[key], places[key] = len(content), (row, place)
                if isinstance(audio, str):
                    keys_of_paths[audio] = key
            keys[row].append(key)
    return keys, sizes, places


def add_disturbed_copies(
    conversations: Dataset, keys: list[list[str]], num_copies: int
) -> tuple[Dataset, list[list[str]]]:
    """
    Puts `num_copies` of each conversation in which a user is heard behind all `conversations`. In `keys`, which are
    those of each conversation's audios, a copy has another key for what the user says, and for nothing else.
    """
    roles = [roles_of_audios(messages) for messages in conversations["messages"]]
    heard = [row for row, row_roles in enumerate(roles) if "user" in row_roles]
    copied_keys = [
        [f"{key}{COPY_MARK}{number}" if role == "user" else key for key, role in zip(keys[row], roles[row])]
        for number in range(1, num_copies + 1)
        for row in heard
    ]
    copies = [conversations.select(heard)] * num_copies
    return concatenate_datasets([conversations, *copies]), keys + copied_keys


def without_long_examples(examples: Dataset, max_length: int) -> Dataset:
    """
    Raises:
        ValueError: all examples have more than `max_length` tokens.
    """
    lengths = list_lengths(examples, "input_ids")
    fitting = [index for index, length in enumerate(lengths) if length <= max_length]
    if not fitting:
        raise ValueError(
            f"All conversations are longer than max_length = {max_length}; the shortest has {min(lengths)} tokens."
        )
    if len(fitting) < len(examples):
        logger.warning(
            f"{len(examples) - len(fitting)} of {len(examples)} conversations are longer than max_length = "
            f"{max_length} and are left out; the longest has {max(lengths)} tokens."
        )
    return examples.select(fitting)


def without_codec(processor: VitaAudioProcessor) -> VitaAudioProcessor:
    """A copy for workers that tokenise: a codec on a GPU cannot be copied to another process."""
    processor = copy.copy(processor)
    processor.audio_tokenizer = None
    return processor


def check_conversations(conversations: Dataset, processor: VitaAudioProcessor, num_proc: int | None) -> None:
    """
    Finds conversations that no example can be made of, before all speech is encoded, which may take hours.

    Raises:
        ValueError: there is one; its number among the conversations and its beginning are named.
    """
    tokenizing_processor = without_codec(processor)

    def find_problem(messages: list[dict]) -> dict:
        try:
            # any codes will do
            tokenizing_processor.build_training_example(messages, [[0]] * count_marks(messages))
        except ValueError as error:
            return {"problem": str(error)}
        return {"problem": ""}

    problems = conversations.map(
        find_problem,
        input_columns="messages",
        remove_columns=conversations.column_names,
        num_proc=num_proc,
        desc="Checking conversations",
        new_fingerprint=uuid.uuid4().hex[:16],
    )["problem"]
    for number, problem in enumerate(problems):
        if problem:
            start = conversations[number]["messages"][0]["content"]
            raise ValueError(f"The conversation {number + 1}, which begins {start!r:.80}, is no example: {problem}")


def build_training_dataset(
    conversations: Dataset,
    processor: VitaAudioProcessor,
    cache_dir: str | os.PathLike,
    max_length: int | None = None,
    num_proc: int | None = None,
    speech_input: SpeechInput | None = None,
    interleave_tts: bool = False,
    num_disturbed_copies: int = 0,
) -> Dataset:
    """
    Turns conversations into training examples.

    Args:
        conversations ([`Dataset`]): from [`load_conversations`].
        processor ([`VitaAudioProcessor`]): with its codec.
        cache_dir: where the speech codes are kept, see [`SpeechCodeCache`].
        max_length: conversations of more tokens are left out, because an example without its end would teach the model
            to never stop.
        num_proc: processes that tokenise.
        speech_input ([`SpeechInput`], *optional*): of a processor that hears by features, takes the audios of users.
        interleave_tts: whether the assistant writes the text before it speaks it where it is asked to read a text
            aloud, interleaved as in its answers. The original trains so.
        num_disturbed_copies: how many more examples are made of each conversation with a user's recordings, in which
            these are heard in other voices and places.

    Returns:
        [`Dataset`] with the columns `input_ids` and `labels`, lists of one length.

    Raises:
        ValueError: an audio or a conversation is bad, or all of them are too long.
    """
    if (speech_input is not None) != processor.hears_features:
        raise ValueError("`speech_input` is needed with a processor that hears by features, and with no other.")
    if speech_input is not None and num_disturbed_copies:
        raise ValueError("`num_disturbed_copies` is for processors that hear by codes.")
    check_conversations(conversations, processor, num_proc)
    # Codes are made for each recording and not for each conversation, because conversations share recordings.
    keys, sizes, places = hash_audios(conversations)

    def read(key: str) -> str | dict:
        original_key, _, number = key.partition(COPY_MARK)
        row, place = places[original_key]
        original = conversations[row]["audios"][place]
        return disturb(original, key, processor) if number else original

    heard, coded = {}, sizes
    if speech_input is not None:
        all_audios = [
            (key, role, row, place)
            for row, (messages, row_keys) in enumerate(zip(conversations["messages"], keys))
            for place, (key, role) in enumerate(zip(row_keys, roles_of_audios(messages)))
        ]
        coded = {key: sizes[key] for key, role, *_ in all_audios if role == "assistant"}
        for key, role, row, place in tqdm(
            all_audios, desc="Measuring speech", disable=not PartialState().is_main_process
        ):
            if role != "assistant" and key not in heard:
                heard[key] = speech_input.add(conversations, row, place)
    all_conversations, keys = add_disturbed_copies(conversations, keys, num_disturbed_copies)
    coded |= {key: sizes[key.partition(COPY_MARK)[0]] for row in keys for key in row if COPY_MARK in key}
    cache = SpeechCodeCache(cache_dir, processor.audio_tokenizer)
    cache.encode(coded, read, processor)
    codes = cache.codes

    tokenizing_processor = without_codec(processor)

    def build_example(messages: list[dict], index: int) -> dict:
        audios, numbers = [], []
        for role, key in zip(roles_of_audios(messages), keys[index]):
            if role != "assistant" and key in heard:
                number, num_rows = heard[key]
                numbers.append(number)
                audios.append(num_rows)
            else:
                audios.append(codes[key].tolist())
        # Other instructions may have more in them than the text
        if interleave_tts and task_of(messages) == TTS and has_tts_prompt(messages):
            messages = [*messages[:-1], {**messages[-1], "content": reference_of(messages) + AUDIO_MARK}]
        example = tokenizing_processor.build_training_example(messages, audios)
        return example if speech_input is None else speech_input.mark(example, numbers)

    examples = all_conversations.map(
        build_example,
        with_indices=True,
        input_columns="messages",
        remove_columns=conversations.column_names,
        num_proc=num_proc,
        desc="Tokenizing conversations",
        # a random one, because `datasets` would hash the codec and all codes to make its own
        new_fingerprint=uuid.uuid4().hex[:16],
    )
    return examples if max_length is None else without_long_examples(examples, max_length)
