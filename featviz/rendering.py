"""What the recipe of a visualization asks for: its ascents batch by batch, score cards, a sheet of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from featviz import objectives
from featviz.cards import best_of, card
from featviz.errors import InvalidValue, NonFiniteScore
from featviz.explaining import fitted_to
from featviz.ingredients import robustness
from featviz.layers import find_layer
from featviz.memory import batch_for
from featviz.output.photos import Photo, find_photos, read_photo
from featviz.output.pil import from_pil
from featviz.output.results import Picture
from featviz.output.sheets import grid
from featviz.params.spectrum import load_spectrum, measure_spectrum
from featviz.presets import resolved
from featviz.recipes import SETTINGS, Recipe
from featviz.render_settings import AccentuationSettings, CaricatureSettings, RenderSettings
from featviz.settings import decided
from featviz.starts import share_done
from featviz.targets import BETWEEN_TARGETS, objective_of
from featviz.types import Model, Objective, Step
from featviz.visualize import picture_size, render, seen, suited
from featviz.watching import Progress, Watch

RENDERED = 16
"""Pictures made at once on a GPU with room for them; a CPU makes them singly, exactly what each is alone."""


@dataclass(frozen=True)
class Rendering:
    """What a visualization's recipe asks for, everything loaded that it names.

    `plain` are the targets themselves; `wanted` what is ascended, which differs where a photo is compared
    with. `against` are photos that the score cards hold the pictures against.
    """

    recipe: Recipe
    model: Model
    plain: Sequence[Objective]
    wanted: Sequence[Objective]
    settings: RenderSettings
    photo: Tensor | None = None
    spectrum: Tensor | None = None
    against: Sequence[Tensor] = field(default_factory=list)

    @classmethod
    def of(
        cls,
        recipe: Recipe,
        model: Model,
        target: str | Objective,
        photos: Mapping[str, Photo],
        against: Sequence[Tensor] = (),
    ) -> Rendering:
        """Raises what the targets, the settings and the photos raise."""
        settings = resolved(SETTINGS[recipe.command].make(**recipe.settings))
        if settings.face and settings.face > settings.diversity:
            raise InvalidValue(f"face {settings.face}: of {settings.diversity} faces (--diversity)")
        targets = [target] if isinstance(target, Objective) else target.split(BETWEEN_TARGETS)
        photo = photos["photo"].image.to(model.device) if recipe.command != "render" else None
        photo = None if photo is None else fitted_to(model, photo, settings.size)
        plain = [objective_of(model, each) for each in targets]
        if recipe.command in ("caricature", "inversion"):
            plain = [_of_layer(model, recipe.command, settings, each.name) for each in plain]
        wanted = plain
        if isinstance(settings, AccentuationSettings):
            layer = find_layer(model, settings.likeness_layer).address
            wanted = [objectives.accentuation(each, layer, settings.likeness) for each in plain]
        # how sure a network is tells nothing of how like a photo a picture will be
        settings = settings if photo is None else replace(settings, starts=1)
        settings = suited(model, wanted[:1], settings, photo)
        recipe = replace(recipe, settings={**recipe.settings, **decided(settings)})
        return cls(recipe, model, plain, wanted, settings, photo, _spectrum(settings), against)

    @property
    def batch(self) -> int:
        """How many targets are ascended at once."""
        count = self._fitting() if self.settings.batch == "auto" else int(self.settings.batch)
        return max(1, count // self.settings.diversity)

    def _fitting(self) -> int:
        """On a GPU as many pictures as its memory holds, up to `RENDERED`."""
        if self.model.device.type == "cpu":
            return 1
        layers = list(dict.fromkeys(layer for objective in self.wanted for layer in objective.layers))
        size = picture_size(self.model, self.settings) if self.photo is None else self.photo.shape[2:]
        seen = (self.settings.views or 1) * (1 if self.photo is None else 2)
        return max(1, batch_for(self.model, layers, (size[0], size[1]), RENDERED * seen) // seen)

    def parts(self) -> list[list[Objective]]:
        """The targets in their order, as many as are ascended at once; what is placed by itself."""
        runs = [list(run) for _, run in groupby(self.wanted, lambda each: each.placed)]
        return [run[start : start + self.batch] for run in runs for start in range(0, len(run), self.batch)]

    def climb(self, part: Sequence[Objective]) -> Iterator[Step]:
        """The ascent of some of the targets, each with its faces in a row."""
        return render(
            self.model,
            part,
            self.settings,
            photo=self.photo,
            from_photo=self.recipe.command == "accentuation",
            spectrum=self.spectrum,
        )

    def faces(self, images: Tensor) -> Tensor:
        """`(targets · faces, 3, h, w)` -> `(targets, faces, 3, h, w)`, of which perhaps one is asked for."""
        apart = images.view(-1, self.settings.diversity, *images.shape[1:])
        face = self.settings.face
        return apart[:, face - 1 : face] if face else apart

    def states(self) -> list[int]:
        """The steps that are shown: the last, or as many as there are snapshots, each a factor later."""
        steps, count = self.settings.steps or 1, self.settings.snapshots
        shown = {round(steps ** (k / (count - 1))) for k in range(count)} if count > 1 else set()
        return sorted(shown | {steps})

    def cards(self, images: Tensor) -> list[dict[str, Any]]:
        """A score card for each of the images `(targets, faces, 3, h, w)`."""
        shown = self.plain[: len(images)]
        accentuated = self.wanted is not self.plain
        compared = None if accentuated else self.photo
        held = [self.photo] if accentuated and self.photo is not None else self.against
        best = best_of(self.model, shown, held) if held and compared is None else [None] * len(shown)
        layers = list(dict.fromkeys(layer for objective in shown for layer in objective.layers))
        size = (images.shape[3], images.shape[4])
        moved = robustness(seen(self.model, layers, self.settings, size))
        return [
            card(self.model, objective, image[None], moved=moved, compared=compared, best=most)
            for objective, faces, most in zip(shown, images, best, strict=True)
            for image in faces
        ]


def ascended(job: Rendering, watch: Watch) -> tuple[Tensor, str]:
    """The pictures `(states, targets, faces, 3, h, w)`, batch by batch, and complete or interrupted.

    Raises `NonFiniteScore` with the picture as it stood before.
    """
    made: list[Tensor] = []
    status = "complete"
    for part in job.parts():
        start = sum(len(each[-1]) for each in made)
        shown: list[Tensor] = []
        try:
            for step in _noting(job, part, shown):
                share = (start + len(part) * share_done(job.settings, step.index)) / len(job.wanted)
                if watch(progress_of(job, step, share)):
                    status = "interrupted"
                    break
        except NonFiniteScore as error:
            images = torch.cat([*(each[-1] for each in made), job.faces(error.image)])
            kept = on_one_sheet(job, images[None], [error.step])
            error.image = Picture(kept, replace(job.recipe, status="failed").plain())
            raise
        made.append(_all_states(job, shown, step))
        if status == "interrupted":
            break
    return torch.cat(made, 1), status


def _noting(job: Rendering, part: Sequence[Objective], shown: list[Tensor]) -> Iterator[Step]:
    """Every step; of those to be shown the images `(targets · faces, 3, h, w)` go into `shown`."""
    wanted = set(job.states())
    for step in job.climb(part):
        if step.index in wanted:
            shown.append(step.image.clone())
        yield step


def _all_states(job: Rendering, shown: list[Tensor], last: Step) -> Tensor:
    """`(states, targets, faces, 3, h, w)`; an ascent that ended early stands still from there."""
    missing = len(job.states()) - len(shown)
    return torch.stack([job.faces(each) for each in [*shown, *[last.image] * missing]])


def progress_of(job: Rendering, step: Step, share: float) -> Progress:
    """What a watcher is told of a step, `share` of all the work being done."""
    index, steps = max(0, step.index), job.settings.steps or 1
    return Progress(share, index, steps, step.scores, partial(getattr, step, "image"))


def on_one_sheet(job: Rendering, images: Tensor, states: Sequence[int]) -> Tensor:
    """`(states, targets, faces, 3, h, w)`: one image as it is, several as a sheet with captions."""
    count, targets, faces = images.shape[:3]
    if count * targets * faces == 1:
        return images.flatten(0, 2)
    names = [
        job.wanted[t].name + f" face {f + 1}" * (faces > 1) + f" step {state}" * (count > 1)
        for t in range(targets)
        for f in range(faces)
        for state in states
    ]
    cells = list(images.permute(1, 2, 0, 3, 4, 5).flatten(0, 2).unsqueeze(1))
    columns = count if count > 1 else faces
    if columns == 1:
        columns = next((c for c in (4, 5, 6, 3) if targets % c == 0), min(targets, 4))
    sheet = grid(cells, names, columns=columns, cell=max(images.shape[4:]))
    return from_pil(sheet)[0]


def _of_layer(model: Model, command: str, settings: RenderSettings, layer: str) -> Objective:
    address = find_layer(model, layer).address
    if isinstance(settings, CaricatureSettings):
        return objectives.caricature(address, settings.power)
    return objectives.COMPARISONS[command](address)


def _spectrum(settings: RenderSettings) -> Tensor | None:
    """The spectrum that maco is told to hold: a file of one, or measured from a folder of photos."""
    if settings.spectrum_from is None:
        return None
    source = Path(settings.spectrum_from)
    if source.is_dir():
        return measure_spectrum(read_photo(each).image for each in find_photos([source]))
    return load_spectrum(source)
