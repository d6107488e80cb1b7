"""Truths kept as one bit each, and a gradient times two slopes that they choose between.

Eight truths, as the numbers 0 and 1, make a byte as their sum times the powers of two. Truth k of a byte v is
whether the fraction of v / 2^(k+1) is a half or more. Both are floating-point arithmetic, which PyTorch does
many elements at a time on a CPU, as it does not compare into booleans or shift bits. There it goes part by
part, so that what stands between stays in the cache.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache

import torch
from torch import Tensor

from featviz.backward.rooms import room

PART = 1 << 18
"""Elements at a time on a CPU."""

_inside = torch.ops.aten.hardtanh_backward.grad_input
_passed = torch.ops.aten.threshold_backward.grad_input


def pack(x: Tensor, low: float, high: float) -> Tensor:
    """One bit for each element of x, in the order in which they lie in memory: whether low < x < high."""
    values = _flat(x)
    packed = torch.empty(-(-values.numel() // 8), dtype=torch.uint8, device=x.device)
    if x.is_meta:
        return packed
    one, powers = _constants(x.device, x.dtype)
    for start, end in _parts(values):
        length, count = end - start, -(-(end - start) // 8)
        truths = room(x, 8 * count)
        # the derivative of hardtanh is the one vectorised comparison with two bounds
        _inside(one.expand(length), values[start:end], low, high, grad_input=truths[:length])
        truths[length:] = 0
        sums = torch.mv(truths.view(8, count).t(), powers)
        packed[start // 8 : start // 8 + count] = sums.int()  # straight to bytes is slower
    return packed


def times(gradient: Tensor, packed: Tensor, inside: float, outside: float) -> Tensor:
    """The gradient, lying as what was packed does, times `inside` where the bit is set, else `outside`."""
    made = torch.empty_like(gradient)
    if gradient.is_meta:
        return made
    values, out = _flat(gradient), _flat(made)
    halves = 0.5 / _constants(gradient.device, gradient.dtype)[1].view(8, 1)
    for start, end in _parts(values):
        length, count = end - start, -(-(end - start) // 8)
        sums = packed[start // 8 : start // 8 + count].to(gradient.dtype)
        fractions = (
            torch.mul(sums, halves, out=room(gradient, 8 * count).view(8, count)).view(-1)[:length].frac_()
        )
        _passed(values[start:end], fractions, 0.498, grad_input=out[start:end])
        if (inside, outside) != (1.0, 0.0):
            out[start:end].mul_(inside - outside).add_(values[start:end], alpha=outside)
    return made


def lie(x: Tensor) -> torch.memory_format:
    """In which order the elements lie: channels first, unless they lie channels last and so only."""
    last = x.dim() == 4 and not x.is_contiguous() and x.is_contiguous(memory_format=torch.channels_last)
    return torch.channels_last if last else torch.contiguous_format


def _flat(x: Tensor) -> Tensor:
    """The elements in the order in which they lie."""
    return x.permute(0, 2, 3, 1).reshape(-1) if lie(x) == torch.channels_last else x.reshape(-1)


def _parts(values: Tensor) -> Iterator[tuple[int, int]]:
    """Where each part begins and ends; all but the last are whole bytes."""
    size = PART if values.device.type == "cpu" else max(1, values.numel())
    return ((start, min(start + size, values.numel())) for start in range(0, values.numel(), size))


@lru_cache(maxsize=16)
def _constants(device: torch.device, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """A one, and `(8,)` what each truth of a byte counts."""
    return torch.ones(1, device=device, dtype=dtype), (2.0 ** torch.arange(8)).to(device, dtype)
