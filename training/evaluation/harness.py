# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
The steps from prompts to scores that all commands share which score a model: responses, transcripts of their speech,
figures.

`evaluate_benchmarks` runs them on published sets and keeps on disk what each step gave, so that a run that was stopped
goes on. So does `evaluate_held_out` on held-out conversations where it is told a folder for it.
"""

import argparse
import hashlib
import json
import math
import os
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import torch
from tqdm import tqdm
from transformers import BatchFeature, PreTrainedConfig

from hub_cards.command_line import check_place, naming, parse_tolerance
from hub_cards.json_lines import read_json_lines
from hub_cards.model_card import read_json
from modeling_vita_audio import MCTP_MODES, VitaAudioConfig, VitaAudioForConditionalGeneration
from modeling_vita_audio.generation_vita_audio import resolve_mctp_mode
from processing import VitaAudioProcessor
from processing.conversation_vita_audio import SpeechCodes
from training.conversations import (
    DIALOGUE,
    NOISE,
    QUESTION_TASKS,
    SPOKEN_QA,
    TASKS,
    TTS,
    read_conversations,
    task_of,
)
from training.data import codec_fingerprint

from .benchmarks import Item, draw
from .dialogues import with_responses
from .normalizers import CORPUS
from .quality import QUALITIES, SpeechQuality
from .recognition import PipelineRecognizer, WhisperRecognizer
from .scoring import answer_is_right, character_error_rate, exact_accuracy, real_time_factor, word_error_rate


# The tasks whose responses are speech, which a recogniser has to write down.
SPEAKING_TASKS = (TTS, SPOKEN_QA, DIALOGUE)
# Judging the sound of a clip takes about a second, and the mean of so many is known to about 0.05 of DNSMOS.
NUM_QUALITY_ITEMS = 50


class ResponseLog:
    """
    Rows by their `id`, in memory and in a file of JSON lines that is only ever appended to.

    Args:
        path (`Path`, *optional*): The file. Rows that a stopped run has left in it are read. A last line without its
            end is cut off, because a kill in the middle of writing leaves one behind. Without a path the rows are in
            memory only.

    Raises:
        ValueError: A line is not one that this class has written.
    """

    def __init__(self, path: Path | None = None):
        self.path, self.rows = path, {}
        if path is None or not path.exists():
            return
        content = path.read_bytes()
        end = content.rfind(b"\n") + 1
        if end < len(content):
            os.truncate(path, end)
        try:
            for _, row in read_json_lines(path, {"id": str}):
                self.rows[row["id"]] = row
        except ValueError as error:
            raise ValueError(f"{error} Remove the file to start anew.") from error

    def append(self, rows: list[dict]) -> None:
        """Adds `rows`, which are on disk when this returns."""
        self.rows |= {row["id"]: row for row in rows}
        if self.path is not None:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            with open(self.path, "ab") as file:
                file.write("".join(json.dumps(row) + "\n" for row in rows).encode())
                file.flush()
                os.fsync(file.fileno())


def response_settings(
    model: VitaAudioForConditionalGeneration, processor: VitaAudioProcessor, batch_size: int, max_new_tokens: int
) -> dict:
    """All that responses depend on, except their items and their mode."""
    return {
        "weights": codec_fingerprint(model),
        "codec": codec_fingerprint(processor.audio_tokenizer),
        "processor": processor_fingerprint(processor),
        "device": model.device.type,
        "generation": model.generation_config.to_diff_dict(),
        "batch_size": batch_size,
        "max_new_tokens": max_new_tokens,
    }


def processor_fingerprint(processor: VitaAudioProcessor) -> str:
    """Hash of how a processor writes a prompt and what it hears in a recording, before its codec."""
    tokenizer = processor.tokenizer
    parts = [
        *(processor.chat_template, processor.interleave_pattern, processor.feature_extractor.to_dict()),
        *(sorted(tokenizer.get_vocab().items()), sorted(tokenizer.get_added_vocab())),
    ]
    return hashlib.blake2b(json.dumps(parts, sort_keys=True, default=str).encode(), digest_size=12).hexdigest()


def log_path(folder: Path, name: str, settings: dict) -> Path:
    """A file whose name has a hash of the settings, so that responses of different settings never mix."""
    digest = hashlib.blake2b(json.dumps(settings, sort_keys=True).encode(), digest_size=6).hexdigest()
    return folder / f"{name}-{digest}.jsonl"


def build_prompts(processor: VitaAudioProcessor, items: Sequence[Item]) -> BatchFeature:
    """Inputs of `generate` for the prompts of `items`: `(num_items, length)`, padded on the left."""
    return processor.apply_chat_template(
        [item.messages for item in items], tokenize=True, return_dict=True, add_generation_prompt=True
    )


def load_audios(processor: VitaAudioProcessor, item: Item) -> tuple[Item, float]:
    """
    The item with the samples of its audios, and the seconds that these last; an error names the item. Codes stay and
    do not count, because the model wrote them itself.
    """
    try:
        audios = [audio if isinstance(audio, SpeechCodes) else processor.load_audio(audio) for audio in item.audios]
    except (ValueError, OSError) as error:
        raise type(error)(f"{item.id}: {error}") from error
    num_samples = sum(len(audio) for audio in audios if not isinstance(audio, SpeechCodes))
    return item.with_audios(audios), num_samples / processor.feature_extractor.sampling_rate


def batches_of(items: Sequence[Item], batch_size: int) -> Iterator[list[Item]]:
    """Items in their order, at most `batch_size` together, and never turns of a dialogue with later ones."""
    batch = []
    for item in items:
        if batch and (len(batch) == batch_size or len(item.earlier) != len(batch[0].earlier)):
            yield batch
            batch = []
        batch.append(item)
    if batch:
        yield batch


@torch.no_grad()
def respond(
    model: VitaAudioForConditionalGeneration,
    processor: VitaAudioProcessor,
    items: Sequence[Item],
    log: ResponseLog,
    batch_size: int = 16,
    desc: str = "",
    **generate_kwargs,
) -> None:
    """
    Writes the model's greedy response to each item to `log`, where items with `earlier` ones find the responses to
    these. However often a run is stopped, its batches are the same, so it ends with the responses of a run that was
    not.

    Rows of `log`: `id`, `text` (`str`), `audio_codes` (`list[int]`), `num_tokens` that the model wrote, `seconds` of
    work (an equal share of its batch's, which includes tokenizing the prompt) and `audio_seconds` of the prompt.
    """
    num_batches = math.ceil(len(items) / batch_size)
    for batch in tqdm(batches_of(items, batch_size), desc=f"{desc} responses", unit="batch", total=num_batches):
        if all(item.id in log.rows for item in batch):
            continue
        # Reading the files is not timed, because it is no work of the model.
        batch, audio_seconds = zip(*(load_audios(processor, with_responses(item, log.rows)) for item in batch))
        started = time.perf_counter()
        inputs = build_prompts(processor, batch).to(model.device)
        sequences = model.generate(**inputs, do_sample=False, **generate_kwargs)
        # The copy waits for the device, so that `seconds` has all of its work.
        new_ids = sequences[:, inputs["input_ids"].shape[1] :].cpu()
        seconds = (time.perf_counter() - started) / len(batch)
        # Rows that end early are padded.
        num_tokens = (new_ids != model.generation_config.pad_token_id).sum(dim=1).tolist()
        responses = processor.post_process_generation(new_ids)
        log.append(
            [
                {"id": item.id, **response, "num_tokens": number, "seconds": seconds, "audio_seconds": duration}
                for item, response, number, duration in zip(batch, responses, num_tokens, audio_seconds)
            ]
        )


def listen(
    processor: VitaAudioProcessor,
    recognizer: WhisperRecognizer | PipelineRecognizer,
    items: Sequence[Item],
    responses: dict[str, dict],
    log: ResponseLog,
    desc: str = "",
    quality: SpeechQuality | None = None,
) -> None:
    """
    Writes to `log` what the recogniser hears in the speech of `responses`, which are rows of [`respond`] by their ids.

    Rows of `log`: `id`, `heard` (`str`, empty where there is no speech), `seconds` that decoding the speech took, and
    `audio_seconds`, which the speech lasts. With `quality` those of `NUM_QUALITY_ITEMS` items, drawn with a fixed
    seed, also have its figures, if there is speech.
    """
    ids = [item.id for item in items]
    judged = {ids[index] for index in draw(len(ids), NUM_QUALITY_ITEMS)} if quality is not None else ()
    for item_id in tqdm(ids, desc=f"{desc} listening"):
        if item_id in log.rows:
            continue
        started = time.perf_counter()
        (speech,) = processor.decode_audio([responses[item_id]["audio_codes"]])
        seconds = time.perf_counter() - started
        sampling_rate = processor.output_sampling_rate
        heard = recognizer(speech, sampling_rate) if len(speech) else ""
        row = {"id": item_id, "heard": heard, "seconds": seconds, "audio_seconds": len(speech) / sampling_rate}
        log.append([row | (quality(speech, sampling_rate) if len(speech) and item_id in judged else {})])


def score(
    task: str,
    items: Sequence[Item],
    responses: dict[str, dict],
    transcripts: dict[str, dict],
    normalizer: str = CORPUS,
    with_exact: bool = False,
) -> tuple[dict, list[dict]]:
    """
    Compares responses with their references.

    Args:
        task: One of [`training.conversations`]' `TASKS`.
        responses, transcripts: Rows of [`respond`] and [`listen`] by the ids of the items. Only tasks whose responses
            are speech need transcripts.
        normalizer: One of `training.evaluation.normalizers`. Both sides of a comparison go through it.
        with_exact: Whether texts and transcripts have the figure `accuracy`, too.

    Returns:
        `tuple`: a `dict` of `conversations` (their number) and, as the task has them, `wer`, `cer`, `accuracy` (the
        share that is word for word right), `text_accuracy` and `speech_accuracy`, of dialogues also by turns, such as
        `text_accuracy_turn_2`; and the means of the figures of quality that the transcripts have; and a `list[dict]`,
        a line for each item.
    """
    lines = []
    asks = task in QUESTION_TASKS or task == DIALOGUE
    for item in items:
        line = {"id": item.id, "reference": item.reference, "text": responses[item.id]["text"]}
        if task in SPEAKING_TASKS:
            line["heard"] = transcripts[item.id]["heard"]
        if asks:
            # Without a sentence as a reference, the answer may stand anywhere.
            gold = item.accepted_answers, item.reference or None, normalizer
            line["text_is_right"] = answer_is_right(line["text"], *gold)
            if task in SPEAKING_TASKS and item.is_spoken:
                line["speech_is_right"] = answer_is_right(line["heard"], *gold)
        lines.append(line)
    turns = [len(item.earlier) + 1 for item in items]
    figures = {"conversations": turns.count(1)}
    if asks:
        for kind in ("text", "speech") if task in SPEAKING_TASKS else ("text",):
            key = f"{kind}_is_right"
            judged = [(turn, line[key]) for turn, line in zip(turns, lines) if key in line]
            if judged:
                figures[f"{kind}_accuracy"] = float(np.mean([is_right for _, is_right in judged]))
            for turn in sorted({turn for turn, _ in judged}) if task == DIALOGUE else ():
                of_turn = [is_right for number, is_right in judged if number == turn]
                figures[f"{kind}_accuracy_turn_{turn}"] = float(np.mean(of_turn))
    else:
        references = [line["reference"] for line in lines]
        hypotheses = [line["heard" if task in SPEAKING_TASKS else "text"] for line in lines]
        if task != NOISE:
            figures["wer"] = word_error_rate(references, hypotheses, normalizer)
            figures["cer"] = character_error_rate(references, hypotheses, normalizer)
        if with_exact or task == NOISE:
            figures["accuracy"] = exact_accuracy(references, hypotheses, normalizer)
    if task in SPEAKING_TASKS:
        heard = [transcripts[item.id] for item in items]
        for name in QUALITIES:
            if values := [row[name] for row in heard if name in row]:
                figures[name] = float(np.mean(values))
    return figures, lines


def measure_throughput(
    task: str, items: Sequence[Item], responses: dict[str, dict], transcripts: dict[str, dict]
) -> dict[str, float]:
    """
    Speed of the batches: `tokens_per_second`, and where there is speech `real_time_factor`, which is seconds of work
    per second of the speech that the model recognised or generated.
    """
    rows = [responses[item.id] for item in items]
    work = [row["seconds"] for row in rows]
    speed = {"tokens_per_second": sum(row["num_tokens"] for row in rows) / sum(work)}
    if task in SPEAKING_TASKS:
        spoken = [transcripts[item.id] for item in items]
        # Speaking is work, too.
        work = [seconds + row["seconds"] for seconds, row in zip(work, spoken)]
        rows = spoken
    durations = [row["audio_seconds"] for row in rows]
    if sum(durations):
        speed["real_time_factor"] = real_time_factor(work, durations)
    return speed


def load_for_scoring(
    name_or_path: str,
    revision: str | None = None,
    dtype: str | torch.dtype = "auto",
    device: str = "cpu",
    mctp_verify: float | list[float] | None = None,
) -> tuple[VitaAudioForConditionalGeneration, VitaAudioProcessor]:
    """
    A model and its processor with its codec, on `device`. `mctp_verify` takes the place of the model's own.

    Raises:
        OSError: There is no such model.
        ValueError: The model is of another type, or its processor has no codec, so that it can neither hear nor speak.
    """
    check_place(name_or_path)
    with naming(f"The configuration of {name_or_path}"):
        # The type is read first. `AutoConfig` would not do, because it refuses types that it does not know with an
        # error of its own.
        config, _ = PreTrainedConfig.get_config_dict(name_or_path, revision=revision)
    if config.get("model_type") != VitaAudioConfig.model_type:
        raise ValueError(
            f"{name_or_path} has a model of the type {config.get('model_type')!r}, not {VitaAudioConfig.model_type!r}."
        )
    with naming(f"The model {name_or_path}"):
        processor = VitaAudioProcessor.from_pretrained(name_or_path, revision=revision)
        model = VitaAudioForConditionalGeneration.from_pretrained(name_or_path, revision=revision, dtype=dtype)
    if processor.audio_tokenizer is None:
        raise ValueError(f"The processor of {name_or_path} has no speech codec: it can neither hear nor speak.")
    if mctp_verify is not None:
        model.generation_config.mctp_verify = mctp_verify
    processor.audio_tokenizer.to(device)
    return model.to(device), processor


def read_sets(
    source: str | os.PathLike, split: str, limit: int | None = None, with_others: bool = True
) -> dict[str, list[dict]]:
    """
    Reads conversations to be scored.

    Args:
        source: What [`~training.conversations.read_conversations`] reads.
        split: The conversations of this split are taken.
        limit: At most this many of each task, drawn with a fixed seed; all by default.
        with_others: Whether conversations without a split are taken as well.

    Returns:
        `dict`: for each task, such as "asr", the rows that ask for it.

    Raises:
        FileNotFoundError, ValueError: There is no such source, a row in it is malformed, or none is of the split.
    """
    sets = {task: [] for task in TASKS}
    for row in read_conversations(source, split):
        if row["split"] is None and not with_others:
            continue
        sets[task_of(row["messages"], row["task"])].append(row)
    if not any(sets.values()):
        splits = sorted({str(row["split"]) for row in read_conversations(source)})
        raise ValueError(
            f"{source} has no conversations of the split '{split}'; its splits are {', '.join(splits) or 'none'}. To "
            "score others, which the model may have been trained on, name their split."
        )
    return {task: [rows[index] for index in draw(len(rows), limit)] for task, rows in sets.items() if rows}


def check_results_file(path: Path) -> None:
    """
    Raises:
        ValueError: it has benchmarks, which scores of held-out conversations would take the place of.
    """
    if "benchmarks" in (read_json(path) or {}):
        raise ValueError(f"{path} has results of benchmarks: name another --output_dir.")


def add_device_arguments(parser: argparse.ArgumentParser, dtype: str = "float32") -> None:
    """Adds `--device`, `--dtype`, whose default is `dtype`, and `--batch_size`."""
    parser.add_argument("--device", default="cpu", help="such as cpu or cuda:0 (default: cpu)")
    parser.add_argument(
        "--dtype", default=dtype, help=f"of the model's weights; auto is as they are stored (default: {dtype})"
    )
    parser.add_argument("--batch_size", type=int, default=16, help="prompts that go through the model at once")


def add_mode_argument(parser: argparse.ArgumentParser, default: str) -> None:
    """Adds `--mctp_mode`, whose `default` is said in words."""
    parser.add_argument(
        *("--mctp_mode", "--mode", "--modes"),
        nargs="+",
        type=parse_mode,
        metavar="MODE",
        help=f"one or several of {', '.join(MCTP_MODES)}, or lists such as 1,10,4,10 (default: {default})",
    )


def add_verify_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--mctp_verify",
        type=parse_tolerance,
        metavar="TOLERANCE",
        help="how strictly what modules write is checked, as in generate: 1 is lossless, 0 checks nothing, two or "
        "three such as 0.5,0.2,0 are for text, speech and the first speech (default: the model's own)",
    )


def parse_mode(text: str) -> str | list[int]:
    """A mode's name, or its list of numbers with commas between them."""
    try:
        mode = text if text in MCTP_MODES else [int(number) for number in text.split(",")]
        # only the form is checked here; `check_modes` knows how many modules the model has
        resolve_mctp_mode(mode, 10**6)
    except ValueError:
        raise argparse.ArgumentTypeError(
            f"{text!r} is none of {', '.join(MCTP_MODES)}, nor a list of numbers such as 1,10,4,10"
        ) from None
    return mode


def name_of_mode(mode: str | list[int]) -> str:
    """A mode as results and names of files have it: "boost", or "1_10_4_10" for a list."""
    return mode if isinstance(mode, str) else "_".join(map(str, mode))


def check_modes(modes: Sequence[str | list[int]], model: VitaAudioForConditionalGeneration) -> None:
    """
    Raises:
        ValueError: The model has fewer modules than one of the modes needs.
    """
    for mode in modes:
        resolve_mctp_mode(mode, model.config.num_mctp_modules)
