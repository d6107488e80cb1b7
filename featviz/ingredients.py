"""The parts of an ascent that the settings of a visualization ask for."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
from torch import Tensor

from featviz.backward.rules import RULES, ReluRule
from featviz.errors import InvalidValue, nearest
from featviz.params import PARAMETERIZATIONS
from featviz.params.spectrum import magnitude
from featviz.regularizers import CENTER, blur, contribution_clip, decay, norm_clip
from featviz.render_settings import RenderSettings
from featviz.transforms import compose, jitter, noise, pad, view
from featviz.types import Draws, Engine, Parameterization, Projection, Score, Transform

OPTIMIZERS = ("adam", "nadam", "gradient", "normalised")
WAKING = 16
"""Steps with redirected gradients (lucid)."""

GROWTH = 0.6
"""The share of the steps over which what is seen grows."""

SIZES = 8
"""In how many stages it does."""

COLOURS = 255.0 * 255.0  # a step of the paper's, on 0 to 255 in value and in gradient, in our units


def parameterization(
    start: Tensor, settings: RenderSettings, seeds: Sequence[int], spectrum: Tensor | None = None
) -> Parameterization:
    """What is optimised, from an image `(b, 3, h, w)`; `spectrum` is what `measure_spectrum` gave."""
    name = settings.param or "fourier"
    if name not in PARAMETERIZATIONS:
        known = ", ".join(PARAMETERIZATIONS)
        raise InvalidValue(f"param {name!r}{nearest(name, PARAMETERIZATIONS)}; one of {known}")
    if name == "fourier":
        return PARAMETERIZATIONS[name](start, decay=settings.decay, contrast=settings.contrast)
    if name == "maco":
        return PARAMETERIZATIONS[name](start, magnitude((start.shape[2], start.shape[3]), spectrum))
    return PARAMETERIZATIONS[name](start, seeds) if name == "cppn" else PARAMETERIZATIONS[name](start)


def optimizer(param: Parameterization, settings: RenderSettings) -> torch.optim.Optimizer:
    """Adam, or the plain gradient in the paper's scale."""
    name, rate = settings.optimizer or "adam", settings.rate or 0.05
    if name not in OPTIMIZERS:
        raise InvalidValue(f"optimizer {name!r}{nearest(name, OPTIMIZERS)}; one of {', '.join(OPTIMIZERS)}")
    if name == "adam":
        return torch.optim.Adam(param.values, lr=rate, maximize=True)
    if name == "nadam":
        return torch.optim.NAdam(param.values, lr=rate, maximize=True)
    return torch.optim.SGD(param.values, lr=rate / COLOURS if name == "gradient" else rate, maximize=True)


def warmth(done: float, cooling: float) -> float:
    """The share of the learning rate at a share of the steps: 1, then half a cosine down to a twentieth."""
    left = (1 - done) / cooling if cooling else 1.0
    return 1.0 if left >= 1 else 0.05 + 0.95 * (1 - math.cos(math.pi * left)) / 2


def normalised(gradient: Tensor, _step: int) -> Tensor:
    """A gradient brought to a mean size of 1."""
    return gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-12)


def waking(inner: Engine, settings: RenderSettings) -> Engine:
    """For the first steps gates that let nothing of a picture through pass the gradient on.

    A unit that noise does not wake would have no gradient at all (lucid's redirected ReLU gradients).
    """
    calls = itertools.count(1)

    def engine(score: Score, image: Tensor) -> tuple[Tensor, Tensor]:
        def awake(seen: Tensor) -> Tensor:
            with ReluRule(RULES["redirected"]):  # inside of what the engine does with activation functions
                return score(seen)

        return inner(score if settings.compile or next(calls) > WAKING else awake, image)

    return engine


def seen_at(settings: RenderSettings, index: int) -> float:
    """The size at which the network sees a part in a step, numbered from 1, as a share of the picture's."""
    last = settings.view_scale or 1.0
    first = settings.view_from or last
    done = min(1.0, (index - 1) / (GROWTH * (settings.steps or 1)))
    return first + (last - first) * int(SIZES * done) / SIZES


def robustness(settings: RenderSettings) -> list[Transform]:
    """What a step sees of the picture: shifted, turned, magnified, in part, with noise.

    With shifts the order is lucid's: pad, jitter, magnify and turn, jitter by half; in one resampling, or
    without one where only shifts are left.
    """
    wide, narrow = settings.jitter or 0, (settings.jitter or 0) // 2
    transforms: list[Transform] = []
    low, high = settings.view_low or 1.0, settings.view_high or 1.0
    factors = [1 + (settings.scale or 0.0) * k / 5 for k in range(-5, 6)] if settings.scale else [1.0]
    turned = bool(settings.rotate or settings.scale or settings.view_scale != 1.0)
    if turned or (low, high) != (1.0, 1.0) or (settings.views or 1) > 1:
        share, count = settings.view_scale or 1.0, settings.views or 1
        transforms.append(view(low, high, settings.rotate or 0.0, factors, share, count, (wide, narrow)))
    elif wide:
        transforms += [pad(wide + narrow, 0.5), jitter(wide), *([jitter(narrow)] if narrow else [])]
    return [*transforms, noise(settings.noise)] if settings.noise else transforms


def beside(photo: Tensor, transforms: Sequence[Transform]) -> Transform:
    """Move the pictures, and after them the photo `(1, 3, h, w)` by the same draws: `(2b, 3, h', w')`.

    So that a comparison holds each picture against what the photo shows in the same place.
    """
    moved = compose(transforms)

    def transform(image: Tensor, draws: Draws) -> Tensor:
        again = draws.copy()
        with torch.no_grad():
            other = moved(photo.expand(len(image), -1, -1, -1), again)
        return torch.cat([moved(image, draws), other])

    return transform


def projections(settings: RenderSettings) -> list[Projection]:
    """Yosinski's regularizers in the paper's order: decay, blur, then what is cleared."""
    made = []
    if settings.shrink:
        made.append(decay(settings.shrink))
    if settings.blur:
        made.append(blur(settings.blur, settings.blur_every or 1))
    if settings.norm_percentile:
        made.append(norm_clip(settings.norm_percentile))
    if settings.contribution_percentile:
        made.append(contribution_clip(settings.contribution_percentile))
    return made


def stretched(image: Tensor, share: float = 0.995) -> Tensor:
    """Deviations from the grey centre magnified until `share` of them fit, the others cut off.

    Pictures from pixels stay faint; so do the ones of Yosinski et al., whose figures are shown like this.
    """
    away = image - CENTER
    flat = away.abs().flatten(1)
    reach = flat.kthvalue(max(1, round(share * flat.shape[1])), dim=1).values.clamp(min=1e-6)
    return (0.5 + away / (2 * reach.view(-1, 1, 1, 1))).clamp(0, 1)
