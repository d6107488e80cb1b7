"""The record of a run, and `run`, which makes the result of one."""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from torch import Tensor

from featviz.deepdream import dream, octave_sizes, picture, resize, zoom_frames
from featviz.errors import ModelError, NonFiniteScore, RecipeError
from featviz.output.photos import Photo, read_photo
from featviz.output.results import Film, Picture
from featviz.settings import DreamSettings, RenderSettings, Settings
from featviz.types import Model
from featviz.visualize import render


@dataclass(frozen=True)
class Recipe:
    """Every input of one output, as plain data.

    `model` is {"source": what `load` was asked for, "digest": of its weights}; `inputs` maps photo,
    guide and mask to {"path", "digest"}; `status` is complete, interrupted or failed.
    """

    command: str
    model: Mapping[str, Any]
    target: str
    settings: Mapping[str, Any]
    inputs: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    device: str = "cpu"
    versions: Mapping[str, str] = field(default_factory=dict)
    status: str = "complete"

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> Recipe:
        """The recipe that a picture carries; raises `RecipeError` where it is not one."""
        known = {f.name for f in fields(cls)}
        missing = {"command", "model", "target", "settings"} - set(data)
        if missing or set(data) - known or data["command"] not in RUNNERS:
            raise RecipeError(
                f"not a recipe of featviz {version('featviz')}: {', '.join(sorted(data))[:120]}"
            )
        return cls(**data)

    def plain(self) -> dict[str, Any]:
        """The recipe as plain data."""
        return asdict(self)


@dataclass(frozen=True)
class Progress:
    """Where a run stands: the share of the work done, the step, and the picture made on demand."""

    done: float
    step: int
    steps: int
    octave: int
    octaves: int
    frame: int
    frames: int
    scores: Tensor
    image: Callable[[], Tensor]


Watch = Callable[[Progress], bool | None]
"""Called after each step; a true answer ends the run with the picture as it stands."""


def recipe_for(
    command: str, model: Model, target: str, settings: Settings, inputs: Mapping[str, Photo] | None = None
) -> Recipe:
    """The recipe of a run on this machine, with this model and these photos."""
    found = {name: {"path": photo.path, "digest": photo.digest} for name, photo in (inputs or {}).items()}
    source = {"source": dict(model.source), "name": model.name, "digest": model.digest}
    return Recipe(command, source, target, settings.plain(), found, model.device.type, versions())


def versions() -> dict[str, str]:
    """What a result depends on besides its recipe."""
    names = ("featviz", "torch", "torchvision", "timm", "kornia", "numpy", "pillow")
    found = {"python": platform.python_version()}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "none"
    return found


def run(
    recipe: Recipe,
    *,
    model: Model | None = None,
    inputs: Mapping[str, Photo] | None = None,
    watch: Watch | None = None,
) -> Picture | Film:
    """Make what a recipe describes; `model` and `inputs` spare loading what is in memory already.

    A run that `watch` ends early gives its picture as it stands, with the status interrupted;
    `NonFiniteScore` carries the last good one.
    """
    if model is None:
        model = load_model(recipe)
    photos = dict(inputs or {})
    for name, one in recipe.inputs.items():
        if name not in photos:
            photos[name] = read_photo(one["path"])
    return RUNNERS[recipe.command](recipe, model, photos, watch or (lambda _: False))


def load_model(recipe: Recipe, device: str = "auto") -> Model:
    """The model of a recipe; raises `ModelError` for one that only ever lived in memory."""
    from featviz.models import load

    source = recipe.model["source"]
    if not source:
        raise ModelError(
            f"this recipe's model {recipe.model['name']!r} was built in memory: hand it to run(model=…)"
        )
    return load(**source, device=device)


def _run_dream(recipe: Recipe, model: Model, photos: Mapping[str, Photo], watch: Watch) -> Picture | Film:
    settings = DreamSettings.of(**recipe.settings)
    photo = photos["photo"]
    image = _sized(photo.image, settings.size).to(model.device)
    alpha = None if photo.alpha is None else resize(photo.alpha, (image.shape[2], image.shape[3]))
    more = {
        "guide": photos["guide"].image.to(model.device) if "guide" in photos else None,
        "mask": _mask(photos["mask"], image) if "mask" in photos else None,
    }
    if settings.zoom:
        record = recipe.plain()
        return Film(_zoom(record, model, image, settings, more, watch), settings.fps, record)
    if settings.animate:
        record = recipe.plain()
        return Film(_animate(record, model, image, settings, more, watch), settings.fps, record)
    return _still(recipe, model, image, alpha, settings, more, watch)


