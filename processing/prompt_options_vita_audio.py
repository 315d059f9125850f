# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
Chat templates and the keywords of transformers' processors: what of them means something here, and what is refused.
"""

import re
from collections.abc import Iterator
from typing import Any

from jinja2 import Environment, TemplateError
from jinja2.meta import find_undeclared_variables
from transformers.utils.chat_template_utils import render_jinja_template

from .compatibility_vita_audio import attach_to_package


# Keywords of transformers' processors that mean here what they mean there, with their defaults
OPTIONS = {
    "return_tensors": "pt",
    "padding": True,
    "padding_side": "left",
    "max_length": None,
    "pad_to_multiple_of": None,
    "return_attention_mask": True,
    "sampling_rate": None,
}
# The groups that these keywords may be in
OPTION_GROUPS = ("text_kwargs", "audio_kwargs", "common_kwargs", "processor_kwargs")

# Keywords that are taken with only one value, and why
FIXED_OPTIONS = {
    "truncation": (False, "a conversation that is cut off means something else"),
    "add_special_tokens": (False, "the chat template writes all special tokens"),
    "load_audio_from_video": (False, "the processor takes no videos"),
}

# Keywords that are taken with a few values
CHOICES = {
    "return_tensors": ("pt", "np", "mlx", None),
    "padding": (True, False, "longest", "max_length", "do_not_pad"),
    "padding_side": ("left", "right"),
}

# Keywords of a model's `from_pretrained`, which a pipeline gives to that of all its parts: a tokenizer would keep them
MODEL_KEYWORDS = frozenset(
    """
    adapter_kwargs adapter_name allow_all_kernels attn_implementation device_map device_mesh disable_mmap
    distributed_config dtype experts_implementation fusion_config generation_config ignore_mismatched_sizes
    kernel_config key_mapping load_in_4bit load_in_8bit low_cpu_mem_usage max_memory offload_buffers offload_folder
    offload_state_dict output_loading_info quantization_config state_dict torch_dtype tp_plan tp_size tqdm_class
    use_kernels use_safetensors variant weights_only
    """.split()
)


def template_variables(chat_template: str) -> set[str]:
    """
    The names of the variables that a chat template reads.

    Raises:
        ValueError: the text is not a template.
    """
    # transformers' own block, which Jinja does not know
    chat_template = re.sub(r"\{%-?\s*(end)?generation\s*-?%\}", "", chat_template)
    try:
        # With the same extension as transformers has, so that the same templates can be read
        return find_undeclared_variables(Environment(extensions=["jinja2.ext.loopcontrols"]).parse(chat_template))
    except (TemplateError, RecursionError) as error:
        raise ValueError(f"The chat template is malformed: {error!s:.200}.") from error


def render(conversations: list[list[dict]], **template: Any) -> tuple[list[str], list]:
    """
    Calls [`render_jinja_template`].

    Raises:
        ValueError: the template fails with these conversations.
    """
    try:
        return render_jinja_template(conversations, **template)
    # A template is a program and may fail in any way
    except Exception as error:
        reason = f"{type(error).__name__}: {error!s:.200}"
        raise ValueError(f"The chat template of the model fails with this conversation ({reason}).") from error


def read_options(kwargs: dict) -> dict:
    """
    Values for all of `OPTIONS`, from keywords of transformers' processors, in groups or not.

    Raises:
        ValueError: a keyword has no effect here, or is given twice.
    """
    options = {}
    for name, value in ungrouped(kwargs):
        if name == "return_tensors":  # None is a value, it asks for lists. One in a group comes after the argument
            options[name] = OPTIONS[name] if value == "auto" else value
        elif value is None:
            continue
        elif name in FIXED_OPTIONS:
            only, reason = FIXED_OPTIONS[name]
            if value != only:
                raise ValueError(f"`{name}={value!r:.100}` is refused, only {only} is taken: {reason}.")
        elif name not in OPTIONS:
            raise ValueError(
                f"`{name:.200}` has no effect here: it is neither one of {', '.join(OPTIONS)} nor a variable of the "
                "chat template."
            )
        elif options.setdefault(name, value) != value:
            raise ValueError(f"`{name}` is given twice, as {options[name]!r:.100} and as {value!r:.100}.")
    for name, choices in CHOICES.items():
        if options.get(name, OPTIONS[name]) not in choices:
            raise ValueError(f"`{name}` must be one of {choices}, got {options[name]!r:.200}.")
    is_to_length = options.get("padding") == "max_length"
    if is_to_length != ("max_length" in options):
        raise ValueError(
            '`padding="max_length"` and `max_length` have an effect only together: conversations are not cut off.'
        )
    return {**OPTIONS, **options}


def ungrouped(kwargs: dict) -> Iterator[tuple[str, Any]]:
    """The keywords, also those in groups."""
    for name, value in kwargs.items():
        if name in OPTION_GROUPS:
            if not isinstance(value, (dict, type(None))):
                raise ValueError(f"`{name}` must be a dictionary of keywords, got {value!r:.200}.")
            yield from ungrouped(value or {})
        else:
            yield name, value


attach_to_package(__name__)

__all__ = ["MODEL_KEYWORDS", "OPTIONS", "read_options", "render", "template_variables"]
