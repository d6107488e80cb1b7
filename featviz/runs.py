"""Making what a recipe describes, with a watcher told of every step."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, TypeAlias

from torch import Tensor

from featviz.attribution.sheets import activation_maps, kernels
from featviz.attribution.sweeps import Sweep
from featviz.deepdream import DreamStep, dream, octave_sizes, picture, suited
from featviz.errors import NonFiniteScore
from featviz.explain_settings import EXPLAIN_SETTINGS, ActivationSettings, KernelSettings
from featviz.explaining import explain, fitted_to
from featviz.output.explanations import Explanations
from featviz.output.photos import Photo, read_photo
from featviz.output.pil import from_pil
from featviz.output.results import Film, Picture
from featviz.output.sheets import contact_sheet, kernel_sheet, stacked
from featviz.recipes import Recipe, load_model
from featviz.render_runs import run_render
from featviz.settings import DreamSettings
from featviz.sizes import fitted, resize
from featviz.targets import BETWEEN_TARGETS, objective_of
from featviz.types import Model, Objective
from featviz.watching import Progress, Watch
from featviz.zoom import frame_steps, zoom_frames

Made: TypeAlias = "Picture | Film | Explanations"
"""What a run gives."""


def run(
    recipe: Recipe,
    *,
    model: Model | None = None,
    inputs: Mapping[str, Photo] | None = None,
    watch: Watch | None = None,
    objective: Objective | None = None,
    **ready: Any,
) -> Made:
    """Make what a recipe describes.

    `model` and `inputs` spare loading what is in memory already; `objective` is the recipe's target where
    its text does not say all, such as a direction made in memory; `sweep` is what occlusion may start from.

    A run that `watch` ends early gives its picture as it stands, with the status interrupted;
    `NonFiniteScore` carries the last good one.
    """
    if model is None:
        model = load_model(recipe)
    photos = dict(inputs or {})
    for name, one in recipe.inputs.items():
        if name not in photos:
            photos[name] = read_photo(one["path"])
    target = objective or recipe.target
    return RUNNERS[recipe.command](recipe, model, target, photos, watch or (lambda _: False), **ready)


@dataclass(frozen=True)
class _Dream:
    """A dream that is about to run: its recipe, and everything loaded that it names."""

    recipe: Recipe
    model: Model
    target: str | Objective
    photo: Tensor
    settings: DreamSettings
    guide: Tensor | None
    mask: Tensor | None
    watch: Watch

    def picture(self, step: DreamStep) -> Tensor:
        return picture(self.photo, step, self.settings, self.mask)

    def progress(self, step: DreamStep, frame: int = 1) -> Progress:
        """A step costs as its octave has pixels."""
        steps, frames = frame_steps(self.settings, frame), max(self.settings.zoom, 1)
        sizes = octave_sizes((self.photo.shape[2], self.photo.shape[3]), self.settings)[-step.octaves :]
        pixels = [h * w for h, w in sizes]
        share = (sum(pixels[: step.octave - 1]) + pixels[step.octave - 1] * step.index / steps) / sum(pixels)
        work = [frame_steps(self.settings, each) for each in range(1, frames + 1)]
        return Progress(
            (sum(work[: frame - 1]) + work[frame - 1] * share) / sum(work),
            step.index,
            steps,
            step.scores,
            lambda: self.picture(step),
            step.octave,
            step.octaves,
            frame,
            frames,
        )

    def still(self, alpha: Tensor | None) -> Picture:
        """The finished dream, or as it stood when the watcher ended it."""
        status, last = "complete", None
        try:
            for step in self.steps():
                last = step
                if self.watch(self.progress(step)):
                    status = "interrupted"
                    break
        except NonFiniteScore as error:
            kept = self.photo if last is None else self.picture(last)
            error.image = Picture(kept, replace(self.recipe, status="failed").plain(), alpha)
            raise
        assert last is not None
        return Picture(self.picture(last), replace(self.recipe, status=status).plain(), alpha)

    def steps(self) -> Iterator[DreamStep]:
        return dream(self.model, self.photo, self.target, self.settings, guide=self.guide, mask=self.mask)

    def zoom(self, record: dict[str, Any]) -> Iterator[Tensor]:
        """The frames of a zoom; `record["status"]` tells whether they were all made."""
        record["status"] = "interrupted"
        frames = zoom_frames(
            self.model, self.photo, self.target, self.settings, guide=self.guide, mask=self.mask
        )
        for frame, step, done in frames:
            if done is not None:
                yield done
            if self.watch(self.progress(step, frame)):
                if frame == 1 and done is None:  # a film of one picture, as it stands
                    yield self.picture(step)
                return
        record["status"] = "complete"

    def animation(self, record: dict[str, Any]) -> Iterator[Tensor]:
        """The photo, then the whole picture after each step."""
        record["status"] = "interrupted"
        yield self.photo
        for step in self.steps():
            yield self.picture(step)
            if self.watch(self.progress(step)):
                return
        record["status"] = "complete"


def _run_dream(
    recipe: Recipe, model: Model, target: str | Objective, photos: Mapping[str, Photo], watch: Watch
) -> Picture | Film:
    settings = DreamSettings.make(**recipe.settings)
    photo = _sized(photos["photo"].image, settings.size).to(model.device)
    # what suits this machine is part of what was done
    settings = suited(model, objective_of(model, target), (photo.shape[2], photo.shape[3]), settings)
    recipe = replace(recipe, settings=settings.plain())
    guide = photos["guide"].image.to(model.device) if "guide" in photos else None
    mask = _mask(photos["mask"], photo) if "mask" in photos else None
    ready = _Dream(recipe, model, target, photo, settings, guide, mask, watch)
    if settings.zoom or settings.animate:
        record = recipe.plain()
        frames = ready.zoom(record) if settings.zoom else ready.animation(record)
        return Film(frames, settings.fps, record)
    alpha = photos["photo"].alpha
    return ready.still(None if alpha is None else resize(alpha, (photo.shape[2], photo.shape[3])))


def _sized(image: Tensor, longest: int | None) -> Tensor:
    return image if longest is None else resize(image, fitted((image.shape[2], image.shape[3]), longest))


def _mask(mask: Photo, image: Tensor) -> Tensor:
    """A mask's mean over colours, at the image's size; nothing is dreamed where it is transparent."""
    grey = mask.image.mean(1, keepdim=True)
    grey = grey if mask.alpha is None else grey * mask.alpha
    return resize(grey, (image.shape[2], image.shape[3])).to(image.device)


def _run_explain(
    recipe: Recipe,
    model: Model,
    target: str | Objective,
    photos: Mapping[str, Photo],
    watch: Watch,
    sweep: Sweep | None = None,
) -> Explanations:
    command = recipe.command.removeprefix("explain ")
    settings = EXPLAIN_SETTINGS[command].make(**recipe.settings)
    targets = [target] if isinstance(target, Objective) else target.split(BETWEEN_TARGETS)
    return explain(model, photos["photo"].image, command, targets, settings, recipe.plain(), sweep)


def _run_activations(
    recipe: Recipe, model: Model, target: str | Objective, photos: Mapping[str, Photo], watch: Watch
) -> Picture:
    settings = ActivationSettings.make(**recipe.settings)
    image = fitted_to(model, photos["photo"].image.to(model.device), settings.size)
    names = [name.strip() for name in settings.layer.split(",")] if settings.layer else None
    sheets = [
        contact_sheet(
            each.maps.cpu(),
            [str(k) for k in each.channels],
            scale=settings.scale,
            columns=8,
            title=each.layer,
        )
        for each in activation_maps(model, image, names, settings.channels, settings.order)
    ]
    return Picture(from_pil(stacked(sheets))[0], recipe.plain())


def _run_kernels(
    recipe: Recipe, model: Model, target: str | Objective, photos: Mapping[str, Photo], watch: Watch
) -> Picture:
    settings = KernelSettings.make(**recipe.settings)
    title = f"{model.name}: kernels of the first layer"
    return Picture(from_pil(kernel_sheet(kernels(model), cell=settings.cell, title=title))[0], recipe.plain())


RUNNERS: dict[str, Callable[..., Made]] = {
    "dream": _run_dream,
    **dict.fromkeys(("render", "caricature", "inversion", "accentuation"), run_render),
    "activations": _run_activations,
    "kernels": _run_kernels,
    **{f"explain {method}": _run_explain for method in EXPLAIN_SETTINGS},
}
"""Command -> what makes its result."""
