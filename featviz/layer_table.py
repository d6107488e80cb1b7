"""What layers a network has: addresses, shapes, strides, receptive fields and stage aliases.

The network runs once on PyTorch's meta device, without data, so the table costs milliseconds
and no memory even for large networks.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import chain
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.func import functional_call

from featviz.errors import ModelError
from featviz.frozen import frozen
from featviz.receptive_field import Reach, first_tensor, reach_of, tensors_in
from featviz.types import Model

ALIASES = {"stem": 2, "layer1": 4, "layer2": 8, "layer3": 16, "layer4": 32}
"""Stage alias -> the stride it stands for."""


@dataclass(frozen=True)
class Layer:
    """One call of one module.

    `shape` is that of its output for one image of the model's input size, channels first; `stride`
    is input pixels per position, rounded to a power of two, and `receptive_field` the side in input
    pixels of what one position sees (infinite for the whole image). Both are None where there are
    no positions. `channels_last` tells that the network itself keeps this map as `(b, h, w, c)`.
    """

    address: str
    kind: str
    shape: tuple[int, ...]
    stride: int | None = None
    receptive_field: float | None = None
    input_stride: int | None = None
    channels_last: bool = False
    leaf: bool = True
    alias: str = ""

    @property
    def channels(self) -> int:
        """`c` of `(b, c, h, w)` and `(b, c)`, `d` of `(b, n, d)` tokens."""
        return self.shape[-1] if len(self.shape) == 3 else self.shape[1]

    @property
    def spatial(self) -> bool:
        """Whether its output is a map of channels with more than one position."""
        return self.stride is not None


class _Run(nn.Module):
    """Something to do with a network, as a module, so that its weights can be taken out meanwhile."""

    def __init__(self, net: nn.Module, run: Callable[[Tensor], object]) -> None:
        super().__init__()
        self.net, self.forward = net, run


def on_meta(model: Model, run: Callable[[Tensor], object], size: tuple[int, int], batch: int = 1) -> None:
    """Call `run` on images `(batch, 3, *size)` without data, the network's weights being without data too."""
    state = chain(model.net.named_parameters(), model.net.named_buffers())
    empty = {f"net.{name}": torch.empty_like(tensor, device="meta") for name, tensor in state}
    image = torch.empty(batch, 3, *size, device="meta", dtype=_dtype(model.net))
    with frozen(model.net):
        functional_call(_Run(model.net, run), empty, (image,))


def run_on_meta(model: Model, size: tuple[int, int]) -> None:
    """Run the network forward without data on one image of `size` (rows, columns)."""
    with torch.no_grad():
        on_meta(model, model, size)


def _dtype(net: nn.Module) -> torch.dtype:
    return next((p.dtype for p in net.parameters() if p.is_floating_point()), torch.float32)


_tables: WeakKeyDictionary[nn.Module, tuple[Layer, ...]] = WeakKeyDictionary()


def layer_table(model: Model) -> tuple[Layer, ...]:
    """Every module call of one forward, in the order in which their outputs appear.

    A module that runs once has its dotted path as address; one that runs n times has n rows,
    `path#0` to `path#n-1`. Raises `ModelError` where the network does not run at its input size.
    """
    if model.net not in _tables:
        _tables[model.net] = _with_aliases(_trace(model))
    return _tables[model.net]


def _trace(model: Model) -> list[Layer]:
    rows: list[Layer] = []

    def record(path: str, module: nn.Module, inputs: Any, output: Any) -> None:
        tensor = first_tensor(output)
        if tensor is not None and tensor.dim() >= 2:
            rows.append(_row(model, path, module, next(tensors_in(inputs), None), tensor))

    handles = [
        module.register_forward_hook(lambda m, args, out, path=path: record(path, m, args, out))
        for path, module in model.net.named_modules()
    ]
    try:
        _probe(model, rows)
    finally:
        for handle in handles:
            handle.remove()
    return _numbered(rows)


def _probe(model: Model, rows: list[Layer]) -> None:
    try:
        with Reach():
            run_on_meta(model, model.input_size)
        return
    except Exception:
        rows.clear()  # it asks for values on the way, so it must run on data
    try:
        with Reach(), torch.no_grad(), frozen(model.net):
            model(torch.full((1, 3, *model.input_size), 0.5, device=model.device, dtype=_dtype(model.net)))
    except Exception as error:
        size = "x".join(map(str, model.input_size))
        raise ModelError(f"{model.name} does not run on an image of {size}: {_one_line(error)}") from error


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300] or type(error).__name__


