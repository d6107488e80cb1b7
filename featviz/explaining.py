"""From a method, a photo and targets to explanations: sizes, layers, percentiles, probabilities."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from featviz.attribution import METHODS
from featviz.deepdream import resize
from featviz.errors import InvalidValue
from featviz.explain_settings import DISPLAY, ExplainSettings
from featviz.layers import activations, fits, frozen
from featviz.output.explanations import Display, Explanation, Explanations
from featviz.targets import objective_of
from featviz.types import OUTPUT, Attribution, Model, Objective


def explain(
    model: Model,
    photo: Tensor,
    method: str,
    targets: Sequence[str | Objective],
    settings: ExplainSettings,
    recipe: Mapping[str, Any] | None = None,
) -> Explanations:
    """Every target's map by one method on a photo `(1, 3, h, w)`, for each layer and percentile asked for.

    The network sees the photo at its input size; the maps come in that size.
    """
    image = fitted_to(model, photo.to(model.device), settings.size)
    objectives = [objective_of(model, target) for target in targets]
    found: list[Attribution] = []
    for values in _variants(settings):
        found += METHODS[method](model, image, objectives, **values)
    if all(objective.layers == (OUTPUT,) for objective in objectives):
        found = _with_probabilities(model, image, objectives, found)
    display = Display(settings.sign, settings.norm, settings.cmap, settings.alpha)
    shown = image.detach().cpu()
    return Explanations(tuple(Explanation.of(each, shown, recipe or {}, display) for each in found))


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
    side = shorter or min(model.input_size)
    h, w = photo.shape[2:]
    size = (round(h * side / min(h, w)), round(w * side / min(h, w)))
    return resize(photo, size if fits(model, [OUTPUT], size) else model.input_size)


def _variants(settings: ExplainSettings) -> list[dict[str, Any]]:
    """The method's own settings, once for each layer and percentile; lists of numbers read."""
    values = {name: value for name, value in settings.plain().items() if name not in DISPLAY}
    if "windows" in values:
        values["windows"] = [int(each) for each in _numbers("windows", values["windows"])]
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
    logits = class_logits(model, image)
    chances = logits.double().softmax(0)
    made = []
    for i, each in enumerate(found):
        # on one-hot outputs a class's objective is 1 at its own number and 0 elsewhere
        weights = objectives[i % len(objectives)].measure({OUTPUT: torch.eye(len(logits))}).double()
        one_class = bool(weights.max() == 1 and weights.abs().sum() == 1)
        notes = {"probability": float(chances @ weights)} if one_class else {}
        made.append(replace(each, notes={**each.notes, **notes}))
    return made
