"""featviz gallery: many visualizations as a browsable website."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import typer

from featviz.cli.loading import load_from
from featviz.cli.making import make_folder
from featviz.cli.options import ModelOptions, with_options
from featviz.cli.progress import Watcher, say
from featviz.cli.visualize import class_target
from featviz.errors import FeatvizError, InvalidValue
from featviz.presets import resolved
from featviz.render_settings import RenderSettings
from featviz.settings import Settings, option


@dataclass(frozen=True)
class GalleryOptions(Settings):
    """What a gallery holds besides its units."""

    out: str = option("site", "folder of the website; made again, it goes on where it stopped", short="-o")
    facets: int = option(1, "faces of each unit beside its picture", at_least=1)
    photos: str | None = option(None, "folder of photos: those that excite a unit most are shown")
    title: str = option("", "the website's title")
    dry_run: bool = option(False, "only say what is missing, and how long it should take")
    quiet: bool = option(False, "print nothing but errors", short="-q")


@with_options(gallery_options=GalleryOptions, settings=RenderSettings, model_options=ModelOptions)
def gallery(
    targets: Annotated[
        list[str] | None, typer.Argument(metavar="[TARGET]...", help="layer3:0-15, class:all, any target")
    ] = None,
    *,
    classes: Annotated[
        list[str] | None, typer.Option("--class", "-c", help="number or name, or all; may repeat")
    ] = None,
    layer: Annotated[list[str] | None, typer.Option("--layer", "-l", help="a layer; may repeat")] = None,
    channels: Annotated[
        list[str] | None, typer.Option(help="its channels: 0-31, 0,7,9, all; one for all layers, or one each")
    ] = None,
    gallery_options: GalleryOptions,
    settings: RenderSettings,
    model_options: ModelOptions,
) -> None:
    """Make a website of classes and channels that opens from disk or any web host.

    featviz gallery --class tabby --class daisy --layer layer2 --layer layer3 --channels 0-15 --out site
    """
    from featviz.output import find_photos
    from featviz.site import build, plan
    from featviz.site.building import seconds_left

    wanted = [class_target(each) for each in classes or []]
    wanted += _channels(layer or [], channels or ["0-15"]) + (targets or [])
    photos = find_photos([gallery_options.photos]) if gallery_options.photos else []
    model = load_from(model_options)
    folder = Path(gallery_options.out)
    planned = plan(model, wanted, resolved(settings), folder, gallery_options.facets)
    missing = sum(len(planned.missing(unit)) for unit in planned.units)
    if gallery_options.dry_run:
        minutes = seconds_left(planned) / 60
        left = f", about {minutes:.0f} min" if minutes >= 1 else ", under a minute" if missing else ""
        print(f"{len(planned.units)} units, {missing} pictures missing{left}")
        return
    make_folder(folder)
    watcher = Watcher(f"{missing} pictures", gallery_options.quiet)
    failed: list[str] = []
    with watcher.watching():
        status = build(
            planned,
            photos=photos,
            title=gallery_options.title,
            watch=watcher,
            failed=lambda unit, why: failed.append(f"{unit.target}: {why}"),
        )
    for each in failed:
        say(f"featviz: {each}")
    if not gallery_options.quiet:
        print(folder / "index.html")
    if status != "complete":
        say("interrupted: the same command goes on from here")
        raise typer.Exit(130)
    if failed:
        raise FeatvizError(f"{len(failed)} of {missing} pictures could not be made")


def _channels(layers: list[str], channels: list[str]) -> list[str]:
    if len(channels) not in (1, len(layers) or 1):
        raise InvalidValue(f"--channels {' '.join(channels)}: one for all layers, or one for each --layer")
    each = channels * len(layers) if len(channels) == 1 else channels
    return [f"{layer}:{numbers}" for layer, numbers in zip(layers, each, strict=True)]
