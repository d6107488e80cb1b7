"""The score card of a visualization: what it reached, so that a failed one is not taken for a finding."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from featviz.explaining import class_logits, fitted_to
from featviz.ingredients import beside
from featviz.layers import activations, fits, frozen, score
from featviz.params import gaussian_noise
from featviz.targets import class_number
from featviz.transforms import compose
from featviz.types import OUTPUT, Draws, Model, Objective, Transform, derive_seed

NOISES = 8
"""Pictures of noise that a unit must be told apart from."""

TOP = 5


def card(
    model: Model,
    objective: Objective,
    image: Tensor,
    *,
    moved: Sequence[Transform] = (),
    compared: Tensor | None = None,
    best: float | None = None,
    seed: int = 0,
) -> dict[str, Any]:
    """What an image `(1, 3, h, w)` reaches, seen whole and unmoved, as plain data.

    `activation` of the objective, `augmented` its mean under the transforms it was made under, `noise` its
    mean over pictures of noise, `photos` what the best of some photos gives, where `best` is known. `flag`
    is "dead" where the unit answers no more than to the loudest noise, "below photos" where it answers less
    than to the best photo. Of classes also `top`, the five that the network holds likeliest with their
    probabilities, and of one class its own `rank` from 1 and `probability`. A comparison is measured beside
    the photo `compared`.
    """
    size = (image.shape[2], image.shape[3])
    if not fits(model, [*objective.layers, OUTPUT], size):
        image = fitted_to(model, image)
        size = (image.shape[2], image.shape[3])
    image = image.to(model.device)
    noise = gaussian_noise([derive_seed(seed, "card", n) for n in range(NOISES)], size).to(model.device)
    moves = list(moved) if compared is None else [beside(compared, moved)]
    still = [] if compared is None else [beside(compared, [])]
    with frozen(model.net), torch.no_grad():
        measured = score(model, objective)
        reached = float(measured(compose(still)(image, Draws([0]))))
        quiet = [float(measured(compose(still)(each[None], Draws([0])))) for each in noise]
        draws = Draws([derive_seed(seed, "card")])
        views = [measured(compose(moves)(image, draws)).mean() for _ in range(NOISES)] if moves else []
    made: dict[str, Any] = {"activation": reached, "noise": sum(quiet) / len(quiet)}
    if views:
        made["augmented"] = float(torch.stack(views).mean())
    if best is not None:
        made["photos"] = best
    made["flag"] = "dead" if reached <= max(quiet) else below(reached, best)
    return made | (_classes(model, objective, image) if objective.layers == (OUTPUT,) else {})


def below(reached: float, best: float | None) -> str:
    """The flag of a picture that excites its unit less than the best photo does; empty otherwise."""
    return "below photos" if best is not None and reached < best else ""


def best_of(model: Model, objectives: Sequence[Objective], photos: Sequence[Tensor]) -> list[float]:
    """The highest score that each objective reaches on any of the photos `(1, 3, h, w)`."""
    layers = list(dict.fromkeys(layer for objective in objectives for layer in objective.layers))
    best = [-math.inf] * len(objectives)
    with frozen(model.net), torch.no_grad():
        for photo in photos:
            found = activations(model, fitted_to(model, photo.to(model.device)), layers)
            scores = [float(objective.measure(found)) for objective in objectives]
            best = [max(pair) for pair in zip(best, scores, strict=True)]
    return best


def _classes(model: Model, objective: Objective, image: Tensor) -> dict[str, Any]:
    chances = class_logits(model, image.to(model.device)).double().softmax(0)
    best = chances.topk(min(TOP, len(chances))).indices.tolist()
    names = [model.labels[number] if model.labels else str(number) for number in best]
    made: dict[str, Any] = {
        "top": [[name, float(chances[number])] for name, number in zip(names, best, strict=True)]
    }
    own = class_number(objective, len(chances))
    if own is not None:
        made["rank"] = 1 + int((chances > chances[own]).sum())
        made["probability"] = float(chances[own])
    return made


def told(made: dict[str, Any]) -> str:
    """A card in a few words: `12.3 (noise 0.1), rank 1, p 0.98`."""
    words = f"{made['activation']:.3g} (noise {made['noise']:.3g})"
    if "rank" in made:
        words += f", rank {made['rank']}, p {made['probability']:.2g}"
    return words + (f", {made['flag']}" if made["flag"] else "")
