# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Conversations: the prompts that the models are trained with, and their two written forms brought into one."""

import array
import os
import re
from collections.abc import Iterator, Sequence
from typing import Any


AUDIO_MARK = "<|audio|>"
ROLES = ("system", "user", "assistant")
# The keys under which an audio part of a message, or a dictionary that is an audio, has its audio
AUDIO_KEYS = ("array", "raw", "audio", "bytes", "base64", "path", "url", "audio_url")

# Prompts of the released models (VITA-MLLM/VITA-Audio-Boost); `pretrained/vita-audio-mini` uses the same. The first
# two begin the user's turn, before the audio or the text. The third is the system's turn of spoken conversations.
ASR_PROMPT = "Convert the speech to text.\n"
TTS_PROMPT = "Convert the text to speech.\n"
# Of the system's turn with the voice to speak in, before its audio; a line end follows that. In chat, the lines of the
# prompt above come next
VOICE_PROMPT = "Your Voice: "
SPOKEN_CHAT_SYSTEM_PROMPT = "Your Name: Luke\nYour Gender: male\n\nRespond in a text-audio interleaved manner."

# A string that looks like one of these is meant as a file, though there is none of that name.
LOCATION = re.compile(r"(https?|file|ftp|s3|hf)://|data:|-$")
# Without spaces, a slash or a short ending makes a name; with spaces, only the ending of an audio file does
FILE_NAME = re.compile(
    r"[^\s/\\]*[/\\]\S*|\S*\.(?=\w*[a-z])\w{1,5}|.*\.(wav|wave|flac|ogg|oga|opus|mp3|m4a|mp4|aac|aiff?|webm|wma|amr)",
    re.I,
)
# A file in base64, in both of its alphabets, longer than the name of a file can be. It may have line ends, but no
# spaces, as between words
BASE64_FILE = re.compile(r"[A-Za-z0-9+/_=\r\n-]{256,}")

# ChatML without a default system turn. `generation` blocks hold what the model learns to write.
CHAT_TEMPLATE = """\
{%- for message in messages %}
{{- '<|im_start|>' + message['role'] + '\\n' }}
{%- set content %}
{%- if message['content'] is string %}
{{- message['content'] }}
{%- else %}
{%- for part in message['content'] %}
{{- '<|audio|>' if part['type'] == 'audio' else part['text'] }}
{%- endfor %}
{%- endif %}
{%- endset %}
{%- if message['role'] == 'assistant' %}
{%- generation %}
{{- content + '<|im_end|>' }}
{%- endgeneration %}
{%- else %}
{{- content + '<|im_end|>' }}
{%- endif %}
{{- '\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}
{{- '<|im_start|>assistant\\n' }}
{%- endif %}"""


class SpeechCodes(list):
    """Codes in the place of an audio, as a list of numbers would be samples."""


def recognition_conversation(audio: Any) -> list[dict]:
    """
    A conversation that asks for the text of `audio`, anything that a part `{"type": "audio", "audio": ...}` takes.
    """
    content = [{"type": "text", "text": ASR_PROMPT}, {"type": "audio", "audio": audio}]
    return [{"role": "user", "content": content}]


def synthesis_conversation(text: str) -> list[dict]:
    """A conversation that asks for the speech of `text`."""
    return [{"role": "user", "content": [{"type": "text", "text": TTS_PROMPT + text}]}]


def spoken_conversation(audio: Any, system_prompt: str | None = SPOKEN_CHAT_SYSTEM_PROMPT) -> list[dict]:
    """A conversation that asks the spoken question `audio`; a `system_prompt` of None leaves the system's turn out."""
    question = {"role": "user", "content": [{"type": "audio", "audio": audio}]}
    if system_prompt is None:
        return [question]
    return [{"role": "system", "content": [{"type": "text", "text": system_prompt}]}, question]


def is_written(text: str) -> bool:
    """
    Whether a string is a question itself, and not the place of an audio: neither an address nor a file nor named like
    one, nor a file in base64.
    """
    is_file = FILE_NAME.fullmatch(text.strip()) or BASE64_FILE.fullmatch(text.strip())
    return not (LOCATION.match(text) or is_file or os.path.exists(text))


def is_conversation(inputs: Any) -> bool:
    """Whether `inputs` are messages `{"role", "content"}`, one or more."""
    return isinstance(inputs, (list, tuple)) and len(inputs) > 0 and _is_message(inputs[0])


