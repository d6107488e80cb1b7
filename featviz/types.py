"""The nouns of featviz: model, objective, score, engine, parameterization, transform, step."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

Activations: TypeAlias = Mapping[str, Tensor]
"""Layer address -> what the layer put out: `(b, c, h, w)`, `(b, n, d)` tokens or `(b, c)`."""

Score: TypeAlias = Callable[[Tensor], Tensor]
"""Image `(b, 3, h, w)` -> scores `(b,)`, to be maximised."""

Engine: TypeAlias = Callable[[Score, Tensor], tuple[Tensor, Tensor]]
"""Score and image `(b, 3, h, w)` -> scores `(b,)` and the gradient of their sum `(b, 3, h, w)`."""

OUTPUT = ""
"""The address of the whole network: what it returns."""


@dataclass(frozen=True, eq=False)
class Model:
    """A network with all that is needed to show it an image in [0, 1].

    `source` is what `featviz.load` was asked for, as plain data, so that a recipe can load it again.
    """

    net: nn.Module
    name: str
    mean: tuple[float, ...] = (0.485, 0.456, 0.406)
    std: tuple[float, ...] = (0.229, 0.224, 0.225)
    input_size: tuple[int, int] = (224, 224)
    labels: tuple[str, ...] = ()
    source: Mapping[str, Any] = field(default_factory=dict)

    def __call__(self, image: Tensor) -> Any:
        """What the network returns for an image in [0, 1]."""
        return self.net(self.normalise(image))

    def normalise(self, image: Tensor) -> Tensor:
        """Image in [0, 1] -> what the network takes; one-channel networks get Rec. 601 luma."""
        if len(self.mean) == 1:
            image = (image * _constant(_LUMA, image.device, image.dtype)).sum(1, keepdim=True)
        mean = _constant(self.mean, image.device, image.dtype)
        return (image - mean).div_(_constant(self.std, image.device, image.dtype))

    @property
    def device(self) -> torch.device:
        """Where the network's weights are."""
        return next((p.device for p in self.net.parameters()), torch.device("cpu"))

    @cached_property
    def digest(self) -> str:
        """SHA-256 over every tensor of the network, by name: the same weights, the same digest."""
        state = hashlib.sha256()
        for name, tensor in sorted(self.net.state_dict().items()):
            flat = tensor.detach().cpu().contiguous().reshape(-1)
            state.update(f"{name}:{tuple(tensor.shape)}:{tensor.dtype}".encode())
            state.update(memoryview(flat.view(torch.uint8).numpy()) if flat.numel() else b"")
        return state.hexdigest()


_LUMA = (0.299, 0.587, 0.114)
_constants: dict[tuple[tuple[float, ...], torch.device, torch.dtype], Tensor] = {}


def _constant(values: tuple[float, ...], device: torch.device, dtype: torch.dtype) -> Tensor:
    """`(1, n, 1, 1)` on the device, made once: a copy to a GPU at each step would be waited for."""
    key = (values, device, dtype)
    if key not in _constants:
        with torch.inference_mode(False):  # an inference tensor could not be saved for a later backward
            _constants[key] = torch.tensor(values, device=device, dtype=dtype).view(1, -1, 1, 1)
    return _constants[key]


@dataclass(frozen=True)
class Objective:
    """A number per image, read off the activations of some layers; `+ - *` return new ones.

    One that is `placed` reads off a certain position of a map, and so depends on the size of the image.
    """

    layers: tuple[str, ...]
    measure: Callable[[Activations], Tensor]
    name: str
    placed: bool = False

    def __add__(self, other: Objective | int) -> Objective:
        if isinstance(other, int) and other == 0:  # so that sum(...) works
            return self
        if not isinstance(other, Objective):
            return NotImplemented
        layers = tuple(dict.fromkeys(self.layers + other.layers))
        return Objective(
            layers,
            lambda acts: self.measure(acts) + other.measure(acts),
            f"{self.name} + {other.name}",
            self.placed or other.placed,
        )

    __radd__ = __add__

    def __mul__(self, weight: float) -> Objective:
        name = f"{weight:g}*{_as_term(self.name)}"
        return replace(self, measure=lambda acts: weight * self.measure(acts), name=name)

    __rmul__ = __mul__

    def __neg__(self) -> Objective:
        return self * -1.0

    def __sub__(self, other: Objective) -> Objective:
        if not isinstance(other, Objective):
            return NotImplemented
        return replace(self + (-other), name=f"{self.name} - {_as_term(other.name)}")


