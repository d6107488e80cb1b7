"""featviz caricature, featviz invert, featviz accentuate: visualizations held against a photo."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featviz.cli.loading import load_from
from featviz.cli.making import each_photo, is_film, place_outputs
from featviz.cli.options import ModelOptions, OutputOptions, with_options
from featviz.cli.visualize import run_jobs
from featviz.presets import resolved
from featviz.render_settings import (
    AccentuationSettings,
    CaricatureSettings,
    InversionSettings,
    RenderSettings,
)

Photos = Annotated[list[str], typer.Argument(metavar="PHOTO...", help="photos, or folders of them")]
Layers = Annotated[list[str] | None, typer.Option("--layer", "-l", help="a layer; several make one sheet")]


@with_options(output=OutputOptions, settings=CaricatureSettings, model_options=ModelOptions)
def caricature(
    photos: Photos,
    *,
    layer: Layers = None,
    output: OutputOptions,
    settings: CaricatureSettings,
    model_options: ModelOptions,
) -> None:
    """Exaggerate what a layer sees in a photo, from noise.

    featviz caricature photo.jpg --layer layer3
    """
    _compare("caricature", photos, layer or ["layer3"], output, settings, model_options)


@with_options(output=OutputOptions, settings=InversionSettings, model_options=ModelOptions)
def invert(
    photos: Photos,
    *,
    layer: Layers = None,
    output: OutputOptions,
    settings: InversionSettings,
    model_options: ModelOptions,
) -> None:
    """Show what layers keep of a photo: pictures from noise that they cannot tell from it.

    featviz invert photo.jpg --layer layer1 --layer layer2 --layer layer3 --layer layer4
    """
    layers = layer or ["stem", "layer1", "layer2", "layer3", "layer4"]
    _compare("inversion", photos, layers, output, settings, model_options)


@with_options(output=OutputOptions, settings=AccentuationSettings, model_options=ModelOptions)
def accentuate(
    photos: Photos,
    *,
    classes: Annotated[
        list[str] | None, typer.Option("--class", "-c", help="number or name; several make one sheet")
    ] = None,
    target: Annotated[list[str] | None, typer.Option("--target", "-t", help="any other target")] = None,
    output: OutputOptions,
    settings: AccentuationSettings,
    model_options: ModelOptions,
) -> None:
    """Make a photo more of something, as little changed as can be: what the network would add.

    featviz accentuate photo.jpg --class tabby
    """
    wanted = [*(f'class:"{each}"' for each in classes or []), *(target or [])]
    _compare("accentuation", photos, wanted, output, settings, model_options)


def _compare(
    command: str,
    photos: list[str],
    targets: list[str],
    output: OutputOptions,
    settings: RenderSettings,
    model_options: ModelOptions,
) -> None:
    """Make each photo's picture, or its sheet where there are several targets."""
    from featviz.explaining import top_classes
    from featviz.output import VIDEO_SUFFIXES, check_output, find_photos, read_photo
    from featviz.targets import BETWEEN_TARGETS

    settings = resolved(settings)
    files = find_photos(photos)
    film = is_film(settings)
    places = place_outputs(files, output, command, ".mp4" if film else ".png")
    for place in places:
        check_output(place, output.overwrite, VIDEO_SUFFIXES if film else None)
    model = load_from(model_options)

    def one(file: Path, place: Path) -> None:
        photo = read_photo(file)
        named = targets or top_classes(model, photo.image, 1)
        jobs = [(BETWEEN_TARGETS.join(named), place)]
        run_jobs(command, model, jobs, settings, output, inputs={"photo": photo})

    each_photo(zip(files, places, strict=True), one)
