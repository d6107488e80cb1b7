"""Feature visualization: images that excite their targets, ascended from noise (Olah et al. 2017)."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import cache

import torch
from torch import Tensor

from featviz.ascent import ascend
from featviz.engines import by_tile, engine_for
from featviz.errors import InvalidValue
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
from featviz.layer_table import layer_table
from featviz.layers import activations, check_size, fits, frozen
from featviz.objectives import diversity
from featviz.params import gaussian_noise
from featviz.presets import resolved
from featviz.render_settings import RenderSettings
from featviz.statistics import NormStatistics, remembering
from featviz.targets import objective_of
from featviz.trial import arrangement
from featviz.types import OUTPUT, Model, Objective, Parameterization, Step, Transform, derive_seed

LEAST = 64
"""In pixels the shorter side of what the network sees first, where that is to grow."""

TURNS = 3
"""Of how many norms each step looks at one, where statistics are held, in networks of many norms."""


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
    score = _BatchScore.of(model, objectives, settings, photo is not None)
    if settings.compile or any(objective.placed for objective in objectives):  # these want one size
        settings = replace(settings, view_from=0.0)
    settings = seen(model, score.layers, settings, size)
    seeds = [seed for objective in objectives for seed in seeds_of(objective, settings)]
    if from_photo and photo is not None:
        start = photo.expand(len(seeds), -1, -1, -1).to(model.device)
    else:
        start = gaussian_noise(_starts(settings, seeds), size, sd=settings.start_noise or 0.0).to(
            model.device
        )

    @cache
    def moved(share: float) -> list[Transform]:
        moves = robustness(replace(settings, view_scale=share))
        return moves if photo is None else [beside(photo.to(model.device), moves)]

    param = parameterization(start.to(model.device), settings, seeds, spectrum)
    mover = optimizer(param, settings)
    return _climb(score, param, mover, settings, seeds, lambda index: moved(seen_at(settings, index)))


def seeds_of(objective: Objective, settings: RenderSettings) -> list[int]:
    """A seed for each of an objective's faces, the first as if there were no other."""
    own = derive_seed(settings.seed, objective.name)
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


def seen(
    model: Model, layers: Sequence[str], settings: RenderSettings, size: tuple[int, int]
) -> RenderSettings:
    """The settings with views that the network can take: where smaller ones do not reach, full size."""
    if settings.view_from:
        first = max(settings.view_from, LEAST / min(size))
        reached = fits(model, layers, _shown(replace(settings, view_scale=first), size))
        grows = reached and first < (settings.view_scale or 1.0)
        settings = replace(settings, view_from=first if grows else 0.0)
    share, shown = settings.view_scale or 1.0, _shown(settings, size)
    if share != 1.0 and not fits(model, layers, shown):
        return seen(model, layers, replace(settings, view_scale=1.0), size)
    check_size(model, layers, shown)
    return settings


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
    score = _BatchScore.of(model, objectives, settings, photo is not None)
    shown = by_tile(settings, _shown(seen(model, score.layers, settings, size), size))
    count = len(objectives) * settings.diversity * (settings.views or 1) * (1 + score.compared)
    image = gaussian_noise([settings.seed] * count, shown, sd=0.1).to(model.device)
    what = tuple(score.layers), score.natural is not None, score.compared
    return arrangement(model.net, score, image, settings, settings.steps or 1, what)


@dataclass(frozen=True, eq=False)
class _BatchScore:
    """Images `(b · views, 3, h, w)` -> `(b,)`: each image's own objective, the mean over its views.

    An objective has `faces` images in a row. Where they are `compared`, as many views of the photo follow.
    """

    model: Model
    objectives: Sequence[Objective]
    apart: Sequence[Objective | None]
    layers: Sequence[str]
    settings: RenderSettings
    compared: bool
    natural: NormStatistics | None

    @classmethod
    def of(
        cls, model: Model, objectives: Sequence[Objective], settings: RenderSettings, compared: bool
    ) -> _BatchScore:
        many = settings.diversity > 1
        apart = [diversity(_texture_layer(model, each)) if many else None for each in objectives]
        layers = [layer for o in [*objectives, *apart] if o is not None for layer in o.layers]
        count = remembering(model.net) if settings.statistics else 0
        turns = 1 if settings.compile else min(TURNS, 1 + count // 16)  # few norms have no turns to take
        natural = NormStatistics(count, turns, settings.slack or 0.0) if count else None
        return cls(model, objectives, apart, list(dict.fromkeys(layers)), settings, compared, natural)

    def __call__(self, image: Tensor) -> Tensor:
        both = image.chunk(2) if self.compared else (image,)
        with self.natural or nullcontext():
            found = self._split(activations(self.model, both[0], self.layers))
        other: dict[str, tuple[Tensor, ...]] = {}
        if self.compared:
            with torch.no_grad():
                other = self._split(activations(self.model, both[1], self.layers))
        scores = []
        for i, objective in enumerate(self.objectives):
            own = {layer: parts[i] for layer, parts in found.items()}
            pair = {layer: parts[i] for layer, parts in other.items()}
            scores.append(self._faces(objective, self.apart[i], own, pair))
        return self._natural(torch.cat(scores))

    def _natural(self, scores: Tensor) -> Tensor:
        """The scores, and in their gradient alone how far the images are from the statistics remembered."""
        away = self.natural.away() if self.natural else None
        if away is None:
            return scores
        away = away.view(len(scores), -1).mean(1)  # over views
        against = (self.settings.statistics or 0.0) * scores.detach().abs() * away
        return scores - (against - against.detach())

    def _split(self, found: dict[str, Tensor]) -> dict[str, tuple[Tensor, ...]]:
        """Each objective's part, split at once: slices would each have a whole gradient of their own."""
        count = len(self.objectives)
        return {layer: batch.chunk(count) for layer, batch in found.items()}

    def _faces(
        self,
        objective: Objective,
        apart: Objective | None,
        own: dict[str, Tensor],
        other: dict[str, Tensor],
    ) -> Tensor:
        """`(faces,)` scores of one objective, with what their unlikeness adds, on its activations' scale."""
        faces = self.settings.diversity
        both = {layer: torch.cat([own[layer], other[layer]]) for layer in own} if other else own
        scores = objective.measure(both).view(faces, -1).mean(1)
        if apart is not None:
            unlike = apart.measure({layer: own[layer][:: self.settings.views or 1] for layer in apart.layers})
            scores = scores + self.settings.diversity_weight * scores.detach().abs() * unlike
        return scores


def _texture_layer(model: Model, objective: Objective) -> str:
    """Where faces are told apart: at the objective's own layer, for a class the last with positions."""
    for layer in objective.layers:
        if layer != OUTPUT:
            return layer
    found = [row.address for row in layer_table(model) if row.spatial or len(row.shape) == 3]
    if not found:
        raise InvalidValue(f"{model.name} has no layer with positions, so faces cannot be told apart")
    return found[-1]


def _climb(
    score: _BatchScore,
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