def _as_term(name: str) -> str:
    """The name of a sum in brackets, any other as it is."""
    return f"({name})" if " + " in name or " - " in name else name


@dataclass(frozen=True)
class Parameterization:
    """What is optimised, and how it becomes an image.

    `decode()` gives the image `(b, 3, h, w)` with a gradient path to `values`; `assign(image)`
    sets the values so that decode gives that image.
    """

    values: tuple[Tensor, ...]
    decode: Callable[[], Tensor]
    assign: Callable[[Tensor], None]


class Draws:
    """Random numbers for a batch: sample i draws from a generator of its own, on the CPU.

    So the same seed gives the same draw on every device, and an image's draws do not depend on
    who shares its batch.
    """

    def __init__(self, seeds: Sequence[int], *stream: object) -> None:
        self.generators = [torch.Generator().manual_seed(derive_seed(s, *stream)) for s in seeds]

    def copy(self) -> Draws:
        """The same draws again, from here on."""
        twin = Draws(())
        twin.generators = [torch.Generator().set_state(each.get_state()) for each in self.generators]
        return twin

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """`(b, *shape)` numbers in [low, high)."""
        return torch.stack([torch.rand(shape, generator=g) for g in self.generators]) * (high - low) + low

    def integers(self, low: int, high: int, *shape: int) -> Tensor:
        """`(b, *shape)` whole numbers from low to high, both included."""
        return torch.stack([torch.randint(low, high + 1, shape, generator=g) for g in self.generators])

    def normal(self, *shape: int) -> Tensor:
        """`(b, *shape)` numbers of the standard normal distribution."""
        return torch.stack([torch.randn(shape, generator=g) for g in self.generators])


def derive_seed(seed: int, *stream: object) -> int:
    """A seed of 63 bits for one stream of a run: `derive_seed(7, "jitter", step)`."""
    digest = hashlib.sha256(repr((seed, *stream)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


Transform: TypeAlias = Callable[[Tensor, Draws], Tensor]
"""Image and random numbers -> image, drawn anew at each step."""

Penalty: TypeAlias = Callable[[Tensor], Tensor]
"""Image `(b, 3, h, w)` -> `(b,)`, subtracted from the score."""

Projection: TypeAlias = Callable[[Tensor, Tensor, int], Tensor]
"""Image, its gradient and the step's number -> the image to go on with."""


Precondition: TypeAlias = Callable[[Tensor, int], Tensor]
"""Gradient `(b, 3, h, w)` and the step's number -> the gradient to go along; may work in place."""


@dataclass(frozen=True)
class Step:
    """What the ascent yields after each step: its number from 1, scores `(b,)` before it, image after it.

    Steps of starts on trial have numbers up to 0.
    The image of a pixel parameterization is the one being optimised: clone it to keep it past the next step.
    """

    index: int
    scores: Tensor
    image: Tensor


@dataclass(frozen=True, eq=False)
class Attribution:
    """An explanation: a method's own signed map for one target, and how it was made.

    `raw` is what the method gives, before any resizing, colour reduction or clipping: `(3, h, w)` for
    gradients with respect to the image in [0, 1], `(h', w')` at its layer's resolution for class
    activation maps, `(h, w)` for occlusion. `size` is the image's (rows, columns), `score` the target's
    on it, `layer` the address a class activation map was taken at, `notes` plain data: the settings,
    rewritten calls, completeness error and the like.
    """

    method: str
    target: str
    raw: Tensor
    size: tuple[int, int]
    score: float
    layer: str = ""
    notes: Mapping[str, Any] = field(default_factory=dict)

    @property
    def map(self) -> Tensor:
        """`(h, w)` at the image's size, signed: of three colours the one of largest magnitude, bilinear."""
        flat = self.raw
        if flat.dim() == 3:
            flat = flat.gather(0, flat.abs().argmax(0, keepdim=True))[0]
        if tuple(flat.shape) == self.size:
            return flat
        resized = nn.functional.interpolate(flat[None, None], self.size, mode="bilinear", align_corners=False)
        return resized[0, 0]
