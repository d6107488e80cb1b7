"""DeepDream: what a network sees in a photo, made stronger, octave by octave (Mordvintsev et al. 2015)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from featviz import objectives
from featviz.ascent import ascend
from featviz.engines import base_engine, by_tile, engine_for
from featviz.errors import InvalidValue
from featviz.layers import activations, check_size, find_layer, fits, frozen, score
from featviz.memory import settled
from featviz.params import gaussian_noise, pixels
from featviz.preconditioning import shaped
from featviz.regularizers import tv
from featviz.settings import DreamSettings
from featviz.sizes import fitted, resize
from featviz.targets import objective_of, parse_target
from featviz.transforms import jitter, pad
from featviz.trial import arrangement
from featviz.types import OUTPUT, Engine, Model, Objective, Parameterization, Step, derive_seed

OCTAVES = 4
"""How many octaves there are at least, as in Google's notebook, while they are larger than `TINY`."""

SMALLEST, TINY = 160, 64
"""Large pictures have octaves down to about so many pixels on the shorter side; none is smaller than tiny."""

CALM = 8
"""Layers of a smaller stride take smaller steps: their gradients agree from step to step, and saturate."""

TRIED = 224
"""Side of the picture on which the arrangements of a network are tried."""

DEEPEST = 32
"""The stride that stands for a target without positions, such as a class."""


@dataclass(frozen=True)
class DreamStep(Step):
    """A step of a dream, and which octave of how many it belongs to, counted from 1."""

    octave: int
    octaves: int


def dream(
    model: Model,
    photo: Tensor,
    target: str | Objective,
    settings: DreamSettings,
    *,
    guide: Tensor | None = None,
    mask: Tensor | None = None,
) -> Iterator[DreamStep]:
    """Ascend from a photo `(1, 3, h, w)`, at growing sizes, carrying the dreamed detail along.

    A step's image has its octave's size; `picture` makes the whole of it. `guide` `(1, 3, h, w)` gives
    the features to be found in the photo, `mask` `(1, 1, h, w)` is 1 where to dream and 0 where not.
    Raises `ImageTooSmall` where the smallest octave does not reach the target's layers.
    """
    objective = guided(model, target, guide) if guide is not None else objective_of(model, target)
    size = photo.shape[2], photo.shape[3]
    sizes = _reaching(model, objective, size, settings)
    return _octaves(model, photo, objective, suited(model, objective, size, settings), mask, sizes)


def _reaching(
    model: Model, objective: Objective, size: tuple[int, int], settings: DreamSettings
) -> list[tuple[int, int]]:
    """The sizes of the octaves that reach the layers; all of them where their number was asked for."""
    sizes = octave_sizes(size, settings)
    while settings.octaves is None and len(sizes) > 1 and not fits(model, objective.layers, sizes[0]):
        sizes = sizes[1:]
    for each in (sizes[0], sizes[-1]):
        check_size(model, objective.layers, each)
    return sizes


def suited(
    model: Model, objective: Objective, size: tuple[int, int], settings: DreamSettings
) -> DreamSettings:
    """The settings with tiles and arrangement as suits this machine, for a photo of this size."""
    if None not in (settings.fold, settings.channels_last) and settings.tile != "auto":
        return settings
    sizes = _reaching(model, objective, size, settings)
    settings = settled(model, objective.layers, sizes[-1], settings)
    engine_for(settings, sizes[-1])  # raises where a tile cannot be
    seen = by_tile(settings, sizes[-1])
    small = min(TRIED, seen[0]), min(TRIED, seen[1])
    seen = small if small != seen and fits(model, objective.layers, small) else seen
    image = gaussian_noise([settings.seed], seen, sd=0.1).to(model.device)
    gradients = settings.steps * sum(h * w for h, w in sizes) / (seen[0] * seen[1])
    return arrangement(model.net, score(model, objective), image, settings, gradients, objective.layers)


def _octaves(
    model: Model,
    photo: Tensor,
    objective: Objective,
    settings: DreamSettings,
    mask: Tensor | None,
    sizes: Sequence[tuple[int, int]],
) -> Iterator[DreamStep]:
    detail: Tensor | None = None
    strides = [find_layer(model, name).stride for name in objective.layers if name != OUTPUT]
    stride = max([each for each in strides if each] or [DEEPEST])
    # one score and engine for all octaves, so that the engine can keep what it compiled or arranged
    measured, base = score(model, objective), base_engine(settings)
    with frozen(model.net):
        for octave, size in enumerate(sizes, 1):
            plain = resize(photo, size)
            part = None if mask is None else resize(mask, size)
            param = pixels(plain if detail is None else _within(resize(detail, size), part).add_(plain))
            detail = None  # a large picture is held no more often than it must be
            for step in _ascend_octave(measured, param, plain, part, settings, base, stride, octave):
                yield DreamStep(step.index, step.scores, step.image, octave, len(sizes))
            if octave < len(sizes):
                detail = step.image - plain
            del param, step


