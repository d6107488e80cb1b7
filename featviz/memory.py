"""How much memory an image's gradient takes, found without data, and how much there is."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import psutil
import torch
from torch import Tensor
from torch.autograd.graph import saved_tensors_hooks
from torch.overrides import TorchFunctionMode

from featviz.backward.lean import Lean
from featviz.layer_table import layer_table, on_meta
from featviz.layers import activations
from featviz.settings import EngineSettings
from featviz.types import Model

SHARE = 0.6
"""Of the memory that is free, how much a gradient may take."""

PASSING = 4
"""How many tensors as large as the largest live at a time, while a layer's backward runs."""

TILES = (4096, 3072, 2048, 1536, 1024, 768, 512)


@dataclass(frozen=True)
class Kept:
    """What a forward keeps for the backward: bytes by torch function, and those of its largest tensor."""

    functions: Counter[str]
    largest: int

    @property
    def total(self) -> int:
        """Bytes kept in all."""
        return self.functions.total()

    @property
    def peak(self) -> int:
        """Bytes that forward and backward take at most, an estimate."""
        return self.total + PASSING * self.largest


class _Noting(TorchFunctionMode):
    """Notes the function that is running, and the largest tensor that any put out."""

    name, largest = "", 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        self.name = getattr(func, "__name__", "")
        made = func(*args, **(kwargs or {}))
        if isinstance(made, Tensor):
            self.largest = max(self.largest, made.numel() * made.element_size())
        return made


def kept(
    model: Model, layers: Sequence[str], size: tuple[int, int], *, lean: bool = True, batch: int = 1
) -> Kept:
    """What the gradient of `layers` at images of `size` (rows, columns) has to keep; weights do not count.

    Tried on the meta device. Raises what the network raises there, where it asks for values on its way.
    """
    noting, functions = _Noting(), Counter[str]()
    seen: set[int] = set()
    layer_table(model)  # known before the weights are taken out

    def run(image: Tensor) -> None:
        seen.update(_storage(each) for each in (*model.net.parameters(), *model.net.buffers()))

        def note(tensor: Tensor) -> Tensor:
            if _storage(tensor) not in seen:
                seen.add(_storage(tensor))
                functions[noting.name] += tensor.untyped_storage().nbytes()
            return tensor

        with saved_tensors_hooks(note, lambda tensor: tensor), Lean() if lean else nullcontext(), noting:
            alive.append(activations(model, image.requires_grad_(True), layers))

    alive: list[dict[str, Tensor]] = []  # a storage's address counts while it lives
    on_meta(model, run, size, batch)
    return Kept(functions, noting.largest)


def _storage(tensor: Tensor) -> int:
    return int(tensor.untyped_storage()._cdata)


def available(device: torch.device) -> int:
    """Bytes of memory that are free on a device; in a container no more than it may still take."""
    if device.type == "cuda":
        free: int = torch.cuda.mem_get_info(device)[0]
        return free
    if device.type == "mps":
        return int(torch.mps.recommended_max_memory() - torch.mps.driver_allocated_memory())
    free = psutil.virtual_memory().available
    for limit, used in _CONTAINERS:
        try:
            free = min(free, int(limit.read_text()) - int(used.read_text()))
        except (OSError, ValueError):  # no container of this kind, or "max"
            continue
    return max(0, free)


_CGROUP = Path("/sys/fs/cgroup")
_CONTAINERS = [
    (_CGROUP / "memory.max", _CGROUP / "memory.current"),
    (_CGROUP / "memory/memory.limit_in_bytes", _CGROUP / "memory/memory.usage_in_bytes"),
]

_Any = TypeVar("_Any", bound=EngineSettings)


def settled(model: Model, layers: Sequence[str], size: tuple[int, int], settings: _Any) -> _Any:
    """The settings with `tile auto` decided for pictures of `size`: whole, or the largest tiles that fit.

    Where the network cannot be tried without data, auto stays auto.
    """
    if settings.tile != "auto" or settings.compile:
        return settings
    room = SHARE * available(model.device)
    sides = [side for side in TILES if side < max(size)]
    for choice, seen in [("none", size), *((str(side), _tile(side, size)) for side in sides)]:
        try:
            fits = kept(model, layers, seen, lean=settings.lean).peak <= room
        except Exception:  # it asks for values on its way, or what is too small for it is told elsewhere
            return settings
        if fits:
            return replace(settings, tile=choice)
    return replace(settings, tile=str(TILES[-1])) if sides else settings


def batch_for(model: Model, layers: Sequence[str], size: tuple[int, int], most: int) -> int:
    """How many images of `size` fit in memory at once, at least 1 and at most `most`."""
    try:
        each = kept(model, layers, size).peak
    except Exception:  # it asks for values on its way
        return most
    return max(1, min(most, int(SHARE * available(model.device)) // max(1, each)))


def _tile(side: int, size: tuple[int, int]) -> tuple[int, int]:
    return min(side, size[0]), min(side, size[1])
