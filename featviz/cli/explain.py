"""featviz explain METHOD, one subcommand a method."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer

from featviz.cli.loading import load_from
from featviz.cli.making import each_photo, make, place_outputs
from featviz.cli.options import ModelOptions, OutputOptions, with_options
from featviz.cli.summary import Summary
from featviz.errors import InvalidValue
from featviz.explain_settings import EXPLAIN_SETTINGS, ExplainSettings
from featviz.settings import Settings, option

if TYPE_CHECKING:
    from featviz.attribution.sweeps import Sweep
    from featviz.output import Photo
    from featviz.output.explanations import Explanations
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
    "all": "Every method, or those that --method names, on one sheet.",
    "check": "Test maps: what deletion, insertion and randomised weights say of them.",
}
"""Subcommand -> its line in the help."""

app = typer.Typer(
    help="Explain why a network decided as it did: one subcommand a method.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@dataclass(frozen=True)
class ScoreOptions(Settings):
    """Occlusion's scores of every class, kept for other classes, scores and windows."""

    save_scores: str | None = option(None, "keep the scores of every class in this .npz", panel="Scores")
    scores: str | None = option(None, "scores kept before of this photo: no forward is made", panel="Scores")


@dataclass(frozen=True)
class NoScores(Settings):
    """Methods that keep none."""


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
        kept: ScoreOptions | NoScores,
    ) -> None:
        scores = kept if isinstance(kept, ScoreOptions) else ScoreOptions()
        asked = Asked(method, wanted(class_, target), top, output, settings, scores)
        explain_photos(asked, photos, model_options)

    made = with_options(
        output=OutputOptions,
        settings=settings_class,
        model_options=ModelOptions,
        kept=ScoreOptions if method == "occlusion" else NoScores,
    )(explain)
    made.__doc__ = f"{ABOUT[method]}\n\nfeatviz explain {method} photo.jpg --class tabby"
    return made


for _method, _settings in EXPLAIN_SETTINGS.items():
    app.command(_method)(command(_method, _settings))


def wanted(classes: list[str] | None, targets: list[str] | None) -> list[str]:
    """The targets that --class and --target name, in that order."""
    return [f'class:"{name}"' for name in classes or []] + (targets or [])


@dataclass(frozen=True)
class Asked:
    """One explain command as it was typed, but for its photos and its model."""

    command: str
    targets: list[str]
    top: int
    output: OutputOptions
    settings: ExplainSettings
    kept: ScoreOptions


def explain_photos(asked: Asked, photos: list[str], model_options: ModelOptions) -> None:
    """Explain each photo and save its figure, or its numbers by --out's suffix; of several, a summary."""
    from featviz.output import WRITERS, check_output, find_photos
    from featviz.output.explanations import NUMBER_WRITERS

    files = find_photos(photos)
    places = place_outputs(files, asked.output, asked.command, ".png")
    for place in places:
        check_output(place, asked.output.overwrite, [*WRITERS, *NUMBER_WRITERS])
    if len(files) > 1 and (asked.kept.save_scores or asked.kept.scores):
        raise InvalidValue(f"scores are of one photo, not of {len(files)}")
    if asked.kept.save_scores:
        check_output(Path(asked.kept.save_scores), asked.output.overwrite, [".npz"])
    summary = Summary(places[0].with_name(f"{asked.command}_summary.csv"), asked.output.overwrite)
    if len(files) > 1:
        summary.check()
    model = load_from(model_options)
    try:
        each_photo(
            zip(files, places, strict=True),
            lambda file, place: summary.watched(file, place, lambda: _explain_one(model, file, place, asked)),
        )
    finally:
        if len(files) > 1:
            summary.write()


def _explain_one(model: Model, file: Path, place: Path, asked: Asked) -> Explanations:
    from featviz.explaining import top_classes
    from featviz.output import read_photo
    from featviz.recipes import recipe_for
    from featviz.targets import BETWEEN_TARGETS

    photo = read_photo(file)
    ready: dict[str, Any] = {}
    settings = asked.settings
    if asked.kept.scores or asked.kept.save_scores:
        settings, ready["sweep"] = _swept(model, photo, asked)
    chosen = asked.targets or top_classes(model, photo.image, asked.top, settings.size)
    inputs: dict[str, Any] = {"photo": photo}
    recipe = recipe_for(f"explain {asked.command}", model, BETWEEN_TARGETS.join(chosen), settings, inputs)
    made = make(recipe, place, asked.output, model=model, inputs=inputs, **ready)
    return cast("Explanations", made)


def _swept(model: Model, photo: Photo, asked: Asked) -> tuple[Any, Sweep]:
    """The scores asked for, read or made and kept, and the settings that they were made with."""
    from featviz.attribution.sweeps import Sweep, sweep
    from featviz.explaining import fitted_to, windows_of
    from featviz.output.files import placed

    settings: Any = asked.settings
    windows = windows_of(settings.window)
    if asked.kept.scores:
        made = Sweep.load(asked.kept.scores)
    else:
        image = fitted_to(model, photo.image.to(model.device), settings.size)
        made = sweep(
            model, image, windows=windows, stride=settings.stride, fill=settings.fill, seed=settings.seed
        )
    if asked.kept.save_scores:
        with placed(Path(asked.kept.save_scores), asked.output.overwrite) as hidden:
            made.save(hidden)
    sides = windows or [one.window for one in made.hidden]
    strides = {one.stride for one in made.hidden}
    own = all(one.stride == max(1, one.window // 2) for one in made.hidden)
    told = replace(
        settings,
        window=",".join(map(str, sides)),
        stride=None if own else strides.pop() if len(strides) == 1 else settings.stride,
        fill=made.fill,
        seed=made.seed,
    )
    return told, made
