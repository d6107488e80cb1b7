"""Feature visualization: images that excite their targets, ascended from noise (Olah et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import cache

import torch
from torch import Tensor

from featviz.ascent import ascend
from featviz.batch_score import BatchScore
from featviz.engines import by_tile, engine_for
from featviz.ingredients import (
    beside,
    normalised,
    optimizer,
    parameterization,
    projections,
    robustness,
    seen_at,
    stretched,
    waking,
    warmth,
)
from featviz.layers import check_size, fits, frozen
from featviz.params import gaussian_noise
from featviz.presets import resolved
from featviz.render_settings import RenderSettings
from featviz.starts import surest, trial
from featviz.targets import objective_of
from featviz.trial import arrangement
from featviz.types import Model, Objective, Parameterization, Step, Transform, derive_seed

LEAST = 64
"""In pixels the shorter side of what the network sees first, where that is to grow."""


def render(
    model: Model,
    targets: str | Objective | Sequence[str | Objective],
    settings: RenderSettings,
    *,
    photo: Tensor | None = None,
    from_photo: bool = False,
    spectrum: Tensor | None = None,
) -> Iterator[Step]:
    """Ascend to images `(b, 3, h, w)` that excite their targets, one `Step` at a time.

    Where several starts are tried, the steps on trial have numbers up to 0, and the start that goes on
    counts from where it stood.

    One target or a batch of them, each with `settings.diversity` images in a row. Each image has a seed of
    its own, from the settings' seed and its target's name, so that its batch mates do not matter beyond
    rounding (which an ascent magnifies). They start from gaussian noise, or `from_photo`. With a `photo`
    `(1, 3, h, w)` the targets are comparisons, and the images have its size. `spectrum` is what
    `measure_spectrum` gave, for maco. Raises `ImageTooSmall` where the picture does not reach the layers,
    `ImageMisfit` where the network takes one size and the steps would show it another.
    """
    wanted = [targets] if isinstance(targets, (str, Objective)) else targets
    objectives = [objective_of(model, each) for each in wanted]
    settings = resolved(settings)
    size = picture_size(model, settings) if photo is None else (photo.shape[2], photo.shape[3])
    settings = suited(model, objectives, settings, photo)
    settings = settled(model, objectives, settings, size)

    @cache
    def moved(share: float) -> list[Transform]:
        moves = robustness(replace(settings, view_scale=share))
        return moves if photo is None else [beside(photo.to(model.device), moves)]

    def begin(starts: Sequence[int]) -> Iterator[Step]:
        pairs = zip(objectives, starts, strict=True)
        seeds = [seed for objective, start in pairs for seed in seeds_of(objective, settings, start)]
        if from_photo and photo is not None:
            first = photo.expand(len(seeds), -1, -1, -1)
        else:
            first = gaussian_noise(_starts(settings, seeds), size, sd=settings.start_noise or 0.0)
        param = parameterization(first.to(model.device), settings, seeds, spectrum)
        mover = optimizer(param, settings)
        # a score of its own: where norms take turns, it counts its steps
        score = BatchScore.of(model, objectives, settings, photo is not None)
        return _climb(score, param, mover, settings, seeds, lambda index: moved(seen_at(settings, index)))

    if photo is not None or trial(settings)[0] == 1:
        return begin([0] * len(objectives))
    return surest(model, objectives, settings, begin)


def seeds_of(objective: Objective, settings: RenderSettings, start: int = 0) -> list[int]:
    """A seed for each of an objective's faces, the first as if there were no other; so with its starts."""
    own = derive_seed(settings.seed, objective.name)
    own = derive_seed(own, "start", start) if start else own
    return [own] + [derive_seed(own, "face", face) for face in range(1, settings.diversity)]


def picture_size(model: Model, settings: RenderSettings) -> tuple[int, int]:
    """(rows, columns) of a picture from noise: `size` on the shorter side, or the network's input."""
    if settings.size is None and settings.aspect is None:
        return model.input_size
    rows, columns = model.input_size
    aspect = settings.aspect or columns / rows
    side = settings.size or min(model.input_size)
    return (side, max(1, round(side * aspect))) if aspect >= 1 else (max(1, round(side / aspect)), side)


