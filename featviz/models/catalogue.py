"""Which models can be named, and which of them have their weights on this machine."""

from __future__ import annotations

import fnmatch
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import torch

from featviz.errors import ModelNotFound
from featviz.models.embedded import EMBEDDED
from featviz.models.fetch import cached
from featviz.models.zoo import (
    timm_config,
    timm_names,
    timm_published,
    torchvision_names,
    torchvision_published,
    torchvision_weights,
)


@dataclass(frozen=True)
class ModelEntry:
    """A model that can be named; `cached` where its trained weights are on this machine."""

    name: str
    source: str
    parameters: int | None
    input_size: tuple[int, int]
    cached: bool


def resolve(name: str) -> tuple[str, str]:
    """The family that a model's name belongs to, and its name there.

    A bare name is the embedded model's, else torchvision's, else timm's; `timm/NAME` is always
    timm's, and a name with a colon a user's own. Raises `ModelNotFound` with the nearest names.
    """
    if name == EMBEDDED:
        return "embedded", name
    if ":" in name:
        return "own", name
    bare = name.removeprefix("timm/")
    if bare == name and name in torchvision_names():
        return "torchvision", name
    known = timm_names()
    if bare.split(".")[0] in known:
        return "timm", bare
    if name.endswith(".py"):
        raise ModelNotFound(name, hint=f"name the factory in it: {name}:factory")
    if bare != name:
        raise ModelNotFound(name, (f"timm/{other}" for other in known))
    raise ModelNotFound(name, [EMBEDDED, *known, *torchvision_names()])


def listing(filter: str = "") -> list[ModelEntry]:  # noqa: A002
    """The models that can be named and fit the filter: a part of the name, or a pattern with `*`.

    First the embedded model, then torchvision's, then timm's as `timm/NAME`, with its tagged
    variants (`timm/NAME.TAG`) where their weights are on this machine.
    """
    pattern = filter.lower() if "*" in filter else f"*{filter.lower()}*"
    return [entry for entry in _entries() if fnmatch.fnmatchcase(entry.name.lower(), pattern)]


def _entries() -> Iterator[ModelEntry]:
    yield ModelEntry(EMBEDDED, "embedded", 4_652_008, (224, 224), True)
    for name in torchvision_names():
        entry = torchvision_weights(name)
        size = entry.transforms().crop_size
        here = cached(torchvision_published(name)) is not None
        yield ModelEntry(name, "torchvision", entry.meta["num_params"], (size[0], size[-1]), here)
    yield from _timm_entries()


def _timm_entries() -> Iterator[ModelEntry]:
    import timm

    files = _cached_files()
    for name in timm_names():
        yield _timm_entry(name, files)
    for name in timm.list_pretrained():
        entry = _timm_entry(name, files)
        if entry.cached:
            yield entry


def _timm_entry(name: str, files: frozenset[str]) -> ModelEntry:
    published = timm_published(name)
    # one look at each cache's folder, then a look at the file only where there may be one
    near = published and (
        "models--" + published.repository.replace("/", "--")
        if published.repository
        else Path(published.url).name
    )
    here = published is not None and near in files and cached(published) is not None
    _, rows, columns = timm_config(name).input_size
    return ModelEntry(f"timm/{name}", "timm", None, (rows, columns), here)


def _cached_files() -> frozenset[str]:
    from huggingface_hub import constants

    folders = (Path(constants.HF_HUB_CACHE), Path(torch.hub.get_dir()) / "checkpoints")
    return frozenset(entry.name for folder in folders if folder.is_dir() for entry in folder.iterdir())
