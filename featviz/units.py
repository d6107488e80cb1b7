"""Which units: ranges of channels, all classes, steps between two, those that a photo excites."""

from __future__ import annotations

import itertools
import re

import torch
from torch import Tensor

from featviz.errors import InvalidValue
from featviz.explaining import fitted_to
from featviz.layer_table import layer_table
from featviz.layers import activations, find_layer, frozen
from featviz.objectives import channel_means
from featviz.params import gaussian_noise
from featviz.types import OUTPUT, Model, derive_seed

_RANGE = re.compile(r"(?P<layer>.+):(?P<numbers>all|[\d,\s-]+)")


def expand(model: Model, text: str) -> list[str]:
    """The targets that a text names: `layer3:0-15`, `layer3:0,7,100-120`, `layer3:all`, `class:all`.

    Any other text is one target and comes back as it is. Raises `InvalidValue`, `LayerNotFound`.
    """
    found = _RANGE.fullmatch(text.strip())
    if not found or found["numbers"].isdigit():
        return [text]
    layer = found["layer"]
    count = layer_table(model)[-1].channels if layer == "class" else find_layer(model, layer).channels
    if found["numbers"] == "all":
        return [f"{layer}:{number}" for number in range(count)]
    numbers = [number for part in found["numbers"].split(",") for number in _numbers(text, part.strip())]
    beyond = [number for number in numbers if number >= count]
    if beyond:
        raise InvalidValue(f"{text!r}: {layer} has {count} units, 0 to {count - 1}, and no {beyond[0]}")
    return [f"{layer}:{number}" for number in dict.fromkeys(numbers)]


def _numbers(text: str, part: str) -> list[int]:
    found = re.fullmatch(r"(\d+)(?:\s*-\s*(\d+))?", part)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (1, 0)
    if first > last:
        raise InvalidValue(f"{text!r}: {part!r} is no number, and no range such as 0-15")
    return list(range(first, last + 1))


def between(targets: list[str], count: int) -> list[str]:
    """`count` targets from each to the next, by weights that sum to 1 (Olah et al. 2017).

    Raises `InvalidValue` for fewer than two, or for sums, which have weights of their own.
    """
    if len(targets) < 2:
        raise InvalidValue(f"{', '.join(targets)}: an interpolation goes between two units or more")
    made: list[str] = []
    for first, second in itertools.pairwise(targets):
        shares = [k / (count - 1) for k in range(count)]
        made += [_mixed(first, second, share) for share in shares[1 if made else 0 :]]
    return made


def _mixed(first: str, second: str, share: float) -> str:
    if " + " in first + second or " - " in first + second:
        raise InvalidValue(f"{first!r} and {second!r}: an interpolation goes between single units")
    if share in (0.0, 1.0):
        return second if share else first
    return f"{1 - share:.3g}*{first} + {share:.3g}*{second}"


def excited(model: Model, photo: Tensor, layer: str, count: int) -> list[str]:
    """The `count` channels of a layer that a photo `(1, 3, h, w)` excites most, strongest first.

    By how far their mean activation exceeds that on gaussian noise, since some channels answer to
    anything. For the layer `class` the likeliest classes.
    """
    image = fitted_to(model, photo.to(model.device))
    address = OUTPUT if layer == "class" else find_layer(model, layer).address
    noise = gaussian_noise([derive_seed(0, "excited", n) for n in range(8)], (image.shape[2], image.shape[3]))
    with torch.no_grad(), frozen(model.net):
        own, quiet = (
            channel_means(activations(model, each, [address])[address])
            for each in (image, noise.to(model.device))
        )
    above = own[0] if layer == "class" else own[0] - quiet.mean(0)
    chosen = above.topk(min(count, len(above))).indices.tolist()
    return [f"{layer}:{number}" for number in chosen]