def _starts(settings: RenderSettings, seeds: Sequence[int]) -> list[int]:
    if not settings.same_start:
        return list(seeds)
    faces = [derive_seed(settings.seed, "start", face) for face in range(settings.diversity)]
    return faces * (len(seeds) // len(faces))


def settled(
    model: Model, objectives: Sequence[Objective], settings: RenderSettings, size: tuple[int, int]
) -> RenderSettings:
    """The resolved settings with views that the network can take and that suit all of the objectives."""
    if settings.compile or any(objective.placed for objective in objectives):  # these want one size
        settings = replace(settings, view_from=0.0)
    return seen(model, BatchScore.of(model, objectives, settings, False).layers, settings, size)


def seen(
    model: Model, layers: Sequence[str], settings: RenderSettings, size: tuple[int, int]
) -> RenderSettings:
    """The settings with views that the network can take: where smaller ones do not reach, full size."""
    if settings.view_scale != 1.0 and not fits(model, layers, _shown(settings, size)):
        settings = replace(settings, view_scale=1.0)
    check_size(model, layers, _shown(settings, size))
    if not settings.view_from:
        return settings
    first = max(settings.view_from, LEAST / min(size))
    grown = replace(settings, view_from=first)
    shares = {seen_at(grown, index) for index in range(1, 1 + (settings.steps or 1))}
    sizes = [_shown(replace(settings, view_scale=share), size) for share in shares]
    grows = first < (settings.view_scale or 1.0) and all(fits(model, layers, each) for each in sizes)
    return grown if grows else replace(settings, view_from=0.0)


def _shown(settings: RenderSettings, size: tuple[int, int]) -> tuple[int, int]:
    """The size at which the network sees a picture of `size` in a step."""
    edge = (settings.jitter or 0) + (settings.jitter or 0) // 2  # what padding adds and shifts leave
    share = settings.view_scale or 1.0
    return round((size[0] + edge) * share), round((size[1] + edge) * share)


def suited(
    model: Model, objectives: Sequence[Objective], settings: RenderSettings, photo: Tensor | None = None
) -> RenderSettings:
    """The resolved settings with the arrangement that suits this machine, for so many objectives at once."""
    if settings.fold is not None and settings.channels_last is not None:
        return settings
    size = picture_size(model, settings) if photo is None else (photo.shape[2], photo.shape[3])
    score = BatchScore.of(model, objectives, settings, photo is not None)
    shown = by_tile(settings, _shown(seen(model, score.layers, settings, size), size))
    count = len(objectives) * settings.diversity * (settings.views or 1) * (1 + score.compared)
    image = gaussian_noise([settings.seed] * count, shown, sd=0.1).to(model.device)
    what = tuple(score.layers), score.natural is not None, score.compared
    return arrangement(model.net, score, image, settings, settings.steps or 1, what)


def _climb(
    score: BatchScore,
    param: Parameterization,
    mover: torch.optim.Optimizer,
    settings: RenderSettings,
    seeds: Sequence[int],
    moved: Callable[[int], Sequence[Transform]],
) -> Iterator[Step]:
    steps = settings.steps or 1
    with torch.enable_grad():
        shape = param.decode().shape
    with frozen(score.model.net):
        climb = ascend(
            score,
            param,
            mover,
            steps=steps,
            seeds=seeds,
            engine=waking(engine_for(settings, (shape[2], shape[3]))[0], settings),
            transforms=moved,
            projections=projections(settings),
            precondition=normalised if settings.optimizer == "normalised" else None,
        )
        full = mover.param_groups[0]["lr"]
        for step in climb:
            yield replace(step, image=stretched(step.image)) if settings.stretch else step
            mover.param_groups[0]["lr"] = full * warmth(step.index / steps, settings.cooling or 0.0)
