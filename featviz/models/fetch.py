"""Pretrained weights from the zoos: from the cache of this machine, else from the network."""

from __future__ import annotations

import re
import urllib.error
import urllib.request
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch
from torch.hub import HASH_REGEX

from featviz.errors import WeightsUnavailable
from featviz.models.quiet import one_line, quiet

TIMEOUT = 10.0
"""Seconds to wait for a host's first answer; there is one try."""


@dataclass(frozen=True)
class Published:
    """Where a zoo publishes weights: files at `url`, or one of `files` in a Hugging Face repository."""

    name: str
    url: str = ""
    repository: str = ""
    revision: str | None = None
    files: tuple[str, ...] = ("model.safetensors", "pytorch_model.bin")


def cached(weights: Published) -> Path | None:
    """The file of these weights on this machine, or None."""
    if not weights.repository:
        path = _hub_folder() / Path(urlparse(weights.url).path).name
        return path if path.is_file() else None
    from huggingface_hub import try_to_load_from_cache

    for file in weights.files:
        found = try_to_load_from_cache(weights.repository, file, revision=weights.revision)
        if isinstance(found, str):
            return Path(found)
    return None


def fetch(weights: Published, model: str) -> Path:
    """The file of these weights, downloaded into its zoo's cache where it is not there yet.

    A host that cannot be reached is given one try of `TIMEOUT` seconds. Raises
    `WeightsUnavailable` with what was tried and the ways on.
    """
    found = cached(weights)
    if found:
        return found
    try:
        with quiet():
            return _from_repository(weights) if weights.repository else _from_url(weights)
    except Exception as error:  # each zoo, proxy and certificate store has errors of its own
        raise WeightsUnavailable(_ways_on(weights, model, error)) from error


def _hub_folder() -> Path:
    return Path(torch.hub.get_dir()) / "checkpoints"


def _from_url(weights: Published) -> Path:
    request = urllib.request.Request(weights.url, method="HEAD")
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT):  # the download itself has no timeout
            pass
    except urllib.error.HTTPError:
        pass  # the host answers; whether it serves the file shows below
    folder = _hub_folder()
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / Path(urlparse(weights.url).path).name
    checksum = HASH_REGEX.search(path.name)
    prefix = checksum.group(1) if checksum else None
    torch.hub.download_url_to_file(weights.url, str(path), prefix, progress=False)
    return path


def _from_repository(weights: Published) -> Path:
    from huggingface_hub import get_hf_file_metadata, hf_hub_download, hf_hub_url
    from huggingface_hub.errors import EntryNotFoundError

    absent: Exception | None = None
    for file in weights.files:
        url = hf_hub_url(weights.repository, file, revision=weights.revision)
        try:  # asks once, where hf_hub_download would try for most of a minute
            get_hf_file_metadata(url, timeout=TIMEOUT)
        except EntryNotFoundError as error:
            absent = error
            continue
        return Path(hf_hub_download(weights.repository, file, revision=weights.revision))
    raise absent or FileNotFoundError(f"{weights.repository} names no weights file")


def _ways_on(weights: Published, model: str, error: Exception) -> str:
    if weights.repository:
        from huggingface_hub import constants

        host, variable, folder = constants.ENDPOINT, "HF_HOME", Path(constants.HF_HUB_CACHE)
    else:
        host, variable, folder = weights.url, "TORCH_HOME", _hub_folder()
    reason = getattr(error, "reason", error)
    told = re.sub(r"^\[Errno -?\d+\] ", "", one_line(reason if isinstance(reason, Exception) else error, 100))
    told = told or type(error).__name__
    return (
        f"the weights {weights.name} of {model} are not on this machine, and {urlparse(host).netloc} did not "
        f"give them ({told}); give --weights FILE, take the embedded model (--model efficientnet_lite0), "
        f"or fill the cache {folder} ({variable} moves it)"
    )
