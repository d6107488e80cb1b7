"""Norms in the lean backward: batch norm in eval mode scales, and layer norm is where chains begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from featviz.backward.again import Call, Made, chained, halved, kept_of, mark
from featviz.backward.convolutions import learning
from featviz.backward.keeping import Keeper, unchanged
from featviz.norms import is_norm, norm_call

aten = torch.ops.aten


class _BatchNorm(torch.autograd.Function):
    """In eval mode y = (x - μ) · γ / √(σ² + ε) + β, and so ∂y/∂x = γ / √(σ² + ε)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, scale: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.save_for_backward(scale)
        return make(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (scale,) = ctx.saved_tensors
        scaled = gradient * scale.view(-1, *[1] * (gradient.dim() - 2))
        return scaled.to(gradient.dtype), None, None  # under autocast the scale is the finer one


def _batch_norm(func: Any, *args: Any, **kwargs: Any) -> Any:
    if not is_norm(func):
        return None
    given, norm = norm_call(*args, **kwargs)
    if not norm.remembers or norm.learns:
        return None
    more, rest = args[1:], {name: value for name, value in kwargs.items() if name != "input"}

    def make(x: Tensor) -> Any:
        return func(x, *more, **rest)  # without args, which hold the input

    y: Tensor = _BatchNorm.apply(given, norm.scale, make)
    mark(y, make, given)
    return y


class _LayerNorm(torch.autograd.Function):
    """Its input, made again or kept as its elements have to lie: plain autograd copies them twice."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, root: Tensor, call: Call | None, how: tuple[Any, ...]) -> Tensor:
        y, mean, deviation = aten.native_layer_norm(x, *how)
        ctx.save_for_backward(root, mean, deviation)
        ctx.call, ctx.how = call, how
        made: Tensor = y
        return made

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        root, mean, deviation = ctx.saved_tensors
        x, (shape, weight, bias, _) = unchanged(root), ctx.how
        if ctx.call is not None:
            x, _ = ctx.call.take(x)
        given = gradient, x, shape, mean, deviation, weight, bias, (True, False, False)
        return aten.native_layer_norm_backward(*given)[0], None, None, None


def _layer_norm(
    keeper: Keeper,
    _func: Any,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    eps: float = 1e-5,
    *_more: Any,
) -> Any:
    fine = weight is None or weight.dtype == input.dtype
    if learning(weight, bias) or not fine or halved(input):
        return None  # autocast has precisions of its own here
    how = (list(normalized_shape), weight, bias, eps)
    x = input.contiguous()
    root, call = kept_of(input, keeper) or (keeper.keep(x), None)
    y: Tensor = _LayerNorm.apply(x, root, call, how)
    chained(y, lambda x: aten.native_layer_norm(x, *how)[0], Made(call, root, True))
    return y


NORMS: Mapping[str, Callable[..., Any]] = {"batch_norm": _batch_norm}
"""A torch function's name -> the call made leanly; None where it has to be left to plain autograd."""

LAYER_NORMS: Mapping[str, Callable[..., Any]] = {"layer_norm": _layer_norm}
"""The same of calls that keep something, and so take a keeper first."""