def _ascend_octave(
    measured: Callable[[Tensor], Tensor],
    param: Parameterization,
    plain: Tensor,
    mask: Tensor | None,
    settings: DreamSettings,
    base: Engine,
    stride: int,
    octave: int,
) -> Iterator[Step]:
    size = plain.shape[2], plain.shape[3]
    engine, whole = engine_for(settings, size, base)
    shift = min(settings.jitter, min(size) - 1) if whole else 0  # tiles shift by themselves
    fade = settings.decay
    return ascend(
        measured,
        param,
        _Climb(param.values, settings.step_size * settings.strength * min(1.0, (stride / CALM) ** 0.5)),
        steps=settings.steps,
        seeds=[derive_seed(settings.seed, "octave", octave)],
        engine=engine,
        transforms=[pad(shift, None), jitter(2 * shift)] if shift else [],
        penalties=[tv(settings.tv)] if settings.tv else [],
        projections=[lambda image, gradient, step: image.lerp(plain, fade)] if fade else [],
        precondition=shaped(settings, stride, mask),
    )


class _Climb(torch.optim.Optimizer):
    """x ← clip(x + rate · g) into [0, 1], without a copy of x."""

    def __init__(self, values: Sequence[Tensor], rate: float) -> None:
        super().__init__(values, {"rate": rate})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Move every value along its gradient."""
        for group in self.param_groups:
            for value in group["params"]:
                value.add_(value.grad, alpha=group["rate"]).clamp_(0, 1)


def picture(photo: Tensor, step: DreamStep, settings: DreamSettings, mask: Tensor | None = None) -> Tensor:
    """The dream as it stands after a step, at the photo's size: the photo plus the detail dreamed so far."""
    image = step.image
    if image.shape != photo.shape:
        detail = image - resize(photo, (image.shape[2], image.shape[3]))
        image = (photo + _within(resize(detail, (photo.shape[2], photo.shape[3])), mask)).clamp_(0, 1)
    return keep_color(photo, image) if settings.keep_color else image


def keep_color(photo: Tensor, image: Tensor) -> Tensor:
    """The photo's colours with the image's luma (Rec. 601): equal changes of R, G and B keep the chroma."""
    weights = image.new_tensor([0.299, 0.587, 0.114]).view(1, 3, 1, 1)
    return (photo + ((image - photo) * weights).sum(1, keepdim=True)).clamp_(0, 1)


def guided(model: Model, target: str | Objective, guide: Tensor) -> Objective:
    """The sum of `objectives.guide` over a target that names whole layers, with the guide's features."""
    if isinstance(target, Objective):
        raise InvalidValue(f"a guide goes with the names of layers, not with the objective {target.name!r}")
    total: Objective | None = None
    for unit in parse_target(target):
        if unit.class_ is not None or unit.channel is not None or unit.direction is not None:
            raise InvalidValue(f"a guide goes with whole layers, not with {target!r}")
        address = find_layer(model, unit.layer).address
        small = resize(guide, fitted((guide.shape[2], guide.shape[3]), max(model.input_size)))
        with torch.no_grad(), frozen(model.net):
            features = activations(model, small, [address])[address]
        part = unit.weight * objectives.guide(address, features)
        total = part if total is None else total + part
    assert total is not None
    return total


def octave_sizes(size: tuple[int, int], settings: DreamSettings) -> list[tuple[int, int]]:
    """The sizes (rows, columns) to dream at, smallest first, each `octave_scale` times the one before."""
    ratio, shorter = settings.octave_scale, min(size)
    count = settings.octaves
    if count is None:
        fitting = [
            k for k in range(1, 100) if shorter / ratio ** (k - 1) >= (TINY if k <= OCTAVES else SMALLEST)
        ]
        count = len(fitting) or 1
    sides = [(size[0] / ratio**k, size[1] / ratio**k) for k in reversed(range(count))]
    return [(max(1, round(h)), max(1, round(w))) for h, w in sides]


def _within(detail: Tensor, mask: Tensor | None) -> Tensor:
    return detail if mask is None else detail.mul_(mask)
