"""A frozen network arranged for speed: batch norms folded into their convolutions, channels last in memory.

With y = (w ∗ x + b - μ) · s + β and s = γ / √(σ² + ε), a convolution of weights w · s and bias
(b - μ) · s + β gives y at once. It is done to the calls and not to the modules, so that any network will do
and none changes: a first forward under `Learning` tells which convolutions go into a batch norm and nowhere
else.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from featviz.norms import Norm, is_norm, norm_call

CONVOLUTIONS = ("conv1d", "conv2d", "conv3d")

_NORM = "_featviz_norm"
"""Where a convolution's output carries the batch norm that is done to it already."""


@dataclass(frozen=True, eq=False)
class Weights:
    """What a convolution is to use in the place of its own, and the norm that is in it."""

    weight: Tensor
    bias: Tensor | None
    norm: Norm | None = None


@dataclass(eq=False)
class _Convolution:
    """A convolution as its calls were seen: whether all it puts out goes into one norm, and nowhere else."""

    weight: nn.Parameter
    bias: Tensor | None
    norm: Norm | None = None
    elsewhere: bool = False

    def taken_by(self, norm: Norm) -> None:
        """One more output of it went into a norm."""
        self.elsewhere |= self.norm is not None and not self.norm.equals(norm)
        self.norm = norm


def done_to(tensor: Tensor) -> Norm | None:
    """The batch norm that is done to a convolution's output already, though its call is still to come."""
    norm: Norm | None = getattr(tensor, _NORM, None)
    return norm


class Learning(TorchFunctionMode):
    """Notes the convolutions, and of each the batch norm that alone takes what it puts out."""

    def __init__(self) -> None:
        super().__init__()
        self._seen: dict[tuple[int, int], _Convolution] = {}
        self._made: dict[int, tuple[weakref.ref[Tensor], _Convolution]] = {}

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name, made = getattr(func, "__name__", ""), func(*args, **kwargs)
        for tensor in _tensors((*args, *kwargs.values())):
            alive, source = self._made.get(id(tensor), (None, None))
            if alive is None or source is None or alive() is not tensor:
                continue
            given, norm = norm_call(*args, **kwargs) if is_norm(func) else (None, None)
            if norm is not None and given is tensor and norm.remembers and norm.lasts:
                source.taken_by(norm)
            elif made is None or any(True for _ in _tensors([made])):  # asking for a shape does no harm
                source.elsewhere = True
        if name in CONVOLUTIONS and isinstance(made, Tensor):
            self._note(made, *_weight_and_bias(args, kwargs))
        return made

    def _note(self, made: Tensor, weight: Any, bias: Any) -> None:
        # what is computed anew at each forward, as by weight normalisation, is left alone
        frozen = isinstance(weight, nn.Parameter) and not weight.requires_grad
        if frozen and (bias is None or not bias.requires_grad):
            source = self._seen.setdefault((id(weight), id(bias)), _Convolution(weight, bias))
            self._made[id(made)] = (weakref.ref(made), source)

    def weights(self, fold: bool, channels_last: bool) -> list[tuple[Weights, Weights]]:
        """The weights of each convolution that is to use others, and those."""
        found = []
        for each in self._seen.values():
            own = ready = Weights(each.weight, each.bias)
            if fold and each.norm is not None and not each.elsewhere:
                ready = folded(each.weight, each.bias, each.norm)
            if channels_last and ready.weight.dim() == 4:
                lying = ready.weight.detach().contiguous(memory_format=torch.channels_last)
                ready = Weights(lying, ready.bias, ready.norm)
            if ready is not own:
                found.append((own, ready))
        return found


@torch.no_grad()
def folded(weight: Tensor, bias: Tensor | None, norm: Norm) -> Weights:
    """A convolution's weights and bias with a batch norm behind it in them."""
    assert norm.running_mean is not None
    scale = _fine(norm.scale)
    shift = _fine(bias) - _fine(norm.running_mean)
    moved = shift * scale + _fine(norm.bias)
    scaled = _fine(weight) * scale.view(-1, *[1] * (weight.dim() - 1))
    return Weights(scaled.to(weight), moved.to(weight), norm)


def _fine(tensor: Tensor | None) -> Tensor:
    """In double precision, which not every device has."""
    return torch.zeros((), dtype=torch.float64) if tensor is None else tensor.cpu().double()


class Arranged(TorchFunctionMode):
    """Within it convolutions use other weights, and the norms that those have in them pass on what they get.

    `waiting` counts the convolutions whose norm did not come: then the network went another way than learned.
    """

    def __init__(self, weights: Sequence[tuple[Weights, Weights]]) -> None:
        super().__init__()
        # their own are held, so that nothing else has their ids
        self._weights = {(id(own.weight), id(own.bias)): (own, ready) for own, ready in weights}
        self.waiting = 0

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        name = getattr(func, "__name__", "")
        if name in CONVOLUTIONS:
            own, bias = _weight_and_bias(args, kwargs)
            _, ready = self._weights.get((id(own), id(bias)), (None, None))
            if ready is not None:
                return self._convolution(func, ready, args, kwargs)
        elif is_norm(func):
            given = args[0] if args else kwargs["input"]
            if done_to(given) is not None:
                delattr(given, _NORM)
                self.waiting -= 1
                return given
        return func(*args, **kwargs)

    def _convolution(self, func: Any, ready: Weights, args: Any, kwargs: Any) -> Tensor:
        given = args[0] if args else kwargs["input"]
        rest = {key: kwargs[key] for key in kwargs if key not in ("input", "weight", "bias")}
        made: Tensor = func(given, ready.weight, ready.bias, *args[3:], **rest)
        if ready.norm is not None:
            setattr(made, _NORM, ready.norm)
            self.waiting += 1
        return made


def _weight_and_bias(args: Any, kwargs: Any) -> tuple[Any, Any]:
    weight = args[1] if len(args) > 1 else kwargs.get("weight")
    return weight, args[2] if len(args) > 2 else kwargs.get("bias")


def _tensors(values: Any) -> Iterator[Tensor]:
    for value in values:
        if isinstance(value, Tensor):
            yield value
        elif isinstance(value, (list, tuple)):
            yield from (each for each in value if isinstance(each, Tensor))
