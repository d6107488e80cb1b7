"""How far a tensor reaches back into the image: its receptive field, followed through one forward."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from torch import Tensor
from torch.overrides import TorchFunctionMode


class Reach(TorchFunctionMode):
    """Carries (receptive field, stride) from tensor to tensor, as an attribute of each."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        out = func(*args, **kwargs)
        made = list(tensors_in(out))
        if made:
            reach = max((reach_of(t) for t in tensors_in((args, list(kwargs.values())))), default=(1.0, 1.0))
            reach = _grow(func.__name__, reach, args, kwargs, made[0])
            for tensor in made:
                tensor._reach = reach  # type: ignore[attr-defined]
        return out


def _grow(name: str, reach: tuple[float, float], args: Any, kwargs: Any, out: Tensor) -> tuple[float, float]:
    """Receptive field r and stride j after one operation: r + (k - 1)·dilation·j, j·stride."""
    size, jump = reach
    if name in {"conv2d", "conv_transpose2d"}:
        kernel = max(_argument(args, kwargs, 1, "weight").shape[2:])
        stride = _side(_argument(args, kwargs, 3, "stride"))
        dilation = _side(_argument(args, kwargs, 5 if name == "conv2d" else 7, "dilation"))
        grown = size + (kernel - 1) * dilation * jump
        return grown, jump * stride if name == "conv2d" else jump / stride
    if name in {"max_pool2d", "avg_pool2d", "_max_pool2d", "max_pool2d_with_indices", "lp_pool2d"}:
        at = 2 if name == "lp_pool2d" else 1
        kernel = _side(_argument(args, kwargs, at, "kernel_size"))
        stride = _side(_argument(args, kwargs, at + 1, "stride") or kernel)
        return size + (kernel - 1) * jump, jump * stride
    given = _argument(args, kwargs, 0, "input")
    if name.startswith("adaptive_") and out.shape[2:] == given.shape[2:]:
        return reach
    if name.startswith("adaptive_") or name in {"mean", "linear", "matmul", "scaled_dot_product_attention"}:
        pointwise = name == "linear" and given.dim() == 4  # ConvNeXt's 1x1 convolutions
        return reach if pointwise else (math.inf, jump)
    return reach


def _argument(args: Any, kwargs: Any, place: int, name: str) -> Any:
    """An argument of a call, given by place or by name; None where it was left out."""
    return args[place] if len(args) > place else kwargs.get(name)


def reach_of(tensor: Tensor) -> tuple[float, float]:
    """(Receptive field, stride) of a tensor that came about under `Reach`; (1, 1) of any other."""
    return getattr(tensor, "_reach", (1.0, 1.0))


def tensors_in(value: Any) -> Iterator[Tensor]:
    """The tensors in a value, also in lists and tuples of them."""
    if isinstance(value, Tensor):
        yield value
    elif isinstance(value, (list, tuple)):
        for item in value:
            yield from tensors_in(item)


def _side(value: Any) -> int:
    """The larger of a (rows, columns) setting, 1 where none was given."""
    if isinstance(value, (list, tuple)):
        return int(max(value)) if value else 1
    return int(value) if value else 1


def first_tensor(output: Any) -> Tensor | None:
    """The main output of a module that returns a tensor, a sequence or a dict of them."""
    if isinstance(output, dict):
        output = list(output.values())
    return next(tensors_in(output), None)
