"""Convolutions and linear layers in the lean backward: of what they take, the shape alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from featviz.backward.again import EXPANDING, chained, halved, made_of, mark
from featviz.backward.bits import lie
from featviz.backward.pools import each_way
from featviz.backward.rooms import blank

convolution_backward = torch.ops.aten.convolution_backward.default

CHEAP = 48
"""What takes so many products an element costs little more to make again than to have kept."""


def learning(*weights: Tensor | None) -> bool:
    """Whether any weight wants a gradient, so that the call is plain autograd's."""
    return any(weight is not None and weight.requires_grad for weight in weights)


def _cast(x: Tensor) -> Tensor:
    """As autocast has it, which does not know `torch.convolution` everywhere."""
    half = halved(x) and x.dtype != torch.float64
    return x.to(torch.get_autocast_dtype(x.device.type)) if half else x


def _convolved(x: Tensor, weight: Tensor, bias: Tensor | None, how: Any) -> Tensor:
    return torch.convolution(x, weight.to(x.dtype), None if bias is None else bias.to(x.dtype), *how)


class _Convolution(torch.autograd.Function):
    """∂/∂x of a convolution is the transposed convolution of the gradient: the values of x play no part."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, how: tuple[Any, ...]) -> Tensor:
        ctx.save_for_backward(weight)
        ctx.like, ctx.how = (x.shape, lie(x)), how
        return _convolved(x, weight, bias, how)

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
    if learning(weight, bias) or input.dim() != weight.dim():
        return None
    if isinstance(padding, str):
        reach = [d * (k - 1) for d, k in zip(each_way(dilation, dims), weight.shape[2:], strict=True)]
        if padding == "same" and any(each % 2 for each in reach):
            return None  # one side gets one more than the other
        padding = [each // 2 * (padding == "same") for each in reach]
    sides = [each_way(each, dims) for each in (stride, padding, dilation)]
    how = (*sides, False, [0] * dims, groups)
    y: Tensor = _Convolution.apply(_cast(input), weight, bias, how)
    _mark(y, input, weight, bias, how)
    return y


def _mark(y: Tensor, x: Tensor, weight: Tensor, bias: Tensor | None, how: Sequence[Any]) -> None:
    """Note how y was made where that is cheap: a few products an element, or those of one channel."""

    kind = y.dtype

    def step(value: Tensor) -> Tensor:
        return _convolved(value.to(kind), weight, bias, how)

    if weight[0].numel() <= CHEAP and y.numel() >= EXPANDING * x.numel():
        mark(y, step, x)
    elif weight.shape[1] == 1 and len(weight) == x.shape[1]:
        made = made_of(x)
        if made is not None and made.free:
            chained(y, step, made)


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
    if learning(weight, bias) or input.dim() != weight.dim():
        return None
    sides = [each_way(each, dims) for each in (stride, padding, dilation, output_padding)]
    return _Convolution.apply(_cast(input), weight, bias, (*sides[:3], True, sides[3], groups))


def _linear(func: Any, input: Tensor, weight: Tensor, bias: Tensor | None = None) -> Any:
    if learning(weight, bias) or weight.dim() != 2:
        return None
    y: Tensor = func(input, weight, bias)
    if EXPANDING * weight.shape[1] <= weight.shape[0]:
        mark(y, lambda x: func(x, weight, bias), input)
    return y


PRODUCTS: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("conv1d", "conv2d", "conv3d"), _convolution),
    **dict.fromkeys(("conv_transpose1d", "conv_transpose2d", "conv_transpose3d"), _transposed),
    "linear": _linear,
}
"""A torch function's name -> the call made leanly; None where it has to be left to plain autograd."""
