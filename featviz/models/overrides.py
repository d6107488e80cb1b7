"""What a user says about a model in place of its own settings: normalisation, input size, labels."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from pathlib import Path

import torch
from torch import Tensor, nn

from featviz.errors import InvalidValue
from featviz.models.labels import read_labels
from featviz.types import Model

Numbers = float | Sequence[float]


def with_normalisation(model: Model, mean: Numbers | None, std: Numbers | None) -> Model:
    """The model with that mean and standard deviation, one number a channel, of images in [0, 1].

    A network whose first convolution takes one channel is normalised by the average of the
    three colours' values unless told otherwise. Raises `InvalidValue`.
    """
    channels = _channels(model, mean, std)
    means = _numbers("mean", mean, channels) or _averaged(model.mean, channels)
    stds = _numbers("std", std, channels) or _averaged(model.std, channels)
    if min(stds) <= 0:
        raise InvalidValue(f"std {std!r}: a standard deviation is above 0")
    return dataclasses.replace(model, mean=means, std=stds)


def _channels(model: Model, mean: Numbers | None, std: Numbers | None) -> int:
    if len(model.mean) == 1:
        return 1
    convolution = next((module for module in model.net.modules() if isinstance(module, nn.Conv2d)), None)
    if convolution is not None:
        return 1 if convolution.in_channels == 1 else 3
    given = [len(value) for value in (mean, std) if isinstance(value, Sequence)]
    return 1 if 1 in given else 3


def _numbers(name: str, values: Numbers | None, channels: int) -> tuple[float, ...]:
    if values is None:
        return ()
    try:
        listed = list(values) if isinstance(values, Sequence) else [values] * channels
        numbers = tuple(float(value) for value in listed)
    except (TypeError, ValueError) as error:
        raise InvalidValue(f"{name} {values!r}: numbers, one a channel") from error
    if len(numbers) != channels:
        raise InvalidValue(
            f"{name} {values!r}: the network takes {channels} channel(s), so {channels} number(s)"
        )
    if not all(math.isfinite(number) for number in numbers):
        raise InvalidValue(f"{name} {values!r}: not a finite number")
    return numbers


def _averaged(values: tuple[float, ...], channels: int) -> tuple[float, ...]:
    return values if len(values) == channels else (sum(values) / len(values),) * channels


def checked_size(size: int | Sequence[int] | None) -> tuple[int, int] | None:
    """(rows, columns) of the images that a network is shown; one number means a square.

    Raises `InvalidValue`.
    """
    if size is None:
        return None
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(isinstance(side, int) and side > 0 for side in pair):
        raise InvalidValue(f"input size {size!r}: one whole number above 0, or two (rows, columns)")
    return pair[0], pair[1]


def with_labels(model: Model, labels: str | Path | Sequence[str] | None) -> Model:
    """The model with those class names; raises `InvalidValue` where there are more or fewer than classes."""
    if labels is None:
        return model
    names = read_labels(labels)
    classes = _classes(model)
    if classes is not None and classes != len(names):
        raise InvalidValue(f"labels {labels!r}: {len(names)} names, but {model.name} has {classes} classes")
    return dataclasses.replace(model, labels=names)


@torch.no_grad()
def _classes(model: Model) -> int | None:
    try:
        output = model(torch.zeros(1, 3, *model.input_size, device=model.device))
    except Exception:  # it may need another size; what does run it says why it does not
        return None
    return output.shape[1] if isinstance(output, Tensor) and output.ndim == 2 else None
