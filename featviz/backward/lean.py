"""The memory-lean backward: of a frozen network's forward only what the image's gradient needs is kept.

Plain autograd keeps the inputs of every convolution, batch norm and pooling, of which the gradients of
weights need the values and the gradient of the input at most the shapes. `Lean` intercepts the calls as
functions, whoever makes them:

    convolution, transposed too    the shape of the input; the weights are there anyway
    batch norm in eval mode        its scale, one number a channel
    ReLU and other gates           one bit an element
    max-pool                       one byte an output
    average pools                  the shape of the input

Addition, concatenation, views, padding, interpolation and frozen linear layers keep nothing of the image
under plain autograd either. Smooth activations (SiLU, GELU and the like), layer norm and attention need what
they keep. Gradients are those of plain autograd up to rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.overrides import TorchFunctionMode

from featviz.backward.bits import lie
from featviz.backward.gates import GATES
from featviz.backward.pools import POOLS, each_way
from featviz.backward.rooms import blank

convolution_backward = torch.ops.aten.convolution_backward.default

SMALL = 1 << 15
"""Tensors of fewer elements are left to plain autograd: keeping less of them costs more than it saves."""


class Lean(TorchFunctionMode):
    """Within it forwards keep only what the gradient of their input needs; `calls` counts those by name.

    Calls with weights that learn, with batch statistics, or of functions not known here are plain autograd's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        made = None
        if name in LEAN and torch.is_grad_enabled():
            given = args[0] if args else kwargs.get("input")
            if isinstance(given, Tensor) and given.requires_grad and given.numel() >= SMALL:
                made = LEAN[name](func, *args, **kwargs)
        if made is None:
            return func(*args, **kwargs)
        self.calls[name] += 1
        return made


def _learning(*weights: Tensor | None) -> bool:
    return any(weight is not None and weight.requires_grad for weight in weights)


class _Convolution(torch.autograd.Function):
    """∂/∂x of a convolution is the transposed convolution of the gradient: the values of x play no part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.like, ctx.how = (x.shape, lie(x)), how
        return torch.convolution(x, weight, bias, *how)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (weight,) = ctx.saved_tensors
        x = blank(gradient, *ctx.like)
        if weight.dtype != gradient.dtype:  # under autocast
            weight = weight.to(gradient.dtype)
        found = convolution_backward(gradient, x, weight, None, *ctx.how, (True, False, False))[0]
        return found, None, None, None


def _convolution(
    _func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    dilation: Any = 1,
    groups: int = 1,
) -> Any:
    dims = weight.dim() - 2
    if _learning(weight, bias) or input.dim() != weight.dim():
        return None
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(each_way(dilation, dims), weight.shape[2:], strict=True)]
        if padding == "same" and any(each % 2 for each in reach):
            return None  # one side gets one more than the other
        padding = [each // 2 * (padding == "same") for each in reach]
    sides = [each_way(each, dims) for each in (stride, padding, dilation)]
    return _Convolution.apply(input, weight, bias, (*sides, False, [0] * dims, groups))


def _transposed(
    _func: Any,
    input: Tensor,
    weight: Tensor,
    bias: Tensor | None = None,
    stride: Any = 1,
    padding: Any = 0,
    output_padding: Any = 0,
    groups: int = 1,
    dilation: Any = 1,
) -> Any:
    dims = weight.dim() - 2
    if _learning(weight, bias) or input.dim() != weight.dim():
        return None
    sides = [each_way(each, dims) for each in (stride, padding, dilation, output_padding)]
    return _Convolution.apply(input, weight, bias, (*sides[:3], True, sides[3], groups))


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
    if training or running_var is None or _learning(weight, bias):
        return None
    scale = (running_var + eps).rsqrt()
    scale = scale if weight is None else scale * weight
    return _BatchNorm.apply(
        input, scale, lambda x: func(x, running_mean, running_var, weight, bias, False, momentum, eps)
    )


LEAN: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    "batch_norm": _batch_norm,
    **GATES,
    **POOLS,
}
"""A torch function's name -> the call made leanly; None where it has to be left to plain autograd."""
