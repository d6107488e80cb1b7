"""The memory-lean backward: of a frozen network's forward only what the image's gradient needs is kept.

Plain autograd keeps the inputs of every convolution, batch norm and pooling, of which the gradients of
weights need the values and the gradient of the input at most the shapes. `Lean` intercepts the calls as
functions, whoever makes them:

    convolution, transposed too    the shape of the input; the weights are there anyway
    batch norm in eval mode        its scale, one number a channel
    ReLU and other gates           one bit an element
    max-pool                       one byte an output
    average pools                  the shape of the input
    layer norm                     its input, unless that is made again
    SiLU, GELU and the like        nothing, where what they take is made again
    products with a few gates      the gates, where the many are made again

Addition, concatenation, views, padding, interpolation and frozen linear layers keep nothing of the image
under plain autograd either. Made again (`again.py`) is what a norm, a smooth activation or a convolution of
one channel makes of what is kept anyway, and what a linear layer or a convolution of few products an element
widens. Attention needs what it keeps. Gradients are those of plain autograd up to rounding.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode

from featviz.backward.again import forget, permuted
from featviz.backward.convolutions import PRODUCTS
from featviz.backward.gates import GATES
from featviz.backward.keeping import Keeper
from featviz.backward.norms import LAYER_NORMS, NORMS
from featviz.backward.pools import POOLS
from featviz.backward.smooth import SMOOTH

SMALL = 1 << 15
"""Tensors of fewer elements are left to plain autograd: keeping less of them costs more than it saves."""


class Lean(TorchFunctionMode):
    """Within it forwards keep only what the gradient of their input needs; `calls` counts those by name.

    Calls with weights that learn, with batch statistics, or of functions not known here are plain autograd's.
    """

    def __init__(self) -> None:
        super().__init__()
        self.calls: Counter[str] = Counter()
        self._keeper = Keeper()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        made = None
        if name in KEEPING and _large(max(args[:2], key=_count, default=None)):
            made = KEEPING[name](self._keeper, func, *args, **kwargs)
        if made is None:
            for tensor in _written(name, args, kwargs):
                self._keeper.writing(tensor)
                forget(tensor)
        if name in LEAN and _large(args[0] if args else kwargs.get("input")):
            made = LEAN[name](func, *args, **kwargs)
        if made is None:
            return func(*args, **kwargs)
        self.calls[name] += 1
        return made


def _large(x: Any) -> bool:
    """Whether a tensor carries a gradient and has elements enough."""
    return isinstance(x, Tensor) and x.requires_grad and x.numel() >= SMALL and torch.is_grad_enabled()


def _count(x: Any) -> int:
    return x.numel() if isinstance(x, Tensor) else -1


def _written(name: str, args: Any, kwargs: Mapping[str, Any]) -> Iterator[Tensor]:
    """The tensors that a call may write into; any positional True may ask for it."""
    by_name = (name.endswith("_") and not name.endswith("__")) or name == "__setitem__"
    asked = kwargs.get("inplace") or any(each is True for each in args[1:])
    given = [*(args[:1] if by_name or asked else ()), kwargs.get("out")]
    if (by_name or asked) and not args:
        given.append(kwargs.get("input"))
    for each in given:
        yield from (
            one for one in (each if isinstance(each, (list, tuple)) else [each]) if isinstance(one, Tensor)
        )


LEAN: Mapping[str, Callable[..., Any]] = {**PRODUCTS, **NORMS, **GATES, **POOLS, "permute": permuted}
"""A torch function's name -> the call made leanly; None where it has to be left to plain autograd."""

KEEPING: Mapping[str, Callable[..., Any]] = {**LAYER_NORMS, **SMOOTH}
"""The same of calls that keep something of their input, and so take a keeper first."""
