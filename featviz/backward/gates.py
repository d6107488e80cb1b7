"""Gates in the lean backward: activation functions of two slopes, kept as one bit an element."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from featviz.backward import bits
from featviz.backward.again import forget


class _Gate(torch.autograd.Function):
    """One slope where the input lies strictly between two bounds, another outside."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, make: Callable[[Tensor], Tensor], bounds: Any, slopes: Any) -> Tensor:
        ctx.save_for_backward(bits.pack(x, *bounds))
        ctx.slopes, ctx.lie = slopes, bits.lie(x)
        y = make(x)
        if y is x:
            ctx.mark_dirty(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (packed,) = ctx.saved_tensors
        gradient = gradient.contiguous(memory_format=ctx.lie)
        return bits.times(gradient, packed, *ctx.slopes), None, None, None


def _gate(low: float, high: float, slopes: tuple[float, float] = (1.0, 0.0)) -> Callable[..., Any]:
    """The call of a gate whose bounds are its own."""

    def call(func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
        """The function, its gate kept as bits."""
        forget(input)  # nobody makes it again now
        return _Gate.apply(input, lambda x: func(x, *args, **kwargs), (low, high), slopes)

    return call


def _hardtanh(
    func: Any, input: Tensor, min_val: float = -1.0, max_val: float = 1.0, *args: Any, **kwargs: Any
) -> Any:
    return _gate(min_val, max_val)(func, input, min_val, max_val, *args, **kwargs)


def _leaky_relu(func: Any, input: Tensor, negative_slope: float = 0.01, *args: Any, **kwargs: Any) -> Any:
    return _gate(0.0, math.inf, (1.0, negative_slope))(func, input, negative_slope, *args, **kwargs)


GATES: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("relu", "relu_"), _gate(0.0, math.inf)),
    "relu6": _gate(0.0, 6.0),
    **dict.fromkeys(("hardtanh", "hardtanh_"), _hardtanh),
    "hardsigmoid": _gate(-3.0, 3.0, (1 / 6, 0.0)),
    **dict.fromkeys(("leaky_relu", "leaky_relu_"), _leaky_relu),
}
"""A torch function's name -> the call made leanly; None where it has to be left to plain autograd."""
