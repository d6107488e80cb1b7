"""featviz dream."""

from __future__ import annotations

import re
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featviz.cli.loading import load_from
from featviz.cli.options import ModelOptions, OutputOptions, with_options
from featviz.cli.progress import Watcher, say
from featviz.errors import FeatvizError, InvalidValue, NonFiniteScore
from featviz.settings import DreamSettings

if TYPE_CHECKING:
    from featviz.output import Photo
    from featviz.recipes import Recipe
    from featviz.types import Model

DEFAULT_LAYER = "layer3"


@with_options(output=OutputOptions, settings=DreamSettings, model_options=ModelOptions)
def dream(
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="photos, or folders of them")],
    layer: Annotated[
        list[str] | None,
        typer.Option("--layer", "-l", help="layer to strengthen, may repeat, with a weight: 0.5*layer2"),
    ] = None,
    channel: Annotated[int | None, typer.Option(help="one channel of the layer instead of all")] = None,
    target: Annotated[
        str | None, typer.Option(help='any target instead: layer3:97, class:"tiger cat", sums of them')
    ] = None,
    guide: Annotated[str | None, typer.Option(help="picture whose features are to be found")] = None,
    mask: Annotated[str | None, typer.Option(help="picture, white where to dream")] = None,
    *,
    output: OutputOptions,
    settings: DreamSettings,
    model_options: ModelOptions,
) -> None:
    """DeepDream photos: strengthen what a layer sees in them.

    featviz dream photo.jpg --layer layer3
    """
    from featviz.output import find_photos, read_photo

    wanted = target_of(layer, channel, target)
    files = find_photos(photos)
    outputs = place_outputs(files, output, f"dream_{slug(wanted)}", ".mp4" if is_film(settings) else ".png")
    for place in outputs:
        _check_suffix(place, settings, output.overwrite)
    others = {name: read_photo(path) for name, path in (("guide", guide), ("mask", mask)) if path}
    model = load_from(model_options)
    if settings.zoom and settings.animate:
        raise InvalidValue("--zoom and --animate make two films: one or the other")
    failed = 0
    for file, place in zip(files, outputs, strict=True):
        try:
            _dream_one(model, wanted, settings, {"photo": read_photo(file), **others}, place, output)
        except NonFiniteScore:
            raise
        except FeatvizError as error:
            if len(files) == 1:
                raise
            failed += 1
            say(f"featviz: {error}")
    if failed:
        raise FeatvizError(f"{failed} of {len(files)} photos could not be dreamed")


def is_film(settings: Any) -> bool:
    """Whether a command's settings ask for a film."""
    return bool(getattr(settings, "zoom", 0) or getattr(settings, "animate", False))


def _dream_one(
    model: Model,
    target: str,
    settings: DreamSettings,
    inputs: dict[str, Photo],
    place: Path,
    output: OutputOptions,
) -> None:
    from featviz.recipes import recipe_for

    recipe = recipe_for("dream", model, target, settings, inputs)
    make(recipe, place, output, model=model, inputs=inputs)


def make(recipe: Recipe, place: Path, output: OutputOptions, **ready: Any) -> None:
    """Run a recipe with progress and save what it gives; Ctrl-C saves it as it stands and exits 130."""
    from featviz.runs import run

    watcher = Watcher(place.name, output.quiet)
    try:
        with watcher.watching():
            made = run(recipe, watch=watcher, **ready)
            made.save(place, overwrite=output.overwrite)
    except NonFiniteScore as error:
        if hasattr(error.image, "save"):
            error.image.save(place, overwrite=output.overwrite)
            if not output.quiet:
                print(place)
        raise
    if not output.quiet:
        print(place)
    if watcher.stopped:
        raise typer.Exit(130)


def target_of(layers: list[str] | None, channel: int | None, target: str | None) -> str:
    """One target from --layer, --channel and --target; by default all of layer3."""
    if target is not None:
        if layers or channel is not None:
            raise InvalidValue(f"--target {target!r} says it all: leave out --layer and --channel")
        return target
    layers = layers or [DEFAULT_LAYER]
    if channel is not None:
        if len(layers) > 1:
            raise InvalidValue(f"--channel {channel} goes with one --layer, not with {len(layers)}")
        return f"{layers[0]}:{channel}"
    return " + ".join(layers)


def slug(target: str) -> str:
    """A target as part of a file name."""
    return re.sub(r"[^A-Za-z0-9.,-]+", "_", target).strip("_")[:60]


def place_outputs(files: list[Path], output: OutputOptions, kind: str, suffix: str) -> list[Path]:
    """Where each photo's result goes: --out's file, its folder (made if new), or this folder."""
    out = Path(output.out) if output.out is not None else Path()
    is_file = output.out is not None and out.suffix != "" and not out.is_dir()
    if is_file and len(files) == 1:
        return [out]
    if is_file:
        raise InvalidValue(f"--out {output.out} is one file for {len(files)} photos: name a folder")
    _make_folder(out)
    places = [out / f"{file.stem}_{kind}{suffix}" for file in files]
    if len(set(places)) < len(places):  # photo.jpg beside photo.png
        places = [out / f"{file.name}_{kind}{suffix}" for file in files]
    if len(set(places)) < len(places):  # photo.jpg of several folders
        places = [out / f"{file.stem}_{n}_{kind}{suffix}" for n, file in enumerate(files, 1)]
    return places


_made: list[Path] = []


def _make_folder(folder: Path) -> None:
    from featviz.errors import OutputError

    missing = [each for each in (folder, *folder.parents) if not each.exists()]
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as problem:
        raise OutputError(f"--out {folder} cannot be a folder: {problem.strerror}") from problem
    _made.extend(missing)


def drop_empty_folders() -> None:
    """Remove the folders that were made for results, where none came of it."""
    for folder in _made:
        with suppress(OSError):
            folder.rmdir()
    _made.clear()


def _check_suffix(place: Path, settings: DreamSettings, overwrite: bool) -> None:
    from featviz.output import VIDEO_SUFFIXES, check_output

    if is_film(settings):
        check_output(place, overwrite, VIDEO_SUFFIXES)
    elif place.suffix.lower() in VIDEO_SUFFIXES:
        raise InvalidValue(f"{place} is a film: ask for --zoom FRAMES or --animate")
    else:
        check_output(place, overwrite)
