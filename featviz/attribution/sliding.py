"""Which operations of a network's graph work on a few neighbours, or on each position by itself."""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

Corners = npt.NDArray[np.int64]
"""`(b, 2)` or `(2,)`: rows and columns."""


@dataclass(frozen=True)
class Sliding:
    """An operation in which a position sees a few neighbours: a convolution or a pooling.

    Rows and columns each: `kernel`, `stride`, `dilation`, and `padding` before the first of them with
    the value `fill`. `compute` takes the padded map.
    """

    kernel: Corners
    stride: Corners
    dilation: Corners
    padding: Corners
    fill: float
    compute: Callable[[Tensor], Tensor]

    def seen_by(self, first: Corners, count: Corners) -> tuple[Corners, Corners]:
        """The corner on the padded map, and the size, of what `count` positions from `first` on see."""
        return first * self.stride, (count - 1) * self.stride + (self.kernel - 1) * self.dilation + 1

    def that_see(self, corners: Corners, size: Corners, full: Corners) -> tuple[Corners, Corners]:
        """The corners and common size of the rectangles of positions that see those given.

        Position o sees x where o·stride − padding ≤ x ≤ o·stride − padding + (kernel − 1)·dilation.
        `full` is the whole number of positions.
        """
        reach = (self.kernel - 1) * self.dilation
        first = -((reach - self.padding - corners) // self.stride)  # rounded up
        last = (corners + size - 1 + self.padding) // self.stride
        first, last = first.clip(0, full - 1), last.clip(0, full - 1)
        common = np.maximum(last - first + 1, 1).max(0)
        return np.minimum(first, full - common), common


def sliding_of(
    node: fx.Node, modules: Mapping[str, nn.Module], before: Corners, after: Corners
) -> Sliding | None:
    """The sliding operation that a node is, from `before` to `after` positions; None for others."""
    if node.op != "call_module":
        return None
    module = modules[str(node.target)]
    if isinstance(module, nn.Conv2d):
        return _convolution(module, before, after)
    if type(module) is nn.MaxPool2d and not module.return_indices:
        k, s, d = (_pair(v) for v in (module.kernel_size, module.stride, module.dilation))
        largest = partial(F.max_pool2d, kernel_size=k.tolist(), stride=s.tolist(), dilation=d.tolist())
        return Sliding(k, s, d, _pair(module.padding), -float("inf"), largest)
    if type(module) is nn.AvgPool2d and not _pair(module.padding).any() and not module.ceil_mode:
        k, s = _pair(module.kernel_size), _pair(module.stride)
        mean = partial(F.avg_pool2d, kernel_size=k.tolist(), stride=s.tolist())
        return Sliding(k, s, _pair(1), _pair(0), 0.0, mean)
    return None


def _convolution(module: nn.Conv2d, before: Corners, after: Corners) -> Sliding | None:
    kernel, stride, dilation = (_pair(v) for v in (module.kernel_size, module.stride, module.dilation))
    if module.padding_mode != "zeros" or isinstance(module.padding, str):
        return None
    padding = _pair(module.padding)
    if (
        type(module).forward is not nn.Conv2d.forward
    ):  # TensorFlow's SAME: half of what is missing, rounded down
        padding = np.maximum((after - 1) * stride + (kernel - 1) * dilation + 1 - before, 0) // 2
    compute = partial(
        F.conv2d,
        weight=module.weight,
        bias=module.bias,
        stride=module.stride,
        dilation=module.dilation,
        groups=module.groups,
    )
    return Sliding(kernel, stride, dilation, padding, 0.0, compute)


def _pair(value: int | Sequence[int]) -> Corners:
    return np.array([value, value] if isinstance(value, int) else list(value), dtype=np.int64)


_POINTWISE_MODULES = (
    nn.ReLU, nn.ReLU6, nn.Hardtanh, nn.SiLU, nn.GELU, nn.Hardswish, nn.Hardsigmoid, nn.Sigmoid, nn.Tanh,
    nn.ELU, nn.LeakyReLU, nn.PReLU, nn.Mish, nn.Softplus, nn.BatchNorm2d, nn.Identity, nn.Dropout,
    nn.Dropout2d,
)  # fmt: skip
_POINTWISE_FUNCTIONS = (
    operator.add, operator.sub, operator.mul, operator.truediv, torch.add, torch.mul, torch.relu, F.relu,
    F.relu6, F.silu, F.gelu, F.hardswish, F.hardtanh, F.leaky_relu, F.elu, torch.sigmoid, F.batch_norm,
)  # fmt: skip
_POINTWISE_METHODS = ("relu", "sigmoid", "tanh", "contiguous", "add", "mul")


def is_pointwise(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether each position of a node's map depends on that position of its inputs alone."""
    if node.op == "call_module":
        return type(modules[str(node.target)]) in _POINTWISE_MODULES
    if node.op == "call_method":
        return node.target in _POINTWISE_METHODS
    if node.target is torch.cat:
        dim: object = node.args[1] if len(node.args) > 1 else node.kwargs.get("dim")
        return isinstance(dim, int) and dim == 1
    return any(node.target is function for function in _POINTWISE_FUNCTIONS)


def makes_new(node: fx.Node, modules: Mapping[str, nn.Module]) -> bool:
    """Whether what a node puts out is certain to be a new tensor, free to be written over."""
    if node.op == "call_module":
        return isinstance(modules[str(node.target)], (nn.Conv2d, nn.BatchNorm2d, nn.Linear))
    return node.target in (operator.add, torch.add, torch.cat)
