"""Running the recipe of a visualization: a picture, a sheet or a film."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from featviz.errors import InvalidValue
from featviz.frozen import frozen
from featviz.output.photos import Photo
from featviz.output.pil import from_pil
from featviz.output.results import Film, Picture
from featviz.output.sheets import grid
from featviz.presets import ALL, PRESETS
from featviz.recipes import Recipe
from featviz.rendering import Rendering, ascended, on_one_sheet, progress_of
from featviz.settings import DECIDED
from featviz.starts import share_done
from featviz.types import Model, Objective
from featviz.watching import Progress, Watch


def run_render(
    recipe: Recipe,
    model: Model,
    target: str | Objective,
    photos: Mapping[str, Photo],
    watch: Watch,
    against: Sequence[Tensor] = (),
) -> Picture | Film:
    """Make a visualization: one picture as it is, several on a sheet, or a film of the ascent."""
    if recipe.settings["preset"] == ALL:
        return _by_every_preset(recipe, model, target, photos, watch)
    job = Rendering.of(recipe, model, target, photos, against)
    return _film(job, watch) if job.settings.animate else _still(job, watch)


def _by_every_preset(
    recipe: Recipe, model: Model, target: str | Objective, photos: Mapping[str, Photo], watch: Watch
) -> Picture:
    """One target by each preset, on a sheet that names them."""
    made: list[Tensor] = []
    cards: list[dict[str, Any]] = []
    status = "complete"
    # each preset would arrange the network in its own way, and the record has room for one
    recipe = replace(
        recipe, settings={**recipe.settings, **{key: bool(recipe.settings[key]) for key in DECIDED}}
    )
    for number, preset in enumerate(PRESETS):
        one = replace(recipe, settings={**recipe.settings, "preset": preset})
        job = Rendering.of(one, model, target, photos)
        if len(job.wanted) * job.settings.diversity > 1 or job.settings.animate or job.settings.snapshots:
            raise InvalidValue("preset all: one still picture of one unit by each")
        images, status = ascended(job, partial(_part, watch, number))
        made.append(images[-1, 0])
        cards += job.cards(images[-1])
        if status != "complete":
            break
    sheet = grid(made, list(PRESETS)[: len(made)], columns=5, cell=max(made[0].shape[2:]))
    return Picture(from_pil(sheet)[0], replace(recipe, status=status, cards=cards).plain())


def _part(watch: Watch, number: int, progress: Progress) -> bool | None:
    return watch(replace(progress, done=(number + progress.done) / len(PRESETS)))


def _still(job: Rendering, watch: Watch) -> Picture:
    images, status = ascended(job, watch)
    made = replace(job.recipe, status=status, cards=job.cards(images[-1]))
    return Picture(on_one_sheet(job, images, job.states()), made.plain())


def _film(job: Rendering, watch: Watch) -> Film:
    """All targets climb in step, each by itself; a frame has them all."""
    record = job.recipe.plain()

    def frames() -> Iterator[Tensor]:
        record["status"] = "interrupted"
        with frozen(job.model.net):  # held here, since the climbs end in any order
            climbs = [job.climb([each]) for each in job.wanted]
            for steps in zip(*climbs, strict=True):
                images = torch.cat([job.faces(step.image) for step in steps])
                ended = watch(progress_of(job, steps[0], share_done(job.settings, steps[0].index)))
                if ended or steps[0].index > 0:  # the trial of starts is not shown
                    yield on_one_sheet(job, images[None], [steps[0].index])
                if ended:
                    return
        record["status"] = "complete"
        record["cards"] = job.cards(images)

    return Film(frames(), job.settings.fps, record)
