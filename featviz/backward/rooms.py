"""Memory kept between calls on a CPU, where the system would have to clear a new piece at every call."""

from __future__ import annotations

import math
import threading
from collections.abc import Sequence

import torch
from torch import Tensor

_kept = threading.local()


def room(like: Tensor, length: int) -> Tensor:
    """`(length,)` to work in, with whatever was left there."""
    return _piece("rooms", like, length)


def blank(like: Tensor, shape: Sequence[int], lie: torch.memory_format) -> Tensor:
    """A tensor that stands for a shape where a function asks for one it will not read.

    Nobody writes into it, so that on a CPU it takes addresses and no memory.
    """
    flat = _piece("blanks", like, math.prod(shape))
    if lie != torch.channels_last:
        return flat.view(shape)
    b, c, h, w = shape
    return flat.view(b, h, w, c).permute(0, 3, 1, 2)


def _piece(kind: str, like: Tensor, length: int) -> Tensor:
    if like.device.type != "cpu":
        return like.new_empty(length)
    kept: dict[torch.dtype, Tensor] = _kept.__dict__.setdefault(kind, {})
    if like.dtype not in kept or kept[like.dtype].numel() < length:
        kept.pop(like.dtype, None)
        kept[like.dtype] = torch.empty(length, dtype=like.dtype)
    return kept[like.dtype][:length]