def _is_message(inputs: Any) -> bool:
    return isinstance(inputs, dict) and {"role", "content"} <= inputs.keys()


def read_conversation(inputs: Any) -> list[dict]:
    """
    The messages of an input of the pipeline, in the form of [`split_at_marks`].

    Args:
        inputs: messages, one message, or a part of one; a row of a dataset with `"messages"` and the `"audios"` of
            their marks, or with an `"audio"`; a string that [`is_written`]; or an audio.

    Raises:
        ValueError: the last turn is empty or not the user's, a role is unknown, or [`split_at_marks`] raises it.
        TypeError: `inputs` is None.
    """
    audios = None
    if isinstance(inputs, dict) and inputs.get("messages") is not None:
        inputs, audios = inputs["messages"], inputs.get("audios")
    if _is_message(inputs):
        inputs = [inputs]
    if inputs is None:
        raise TypeError("There is nothing to answer: the input is None.")
    if not is_conversation(inputs):
        if isinstance(inputs, str) and is_written(inputs):
            part = {"type": "text", "text": inputs}
        else:
            part = inputs if isinstance(inputs, dict) and "type" in inputs else _audio(inputs)
        inputs = [{"role": "user", "content": [part]}]
    messages = split_at_marks(inputs, audios)
    if unknown := {message["role"] for message in messages} - set(ROLES):
        raise ValueError(f"The roles of a conversation are {', '.join(ROLES)}, got {', '.join(sorted(unknown)):.200}.")
    if messages[-1]["role"] != "user":
        raise ValueError(
            f"The last turn must be the user's, to be answered; it is of the role {messages[-1]['role']!r}."
        )
    if not any(part["type"] == "audio" or part["text"].strip() for part in messages[-1]["content"]):
        raise ValueError("There is nothing to answer: the last turn is empty.")
    return messages


def _audio(inputs: Any) -> dict:
    if isinstance(inputs, dict) and inputs.get("audio") is not None:
        # a row of a dataset, or another answer of the pipeline
        rate = {"sampling_rate": inputs["sampling_rate"]} if inputs.get("sampling_rate") is not None else {}
        return {"type": "audio", "audio": inputs["audio"], **rate}
    return {"type": "audio", "audio": inputs}


def task_of(messages: list[dict]) -> str:
    """What the last turn asks for: `"asr"`, `"tts"`, or the answer to a `"spoken"` or a `"written"` question."""
    content = messages[-1]["content"]
    text = "".join(part["text"] for part in content if part["type"] == "text")
    if any(part["type"] == "audio" for part in content):
        # Without its line end, so that a prompt counts, too, where the audio follows on the same line
        return "asr" if text.startswith(ASR_PROMPT.strip()) else "spoken"
    return "tts" if text.startswith(TTS_PROMPT.strip()) else "written"


def is_spoken(messages: list[dict]) -> bool:
    """Whether the user speaks in one of the messages, which are in the form of [`split_at_marks`]."""
    return any(part["type"] == "audio" for m in messages if m["role"] == "user" for part in m["content"])


def with_system_prompt(messages: list[dict], **system_prompt: str | None) -> list[dict]:
    """
    The messages behind the system's turn that the model was trained with: that of spoken chat where the last turn is a
    question and the user speaks in any turn, none for the other tasks.

    Args:
        messages (`list[dict]`): from [`read_conversation`].
        system_prompt (`str`, *optional*): another prompt; None leaves the turn out.

    Raises:
        ValueError: there is a `system_prompt`, but the messages have a system's turn already.
    """
    is_chat = task_of(messages) in ("spoken", "written") and is_spoken(messages)
    # Keywords in a dictionary, because a prompt of None is not the same as none given
    prompt = system_prompt.get("system_prompt", SPOKEN_CHAT_SYSTEM_PROMPT if is_chat else None)
    if any(message["role"] == "system" for message in messages):
        if system_prompt.get("system_prompt") is not None:
            raise ValueError("`system_prompt` is given, but the conversation has a turn of the system itself.")
        return messages
    if prompt is None:
        return messages
    return [{"role": "system", "content": [{"type": "text", "text": prompt}]}, *messages]


