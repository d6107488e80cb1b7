"""Feature visualization: images from gaussian noise that excite their targets (Olah et al. 2017)."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import torch
from torch import Tensor

from featviz.ascent import ascend
from featviz.backward.rules import RULES, ReluRule
from featviz.engines import engine_for
from featviz.errors import InvalidValue, nearest
from featviz.layers import activations, check_size, fits, frozen
from featviz.params import PARAMETERIZATIONS, gaussian_noise
from featviz.presets import resolved
from featviz.regularizers import CENTER, blur, contribution_clip, decay, norm_clip
from featviz.settings import RenderSettings
from featviz.targets import objective_of
from featviz.transforms import jitter, noise, pad, view
from featviz.types import (
    Engine,
    Model,
    Objective,
    Parameterization,
    Projection,
    Score,
    Step,
    Transform,
    derive_seed,
)

OPTIMIZERS = ("adam", "gradient", "normalised")
WAKING = 16
"""Steps with redirected gradients (lucid)."""

COLOURS = 255.0 * 255.0  # a step of the paper's, on 0 to 255 in value and in gradient, in our units


def render(
    model: Model, targets: str | Objective | Sequence[str | Objective], settings: RenderSettings
) -> Iterator[Step]:
    """Ascend from gaussian noise to images `(b, 3, h, w)` that excite their targets, one `Step` at a time.

    One target or a batch of them; each image has a seed of its own, from the settings' seed and its target's
    name, so that its batch mates do not matter. Raises `ImageTooSmall` where the picture does not reach the
    layers, `ImageMisfit` where the network takes one size and the steps would show it another.
    """
    wanted = [targets] if isinstance(targets, (str, Objective)) else targets
    objectives = [objective_of(model, each) for each in wanted]
    settings = resolved(settings)
    size = (settings.size, settings.size) if settings.size else model.input_size
    layers = list(dict.fromkeys(layer for objective in objectives for layer in objective.layers))
    settings = _seen(model, layers, settings, size)
    seeds = [derive_seed(settings.seed, objective.name) for objective in objectives]
    start = gaussian_noise(seeds, size).to(model.device)
    param = _parameterization(start, settings)
    return _climb(model, _batch_score(model, objectives, layers, settings.views or 1), param, settings, seeds)


def _seen(
    model: Model, layers: Sequence[str], settings: RenderSettings, size: tuple[int, int]
) -> RenderSettings:
    """The settings with views that the network can take: where smaller ones do not reach, full size."""
    edge = (settings.jitter or 0) + (settings.jitter or 0) // 2  # what padding adds and shifts leave
    share = settings.view_scale or 1.0
    shown = (round((size[0] + edge) * share), round((size[1] + edge) * share))
    if share != 1.0 and not fits(model, layers, shown):
        return _seen(model, layers, replace(settings, view_scale=1.0), size)
    check_size(model, layers, shown)
    return settings


def _batch_score(model: Model, objectives: Sequence[Objective], layers: Sequence[str], views: int) -> Score:
    """Images `(b · views, 3, h, w)` -> `(b,)`: each image's own objective, the mean over its views."""

    def measured(image: Tensor) -> Tensor:
        found = activations(model, image, layers)
        if len(objectives) == 1:
            return objectives[0].measure(found).mean(0, keepdim=True)
        scores = []
        for i, objective in enumerate(objectives):
            own = {layer: found[layer][i * views : (i + 1) * views] for layer in objective.layers}
            scores.append(objective.measure(own).mean())
        return torch.stack(scores)

    return measured


def _climb(
    model: Model, measured: Score, param: Parameterization, settings: RenderSettings, seeds: Sequence[int]
) -> Iterator[Step]:
    optimizer = _optimizer(param, settings)
    steps = settings.steps or 1
    with torch.enable_grad():
        shape = param.decode().shape
    with frozen(model.net):
        climb = ascend(
            measured,
            param,
            optimizer,
            steps=steps,
            seeds=seeds,
            engine=_waking(engine_for(settings, (shape[2], shape[3]))[0], settings),
            transforms=robustness(settings),
            projections=_projections(settings),
            precondition=_normalised if settings.optimizer == "normalised" else None,
        )
        full = optimizer.param_groups[0]["lr"]
        for step in climb:
            yield replace(step, image=stretched(step.image)) if settings.stretch else step
            optimizer.param_groups[0]["lr"] = full * _warmth(step.index / steps, settings.cooling or 0.0)


