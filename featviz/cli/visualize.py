"""featviz class, featviz channel, featviz neuron, featviz presets, featviz spectrum."""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featviz.cli.loading import load_from
from featviz.cli.making import is_film, make, place_outputs, slug
from featviz.cli.options import ModelOptions, OutputOptions, with_options
from featviz.cli.progress import say
from featviz.errors import InvalidValue
from featviz.presets import ALL, DEFAULT, PRESETS, resolved
from featviz.render_settings import RenderSettings
from featviz.settings import Settings, option

if TYPE_CHECKING:
    from collections.abc import Sequence

    from torch import Tensor

    from featviz.runs import Made
    from featviz.types import Model


@dataclass(frozen=True)
class UnitOptions(Settings):
    """What else decides which units are shown, and what they are held against."""

    photo: str | None = option(None, "photo for --auto", panel="Units")
    auto: int | None = option(None, "the units that the --photo excites most", at_least=1, panel="Units")
    interpolate: int | None = option(
        None, "so many steps from one unit to the next, from the same noise", at_least=2, panel="Units"
    )
    photos: str | None = option(
        None,
        "folder of photos: a picture that excites its unit less than the best of them is flagged",
        panel="Units",
    )


@with_options(output=OutputOptions, units=UnitOptions, settings=RenderSettings, model_options=ModelOptions)
def class_(
    classes: Annotated[
        list[str] | None, typer.Argument(metavar="CLASS...", help="numbers or names, or all")
    ] = None,
    *,
    output: OutputOptions,
    units: UnitOptions,
    settings: RenderSettings,
    model_options: ModelOptions,
) -> None:
    """Visualize class neurons: what a network would most like to see, made from noise.

    featviz class tabby 130 "tiger cat" --out classes.png
    """
    targets = [class_target(each) for each in classes or []]
    visualize(targets, "class", output, units, settings, model_options)


def class_target(text: str) -> str:
    """The target of a class by its number or name; `class:all` for all."""
    return f"class:{text}" if text == "all" or text.isdigit() else f'class:"{text}"'


@with_options(output=OutputOptions, units=UnitOptions, settings=RenderSettings, model_options=ModelOptions)
def channel(
    targets: Annotated[
        list[str] | None,
        typer.Argument(metavar="LAYER:CHANNELS...", help="layer3:97, layer3:0-15, layer3:0,7,9-12"),
    ] = None,
    *,
    layer: Annotated[str | None, typer.Option(help="the layer for --auto", rich_help_panel="Units")] = None,
    output: OutputOptions,
    units: UnitOptions,
    settings: RenderSettings,
    model_options: ModelOptions,
) -> None:
    """Visualize channels of a layer from noise.

    featviz channel layer3:0-15 --out channels.png
    """
    for target in targets or []:
        if ":" not in target:
            raise InvalidValue(f"{target!r} names no channel: {target}:0-15, for instance")
    visualize(targets or [], layer or "layer3", output, units, settings, model_options)


@with_options(output=OutputOptions, units=UnitOptions, settings=RenderSettings, model_options=ModelOptions)
def neuron(
    targets: Annotated[
        list[str], typer.Argument(metavar="LAYER:CHANNEL@ROW,COL...", help="layer3:97@7,7, layer3:97@middle")
    ],
    *,
    output: OutputOptions,
    units: UnitOptions,
    settings: RenderSettings,
    model_options: ModelOptions,
) -> None:
    """Visualize single neurons from noise.

    featviz neuron layer3:97@7,7
    """
    named = [target if "@" in target else f"{target}@middle" for target in targets]
    visualize(named, "", output, units, settings, model_options)


def presets(as_json: Annotated[bool, typer.Option("--json", help="as data")] = False) -> None:
    """List the presets of class, channel and neuron, with their sources.

    featviz presets
    """
    if as_json:
        told = {name: {"source": p.source, "about": p.about, **p.values} for name, p in PRESETS.items()}
        print(json.dumps(told))
        return
    for name, preset in PRESETS.items():
        mark = " (default)" if name == DEFAULT else ""
        values = ", ".join(f"{key} {value}" for key, value in preset.values.items())
        print(f"{name}{mark}: {preset.about}\n    {values}\n    {preset.source}")