def with_voice(messages: list[dict], audio: Any) -> list[dict]:
    """
    The messages with a voice to speak in at the beginning of the system's first turn, which is made where there is
    none: `Your Voice: <|audio|>` and a line end.

    Args:
        messages (`list[dict]`): in the form of [`split_at_marks`].
        audio: the recording, of any kind that a message may have.
    """
    prompt = [
        {"type": "text", "text": VOICE_PROMPT},
        {"type": "audio", "audio": audio},
        {"type": "text", "text": "\n"},
    ]
    for index, message in enumerate(messages):
        if message["role"] == "system":
            told = {**message, "content": [*prompt, *message["content"]]}
            return [*messages[:index], told, *messages[index + 1 :]]
    return [{"role": "system", "content": prompt}, *messages]


def split_at_marks(messages: Sequence[dict], audios: Sequence | None = None) -> list[dict]:
    """
    Brings a conversation into the form whose contents are lists of parts.

    Args:
        messages: `{"role", "content"}` each, the content either such a list of parts, `{"type": "text", "text"}` and
            `{"type": "audio", [one of "array", "raw", "audio", "bytes", "base64", "path", "url", "audio_url"],
            ["sampling_rate"]}` or `{"type": "audio", "codes": list[int]}`, as well as `{"type": "audio_url",
            "audio_url": {"url"}}` and `{"type": "input_audio", "input_audio": {"data"}}` of chat APIs, or a string
            with marks `<|audio|>`, or an answer of the pipeline, which stands for its `"text"` and, where the user
            speaks in any turn, its `"audio_codes"`, as the models learn it.
        audios (`Sequence`, *optional*): the audios of the marks, and of the audio parts that name none, in order. They
            may be of any type, also lists of speech codes. One audio may come without a list around it.

    Returns:
        The messages with content parts `{"type": "text", "text": str}` and `{"type": "audio", "audio": source}`.

    Raises:
        ValueError: the number of marks is not that of `audios`, or a message or a part is malformed.
    """
    contents = list(map(_to_parts, messages))
    normalized = [{**message, "content": content} for message, content in zip(messages, contents)]
    if not is_spoken(normalized):
        # Answers to written questions are text, which is read aloud afterwards
        for message, of_message in zip(messages, normalized):
            if _is_answer(message["content"]):
                of_message["content"] = [part for part in of_message["content"] if part["type"] == "text"]
    unnamed = [part for m in normalized for part in m["content"] if part["type"] == "audio" and part["audio"] is None]
    audios = [] if audios is None else list(audios) if _is_several(audios, len(unnamed)) else [audios]
    if len(unnamed) != len(audios):
        raise ValueError(
            f"The messages have {len(unnamed)} marks {AUDIO_MARK}, but {len(audios)} audios came with them."
        )
    # These parts are in `normalized` as well, so it is filled here
    for part, audio in zip(unnamed, audios):
        part["audio"] = audio
    return normalized


def _is_several(audios: Any, num_marks: int) -> bool:
    """Whether `audios` are those of the marks, one for each, and not one audio without a list around it."""
    if hasattr(audios, "ndim"):
        # An array of objects or names, or the rows of a batch; one with channels is of one mark
        kind = getattr(audios.dtype, "kind", "f")
        return audios.ndim > 0 and (kind in "OU" or (audios.ndim > 1 and len(audios) == num_marks))
    is_file = hasattr(audios, "read") or isinstance(audios, (str, bytes, bytearray, memoryview, array.array))
    # A column of a dataset is a sequence
    return isinstance(audios, (Sequence, Iterator)) and not is_file


def _is_answer(content: Any) -> bool:
    """Whether the content of a message is an answer of the pipeline, and no part."""
    return isinstance(content, dict) and "type" not in content


def _to_parts(message: dict) -> list[dict]:
    if not isinstance(message, dict):
        raise ValueError(f"A message must be a dictionary, got {message!r:.200}.")
    content = message.get("content")
    if _is_answer(content):
        # The codes that the model wrote, because its speech would be encoded to others
        codes = content.get("audio_codes") if message.get("role") == "assistant" else None
        codes = codes.tolist() if hasattr(codes, "tolist") else codes
        speech = [{"type": "audio", "codes": list(codes)}] if codes else []
        text = content.get("text")
        content = [{"type": "text", "text": text}, *speech] if speech and text else speech or text
    elif isinstance(content, dict):
        content = [content]
    if not isinstance(message.get("role"), str) or not isinstance(content, (str, list, tuple)):
        raise ValueError(
            f'A message needs a "role" and a "content", a string, a list of parts or an answer; got {message!r:.200}.'
        )
    if not isinstance(content, str):
        return [_normalize_part(part) for part in content]
    first, *others = content.split(AUDIO_MARK)
    parts = [{"type": "text", "text": first}]
    for text in others:
        parts += [{"type": "audio", "audio": None}, {"type": "text", "text": text}]
    return [part for part in parts if part["type"] == "audio" or part["text"]]


