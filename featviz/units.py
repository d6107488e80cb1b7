"""Many units by one text: ranges of channels, all classes."""

from __future__ import annotations

import re

from featviz.errors import InvalidValue
from featviz.layer_table import layer_table
from featviz.layers import find_layer
from featviz.types import Model

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
