# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""All that depends on the release of transformers: `past_key_values` of earlier releases is `cache` in 5.24."""

import inspect
import sys
from collections.abc import Callable
from functools import wraps

import torch
import transformers
from packaging.specifiers import SpecifierSet
from transformers import GenerationMixin
from transformers.utils import logging


# The releases that `.ci/run` and `.ci/newest` have tested this code with. Remote code cannot read `setup.py`, which
# has the same range
TESTED_RELEASES = SpecifierSet(">=5.19,<5.25")

CACHE_NAME, OLD_CACHE_NAME = "cache", "past_key_values"
HAS_NEW_CACHE_NAME = CACHE_NAME in inspect.signature(GenerationMixin.prepare_inputs_for_generation).parameters

# The name that this release of transformers has for the cache in its modules, outputs and `model_kwargs`
CACHE = CACHE_NAME if HAS_NEW_CACHE_NAME else OLD_CACHE_NAME


def warn_if_untested(release: str) -> None:
    """Warns once where this code was not tested with `release` of transformers, and says with which it was."""
    # Without `prereleases`, the range has no pre-release of a tested release in it
    if not TESTED_RELEASES.contains(release, prereleases=True):
        # Below `transformers`, because only loggers below it have the handler and the level that users set there
        logging.get_logger("transformers.vita_audio").warning_once(
            f"The code of VITA-Audio was tested with transformers {TESTED_RELEASES}, and this is {release}. It goes "
            f'on; should something fail, `pip install "transformers{TESTED_RELEASES}"`.'
        )


def takes_old_cache_name(forward: Callable) -> Callable:
    """
    Lets a method with the argument `cache` take it as `past_key_values`, too. Where transformers has renamed it, its
    own deprecation warning is shown; earlier releases pass the old name themselves, so they show none.
    """
    if HAS_NEW_CACHE_NAME:
        from transformers.utils.deprecation import deprecate_kwarg

        # 5.40.0 is the release in which transformers itself drops the old name
        return deprecate_kwarg(OLD_CACHE_NAME, "5.40.0", new_name=CACHE_NAME)(forward)

    @wraps(forward)
    def renamed(*args, **kwargs):
        if OLD_CACHE_NAME in kwargs:
            # Where both are given, `cache` wins, as in transformers 5.24
            kwargs.setdefault(CACHE_NAME, kwargs.pop(OLD_CACHE_NAME))
        return forward(*args, **kwargs)

    return renamed


def gives_new_cache_name(output_class: type) -> type:
    """Gives an output class the attribute `cache`, also where its base class of transformers has the old name."""
    if not HAS_NEW_CACHE_NAME:
        output_class.cache = property(lambda output: output.past_key_values)
    return output_class


def rename_cache(model_kwargs: dict) -> dict:
    """Renames the cache in arguments of `generate` to the name that this release of transformers has for it."""
    if not HAS_NEW_CACHE_NAME and CACHE_NAME in model_kwargs:
        names = {CACHE_NAME: OLD_CACHE_NAME}
        model_kwargs = {names.get(name, name): value for name, value in model_kwargs.items()}
    return model_kwargs


def attach_to_package(module_name: str) -> None:
    """
    Makes a module an attribute of its package, as an import does. transformers does not do that where it loads the
    code of a Hub folder. Then `dill`, with which `datasets` hashes objects and sends them to other processes, does not
    find a class by its name, and pickles the class and all that it refers to.
    """
    package_name, _, name = module_name.rpartition(".")
    if package_name in sys.modules:
        setattr(sys.modules[package_name], name, sys.modules[module_name])


try:
    from transformers.modeling_utils import slice_logits_to_keep
except ImportError:  # before 5.20

    def slice_logits_to_keep(hidden_states: torch.Tensor, logits_to_keep: int | torch.Tensor) -> torch.Tensor:
        """Takes columns of `(batch_size, sequence_length, hidden_size)`: the last ones (0: all), or the given ones."""
        columns = slice(-logits_to_keep, None) if isinstance(logits_to_keep, int) else logits_to_keep
        return hidden_states[:, columns, :]


warn_if_untested(transformers.__version__)