def _still(
    recipe: Recipe,
    model: Model,
    image: Tensor,
    alpha: Tensor | None,
    settings: DreamSettings,
    more: dict[str, Any],
    watch: Watch,
) -> Picture:
    status, last = "complete", None
    try:
        for last, progress in _dream_progress(model, image, settings, recipe.target, more):
            if watch(progress):
                status = "interrupted"
                break
    except NonFiniteScore as error:
        kept = image if last is None else picture(image, last, settings, more["mask"])
        error.image = Picture(kept, replace(recipe, status="failed").plain(), alpha)
        raise
    assert last is not None
    done = picture(image, last, settings, more["mask"])
    return Picture(done, replace(recipe, status=status).plain(), alpha)


def _dream_progress(
    model: Model, image: Tensor, settings: DreamSettings, target: str, more: dict[str, Any]
) -> Iterator[tuple[Any, Progress]]:
    work = _Work(image, settings)
    for step in dream(model, image, target, settings, **more):
        show = lambda step=step: picture(image, step, settings, more["mask"])  # noqa: E731
        yield step, work.progress(step, 1, 1, show)


class _Work:
    """Shares of the work: a step costs as its octave has pixels."""

    def __init__(self, image: Tensor, settings: DreamSettings) -> None:
        self.steps = settings.steps
        self.pixels = [h * w for h, w in octave_sizes((image.shape[2], image.shape[3]), settings)]

    def progress(self, step: Any, frame: int, frames: int, show: Callable[[], Tensor]) -> Progress:
        before = sum(self.pixels[: step.octave - 1]) + self.pixels[step.octave - 1] * step.index / self.steps
        done = (frame - 1 + before / sum(self.pixels)) / frames
        return Progress(
            done, step.index, self.steps, step.octave, step.octaves, frame, frames, step.scores, show
        )


def _zoom(
    record: dict[str, Any],
    model: Model,
    image: Tensor,
    settings: DreamSettings,
    more: dict[str, Any],
    watch: Watch,
) -> Iterator[Tensor]:
    """The frames of a zoom; `record["status"]` tells whether they were all made."""
    work = _Work(image, settings)
    record["status"] = "interrupted"
    for frame, step, done in zoom_frames(model, image, record["target"], settings, **more):
        if done is not None:
            yield done
        if watch(work.progress(step, frame, settings.zoom, lambda step=step: step.image)):
            return
    record["status"] = "complete"


def _animate(
    record: dict[str, Any],
    model: Model,
    image: Tensor,
    settings: DreamSettings,
    more: dict[str, Any],
    watch: Watch,
) -> Iterator[Tensor]:
    """The photo, then the whole picture after each step."""
    record["status"] = "interrupted"
    yield image
    for _, progress in _dream_progress(model, image, settings, record["target"], more):
        yield progress.image()
        if watch(progress):
            return
    record["status"] = "complete"


def _sized(image: Tensor, longest: int | None) -> Tensor:
    h, w = image.shape[2:]
    if longest is None or max(h, w) == longest:
        return image
    return resize(image, (max(1, round(h * longest / max(h, w))), max(1, round(w * longest / max(h, w)))))


def _mask(mask: Photo, image: Tensor) -> Tensor:
    """A mask picture's mean over colours, at the image's size; where it is transparent, nothing is dreamed."""
    grey = mask.image.mean(1, keepdim=True)
    grey = grey if mask.alpha is None else grey * mask.alpha
    return resize(grey, (image.shape[2], image.shape[3])).to(image.device)


def _run_render(recipe: Recipe, model: Model, photos: Mapping[str, Photo], watch: Watch) -> Picture:
    settings = RenderSettings.of(**recipe.settings)
    status = "complete"
    try:
        for step in render(model, recipe.target, settings):
            share = step.index / settings.steps
            show = lambda step=step: step.image  # noqa: E731
            if watch(Progress(share, step.index, settings.steps, 1, 1, 1, 1, step.scores, show)):
                status = "interrupted"
                break
    except NonFiniteScore as error:
        error.image = Picture(error.image, replace(recipe, status="failed").plain())
        raise
    return Picture(step.image, replace(recipe, status=status).plain())


SETTINGS: dict[str, type[Settings]] = {"dream": DreamSettings, "render": RenderSettings}
RUNNERS: dict[str, Callable[..., Picture | Film]] = {"dream": _run_dream, "render": _run_render}
