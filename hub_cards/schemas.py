# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""What is in the files that a card is written from, as far as the card reads them."""

TEXT, NUMBER, COUNT = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}
TEXT_OR_NONE = {"type": ["string", "null"]}
TEXTS_OR_NONE = {"type": ["array", "string", "null"], "items": TEXT}
STAGE = {"enum": [1, 2, 3, 4]}
PLACE = {
    "type": ["object", "null"],
    "properties": {"repo_id": TEXT_OR_NONE, "revision": TEXT_OR_NONE, "folder": TEXT, "stage": STAGE},
}

CONFIG = {
    "type": "object",
    "properties": {"model_type": TEXT, "num_mctp_modules": COUNT},
}

# Of one mode: the figures of each set
SETS_OF_FIGURES = {
    "type": "object",
    "additionalProperties": {"type": "object", "additionalProperties": {"type": ["number", "null"]}},
}
RESULTS = {
    "type": "object",
    "properties": {
        "modes": {"type": "object", "additionalProperties": SETS_OF_FIGURES},
        "recognizer": TEXT,
        "recognizer_wer_on_tts_references": NUMBER,
        "benchmarks": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "additionalProperties": {
                    "type": "object",
                    "required": ["dataset", "split"],
                    "properties": {
                        "dataset": TEXT,
                        "split": TEXT,
                        **dict.fromkeys(("wer", "cer", "text_accuracy", "speech_accuracy"), NUMBER),
                    },
                },
            },
        },
    },
    "anyOf": [{"required": ["modes"]}, {"required": ["benchmarks"]}],
}

TRAINING_RECORD = {
    "type": "object",
    "properties": {
        "stage": STAGE,
        "repo_id": TEXT_OR_NONE,
        "revision": TEXT_OR_NONE,
        "license": TEXT_OR_NONE,
        "language": TEXTS_OR_NONE,
        "starts_from": PLACE,
        "stages": {"type": "array", "items": {**PLACE, "type": "object", "required": ["stage"]}},
        "base_model": TEXT_OR_NONE,
        "dataset": {**PLACE, "type": "object"},
        "tasks": TEXTS_OR_NONE,
        "num_examples": COUNT,
        "settings": {"type": "object"},
        "hardware": {"type": "object", "required": ["device", "processes"]},
        "versions": {"type": "object"},
    },
    "dependentRequired": {"dataset": ["num_examples"], "settings": ["hardware", "versions"]},
}

TRAINER_STATE = {
    "type": "object",
    "required": ["log_history"],
    "properties": {
        "global_step": COUNT,
        "log_history": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["step"],
                "properties": {"step": NUMBER},
                "patternProperties": {r"^(eval_)?(loss|lm_loss|mctp_loss_\d+)$": NUMBER},
            },
        },
    },
}
