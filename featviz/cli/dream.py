"""featviz dream."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featviz.cli.loading import load_from
from featviz.cli.making import each_photo, is_film, make, place_outputs, slug
from featviz.cli.options import ModelOptions, OutputOptions, with_options
from featviz.errors import InvalidValue
from featviz.settings import DreamSettings

if TYPE_CHECKING:
    from featviz.output import Photo
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
    each_photo(
        zip(files, outputs, strict=True),
        lambda file, place: _dream_one(
            model, wanted, settings, {"photo": read_photo(file), **others}, place, output
        ),
    )


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


def _check_suffix(place: Path, settings: DreamSettings, overwrite: bool) -> None:
    from featviz.output import VIDEO_SUFFIXES, check_output

    if is_film(settings):
        check_output(place, overwrite, VIDEO_SUFFIXES)
    elif place.suffix.lower() in VIDEO_SUFFIXES:
        raise InvalidValue(f"{place} is a film: ask for --zoom FRAMES or --animate")
    else:
        check_output(place, overwrite)