@with_options(output=OutputOptions)
def spectrum(
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="photos, or folders of them")],
    *,
    output: OutputOptions,
) -> None:
    """Measure the mean spectrum of photos, for --preset maco --spectrum-from FILE.

    featviz spectrum gallery/photos --out natural.safetensors
    """
    from safetensors.torch import save_file

    from featviz.output import check_output, find_photos, read_photo
    from featviz.output.files import placed
    from featviz.params.spectrum import measure_spectrum

    place = check_output(Path(output.out or "spectrum.safetensors"), output.overwrite, [".safetensors"])
    found = find_photos(photos)
    measured = measure_spectrum(read_photo(each).image for each in found)
    with placed(place, output.overwrite) as file:
        save_file({"spectrum": measured.half().contiguous()}, file)
    if not output.quiet:
        print(place)


def visualize(
    targets: list[str],
    layer: str,
    output: OutputOptions,
    units: UnitOptions,
    settings: RenderSettings,
    model_options: ModelOptions,
) -> None:
    """Make every unit: to a file of its own, or for --out FILE all on one sheet."""
    from featviz.output import VIDEO_SUFFIXES, check_output
    from featviz.targets import BETWEEN_TARGETS, objective_of

    settings = resolved(settings)
    suffixes = VIDEO_SUFFIXES if is_film(settings) else None
    on_one = output.out is not None and Path(output.out).suffix != ""
    if on_one:
        check_output(Path(str(output.out)), output.overwrite, suffixes)
    model = load_from(model_options)
    wanted, settings = _wanted(model, targets, layer, units, settings)
    for unit in wanted:
        objective_of(model, unit)  # a bad one is refused before any is made
    against = _photos(units)
    if on_one:
        jobs = [(BETWEEN_TARGETS.join(wanted), Path(str(output.out)))]
    else:
        files = [Path(slug(f"{model.name} {unit}")) for unit in wanted]
        places = place_outputs(files, output, settings.preset or "", ".mp4" if suffixes else ".png")
        for place in places:
            check_output(place, output.overwrite, suffixes)
        jobs = list(zip(wanted, places, strict=True))
    run_jobs("render", model, jobs, settings, output, against=against)


def run_jobs(
    command: str,
    model: Model,
    jobs: Sequence[tuple[str, Path]],
    settings: RenderSettings,
    output: OutputOptions,
    inputs: Any = None,
    against: Sequence[Tensor] = (),
) -> None:
    """Make each target at its place, and tell what it reached."""
    from featviz.recipes import recipe_for
    from featviz.targets import BETWEEN_TARGETS

    for target, place in jobs:
        recipe = recipe_for(command, model, target, settings, inputs)
        made = make(recipe, place, output, model=model, inputs=inputs, against=against)
        names = [name for name in target.split(BETWEEN_TARGETS) for _ in _faces(settings)]
        names = list(PRESETS) if settings.preset == ALL else names
        _tell(names, made, output)


def _faces(settings: RenderSettings) -> range:
    return range(1 if settings.face else settings.diversity)


def _wanted(
    model: Model, targets: list[str], layer: str, units: UnitOptions, settings: RenderSettings
) -> tuple[list[str], RenderSettings]:
    """The units to make, and the settings to make them by."""
    from featviz.output import read_photo
    from featviz.units import between, excited, expand

    if units.auto:
        if units.photo is None or targets:
            raise InvalidValue(f"--auto {units.auto} picks the units itself, by a --photo and nothing else")
        return excited(model, read_photo(units.photo).image, layer, units.auto), settings
    if not targets:
        raise InvalidValue("no unit: name some, or let --auto N --photo FILE pick them")
    wanted = [unit for target in targets for unit in expand(model, target)]
    if units.interpolate:
        return between(wanted, units.interpolate), replace(settings, same_start=True)
    return wanted, settings


def _photos(units: UnitOptions) -> list[Tensor]:
    from featviz.output import find_photos, read_photo

    return [read_photo(each).image for each in find_photos([units.photos])] if units.photos else []


def _tell(names: list[str], made: Made, output: OutputOptions) -> None:
    """What each picture reached, on standard error; a dead one must not pass for a finding."""
    from featviz.cards import told

    for name, card in zip(names, made.recipe.get("cards", []), strict=False):
        if card["flag"] or not output.quiet:
            say(f"{name}: {told(card)}")
