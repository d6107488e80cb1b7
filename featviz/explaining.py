"""From methods, a photo and targets to explanations: sizes, layers, percentiles, probabilities, checks."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from featviz.attribution import METHODS
from featviz.attribution.sweeps import Sweep
from featviz.checking import checked
from featviz.errors import InvalidValue, MethodNotFound, NotApplicable
from featviz.explain_settings import CHECKED, DISPLAY, METHOD_SETTINGS, ExplainSettings
from featviz.layers import activations, fits, frozen
from featviz.output.display import Display
from featviz.output.explanations import Explanation, Explanations
from featviz.sizes import resize, shortened
from featviz.targets import class_number, objective_of
from featviz.types import OUTPUT, Attribution, Model, Objective

WITHOUT_TARGET = ("eigen-cam",)
"""Methods whose map is the same for every target, so that a margin has no meaning."""


def explain(
    model: Model,
    photo: Tensor,
    command: str,
    targets: Sequence[str | Objective],
    settings: ExplainSettings,
    recipe: Mapping[str, Any] | None = None,
    sweep: Sweep | None = None,
) -> Explanations:
    """Every target's map on a photo `(1, 3, h, w)`, for each method, layer and percentile asked for.

    `command` is a method, or all or check for several. The network sees the photo at its input size; the
    maps come in that size. With several targets there is also the first's lead over the second.
    """
    image = fitted_to(model, photo.to(model.device), settings.size)
    objectives = [objective_of(model, target) for target in targets]
    found: list[Attribution] = []
    missing: dict[str, str] = {}
    seconds: dict[str, float] = {}
    for method, own in methods_of(command, settings).items():
        start = time.perf_counter()
        try:
            found += _maps(model, image, method, objectives, own, sweep)
        except NotApplicable as reason:
            if method == command:
                raise
            missing[method] = str(reason)
        seconds[method] = time.perf_counter() - start
    if all(objective.layers == (OUTPUT,) for objective in objectives):
        found = _with_probabilities(model, image, objectives, found)
    return _shown(image, found, settings, recipe or {}, missing, seconds)


def methods_of(command: str, settings: ExplainSettings) -> dict[str, ExplainSettings]:
    """Method -> its settings; of all and check each method takes what it has of theirs."""
    if command in METHOD_SETTINGS:
        return {command: settings}
    values = settings.plain()
    named = [name.strip() for name in values["method"].split(",") if name.strip()]
    chosen = named or (list(CHECKED) if command == "check" else list(METHOD_SETTINGS))
    for name in chosen:
        if name not in METHOD_SETTINGS:
            raise MethodNotFound(name, METHOD_SETTINGS)
    made = {}
    for name in chosen:
        own = {setting.name for setting in fields(METHOD_SETTINGS[name])}
        made[name] = METHOD_SETTINGS[name](**{key: value for key, value in values.items() if key in own})
    return made


def _maps(
    model: Model,
    image: Tensor,
    method: str,
    objectives: Sequence[Objective],
    settings: ExplainSettings,
    sweep: Sweep | None,
) -> list[Attribution]:
    """One method's maps, target by target within each layer and percentile, the margin last."""
    ready = {"sweep": sweep} if method == "occlusion" and sweep is not None else {}
    found: list[Attribution] = []
    for values in _variants(settings):
        made = METHODS[method](model, image, objectives, **values, **ready)
        if settings.check:
            again = partial(METHODS[method], image=image, objectives=objectives, **values)
            made = checked(model, image, objectives, made, again, settings.sign)
        found += made
        if settings.margin and len(made) > 1 and method not in WITHOUT_TARGET:
            found.append(_margin(made[0], made[1], (objectives[0] - objectives[1]).name))
    return found


def _margin(first: Attribution, second: Attribution, name: str) -> Attribution:
    """The first map less the second: where the network sees the first target rather than the second.

    Of methods that are linear in the score it is the explanation of the lead itself.
    """
    notes = {key: first.notes[key] for key in ("percentile",) if key in first.notes}
    lead = first.score - second.score
    raw = first.raw - second.raw
    return replace(first, target=name, raw=raw, score=lead, notes={**notes, "margin": True})


def _shown(
    image: Tensor,
    found: Sequence[Attribution],
    settings: ExplainSettings,
    recipe: Mapping[str, Any],
    missing: Mapping[str, str],
    seconds: Mapping[str, float],
) -> Explanations:
    names = [setting.name for setting in fields(Display)]
    display = Display(**{name: value for name, value in settings.plain().items() if name in names})
    shown = image.detach().cpu()
    maps = tuple(Explanation.of(each, shown, recipe, display) for each in found)
    return Explanations(maps, settings.norm, missing, seconds)


def top_classes(model: Model, photo: Tensor, count: int, size: int | None = None) -> list[str]:
    """The targets of the classes that the network holds most likely, the first first."""
    logits = class_logits(model, fitted_to(model, photo.to(model.device), size))
    return [f"class:{index}" for index in logits.topk(min(count, len(logits))).indices.tolist()]


def class_logits(model: Model, image: Tensor) -> Tensor:
    """The network's output for one image as a vector; of a map of classes, the mean over positions."""
    with torch.no_grad(), frozen(model.net):
        output = activations(model, image, [OUTPUT])[OUTPUT][0].cpu()
    return output.flatten(1).mean(1) if output.dim() > 1 else output


def fitted_to(model: Model, photo: Tensor, shorter: int | None = None) -> Tensor:
    """The photo with its shorter side at the network's input size, in its own proportions.

    A network that takes but one size (most transformers) gets the photo squeezed to it.
    """
    size = shortened((photo.shape[2], photo.shape[3]), shorter or min(model.input_size))
    return resize(photo, size if fits(model, [OUTPUT], size) else model.input_size)


def windows_of(text: str) -> list[int] | None:
    """The sides of occlusion's windows; None for auto."""
    return None if text == "auto" else [int(each) for each in _numbers("window", text)]


def _variants(settings: ExplainSettings) -> list[dict[str, Any]]:
    """The method's own settings, once for each layer and percentile; lists of numbers read."""
    values = {name: value for name, value in settings.plain().items() if name not in DISPLAY}
    if "window" in values:
        values["windows"] = windows_of(values.pop("window"))
    variants = [values]
    if "layer" in values:
        variants = [{**v, "layer": name.strip()} for v in variants for name in values["layer"].split(",")]
    if "percentile" in values:
        numbers = _numbers("percentile", values["percentile"])
        variants = [{**v, "percentile": number} for v in variants for number in numbers]
    return variants


def _numbers(name: str, text: str) -> list[float]:
    try:
        return [float(part) for part in text.split(",")]
    except ValueError:
        raise InvalidValue(f"{name} {text!r}: numbers with commas between") from None


def _with_probabilities(
    model: Model, image: Tensor, objectives: Sequence[Objective], found: Sequence[Attribution]
) -> list[Attribution]:
    """The same maps with the softmax probability in their notes where the target is one class."""
    chances = class_logits(model, image).double().softmax(0)
    notes = {}
    for objective in objectives:
        number = class_number(objective, len(chances))
        if number is not None:
            notes[objective.name] = {"probability": float(chances[number])}
    return [replace(each, notes={**each.notes, **notes.get(each.target, {})}) for each in found]