def _normalize_part(part: dict) -> dict:
    if not isinstance(part, dict):
        raise ValueError(f"A content part must be a dictionary, got {part!r:.200}.")
    # a dataset gives all rows the same keys, with None where a row has no value
    part = _without_api_form({key: value for key, value in part.items() if value is not None})
    known = {"text"} if part.get("type") == "text" else {*AUDIO_KEYS, "codes", "sampling_rate"}
    others = part.keys() - {"type"} - known
    if part.get("type") in ("text", "audio") and others:
        raise ValueError(
            f"A content part of the type {part['type']!r} has the unknown keys "
            f"{', '.join(sorted(map(str, others))):.200}."
        )
    if part.get("type") == "text" and isinstance(part.get("text"), str):
        return {"type": "text", "text": part["text"]}
    if part.get("type") == "audio" and "codes" in part:
        if part.keys() != {"type", "codes"} or not isinstance(part["codes"], (list, tuple)):
            raise ValueError(f'"codes" of an audio must be a list of numbers, and all that it has; got {part!r:.200}.')
        return {"type": "audio", "audio": SpeechCodes(part["codes"])}
    if part.get("type") == "audio":
        keys = [key for key in AUDIO_KEYS if key in part]
        if len(keys) > 1:
            raise ValueError(f"A content part has its audio under one key, not under {' and '.join(keys)}.")
        if not keys:
            return {"type": "audio", "audio": None}
        (key,) = keys
        # Without its key, base64 would pass for a path, and an array would have no rate
        if key in ("array", "raw", "base64") or "sampling_rate" in part:
            return {"type": "audio", "audio": {key: part[key], "sampling_rate": part.get("sampling_rate")}}
        return {"type": "audio", "audio": part[key]}
    raise ValueError(
        'A content part must be {"type": "text", "text": ...} or {"type": "audio", ...} with one of '
        f"{', '.join(AUDIO_KEYS)}, got {part!r:.200}."
    )


def _without_api_form(part: dict) -> dict:
    """A part in the form that the others have, of one in the form of chat APIs."""
    for api_key, inner_key, key in (("audio_url", "url", "audio_url"), ("input_audio", "data", "base64")):
        inner = part.get(api_key)
        if isinstance(inner, dict):
            # the "format" is not needed: the file itself says which it has
            if inner.get(inner_key) is None or inner.keys() - {inner_key, "format"}:
                raise ValueError(f'"{api_key}" of a content part must be {{"{inner_key}": ...}}, got {inner!r:.200}.')
            del part[api_key]
            part[key] = inner[inner_key]
    return {**part, "type": "audio"} if part.get("type") in ("audio_url", "input_audio") else part


def joined_contents(messages: list[dict]) -> list[dict]:
    """Messages whose contents are strings with marks, from messages whose contents are lists of parts."""
    return [
        {**m, "content": "".join(AUDIO_MARK if part["type"] == "audio" else part["text"] for part in m["content"])}
        for m in messages
    ]


def audio_parts(messages: list[dict]) -> list[dict]:
    """The audio parts of messages whose contents are lists of parts, in order."""
    return [part for message in messages for part in message["content"] if part["type"] == "audio"]


def roles_of_audios(messages: list[dict]) -> list[str]:
    """Who says each of the audios, in order."""
    return [message["role"] for message in messages for _ in audio_parts([message])]


__all__ = [
    "ASR_PROMPT",
    "AUDIO_MARK",
    "CHAT_TEMPLATE",
    "SPOKEN_CHAT_SYSTEM_PROMPT",
    "TTS_PROMPT",
    "VOICE_PROMPT",
    "SpeechCodes",
    "audio_parts",
    "is_conversation",
    "is_written",
    "joined_contents",
    "read_conversation",
    "recognition_conversation",
    "roles_of_audios",
    "spoken_conversation",
    "split_at_marks",
    "synthesis_conversation",
    "task_of",
    "with_system_prompt",
    "with_voice",
]