def _row(model: Model, path: str, module: nn.Module, given: Tensor | None, made: Tensor) -> Layer:
    stride, channels_last = _map_of(model.input_size, made)
    shape = tuple(made.permute(0, 3, 1, 2).shape if channels_last else made.shape)
    return Layer(
        path,
        type(module).__name__,
        shape,
        stride,
        reach_of(made)[0] if stride else None,
        None if given is None else _map_of(model.input_size, given)[0],
        channels_last,
        leaf=not any(True for _ in module.children()),
    )


def _map_of(size: tuple[int, int], tensor: Tensor) -> tuple[int | None, bool]:
    """The stride of a map and whether its channels come last; (None, False) for what is no map.

    A map has the image's proportions in two neighbouring dimensions.
    """
    if tensor.dim() != 4:
        return None, False
    for rows, columns in ((2, 3), (1, 2)):
        h, w = tensor.shape[rows], tensor.shape[columns]
        if h * w > 1 and abs(h / w * size[1] / size[0] - 1) < 0.2:
            return 2 ** round(math.log2(max(size[0] / h, 1))), rows == 1
    return None, False


def _numbered(rows: list[Layer]) -> list[Layer]:
    paths = [row.address for row in rows]
    seen: dict[str, int] = {}
    numbered = []
    for row in rows:
        call = seen.setdefault(row.address, 0)
        seen[row.address] += 1
        many = paths.count(row.address) > 1
        numbered.append(replace(row, address=f"{row.address}#{call}") if many else row)
    return numbered


def _with_aliases(rows: list[Layer]) -> tuple[Layer, ...]:
    own = {row.address for row in rows}
    aliases = {at: name for name, at in _stage_ends(rows).items() if name not in own}
    return tuple(replace(row, alias=aliases.get(i, "")) for i, row in enumerate(rows))


def _stage_ends(rows: list[Layer]) -> dict[str, int]:
    """Alias -> the row of the last module at its stride, not counting what opens the next stage.

    A network that lacks one of the four strides has its own stages instead: the runs of equal
    stride, of which the longest is halved until there are four and a stem. A transformer, which
    has no strides, has the quarters of its blocks.
    """
    stages = _stages(rows)
    if all(stride in stages for stride in (4, 8, 16, 32)):
        ends = {name: stages[stride][-1] for name, stride in ALIASES.items() if stride in stages}
        return {"stem": stages[4][0]} | ends
    blocks = [i for i, row in enumerate(rows) if len(row.shape) == 3 and "Block" in row.kind]
    if len(blocks) >= 4:
        return {f"layer{k}": blocks[len(blocks) * k // 4 - 1] for k in range(1, 5)}
    groups = [stages[stride] for stride in sorted(stages)]
    while groups and len(groups) < len(ALIASES):
        longest = max(range(len(groups)), key=lambda g: (len(groups[g]), g))
        half = len(groups[longest]) // 2
        if half == 0:
            break
        groups[longest : longest + 1] = [groups[longest][:half], groups[longest][half:]]
    return dict(zip(reversed(ALIASES), (group[-1] for group in reversed(groups)), strict=False))


def _stages(rows: list[Layer]) -> dict[int, list[int]]:
    """Stride -> the outermost modules that put out a map at it, in order.

    Left out are the parts of a module that stands there itself, and those at the stride with
    which a downsampling module begins: they belong to the next stage.
    """
    spans = {row.address.partition("#")[0]: (row.input_stride, row.stride) for row in rows}
    stages: dict[int, list[int]] = {}
    for i, row in enumerate(rows):
        if row.stride is None or not row.address or row.kind.startswith("Adaptive"):
            continue  # an adaptive pool puts out the same size whatever the image's
        parts = row.address.partition("#")[0].split(".")
        around = [spans.get(".".join(parts[:n]), (None, None)) for n in range(1, len(parts))]
        if not any(first == row.stride and last in (first, 2 * first) for first, last in around):
            stages.setdefault(row.stride, []).append(i)
    return stages
