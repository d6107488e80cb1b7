"""Where networks come from: the embedded one, torchvision's, timm's, and a user's own."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from featviz.errors import InvalidValue
from featviz.models.catalogue import ModelEntry, listing, resolve
from featviz.models.devices import resolve_device
from featviz.models.embedded import EMBEDDED, embedded_model
from featviz.models.labels import class_index
from featviz.models.overrides import Numbers, checked_size, with_labels, with_normalisation
from featviz.models.own import own_model
from featviz.models.zoo import timm_model, torchvision_model
from featviz.types import Model

__all__ = ["EMBEDDED", "MODELS", "ModelEntry", "class_index", "listing", "load", "resolve_device"]

MODELS: Mapping[str, Callable[[str, str | None, bool, tuple[int, int] | None], Model]] = {
    "embedded": embedded_model,
    "torchvision": torchvision_model,
    "timm": timm_model,
    "own": own_model,
}
"""Family -> what builds a model of it, on the CPU, from its name, weights file, untrained and input size."""


def load(
    name: str = EMBEDDED,
    *,
    weights: str | Path | None = None,
    untrained: bool = False,
    mean: Numbers | None = None,
    std: Numbers | None = None,
    input_size: int | Sequence[int] | None = None,
    labels: str | Path | Sequence[str] | None = None,
    device: str = "auto",
) -> Model:
    """A network in eval mode, frozen, on its device, with what is needed to show it images in [0, 1].

    `name` is the embedded `efficientnet_lite0`, a classifier of torchvision (`resnet34`), a model
    of timm (`timm/NAME`, or the bare name where torchvision has no such), or a user's own factory
    (`package.module:factory`, `path/to/file.py:factory`). The zoos' models come with their trained
    weights, or those of a file, or, asked for by `untrained`, with random ones, always the same.
    `mean`, `std` (one number a channel), `input_size` in pixels (rows, columns) and `labels`
    (names, a file of them, or the word `imagenet`) replace the model's own.

    Raises `ModelNotFound`, `WeightsUnavailable`, `WeightsMismatch`, `ModelError`, `InvalidValue`.
    """
    where = resolve_device(device)
    if weights is not None and untrained:
        raise InvalidValue(f"weights {str(weights)!r} and untrained: one or the other")
    size = checked_size(input_size)
    file = None if weights is None else str(weights)
    family, bare = resolve(name)
    with _same_random_weights():
        model = MODELS[family](bare, file, untrained, size)
    model.net.to(where).eval().requires_grad_(False)
    source = _source(name, file, untrained, mean, std, size, labels)
    model = dataclasses.replace(model, name=name, source=source, input_size=size or model.input_size)
    return with_labels(with_normalisation(model, mean, std), labels)


@contextlib.contextmanager
def _same_random_weights() -> Iterator[None]:
    """Within it the CPU's random numbers start from one seed; after it they go on as if untouched."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(0)
        yield


def _source(
    name: str,
    weights: str | None,
    untrained: bool,
    mean: Numbers | None,
    std: Numbers | None,
    size: tuple[int, int] | None,
    labels: str | Path | Sequence[str] | None,
) -> dict[str, Any]:
    """The arguments that differ from their defaults, as JSON has them: `load(**source)` loads it again."""
    given: dict[str, Any] = {
        "weights": weights,
        "untrained": untrained or None,
        "mean": list(mean) if isinstance(mean, Sequence) else mean,
        "std": list(std) if isinstance(std, Sequence) else std,
        "input_size": None if size is None else list(size),
        "labels": labels if isinstance(labels, str) or labels is None else _plain_labels(labels),
    }
    return {"name": name, **{key: value for key, value in given.items() if value is not None}}


def _plain_labels(labels: Path | Sequence[str]) -> str | list[str]:
    return str(labels) if isinstance(labels, Path) else list(labels)
