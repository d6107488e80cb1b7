"""Gradients of a score with respect to the image in [0, 1]: plain, by backward rules, and averaged.

Every map is `(3, h, w)` and signed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any, TypeAlias

import numpy as np
import torch
from torch import Tensor

from featviz.attribution.batches import in_batches
from featviz.attribution.differentiate import Gradients, checked, image_gradients, scores_of
from featviz.errors import InvalidValue, nearest
from featviz.types import Attribution, Draws, Model, Objective


def gradient(model: Model, image: Tensor, objectives: Sequence[Objective]) -> list[Attribution]:
    """d score / d image (Simonyan et al. 2013)."""
    return _explained("gradient", model, image, objectives)


def input_x_gradient(model: Model, image: Tensor, objectives: Sequence[Objective]) -> list[Attribution]:
    """Image · d score / d image (Shrikumar et al. 2016); black counts as absence."""
    return _explained("input-x-gradient", model, image, objectives)


def deconvnet(model: Model, image: Tensor, objectives: Sequence[Objective]) -> list[Attribution]:
    """The gradient with R · [R > 0] at activations (Zeiler and Fergus 2014).

    Raises `NoActivations` where nothing was rewritten, `ModelError` for a compiled or scripted network.
    """
    return _explained("deconvnet", model, image, objectives)


def guided_backprop(model: Model, image: Tensor, objectives: Sequence[Objective]) -> list[Attribution]:
    """The gradient with R · f′ · [R > 0] · [f′ > 0] at activations (Springenberg et al. 2014).

    Raises `NoActivations` where nothing was rewritten, `ModelError` for a compiled or scripted network.
    """
    return _explained("guided-backprop", model, image, objectives)


def integrated_gradients(
    model: Model,
    image: Tensor,
    objectives: Sequence[Objective],
    *,
    steps: int = 50,
    baseline: str | Tensor = "black",
    batch: int = 16,
) -> list[Attribution]:
    """(x - x′) · mean of the gradient on the way from x′ to x (Sundararajan et al. 2017), by Gauss–Legendre.

    `baseline` x′ is black, grey, white, mean (the network's mean colour) or an image `(1, 3, h, w)`. The map
    should sum to s(x) - s(x′), the notes' `difference`; `completeness_error` is by how much it exceeds that.
    """
    image = checked(model, image, objectives)
    start = _baseline(model, image, baseline)
    found = _integrated(model, image, objectives, steps, start, batch)
    ends = scores_of(model, torch.cat([image, start]), objectives)  # (k, 2)
    named = baseline if isinstance(baseline, str) else "image"
    made = []
    for objective, values, (score, before) in zip(objectives, found.values, ends.tolist(), strict=True):
        notes = {"steps": steps, "baseline": named, "difference": score - before}
        notes["completeness_error"] = float(values.double().sum()) - (score - before)
        made.append(_attribution("integrated-gradients", objective, values[0], score, notes))
    return made


def smoothgrad(
    model: Model,
    image: Tensor,
    objectives: Sequence[Objective],
    *,
    of: str = "gradient",
    samples: int = 25,
    noise: float = 0.15,
    seed: int = 0,
    batch: int = 16,
) -> list[Attribution]:
    """The mean of a gradient method's maps over noisy copies of the image (Smilkov et al. 2017).

    The noise is gaussian with σ = `noise` · (max - min of the image); each copy draws from a stream of
    its own, so that the batch size changes nothing. `of` is any key of `GRADIENTS`.
    """
    if of not in GRADIENTS:
        raise InvalidValue(f"smoothgrad of {of!r}{nearest(of, GRADIENTS)}; one of {', '.join(GRADIENTS)}")
    if samples < 1 or noise < 0:
        raise InvalidValue(f"smoothgrad of {samples} samples with noise {noise:g}: at least 1, and 0 or more")
    image = checked(model, image, objectives)
    sigma = noise * float(image.max() - image.min())

    def summed(first: int, stop: int) -> Gradients:
        drawn = [Draws([seed], "smoothgrad", i).normal(*image.shape[1:]) for i in range(first, stop)]
        found = GRADIENTS[of](model, image + sigma * torch.cat(drawn).to(image), objectives)
        return replace(found, values=found.values.sum(1))

    total = torch.zeros(())
    calls = 0
    for part in in_batches(samples, batch, summed):
        total, calls = total.to(part.values) + part.values, part.calls
    notes = {
        "of": of,
        "samples": samples,
        "noise": noise,
        "sigma": sigma,
        "seed": seed,
        **_rewritten(of, calls),
    }
    scores = scores_of(model, image, objectives)[:, 0].tolist()
    return [
        _attribution("smoothgrad", objective, values / samples, score, notes)
        for objective, values, score in zip(objectives, total, scores, strict=True)
    ]


Batched: TypeAlias = Callable[[Model, Tensor, Sequence[Objective]], Gradients]
"""Model, images `(b, 3, h, w)` and k objectives -> scores `(k, b)` and maps `(k, b, 3, h, w)`."""

RULE_OF = {"deconvnet": "deconvnet", "guided-backprop": "guided"}
"""Method -> the backward rule that makes it."""


def _times_input(model: Model, images: Tensor, objectives: Sequence[Objective]) -> Gradients:
    found = image_gradients(model, images, objectives)
    return replace(found, values=found.values * images)


def _integrated(
    model: Model,
    images: Tensor,
    objectives: Sequence[Objective],
    steps: int = 50,
    start: Tensor | None = None,
    batch: int = 16,
) -> Gradients:
    """Integrated gradients of each image, from `start` `(1, 3, h, w)`, or from black."""
    if steps < 1:
        raise InvalidValue(f"integrated gradients in {steps} steps: at least 1")
    start = torch.zeros_like(images[:1]) if start is None else start
    nodes, weights = np.polynomial.legendre.leggauss(steps)  # on [-1, 1]
    at = torch.from_numpy(nodes / 2 + 0.5).to(images).view(-1, 1, 1, 1)
    share = torch.from_numpy(weights / 2).to(images).view(1, -1, 1, 1, 1)
    maps = []
    for image in torch.split(images, 1):

        def part(first: int, stop: int, image: Tensor = image) -> Tensor:
            way = start + at[first:stop] * (image - start)
            values = image_gradients(model, way, objectives).values
            return (values * share[:, first:stop]).sum(1, keepdim=True)

        maps.append(sum(in_batches(steps, batch, part)) * (image - start))
    return Gradients(scores_of(model, images, objectives), torch.cat(maps, 1), images)


GRADIENTS: Mapping[str, Batched] = {
    "gradient": image_gradients,
    "input-x-gradient": _times_input,
    "deconvnet": partial(image_gradients, rule="deconvnet"),
    "guided-backprop": partial(image_gradients, rule="guided"),
    "integrated-gradients": _integrated,
}
"""The gradient methods over batches of images, by the names of `METHODS`."""

BASELINES: Mapping[str, Callable[[Model], tuple[float, ...]]] = {
    "black": lambda model: (0.0,),
    "grey": lambda model: (0.5,),
    "white": lambda model: (1.0,),
    "mean": lambda model: model.mean,
}
"""Name -> the colour that integrated gradients start from."""


def _baseline(model: Model, image: Tensor, baseline: str | Tensor) -> Tensor:
    if isinstance(baseline, Tensor):
        if baseline.shape != image.shape:
            raise InvalidValue(f"a baseline {tuple(baseline.shape)} for an image {tuple(image.shape)}")
        return baseline.to(image)
    if baseline not in BASELINES:
        choices = ", ".join(BASELINES)
        raise InvalidValue(f"baseline {baseline!r}{nearest(baseline, BASELINES)}; one of {choices}")
    return torch.tensor(BASELINES[baseline](model)).to(image).view(1, -1, 1, 1).expand_as(image)


def _explained(
    method: str, model: Model, image: Tensor, objectives: Sequence[Objective]
) -> list[Attribution]:
    found = GRADIENTS[method](model, checked(model, image, objectives), objectives)
    return [
        _attribution(method, objective, values[0], score, _rewritten(method, found.calls))
        for objective, values, score in zip(
            objectives, found.values, found.scores[:, 0].tolist(), strict=True
        )
    ]


def _rewritten(method: str, calls: int) -> dict[str, Any]:
    return {"rule": RULE_OF[method], "rewritten_calls": calls} if method in RULE_OF else {}


def _attribution(
    method: str, objective: Objective, raw: Tensor, score: float, notes: Mapping[str, Any]
) -> Attribution:
    size = (raw.shape[1], raw.shape[2])
    return Attribution(method, objective.name, raw.detach().cpu(), size, score, notes=notes)
