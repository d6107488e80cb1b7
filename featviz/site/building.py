"""Making a gallery: the pictures that are missing, then every page."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

from torch import Tensor

from featviz.errors import NonFiniteScore
from featviz.output.files import placed
from featviz.output.pictures import write_picture
from featviz.recipes import Recipe
from featviz.rendering import Rendering, ascended
from featviz.settings import decided
from featviz.site.exciting import exciting
from featviz.site.pages import write_pages
from featviz.site.plan import MARK, Plan, Unit
from featviz.sizes import resize, shortened
from featviz.starts import work
from featviz.targets import BETWEEN_TARGETS, objective_of
from featviz.visualize import picture_size, render, settled
from featviz.watching import Progress, Watch

THUMB = 160
"""Shorter side of a small picture."""

Told = Callable[[Unit, str], None]
"""Called with a unit whose picture could not be made, and why."""


def build(
    plan: Plan,
    *,
    photos: Sequence[Path] = (),
    title: str = "",
    watch: Watch | None = None,
    failed: Told | None = None,
) -> str:
    """Make what is missing of a gallery and write its pages; gives complete or interrupted.

    Every file appears whole. A gallery that was interrupted, by `watch` or by force, goes on where it
    stopped. A unit whose ascent fails is told to `failed`, and the others go on.
    """
    for folder in ("pictures", "thumbs", "photos", "unit", "layer", "assets"):
        (plan.folder / folder).mkdir(parents=True, exist_ok=True)
    with placed(plan.folder / MARK, True) as file:
        file.write_text("{}\n")
    status = _make_pictures(plan, watch or (lambda _: False), failed or (lambda *_: None))
    found = exciting(plan, photos) if photos else {}
    write_pages(plan, found, title)
    return status


def _make_pictures(plan: Plan, watch: Watch, failed: Told) -> str:
    missing = [(unit, file) for unit in plan.units for file in plan.missing(unit)]
    if not missing:
        return "complete"
    pictures = [unit for unit, file in missing if file == unit.picture]
    faces = list(dict.fromkeys(unit.slug for unit, file in missing if file != unit.picture))
    by_slug = {unit.slug: unit for unit in plan.units}
    batch = _batch(plan)
    parts = [pictures[start : start + batch] for start in range(0, len(pictures), batch)]
    work: list[tuple[list[Unit], bool]] = [(part, False) for part in parts]
    work += [([by_slug[slug]], True) for slug in faces]
    whole = sum(_cost(plan, units, many) for units, many in work)
    done = 0
    for units, many in work:
        cost = _cost(plan, units, many)

        def told(progress: Progress, done: int = done, cost: int = cost) -> bool | None:
            return watch(replace(progress, done=(done + cost * progress.done) / whole))

        try:
            if not _make(plan, units, many, told):
                return "interrupted"
        except NonFiniteScore as error:
            for unit in units:
                failed(unit, str(error))
        done += cost
    return "complete"


def _cost(plan: Plan, units: Sequence[Unit], many: bool) -> int:
    return len(units) * (plan.faces if many else 1)


def _batch(plan: Plan) -> int:
    unit = plan.units[0]
    return Rendering.of(plan.recipes(unit)[unit.picture], plan.model, unit.target, {}).batch


def _make(plan: Plan, units: Sequence[Unit], many: bool, watch: Watch) -> bool:
    """Make some units' pictures, or all faces of one; false where it was ended early."""
    recipes = [_recipes(plan, unit, many) for unit in units]
    first = next(iter(recipes[0].values()))
    settings = {**first.settings, "face": None}
    joined = BETWEEN_TARGETS.join(unit.target for unit in units)
    job = Rendering.of(
        Recipe("render", first.model, joined, settings, versions=first.versions), plan.model, joined, {}
    )
    images, status = ascended(job, watch)
    if status != "complete":
        return False
    cards = iter(job.cards(images[-1]))
    for own, faces in zip(recipes, images[-1], strict=True):
        for (file, recipe), image in zip(own.items(), faces, strict=True):
            was = {**recipe.settings, **decided(job.settings)}
            made = {**recipe.plain(), "settings": was, "cards": [next(cards)]}
            _save(plan.folder, file, image[None], made)
    return True


def _recipes(plan: Plan, unit: Unit, many: bool) -> dict[str, Recipe]:
    return {file: recipe for file, recipe in plan.recipes(unit).items() if (file != unit.picture) == many}


def _save(folder: Path, file: str, image: Tensor, recipe: dict[str, object]) -> None:
    """The small picture first: where the large one stands, both do."""
    thumb = folder / "thumbs" / Path(file).name
    small = resize(image, shortened((image.shape[2], image.shape[3]), THUMB))
    write_picture(thumb, small.clamp(0, 1).cpu(), {}, overwrite=True, quality=85)
    write_picture(folder / file, image.cpu(), recipe, overwrite=True, quality=92)


def seconds_left(plan: Plan, steps: int = 3) -> float:
    """How long the missing pictures should take, from a few steps of one unit of each group."""
    total = 0.0
    for units in plan.groups().values():
        count = sum(len(plan.missing(unit)) for unit in units)
        if not count:
            continue
        climb = render(plan.model, units[0].target, replace(plan.settings, view_from=0.0, starts=1))
        next(climb)
        start = time.perf_counter()
        for _ in range(steps):
            next(climb, None)
        each = (time.perf_counter() - start) / steps
        objective, size = objective_of(plan.model, units[0].target), picture_size(plan.model, plan.settings)
        total += count * each * work(settled(plan.model, [objective], plan.settings, size))[-1]
        climb.close()  # type: ignore[attr-defined]
    return total
