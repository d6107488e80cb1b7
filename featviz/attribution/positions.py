"""Where a class activation map is taken: layers with positions, and what they put out as a map."""

from __future__ import annotations

from torch import Tensor

from featviz.errors import InvalidValue, NotApplicable
from featviz.layer_table import Layer, layer_table
from featviz.layers import find_layer
from featviz.types import Model


def position_layer(model: Model, name: str = "auto") -> Layer:
    """The layer of that address, or by `auto` the last one with positions that the output depends on.

    For a convolutional network that is the last map that is not of an adaptive pool; for a
    transformer the tokens that enter the last attention, since after it the class token alone is read.
    Raises `LayerNotFound`, `NotApplicable` where no layer has positions, `InvalidValue` for a layer
    that has none.
    """
    if name != "auto":
        layer = find_layer(model, name)
        if not _has_positions(model, layer):
            shape = "x".join(map(str, layer.shape))
            raise InvalidValue(f"layer {name} has no positions (it puts out {shape}){_instead(model)}")
        return layer
    found = _last_with_positions(model)
    if found is None:
        raise NotApplicable(f"{model.name} has no layer with positions: take a gradient method or occlusion")
    return found


def as_map(model: Model, layer: Layer, values: Tensor, size: tuple[int, int]) -> Tensor:
    """What a layer puts out as `(b, c, h, w)`, for images of `size` (rows, columns).

    Tokens `(b, n, d)` lose those before the patches (class, register) and stand in the patches' grid.
    """
    if values.dim() == 4:
        if values.shape[2:].numel() < 2:
            raise InvalidValue(f"layer {layer.address} has one position on an image of {size[0]}x{size[1]}")
        return values
    rows, columns = _grid(model, size)
    patches = values[:, values.shape[1] - rows * columns :]
    return patches.transpose(1, 2).reshape(len(patches), -1, rows, columns)


def _has_positions(model: Model, layer: Layer) -> bool:
    if layer.spatial or len(layer.shape) != 3:
        return layer.spatial
    rows, columns = _grid(model, model.input_size)
    return 1 < rows * columns <= layer.shape[1] <= rows * columns + _MOST_PREFIX


_MOST_PREFIX = 16
"""Class, distillation and register tokens are at most a handful."""


def _grid(model: Model, size: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of a transformer's patches: those of its last map, the patch embedding's."""
    maps = [row for row in layer_table(model) if row.spatial]
    if not maps:
        return 0, 0
    rows, columns = maps[-1].shape[2:]
    return rows * size[0] // model.input_size[0], columns * size[1] // model.input_size[1]


def _last_with_positions(model: Model) -> Layer | None:
    """The last map or, where attention over tokens follows it, what enters the last attention."""
    table = layer_table(model)
    maps = [i for i, row in enumerate(table) if row.spatial and not row.kind.startswith("Adaptive")]
    last = maps[-1] if maps else -1
    attentions = [i for i, row in enumerate(table) if i > last and "Attention" in row.kind]
    if attentions:
        inside = table[attentions[-1]].address.partition("#")[0] + "."
        before = table[last + 1 : attentions[-1]]
        tokens = [r for r in before if _has_positions(model, r) and not r.address.startswith(inside)]
        if tokens:
            return tokens[-1]
    return table[last] if maps else None


def _instead(model: Model) -> str:
    found = _last_with_positions(model)
    return f"; the last that has is {found.address}" if found else ""
