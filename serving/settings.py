# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What a server is told when it starts: where it listens, whom it answers, and how much it takes."""

import ipaddress
import re
from dataclasses import dataclass, field


# What the browser of a user can send as the name of a subprotocol, in which the page gives the key (RFC 9110's tokens)
KEY_CHARACTERS = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`|~-]+")


@dataclass(frozen=True, kw_only=True)
class ServerSettings:
    r"""
    Settings of one server. Sizes are in bytes, times in seconds.

    Args:
        host (`str`), port (`int`):
            Where it listens; port 0 takes a free one.
        api_key (`str`, *optional*):
            What clients have to send as `Authorization: Bearer KEY`, of characters that browsers can send in a
            WebSocket's subprotocol; without it everyone is answered.
        allow_origin (`tuple[str]`):
            Origins such as `https://example.org` whose pages may call the server; `*` stands for all.
        max_answers (`int`):
            HTTP answers that are made at once. More would each come slower than they are listened to.
        max_queue (`int`):
            HTTP requests that wait for their turn, or are still being sent. Together with `max_body_bytes` it bounds
            the memory of what clients send.
        max_sessions (`int`):
            Realtime sessions at once.
        max_body_bytes (`int`):
            The largest HTTP body: ten minutes of 16-bit speech at 16 kHz have 26 MB in base64.
        max_message_bytes (`int`):
            The largest WebSocket message: OpenAI takes 15 MiB of audio in one, which is 20 MiB in base64.
        max_audio_seconds (`float`):
            The longest audio of one request, all its recordings together. The model's own limit holds for each.
        max_turns (`int`):
            The most messages of one conversation. Far more than fit into the model's positions.
        max_characters (`int`):
            The longest text to be spoken, which is OpenAI's limit as well.
        max_new_tokens (`int`):
            The most tokens that a client may ask for: about five minutes of speech with its text.
        receive_seconds (`float`):
            How long a body may take to come.
        send_seconds (`float`):
            How long a client may take to read what was sent (64 KiB, as uvicorn buffers it) before it counts as gone.
        idle_seconds (`float`):
            How long a realtime session may be silent on both sides.
        keep_answers_seconds (`float`), max_kept_answers (`int`):
            How long spoken answers can be referred to by their id, and how many are kept: an hour, as OpenAI does;
            their text and codes are kept, some hundred bytes for a sentence.
        drain_seconds (`float`):
            How long running answers may go on, and be sent, after Ctrl-C. Most answers last less.

    Raises:
        ValueError: a setting is of no use, such as an empty key.
    """

    host: str = "127.0.0.1"
    port: int = 8765
    # left out of the representation, because that may end up in a log
    api_key: str | None = field(default=None, repr=False)
    allow_origin: tuple[str, ...] = ()
    max_answers: int = 16
    max_queue: int = 32
    max_sessions: int = 32
    max_body_bytes: int = 32 * 2**20
    max_message_bytes: int = 20 * 2**20
    max_audio_seconds: float = 600.0
    max_turns: int = 256
    max_characters: int = 4096
    max_new_tokens: int = 4096
    receive_seconds: float = 60.0
    send_seconds: float = 30.0
    idle_seconds: float = 600.0
    keep_answers_seconds: float = 3600.0
    max_kept_answers: int = 4096
    drain_seconds: float = 30.0

    def __post_init__(self):
        # an empty key would let everyone in whose owner believes that nobody comes in
        if self.api_key is not None and not KEY_CHARACTERS.fullmatch(self.api_key):
            raise ValueError(
                "The API key must be of letters of ASCII, digits and !#$%&'*+-.^_`|~, at least one, because browsers "
                "can send no others. `openssl rand -hex 16` makes one."
            )
        if not 0 <= self.port < 2**16:
            raise ValueError(f"The port must be between 0 and {2**16 - 1}, got {self.port}.")
        for origin in self.allow_origin:
            if origin not in ("*", "null") and ("://" not in origin or origin.count("/") != 2):
                raise ValueError(f"An origin is such as https://example.org, without a path; got {origin!r:.200}.")

    @property
    def is_local(self) -> bool:
        """Whether only this machine reaches the server."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host's name or address, without its port, always is this machine."""
    try:
        return host.lower() == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


__all__ = ["ServerSettings", "is_loopback"]
