"""featviz class, featviz channel, featviz neuron, featviz presets."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from featviz.cli.loading import load_from
from featviz.cli.making import make, place_outputs, slug
from featviz.cli.options import ModelOptions, OutputOptions, with_options
from featviz.cli.progress import say
from featviz.errors import InvalidValue
from featviz.presets import DEFAULT, PRESETS, resolved
from featviz.settings import RenderSettings

if TYPE_CHECKING:
    from featviz.runs import Made


@with_options(output=OutputOptions, settings=RenderSettings, model_options=ModelOptions)
def class_(
    classes: Annotated[list[str], typer.Argument(metavar="CLASS...", help="numbers or names, or all")],
    *,
    output: OutputOptions,
    settings: RenderSettings,
    model_options: ModelOptions,
) -> None:
    """Visualize class neurons: what a network would most like to see, made from noise.

    featviz class tabby 130 "tiger cat" --out classes.png
    """
    targets = [f"class:{each}" if each == "all" or each.isdigit() else f'class:"{each}"' for each in classes]
    visualize(targets, output, settings, model_options)


@with_options(output=OutputOptions, settings=RenderSettings, model_options=ModelOptions)
def channel(
    units: Annotated[
        list[str], typer.Argument(metavar="LAYER:CHANNELS...", help="layer3:97, layer3:0-15, layer3:0,7,9-12")
    ],
    *,
    output: OutputOptions,
    settings: RenderSettings,
    model_options: ModelOptions,
) -> None:
    """Visualize channels of a layer from noise.

    featviz channel layer3:0-15 --out channels.png
    """
    for unit in units:
        if ":" not in unit:
            raise InvalidValue(f"{unit!r} names no channel: {unit}:0-15, for instance")
    visualize(units, output, settings, model_options)


@with_options(output=OutputOptions, settings=RenderSettings, model_options=ModelOptions)
def neuron(
    units: Annotated[
        list[str], typer.Argument(metavar="LAYER:CHANNEL@ROW,COL...", help="layer3:97@7,7, layer3:97@middle")
    ],
    *,
    output: OutputOptions,
    settings: RenderSettings,
    model_options: ModelOptions,
) -> None:
    """Visualize single neurons from noise.

    featviz neuron layer3:97@7,7
    """
    targets = [unit if "@" in unit else f"{unit}@middle" for unit in units]
    visualize(targets, output, settings, model_options)


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


def visualize(
    targets: list[str], output: OutputOptions, settings: RenderSettings, model_options: ModelOptions
) -> None:
    """Make every unit: to a file of its own, or for --out FILE all on one sheet."""
    from featviz.output import check_output
    from featviz.recipes import recipe_for
    from featviz.runs import BETWEEN_TARGETS
    from featviz.targets import objective_of
    from featviz.units import expand

    settings = resolved(settings)
    if output.out is not None and Path(output.out).suffix:
        check_output(Path(output.out), output.overwrite)
    model = load_from(model_options)
    units = [unit for target in targets for unit in expand(model, target)]
    for unit in units:
        objective_of(model, unit)  # a bad one is refused before any is made
    if output.out is not None and Path(output.out).suffix:
        joined = recipe_for("render", model, BETWEEN_TARGETS.join(units), settings)
        _tell(units, make(joined, Path(output.out), output, model=model), output)
        return
    files = [Path(slug(f"{model.name} {unit}")) for unit in units]
    places = place_outputs(files, output, settings.preset or "", ".png")
    for place in places:
        check_output(place, output.overwrite)
    for unit, place in zip(units, places, strict=True):
        made = make(recipe_for("render", model, unit, settings), place, output, model=model)
        _tell([unit], made, output)


def _tell(units: list[str], made: Made, output: OutputOptions) -> None:
    """What each unit reached, on standard error; a dead one must not pass for a finding."""
    from featviz.cards import told

    for unit, card in zip(units, made.recipe["cards"], strict=False):
        if card["flag"] or not output.quiet:
            say(f"{unit}: {told(card)}")
