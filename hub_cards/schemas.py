# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Schemas of the files that a card is written from, as far as the card reads them, and of its metadata."""

import jsonschema

from .results import SETS
from .stages import STAGES


TEXT, NUMBER, COUNT = {"type": "string"}, {"type": "number"}, {"type": "integer", "minimum": 0}
TEXT_OR_NONE = {"type": ["string", "null"]}
# Such as the languages: a card may have one of them, or a list
TEXTS_OR_NONE = {"type": ["array", "string", "null"], "items": TEXT}
STAGE = {"enum": list(STAGES)}
# Where something comes from: a repository, or a folder that is not on the Hub. None stands for random weights.
PLACE = {
    "type": ["object", "null"],
    "properties": {"repo_id": TEXT_OR_NONE, "revision": TEXT_OR_NONE, "folder": TEXT, "stage": STAGE},
}

# https://huggingface.co/docs/hub/repositories-licenses
# They are listed here, because `push --dry_run` does not ask the Hub.
LICENSES = """
    apache-2.0 mit openrail bigscience-openrail-m creativeml-openrail-m bigscience-bloom-rail-1.0 bigcode-openrail-m
    afl-3.0 artistic-2.0 bsl-1.0 bsd bsd-2-clause bsd-3-clause bsd-3-clause-clear c-uda cc cc0-1.0 cc-by-2.0 cc-by-2.5
    cc-by-3.0 cc-by-4.0 cc-by-sa-3.0 cc-by-sa-4.0 cc-by-nc-2.0 cc-by-nc-3.0 cc-by-nc-4.0 cc-by-nd-4.0 cc-by-nc-nd-3.0
    cc-by-nc-nd-4.0 cc-by-nc-sa-2.0 cc-by-nc-sa-3.0 cc-by-nc-sa-4.0 cdla-sharing-1.0 cdla-permissive-1.0
    cdla-permissive-2.0 wtfpl ecl-2.0 epl-1.0 epl-2.0 etalab-2.0 eupl-1.1 eupl-1.2 agpl-3.0 gfdl gpl gpl-2.0 gpl-3.0
    lgpl lgpl-2.1 lgpl-3.0 isc h-research intel-research lppl-1.3c ms-pl apple-ascl apple-amlr mpl-2.0 odc-by odbl
    openmdw-1.0 openrail++ osl-3.0 postgresql ofl-1.1 ncsa unlicense zlib pddl lgpl-lr deepfloyd-if-license
    fair-noncommercial-research-license llama2 llama3 llama3.1 llama3.2 llama3.3 llama4 gemma grok2-community unknown
    other
""".split()
# Codes of ISO 639, and the other two that the Hub accepts
LANGUAGE = {"type": "string", "pattern": "^([a-z]{2,3}(-[A-Za-z0-9]{2,8})*|multilingual|code)$"}
NAME = {"type": "string", "pattern": r"^[\w.:+-]+$"}

# The metadata of a card
METADATA = {
    "properties": {
        "license": {"enum": LICENSES},
        "language": {"anyOf": [LANGUAGE, {"type": "array", "items": LANGUAGE, "minItems": 1}]},
        "library_name": NAME,
        "pipeline_tag": NAME,
        "tags": {"type": "array", "items": TEXT},
    }
}

CONFIG = {
    "type": "object",
    "properties": {
        "model_type": TEXT,
        "num_mctp_modules": COUNT,
        "quantization_config": {"type": ["object", "null"], "properties": {"quant_method": TEXT}},
    },
}

# Null is a figure that could not be measured
FIGURES = {"type": "object", "additionalProperties": {"type": ["number", "null"]}}
# The figures of each set, in one mode
SETS_OF_FIGURES = {"type": "object", "additionalProperties": FIGURES}
RESULTS = {
    "type": "object",
    "properties": {
        "modes": {"type": "object", "additionalProperties": SETS_OF_FIGURES},
        "recognizer": TEXT,
        "split": TEXT,
        "has_rows_of_no_split": {"type": "boolean"},
        **dict.fromkeys(
            ("recognizer_wer_on_tts_references", "dnsmos_of_references", "speaker_similarity_of_references"), NUMBER
        ),
        "second_recognizer": {
            "type": "object",
            "required": ["name", "modes"],
            "properties": {
                "name": TEXT,
                "modes": {"type": "object", "additionalProperties": SETS_OF_FIGURES},
                "wer_on_tts_references": NUMBER,
            },
        },
        "tolerance": {
            "type": "object",
            "required": ["points"],
            "properties": {
                "points": {
                    "type": "array",
                    "items": {
                        "type": "object",
                        "required": ["mctp_mode", "mctp_verify"],
                        "properties": dict.fromkeys(SETS, FIGURES),
                    },
                },
            },
        },
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
    # `vita-audio evaluate` writes the modes, `training.evaluation.evaluate_benchmarks` the benchmarks.
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
        "changes": {
            "type": "array",
            "items": {
                "type": "object",
                "required": ["step", "settings"],
                "properties": {"step": COUNT, "settings": {"type": "array", "items": TEXT}},
            },
        },
    },
    # The template shows these together, so one without the others would leave a gap.
    "dependentRequired": {"dataset": ["num_examples"], "settings": ["hardware", "versions"]},
}

# of weights in several files: the file of each tensor
INDEX = {
    "type": "object",
    "required": ["weight_map"],
    "properties": {"weight_map": {"type": "object", "additionalProperties": TEXT}},
}

ADAPTER = {"type": "object", "properties": {"base_model_name_or_path": TEXT_OR_NONE}}

# of `training.evaluation.evaluate_codec`
CODEC_RESULTS = {
    "type": "object",
    "required": ["results"],
    "properties": {
        "recognizer": TEXT,
        "results": {
            "type": "object",
            "additionalProperties": {**FIGURES, "required": ["clips"]},
        },
    },
}

# of `training.reproduce`
REPRODUCTION = {
    "type": "object",
    "required": ["recipe", "seed", "smoke", "steps"],
    "properties": {
        "recipe": TEXT,
        "seed": COUNT,
        "smoke": {"type": "boolean"},
        "steps": {
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "required": ["seconds"],
                "properties": {"seconds": NUMBER},
            },
        },
    },
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


def check_fields(metadata: dict, source: str) -> None:
    """
    Raises:
        ValueError: the Hub does not accept a field of a card's metadata. The message names `source`.
    """
    try:
        jsonschema.validate(metadata, METADATA)
    except jsonschema.ValidationError as error:
        # The first part of the path is the field, the others lead into a list.
        field = error.absolute_path[0]
        kinds = {"license": "an identifier of the Hub such as apache-2.0 or other", "language": "codes such as en"}
        raise ValueError(
            f"{source}: `{field}` must be {kinds.get(field, 'as the Hub has it')}, got {metadata[field]!r:.200}."
        ) from None
