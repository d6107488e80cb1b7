"""What a network's channels answer to one image, and its first layer's kernels."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from featviz.errors import InvalidValue, ModelError, nearest
from featviz.layer_table import layer_table
from featviz.layers import activations, find_layer, frozen
from featviz.receptive_field import first_tensor
from featviz.types import Model

ORDERS = ("strength", "number")

ACTIVATIONS = frozenset(
    {
        "relu", "relu_", "relu6", "hardtanh", "hardtanh_", "silu", "gelu", "hardswish", "mish",
        "leaky_relu", "leaky_relu_", "elu", "elu_", "prelu", "selu", "celu", "rrelu", "softplus",
    }
)  # fmt: skip
"""The functions, by name, that count as ReLU-like."""


@dataclass(frozen=True, eq=False)
class ActivationMaps:
    """Some channels of one layer: their numbers, maps `(n, h, w)`, and mean magnitudes `(n,)`."""

    layer: str
    channels: tuple[int, ...]
    maps: Tensor
    strength: Tensor


def activation_maps(
    model: Model,
    image: Tensor,
    layers: Sequence[str] | None = None,
    channels: int = 16,
    order: str = "strength",
) -> list[ActivationMaps]:
    """What the first or the strongest channels of layers put out for an image `(1, 3, h, w)`.

    Without layers, of every module that ends in a ReLU-like function and has positions. Strength is the
    mean of |a| over positions. Raises `LayerNotFound`, `AmbiguousName`, and `InvalidValue` for a layer
    without positions.
    """
    if channels < 1:
        raise InvalidValue(f"channels {channels}: at least 1")
    if order not in ORDERS:
        raise InvalidValue(f"order {order!r}{nearest(order, ORDERS)}; one of {', '.join(ORDERS)}")
    chosen = activation_layers(model) if layers is None else [_with_positions(model, name) for name in layers]
    with frozen(model.net), torch.inference_mode():
        found = activations(model, image.to(model.device), chosen)
    return [_strongest(layer, found[layer][0], channels, order) for layer in chosen]


def _with_positions(model: Model, name: str) -> str:
    layer = find_layer(model, name)
    if not layer.spatial or len(layer.shape) != 4:
        raise InvalidValue(f"layer {name!r} puts out {tuple(layer.shape)}: no map with positions to show")
    return layer.address


def _strongest(layer: str, maps: Tensor, channels: int, order: str) -> ActivationMaps:
    with torch.inference_mode(False):
        maps = maps.cpu().float().clone()
    strength = maps.abs().mean((1, 2))
    ranked = (
        strength.argsort(descending=True, stable=True) if order == "strength" else torch.arange(len(maps))
    )
    kept = ranked[:channels]
    return ActivationMaps(layer, tuple(kept.tolist()), maps[kept], strength[kept])


def activation_layers(model: Model) -> list[str]:
    """The addresses of all modules whose map comes straight from a ReLU-like function, in running order.

    An activation called as a function in the network's own forward, the result of no module, has no
    address. Raises `ModelError` where nothing is left.
    """
    seen: list[tuple[str, int]] = []
    calls: Counter[str] = Counter()

    def record(path: str, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None and tensor.dim() >= 2:  # as the layer table counts
            if getattr(tensor, "_activated", False):
                seen.append((path, calls[path]))
                tensor._activated = False  # type: ignore[attr-defined]
            calls[path] += 1

    handles = [
        module.register_forward_hook(lambda _m, _args, out, path=path: record(path, out))
        for path, module in model.net.named_modules()
    ]
    try:
        with frozen(model.net), torch.no_grad(), _Marked():
            model(torch.full((1, 3, *model.input_size), 0.5, device=model.device))
    finally:
        for handle in handles:
            handle.remove()
    spatial = {row.address for row in layer_table(model) if row.spatial and len(row.shape) == 4}
    addresses = [path if calls[path] == 1 else f"{path}#{call}" for path, call in seen]
    kept = [address for address in addresses if address in spatial]
    if not kept:
        raise ModelError(f"{model.name} has no module that ends in a ReLU-like function and has positions")
    return kept


class _Marked(TorchFunctionMode):
    """Marks what an activation function puts out."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            made._activated = getattr(func, "__name__", "") in ACTIVATIONS  # type: ignore[attr-defined]
        return made


def kernels(model: Model) -> Tensor:
    """The first convolution's kernels, signed, as images `(n, 3, k, k)`.

    Those of a network that takes one channel are the same in all three. Raises `ModelError` for a
    network without convolutions or whose first takes another number of channels.
    """
    for row in layer_table(model):
        module = model.net.get_submodule(row.address.partition("#")[0])
        if isinstance(module, nn.Conv2d):
            break
    else:
        raise ModelError(f"{model.name} has no convolution, so no kernels to show")
    if module.in_channels not in (1, 3):
        took = f"takes {module.in_channels} channels"
        raise ModelError(f"the first convolution of {model.name} {took}; kernels can be shown of 1 or 3")
    weight = module.weight.detach().cpu().float().clone()
    return weight if weight.shape[1] == 3 else weight.expand(-1, 3, -1, -1).contiguous()
