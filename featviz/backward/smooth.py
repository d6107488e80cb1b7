"""Smooth activations and gating products in the lean backward: what they need is made again."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

from featviz.backward.again import Call, Made, chained, kept_of, made_of
from featviz.backward.keeping import Keeper, unchanged

aten = torch.ops.aten


class _Smooth(torch.autograd.Function):
    """f′(x) with x made again; of it only what its chain began with is kept."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, root: Tensor, call: Call | None, make: Any, slope: Any) -> Tensor:
        ctx.save_for_backward(root)
        ctx.call, ctx.slope = call, slope
        y: Tensor = make(x)
        if y is x:
            ctx.mark_dirty(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (root,) = ctx.saved_tensors
        x, ours = unchanged(root), False
        if ctx.call is not None:
            x, ours = ctx.call.take(x)
        return ctx.slope(gradient, x, x if ours and x.dtype == gradient.dtype else None), *[None] * 4


def _silu(
    keeper: Keeper, func: Any, input: Tensor, *args: Any, inplace: bool = False, **kwargs: Any
) -> Tensor:
    def slope(gradient: Tensor, x: Tensor, into: Tensor | None) -> Any:
        if into is None:
            return aten.silu_backward(gradient, x)
        return aten.silu_backward(gradient, x, grad_input=into)

    return _smooth(keeper, func, input, F.silu, slope, inplace, *args)


def _hardswish(keeper: Keeper, func: Any, input: Tensor, *args: Any, inplace: bool = False) -> Tensor:
    def slope(gradient: Tensor, x: Tensor, into: Tensor | None) -> Any:
        return aten.hardswish_backward(gradient, x)

    return _smooth(keeper, func, input, F.hardswish, slope, inplace, *args)


def _mish(keeper: Keeper, func: Any, input: Tensor, *args: Any, inplace: bool = False) -> Tensor:
    def slope(gradient: Tensor, x: Tensor, into: Tensor | None) -> Any:
        return aten.mish_backward(gradient, x)

    return _smooth(keeper, func, input, F.mish, slope, inplace, *args)


def _gelu(keeper: Keeper, func: Any, input: Tensor, *, approximate: str = "none") -> Tensor:
    def again(x: Tensor) -> Tensor:
        return F.gelu(x, approximate=approximate)

    def slope(gradient: Tensor, x: Tensor, into: Tensor | None) -> Any:
        if into is None:
            return aten.gelu_backward(gradient, x, approximate=approximate)
        return aten.gelu_backward(gradient, x, approximate=approximate, grad_input=into)

    return _smooth(keeper, func if approximate == "none" else again, input, again, slope, False)


def _smooth(
    keeper: Keeper,
    func: Any,
    x: Tensor,
    again: Callable[[Tensor], Tensor],
    slope: Any,
    inplace: bool,
    *args: Any,
) -> Tensor:
    inplace = inplace or func.__name__.endswith("_") or bool(args and args[0])
    found = kept_of(x, keeper, lost=inplace)
    root, call = found or (keeper.keep(x.detach().clone() if inplace else x), None)
    if inplace:
        keeper.writing(x)
    more = {"inplace": True} if inplace and not func.__name__.endswith("_") else {}
    y: Tensor = _Smooth.apply(x, root, call, lambda x: func(x, **more), slope)
    chained(y, again, Made(call, root, True))
    return y


class _Gated(torch.autograd.Function):
    """x · s, a number s for each channel: ∂/∂x needs the few s, and ∂/∂s the x, which is made again."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, gate: Tensor, root: Tensor, kept: Tensor, call: Call, make: Any) -> Any:
        ctx.save_for_backward(root, kept)
        ctx.call = call
        y = make(x, gate)
        if y is x:
            ctx.mark_dirty(x)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        root, gate = (unchanged(each) for each in ctx.saved_tensors)
        x, ours = ctx.call.take(root)
        product = torch.mul(gradient, x, out=x) if ours and x.dtype == gradient.dtype else gradient * x
        of_gate = product.sum_to_size(gate.shape)
        return torch.mul(gradient, gate, out=product), of_gate, None, None, None, None


def _product(keeper: Keeper, func: Any, input: Any, other: Any, *args: Any, **kwargs: Any) -> Any:
    if args or kwargs or not (isinstance(input, Tensor) and isinstance(other, Tensor)):
        return None
    big, gate = (input, other) if input.numel() >= other.numel() else (other, input)
    made = made_of(big)
    if made is None or made.call is None or not made.free or not (big.requires_grad and gate.requires_grad):
        return None
    fits = big.dim() == gate.dim() and all(n in (1, m) for n, m in zip(gate.shape, big.shape, strict=True))
    if not fits or gate.numel() * 8 > big.numel() or gate.dtype != big.dtype:
        return None
    inplace = func.__name__.endswith("_")
    if inplace and big is not input:
        return None
    root, kept, call = made.kept(keeper), keeper.keep(gate), made.call.ask()
    if inplace:
        keeper.writing(big)
    return _Gated.apply(big, gate, root, kept, call, func)


SMOOTH: Mapping[str, Callable[..., Any]] = {
    **dict.fromkeys(("silu", "silu_"), _silu),
    **dict.fromkeys(("hardswish", "hardswish_"), _hardswish),
    **dict.fromkeys(("mish", "mish_"), _mish),
    "gelu": _gelu,
    **dict.fromkeys(("mul", "mul_", "multiply"), _product),
}
"""A torch function's name -> the call made leanly; None where it has to be left to plain autograd."""
