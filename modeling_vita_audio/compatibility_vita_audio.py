# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""All that depends on the release of transformers: 5.24 calls `cache` what was `past_key_values` before."""

import inspect
import sys
from collections.abc import Callable
from functools import wraps

import transformers
from packaging.specifiers import SpecifierSet
from transformers import GenerationMixin
from transformers.utils import logging


# The releases that `.ci/run` and `.ci/newest` have tested this code with, as in `setup.py`
TESTED_RELEASES = SpecifierSet(">=5.19,<5.25")

CACHE_NAME, OLD_CACHE_NAME = "cache", "past_key_values"
HAS_NEW_CACHE_NAME = CACHE_NAME in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters

# What transformers calls the cache of its own modules, outputs and `model_kwargs`
CACHE = CACHE_NAME if HAS_NEW_CACHE_NAME else OLD_CACHE_NAME


def warn_if_untested(release: str):
    """Says once that this code was not tested with `release` of transformers, and with which it was."""
    if not TESTED_RELEASES.contains(release, prereleases=True):
        logging.get_logger("transformers.vita_audio").warning_once(
            f"The code of VITA-Audio was tested with transformers {TESTED_RELEASES}, and this is {release}. It goes on; should "
            f'something fail, `pip install "transformers{TESTED_RELEASES}"`.'
        )


def takes_old_cache_name(forward: Callable) -> Callable:
    """
    Lets a method that has the argument `cache` take `past_key_values` for it: with transformers' own warning where that
    calls it so, in silence where the old name is the only one.
    """
    if HAS_NEW_CACHE_NAME:
        from transformers.utils.deprecation import deprecate_kwarg

        return deprecate_kwarg(OLD_CACHE_NAME, "5.40.0", new_name=CACHE_NAME)(forward)

    @wraps(forward)
    def renamed(*args, **kwargs):
        if OLD_CACHE_NAME in kwargs:
            kwargs.setdefault(CACHE_NAME, kwargs.pop(OLD_CACHE_NAME))
        return forward(*args, **kwargs)

    return renamed


def gives_new_cache_name(output_class: type) -> type:
    """Lets an output have its cache as `cache`, also where transformers' class that it inherits from has the old name."""
    if not HAS_NEW_CACHE_NAME:
        output_class.cache = property(lambda output: output.past_key_values)
    return output_class


def rename_cache(model_kwargs: dict) -> dict:
    """Arguments of `generate` with the cache under the name that this release of transformers has for it."""
    if not HAS_NEW_CACHE_NAME and CACHE_NAME in model_kwargs:
        model_kwargs = {**model_kwargs, OLD_CACHE_NAME: model_kwargs.pop(CACHE_NAME)}
    return model_kwargs


def attach_to_package(module_name: str):
    """
    Makes a module an attribute of its package, as an import does. transformers does not where it loads the code of a Hub folder
    from files, and then `dill`, with which `datasets` hashes and sends objects, takes a class for one without a name and
    pickles it and all that it refers to.
    """
    package_name, _, name = module_name.rpartition(".")
    if package_name in sys.modules:
        setattr(sys.modules[package_name], name, sys.modules[module_name])


try:
    from transformers.modeling_utils import slice_logits_to_keep
except ImportError:  # before 5.20

    def slice_logits_to_keep(hidden_states, logits_to_keep):
        """Columns of `(batch_size, sequence_length, hidden_size)`: the last ones (0 for all), or the given ones."""
        columns = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return hidden_states[:, columns, :]


warn_if_untested(transformers.__version__)
