"""Pooling in the lean backward: of a maximum its place in its window, of a mean the shape alone."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from featviz.backward.bits import PART, lie
from featviz.backward.rooms import blank

aten = torch.ops.aten


def each_way(value: int | Sequence[int], dims: int = 2) -> list[int]:
    """One number for each dimension of a map."""
    given = [value] if isinstance(value, int) else list(value)
    return given * dims if len(given) == 1 else given


class _MaxPool(torch.autograd.Function):
    """Where in its window each maximum lies, one byte an output; of eight bytes a part at a time."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: tuple[Any, ...]) -> Tensor:
        ctx.how, ctx.like = how, (x.shape, lie(x))
        if x.is_meta:
            y = aten.max_pool2d_with_indices(x, *how)[0]
            codes = torch.empty_like(y, dtype=torch.uint8)
        elif ctx.like[1] == torch.channels_last or x.device.type != "cpu":
            y, places = aten.max_pool2d_with_indices(x, *how)
            codes = _codes(places, x.shape, how)
        else:
            made = []
            for part in _planes(x):
                y, places = aten.max_pool2d_with_indices(part, *how)
                made.append((y, _codes(places, x.shape, how)))
            shape = (*x.shape[:2], *y.shape[2:])
            y, codes = (_joined(each, shape) for each in zip(*made, strict=True))
        ctx.save_for_backward(codes)
        pooled: Tensor = y
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        (codes,) = ctx.saved_tensors
        (shape, order), how = ctx.like, ctx.how
        gradient = gradient.contiguous(memory_format=order)
        if order == torch.channels_last or codes.device.type != "cpu":
            x, places = blank(gradient, shape, order), _places(codes, shape, how)
            return aten.max_pool2d_with_indices_backward(gradient, x, *how, places), None
        made = gradient.new_empty(shape)
        for into, part, code in zip(*(_planes(each, made) for each in (made, gradient, codes)), strict=True):
            x, places = blank(gradient, into.shape, order), _places(code, shape, how)
            aten.max_pool2d_with_indices_backward(part, x, *how, places, grad_input=into)
        return made, None


def _planes(x: Tensor, like: Tensor | None = None) -> tuple[Tensor, ...]:
    """`(1, n, h, w)` views of as many planes at a time as fit in a cache; as many as of another tensor."""
    most = PART // (x if like is None else like)[0, 0].numel()
    return torch.split(x.contiguous().view(1, -1, *x.shape[2:]), max(1, most), 1)


def _joined(parts: Sequence[Tensor], shape: Sequence[int]) -> Tensor:
    """Planes part by part as one map; no view, since what comes next may work in place."""
    made = parts[0].new_empty(shape)
    torch.cat(list(parts), 1, out=made.view(1, -1, *shape[2:]))
    return made


def _codes(places: Tensor, shape: Sequence[int], how: tuple[Any, ...]) -> Tensor:
    """The place of each maximum in its window, of its place in its plane, which is overwritten."""
    down, right = how[3][0] * shape[3], how[3][1]  # what one row and one column of a window skip
    behind = places.sub_(_corners(places, shape, how)).float()  # small whole numbers, exact in float32
    row = ((behind + 0.5) / down).floor_()
    column = behind.sub_(row, alpha=down).div_(right)
    codes: Tensor = row.mul_(how[0][1]).add_(column).round_().to(torch.uint8)
    return codes


def _places(codes: Tensor, shape: Sequence[int], how: tuple[Any, ...]) -> Tensor:
    """The place of each maximum in its plane, of its place in its window."""
    columns, (down, right) = how[0][1], how[3]
    row = codes // columns
    places = codes.long().mul_(right).add_(row, alpha=down * shape[3] - columns * right)
    return places.add_(_corners(codes, shape, how))


def _corners(outputs: Tensor, shape: Sequence[int], how: tuple[Any, ...]) -> Tensor:
    """`(h', w')` where each window begins, as a place in its plane; below 0 in the border."""
    rows = torch.arange(outputs.shape[2], device=outputs.device) * how[1][0] - how[2][0]
    columns = torch.arange(outputs.shape[3], device=outputs.device) * how[1][1] - how[2][1]
    corners: Tensor = rows.view(-1, 1) * shape[3] + columns
    return corners


def _max_pool2d(
    _func: Any,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    dilation: Any = 1,
    ceil_mode: bool = False,
    return_indices: bool = False,
) -> Any:
    kernel, dilated = each_way(kernel_size), each_way(dilation)
    wide = (kernel[1] - 1) * dilated[1] >= input.shape[-1] * dilated[0]  # rows could not be told from columns
    if return_indices or input.dim() != 4 or kernel[0] * kernel[1] > 256 or wide:
        return None
    steps = each_way(stride) if stride else kernel
    return _MaxPool.apply(input, (kernel, steps, each_way(padding), dilated, ceil_mode))


class _AvgPool(torch.autograd.Function):
    """Of the input the shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, how: tuple[Any, ...]) -> Tensor:
        ctx.how, ctx.like = how, (x.shape, lie(x))
        pooled: Tensor = aten.avg_pool2d(x, *how)
        return pooled

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return aten.avg_pool2d_backward(gradient, blank(gradient, *ctx.like), *ctx.how), None


def _avg_pool2d(
    _func: Any,
    input: Tensor,
    kernel_size: Any,
    stride: Any = None,
    padding: Any = 0,
    ceil_mode: bool = False,
    count_include_pad: bool = True,
    divisor_override: int | None = None,
) -> Any:
    if input.dim() != 4:
        return None
    kernel = each_way(kernel_size)
    steps = each_way(stride) if stride else kernel
    how = (kernel, steps, each_way(padding), ceil_mode, count_include_pad, divisor_override)
    return _AvgPool.apply(input, how)


class _AdaptiveAvgPool(torch.autograd.Function):
    """Of the input the shape."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, make: Callable[[Tensor], Tensor]) -> Tensor:
        ctx.like = x.shape, lie(x)
        return make(x)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, gradient: Tensor) -> Any:
        return aten._adaptive_avg_pool2d_backward(gradient, blank(gradient, *ctx.like)), None


def _adaptive_avg_pool2d(func: Any, input: Tensor, output_size: Any) -> Any:
    return _AdaptiveAvgPool.apply(input, lambda x: func(x, output_size)) if input.dim() == 4 else None


POOLS: Mapping[str, Callable[..., Any]] = {
    "max_pool2d": _max_pool2d,
    "avg_pool2d": _avg_pool2d,
    "adaptive_avg_pool2d": _adaptive_avg_pool2d,
}
"""A torch function's name -> the call made leanly; None where it has to be left to plain autograd."""
