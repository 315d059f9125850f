# Copyright 2026 The vita-audio authors.
# SPDX-License-Identifier: Apache-2.0
"""Looks for tokens, keys and passwords in what is about to be shared."""

import os
import re
from collections.abc import Iterator
from pathlib import Path

from detect_secrets.plugins.aws import AWSKeyDetector
from detect_secrets.plugins.azure_storage_key import AzureStorageKeyDetector
from detect_secrets.plugins.basic_auth import BasicAuthDetector
from detect_secrets.plugins.discord import DiscordBotTokenDetector
from detect_secrets.plugins.github_token import GitHubTokenDetector
from detect_secrets.plugins.gitlab_token import GitLabTokenDetector
from detect_secrets.plugins.jwt import JwtTokenDetector
from detect_secrets.plugins.npm import NpmDetector
from detect_secrets.plugins.openai import OpenAIDetector
from detect_secrets.plugins.private_key import PrivateKeyDetector
from detect_secrets.plugins.pypi_token import PypiTokenDetector
from detect_secrets.plugins.sendgrid import SendGridDetector
from detect_secrets.plugins.slack import SlackDetector
from detect_secrets.plugins.square_oauth import SquareOAuthDetector
from detect_secrets.plugins.stripe import StripeDetector
from huggingface_hub import get_token
from safetensors import SafetensorError, safe_open


# The detectors of detect-secrets that know a secret by its form. The others guess by entropy or by a name next to it,
# and would take hashes, codes and samples for secrets.
DETECTORS = [
    AWSKeyDetector(),
    AzureStorageKeyDetector(),
    BasicAuthDetector(),
    DiscordBotTokenDetector(),
    GitHubTokenDetector(),
    GitLabTokenDetector(),
    JwtTokenDetector(),
    NpmDetector(),
    OpenAIDetector(),
    PrivateKeyDetector(),
    PypiTokenDetector(),
    SendGridDetector(),
    SlackDetector(),
    SquareOAuthDetector(),
    StripeDetector(),
]

# Forms of secrets that the latest detect-secrets does not know
# `(?<![A-Za-z0-9])` keeps a form from being found inside a longer word, where it may occur by chance.
PATTERNS = {
    "Hugging Face Token": r"(?<![A-Za-z0-9])(?:hf|api_org)_[A-Za-z0-9]{30,}",
    "GitHub Token": r"github_pat_[A-Za-z0-9_]{22,}",
    "OpenAI Token": r"(?<![A-Za-z0-9])sk-(?:(?:proj|svcacct|admin)-[A-Za-z0-9_-]{20,}|[A-Za-z0-9]{48})",
    "Anthropic Token": r"sk-ant-[A-Za-z0-9_-]{20,}",
    "Google Key": r"(?<![A-Za-z0-9])(?:AIza[A-Za-z0-9_-]{35}|GOCSPX-[A-Za-z0-9_-]{20,}|ya29\.[A-Za-z0-9_-]{20,})",
    "Slack Token": r"(?<![A-Za-z0-9])xox[a-z]-[A-Za-z0-9-]{10,}|xapp-\d-[A-Za-z0-9-]{10,}",
    "Package Index Token": r"pypi-[A-Za-z0-9_-]{50,}",
    "Private Key": r"-----BEGIN [A-Z ]*PRIVATE KEY-----",
}

# How the names of variables end whose values are secrets, such as HF_TOKEN
SECRET_VARIABLE = re.compile(r"(TOKEN|SECRET|PASSWORD|_KEY)$")
# In characters. Shorter values, such as "none" or "test", occur in files that have nothing to do with them.
SHORTEST_SECRET = 12

# How many bytes of a file are searched at once, and how many of those before are searched again with them
BLOCK_SIZE, OVERLAP = 2**24, 2**16

# In files of numbers, samples and pixels, short forms occur by chance.
BINARY_SUFFIXES = {".wav", ".flac", ".ogg", ".mp3", ".png", ".pt", ".pth", ".bin", ".arrow", ".parquet"}


def environment_secrets() -> dict[str, str]:
    """Values of the environment's tokens, keys and passwords and of the Hub's saved token, by their names."""
    secrets = {name: value for name, value in os.environ.items() if SECRET_VARIABLE.search(name.upper())}
    # `hf auth login` saves the token in a file, where the environment does not show it.
    token = get_token()
    return secrets | ({"the token of the Hub": token} if token else {})


def check_for_secrets(path: Path, secrets: dict[str, str], name: str | None = None) -> None:
    """
    Args:
        path: a file. Of weights, only the metadata is searched.
        secrets: values that must not be in the file, by their names.
        name: name that the file will have on the Hub; its own name by default.

    Raises:
        ValueError: one of `secrets`, or what looks like one, is in the file or its name. The secret is not repeated.
        OSError: the file cannot be read.
    """
    name = path.name if name is None else name
    for place, texts in (("name", iter([name])), ("file", texts_of(path))):
        for text in texts:
            if kind := find_secret(text, secrets, is_binary=place == "file" and path.suffix in BINARY_SUFFIXES):
                # The message may not have the name of such a file, because the secret stands in it.
                what = f"The name of a file in {path.parent}" if place == "name" else str(path)
                raise ValueError(f"{what} has a secret in it ({kind}), so nothing was sent.")


def texts_of(path: Path) -> Iterator[str]:
    """The texts in a file, whatever its encoding is."""
    # Somebody may have written a secret into the metadata or into the name of a tensor. The numbers, which may be
    # gigabytes, are not read.
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="np") as file:
                yield from (f"{key}: {value}" for key, value in (file.metadata() or {}).items())
                yield "\n".join(file.keys())
        except SafetensorError as error:
            raise OSError(f"{path} is broken or not complete: {error}") from error
        return
    with path.open("rb") as file:
        content = b""
        # An optimizer's state may be larger than the memory
        while block := file.read(BLOCK_SIZE):
            # Behind the end of the block before, in which a secret may begin
            content = content[-OVERLAP:] + block
            # A file that is no UTF-8 is searched as well, so what cannot be decoded is replaced.
            yield content.decode("utf-8", errors="replace")
            if b"\0" in content:
                # ASCII in UTF-16 or UTF-32
                yield content.replace(b"\0", b"").decode("latin-1")


def find_secret(text: str, secrets: dict[str, str], is_binary: bool = False) -> str | None:
    """The kind of the first secret in a text, or its name."""
    # Known values come first, because their names say more than the kind of a form does.
    for name, value in secrets.items():
        if len(value) >= SHORTEST_SECRET and value in text:
            return name
    for kind, pattern in PATTERNS.items():
        if re.search(pattern, text):
            return kind
    if not is_binary:
        for detector in DETECTORS:
            if any(detector.analyze_string(text)):
                return detector.secret_type
    return None
