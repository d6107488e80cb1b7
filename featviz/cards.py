"""The score card of a visualization: what it reached, so that a failed one is not taken for a finding."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from featviz.explaining import class_logits, fitted_to
from featviz.layers import fits, frozen, score
from featviz.params import gaussian_noise
from featviz.targets import class_number
from featviz.types import OUTPUT, Model, Objective, derive_seed

NOISES = 8
"""Pictures of noise that a unit must be told apart from."""

TOP = 5


def card(model: Model, objective: Objective, image: Tensor, seed: int = 0) -> dict[str, Any]:
    """What an image `(1, 3, h, w)` reaches, seen whole and unmoved, as plain data.

    `activation` of the objective, `noise` its mean over pictures of noise, `flag` "dead" where the unit
    answers no more than to the loudest of them. Of classes also `top`, the five that the network holds
    likeliest with their probabilities, and of one class its own `rank` from 1 and `probability`.
    """
    size = (image.shape[2], image.shape[3])
    if not fits(model, [*objective.layers, OUTPUT], size):
        image = fitted_to(model, image)
        size = (image.shape[2], image.shape[3])
    noise = gaussian_noise([derive_seed(seed, "card", n) for n in range(NOISES)], size).to(model.device)
    with frozen(model.net), torch.no_grad():
        measured = score(model, objective)
        reached, quiet = float(measured(image.to(model.device))), measured(noise)
    made: dict[str, Any] = {"activation": reached, "noise": float(quiet.mean())}
    made["flag"] = "dead" if reached <= float(quiet.max()) else ""
    return made | (_classes(model, objective, image) if objective.layers == (OUTPUT,) else {})


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
