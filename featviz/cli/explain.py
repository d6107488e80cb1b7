"""featviz explain METHOD, one subcommand a method."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from featviz.cli.dream import make, place_outputs
from featviz.cli.loading import load_from
from featviz.cli.options import ModelOptions, OutputOptions, with_options
from featviz.explain_settings import METHOD_SETTINGS, ExplainSettings

if TYPE_CHECKING:
    from featviz.output import Photo
    from featviz.types import Model

ABOUT = {
    "gradient": "d score / d image (Simonyan et al. 2013).",
    "input-x-gradient": "Image times gradient (Shrikumar et al. 2016).",
    "deconvnet": "The gradient with only positive parts passed back (Zeiler and Fergus 2014).",
    "guided-backprop": "The gradient through active units, positive parts only (Springenberg et al. 2014).",
    "integrated-gradients": "The gradient summed on the way from a baseline (Sundararajan et al. 2017).",
    "smoothgrad": "A gradient method averaged over noisy copies (Smilkov et al. 2017).",
    "cam": "Class activation map by the classifier's own weights (Zhou et al. 2016).",
    "grad-cam": "Class activation map weighted by the mean gradient (Selvaraju et al. 2017).",
    "percentile-cam": "Class activation map weighted by a percentile of the gradient.",
    "guided-cam": "Class activation map weighted by a percentile of the guided gradient.",
    "grad-cam++": "Grad-CAM with weighted positive gradients (Chattopadhay et al. 2018).",
    "layer-cam": "Class activation map with a gradient for each position (Jiang et al. 2021).",
    "score-cam": "Class activation map weighted by what each channel leaves of the score (Wang et al. 2020).",
    "eigen-cam": "First principal component of the activations (Muhammad and Yeasin 2020).",
    "guided-grad-cam": "Guided backpropagation times Grad-CAM (Selvaraju et al. 2017).",
    "occlusion": "The drop in score when windows hide parts (Zeiler and Fergus 2014).",
    "rise": "Random masks weighted by the score that they leave (Petsiuk et al. 2018).",
}
"""Method -> its line in the help."""

app = typer.Typer(
    help="Explain why a network decided as it did: one subcommand a method.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def command(method: str, settings_class: type[ExplainSettings]) -> Callable[..., None]:
    """The subcommand of one method."""

    def explain(
        photos: Annotated[list[str], typer.Argument(metavar="PHOTO...", help="photos, or folders of them")],
        class_: Annotated[
            list[str] | None, typer.Option("--class", "-c", help="class by number or name, may repeat")
        ] = None,
        target: Annotated[
            list[str] | None, typer.Option(help="any target instead: layer3:97, may repeat")
        ] = None,
        top: Annotated[int, typer.Option(min=1, help="without either: the so many likeliest classes")] = 1,
        *,
        output: OutputOptions,
        settings: ExplainSettings,
        model_options: ModelOptions,
    ) -> None:
        explain_photos(method, photos, wanted(class_, target), top, output, settings, model_options)

    made = with_options(output=OutputOptions, settings=settings_class, model_options=ModelOptions)(explain)
    made.__doc__ = f"{ABOUT[method]}\n\nfeatviz explain {method} photo.jpg --class tabby"
    return made


for _method, _settings in METHOD_SETTINGS.items():
    app.command(_method)(command(_method, _settings))


def wanted(classes: list[str] | None, targets: list[str] | None) -> list[str]:
    """The targets that --class and --target name, in that order."""
    return [f'class:"{name}"' for name in classes or []] + (targets or [])


def explain_photos(
    method: str,
    photos: list[str],
    targets: list[str],
    top: int,
    output: OutputOptions,
    settings: ExplainSettings,
    model_options: ModelOptions,
) -> None:
    """Explain each photo and save its figure, or its numbers by the suffix of --out."""
    from featviz.output import WRITERS, check_output, find_photos, read_photo
    from featviz.output.explanations import NUMBER_WRITERS

    files = find_photos(photos)
    places = place_outputs(files, output, method, ".png")
    for place in places:
        check_output(place, output.overwrite, [*WRITERS, *NUMBER_WRITERS])
    model = load_from(model_options)
    for file, place in zip(files, places, strict=True):
        _explain_one(model, method, read_photo(file), targets, top, place, output, settings)


def _explain_one(
    model: Model,
    method: str,
    photo: Photo,
    targets: list[str],
    top: int,
    place: Path,
    output: OutputOptions,
    settings: ExplainSettings,
) -> None:
    from featviz.explaining import top_classes
    from featviz.recipes import recipe_for
    from featviz.runs import BETWEEN_TARGETS

    chosen = targets or top_classes(model, photo.image, top, settings.size)
    inputs: dict[str, Any] = {"photo": photo}
    recipe = recipe_for(f"explain {method}", model, BETWEEN_TARGETS.join(chosen), settings, inputs)
    make(recipe, place, output, model=model, inputs=inputs)
