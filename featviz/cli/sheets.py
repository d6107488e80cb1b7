"""featviz activations, featviz kernels."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from featviz.cli.loading import load_from
from featviz.cli.making import each_photo, make, place_outputs, slug
from featviz.cli.options import ModelOptions, OutputOptions, with_options
from featviz.explain_settings import ActivationSettings, KernelSettings


@with_options(output=OutputOptions, settings=ActivationSettings, model_options=ModelOptions)
def activations(
    photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="photos, or folders of them")],
    *,
    output: OutputOptions,
    settings: ActivationSettings,
    model_options: ModelOptions,
) -> None:
    """Show what a layer's channels answer to a photo, with their numbers.

    featviz activations photo.jpg --layer layer1
    """
    from featviz.output import check_output, find_photos, read_photo
    from featviz.recipes import recipe_for

    files = find_photos(photos)
    places = place_outputs(files, output, "activations", ".png")
    for place in places:
        check_output(place, output.overwrite)
    model = load_from(model_options)

    def show(file: Path, place: Path) -> None:
        inputs = {"photo": read_photo(file)}
        recipe = recipe_for("activations", model, settings.layer, settings, inputs)
        make(recipe, place, output, model=model, inputs=inputs)

    each_photo(zip(files, places, strict=True), show)


@with_options(output=OutputOptions, settings=KernelSettings, model_options=ModelOptions)
def kernels(*, output: OutputOptions, settings: KernelSettings, model_options: ModelOptions) -> None:
    """Show the kernels of a network's first layer as colour pictures.

    featviz kernels --model resnet34
    """
    from featviz.output import check_output
    from featviz.recipes import recipe_for

    place = Path(output.out or f"{slug(model_options.model)}_kernels.png")
    check_output(place, output.overwrite)
    model = load_from(model_options)
    make(recipe_for("kernels", model, "", settings), place, output, model=model)
