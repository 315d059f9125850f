# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""The settings of a session of the Realtime protocol, as they are in effect."""

from dataclasses import dataclass, field, replace

from processing.conversation_vita_audio import SPOKEN_CHAT_SYSTEM_PROMPT

from .realtime_events import VOICE, AudioFormat, SessionUpdate, Transcription, TurnDetection, VitaAudio


@dataclass(frozen=True, kw_only=True)
class SessionConfig:
    """A session as in the protocol; the defaults are those of the reference."""

    model: str
    # what the models were trained with. It stands before the whole conversation, because they go on speaking then
    instructions: str = SPOKEN_CHAT_SYSTEM_PROMPT
    output_modalities: tuple[str] = ("audio",)
    max_output_tokens: int | str = "inf"
    truncation: str = "auto"
    input_format: AudioFormat = field(default_factory=AudioFormat)
    output_format: AudioFormat = field(default_factory=AudioFormat)
    turn_detection: TurnDetection | None = field(default_factory=lambda: TurnDetection(type="server_vad"))
    transcription: Transcription | None = None
    mctp_mode: str | None = None
    mctp_verify: bool | float | list[float] | None = None

    def updated(self, update: SessionUpdate) -> "SessionConfig":
        """The settings after an update: what it leaves out stays, and what is null in it has its default."""
        changes = {
            name: getattr(update, name)
            for name in ("instructions", "output_modalities", "max_output_tokens", "truncation")
            if name in update.model_fields_set
        }
        audio_input = update.audio.input if update.audio is not None else None
        audio_output = update.audio.output if update.audio is not None else None
        for name, source in (("input_format", audio_input), ("output_format", audio_output)):
            if source is not None and "format" in source.model_fields_set:
                changes[name] = source.format
        if audio_input is not None and "transcription" in audio_input.model_fields_set:
            changes["transcription"] = audio_input.transcription
        if "vita_audio" in update.model_fields_set:
            decoding = update.vita_audio or VitaAudio(mctp_mode=None, mctp_verify=None)
            changes |= {name: getattr(decoding, name) for name in decoding.model_fields_set}
        defaults = SessionConfig(model=self.model)
        # a client that has no instructions sends empty ones
        if "instructions" in changes and not (changes["instructions"] or "").strip():
            changes["instructions"] = None
        changes = {name: getattr(defaults, name) if value is None else value for name, value in changes.items()}
        # here null is a setting of its own
        if audio_input is not None and "turn_detection" in audio_input.model_fields_set:
            changes["turn_detection"] = audio_input.turn_detection
        return replace(self, **changes)

    def to_dict(self, session_id: str) -> dict:
        """All of the session, with what cannot be changed here."""
        return {
            "type": "realtime",
            "object": "realtime.session",
            "id": session_id,
            "model": self.model,
            "output_modalities": list(self.output_modalities),
            "instructions": self.instructions,
            "tools": [],
            "tool_choice": "auto",
            "max_output_tokens": self.max_output_tokens,
            "tracing": None,
            "truncation": self.truncation,
            "prompt": None,
            "include": None,
            "audio": {
                "input": {
                    "format": self.input_format.to_dict(),
                    "transcription": None
                    if self.transcription is None
                    else self.transcription.model_dump(exclude_none=True),
                    "noise_reduction": None,
                    "turn_detection": None if self.turn_detection is None else self.turn_detection.to_dict(),
                },
                "output": {"format": self.output_format.to_dict(), "voice": VOICE, "speed": 1.0},
            },
            "vita_audio": {"mctp_mode": self.mctp_mode, "mctp_verify": self.mctp_verify},
        }


__all__ = ["SessionConfig"]
