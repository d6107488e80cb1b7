"""Norms in the lean backward: batch norm in eval mode scales, and layer norm is where chains begin."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from featviz.backward.again import mark
from featviz.backward.convolutions import learning


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


def _batch_norm(
    func: Any,
    input: Tensor,
    running_mean: Tensor | None,
    running_var: Tensor | None,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    training: bool = False,
    momentum: float = 0.1,
    eps: float = 1e-5,
) -> Any:
    if training or running_var is None or learning(weight, bias):
        return None
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight

    def make(x: Tensor) -> Any:
        return func(x, running_mean, running_var, weight, bias, False, momentum, eps)

    y: Tensor = _BatchNorm.apply(input, scale, make)
    mark(y, make, input)
    return y


def _layer_norm(
    func: Any,
    input: Tensor,
    normalized_shape: Any,
    weight: Tensor | None = None,
    bias: Tensor | None = None,
    *args: Any,
    **kwargs: Any,
) -> Any:
    if learning(weight, bias):
        return None

    def make(x: Tensor) -> Any:
        return func(x, normalized_shape, weight, bias, *args, **kwargs)

    y: Tensor = make(input)
    mark(y, make, input, free=True)  # plain autograd keeps it
    return y


NORMS: Mapping[str, Callable[..., Any]] = {"batch_norm": _batch_norm, "layer_norm": _layer_norm}
"""A torch function's name -> the call made leanly; None where it has to be left to plain autograd."""