def stretched(image: Tensor, share: float = 0.995) -> Tensor:
    """Deviations from the grey centre magnified until `share` of them fit, the others cut off.

    Pictures from pixels stay faint; so do the ones of Yosinski et al., whose figures are shown like this.
    """
    away = image - CENTER
    flat = away.abs().flatten(1)
    reach = flat.kthvalue(max(1, round(share * flat.shape[1])), dim=1).values.clamp(min=1e-6)
    return (0.5 + away / (2 * reach.view(-1, 1, 1, 1))).clamp(0, 1)


def _waking(inner: Engine, settings: RenderSettings) -> Engine:
    """For the first steps gates that let nothing of a picture through pass the gradient on.

    A unit that noise does not wake would have no gradient at all (lucid's redirected ReLU gradients).
    """
    calls = itertools.count(1)

    def engine(score: Score, image: Tensor) -> tuple[Tensor, Tensor]:
        if settings.compile or next(calls) > WAKING:
            return inner(score, image)
        with ReluRule(RULES["redirected"]):
            return inner(score, image)

    return engine


def _warmth(done: float, cooling: float) -> float:
    """The share of the learning rate at a share of the steps: 1, then half a cosine down to a twentieth."""
    left = (1 - done) / cooling if cooling else 1.0
    return 1.0 if left >= 1 else 0.05 + 0.95 * (1 - math.cos(math.pi * left)) / 2


def _optimizer(param: Parameterization, settings: RenderSettings) -> torch.optim.Optimizer:
    name, rate = settings.optimizer or "adam", settings.rate or 0.05
    if name not in OPTIMIZERS:
        raise InvalidValue(f"optimizer {name!r}{nearest(name, OPTIMIZERS)}; one of {', '.join(OPTIMIZERS)}")
    if name == "adam":
        return torch.optim.Adam(param.values, lr=rate, maximize=True)
    return torch.optim.SGD(param.values, lr=rate / COLOURS if name == "gradient" else rate, maximize=True)


def _normalised(gradient: Tensor, _step: int) -> Tensor:
    return gradient / gradient.abs().mean((1, 2, 3), keepdim=True).clamp(min=1e-12)


def robustness(settings: RenderSettings) -> list[Transform]:
    """What a step sees of the picture: shifted, turned, magnified, in part, with noise.

    With shifts the order is lucid's: pad, jitter, magnify and turn, jitter by half.
    """
    wide, narrow = settings.jitter or 0, (settings.jitter or 0) // 2
    transforms = [pad(wide + narrow, 0.5), jitter(wide)] if wide else []
    low, high = settings.view_low or 1.0, settings.view_high or 1.0
    factors = [1 + (settings.scale or 0.0) * k / 5 for k in range(-5, 6)] if settings.scale else [1.0]
    turned = bool(settings.rotate or settings.scale or settings.view_scale != 1.0)
    if turned or (low, high) != (1.0, 1.0) or (settings.views or 1) > 1:
        transforms.append(
            view(low, high, settings.rotate or 0.0, factors, settings.view_scale or 1.0, settings.views or 1)
        )
    transforms += [jitter(narrow)] if narrow else []
    return [*transforms, noise(settings.noise)] if settings.noise else transforms


def _projections(settings: RenderSettings) -> list[Projection]:
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


def _parameterization(start: Tensor, settings: RenderSettings) -> Parameterization:
    name = settings.param or "fourier"
    if name not in PARAMETERIZATIONS:
        known = ", ".join(PARAMETERIZATIONS)
        raise InvalidValue(f"param {name!r}{nearest(name, PARAMETERIZATIONS)}; one of {known}")
    if name == "fourier":
        return PARAMETERIZATIONS["fourier"](start, decay=settings.decay, contrast=settings.contrast)
    return PARAMETERIZATIONS[name](start)
