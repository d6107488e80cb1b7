"""Class activation maps: the channels of a layer, weighed by what they mean to a score.

Each method is one function of the layer's output A `(c, h, w)` and the score's gradient G to it, of the same
shape. The maps are signed and stand at the layer's own resolution.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeAlias

import torch
from torch import Tensor, nn

from featviz.attribution.batches import in_batches
from featviz.attribution.differentiate import (
    checked,
    image_gradients,
    layer_gradients,
    scores_of,
)
from featviz.attribution.pooled import class_weights, pooled_head
from featviz.attribution.positions import as_map, position_layer
from featviz.errors import InvalidValue
from featviz.layer_table import Layer
from featviz.layers import activations, frozen
from featviz.types import Attribution, Model, Objective


def cam(model: Model, image: Tensor, objectives: Sequence[Objective]) -> list[Attribution]:
    """Class activation maps by the classifier's own weights: Σ_k w_k A_k (Zhou et al. 2016).

    A is the map that the global average pooling takes, so that mean(CAM) + bias is the class's logit.
    Raises `NotApplicable` for a network that does not end so, and for targets other than classes.
    """
    image = checked(model, image, objectives)
    layer = position_layer(model)
    head = pooled_head(model, image)
    made = []
    for objective in objectives:
        classes = class_weights(head, objective)
        raw = torch.einsum("k,khw->hw", classes @ head.weight, head.map)
        score = float(classes @ head.logits)
        made.append(_attribution("cam", objective, raw, image, score, layer, bias=float(classes @ head.bias)))
    return made


def grad_cam(
    model: Model, image: Tensor, objectives: Sequence[Objective], *, layer: str = "auto"
) -> list[Attribution]:
    """Σ_k w_k A_k with w_k the mean of G_k over positions (Selvaraju et al. 2017), signed."""
    return _weighed("grad-cam", lambda a, g: _sum(g.mean((1, 2)), a), model, image, objectives, layer)


def percentile_cam(
    model: Model,
    image: Tensor,
    objectives: Sequence[Objective],
    *,
    layer: str = "auto",
    percentile: float = 50.0,
) -> list[Attribution]:
    """Σ_k w_k A_k with w_k the q-th percentile of G_k over positions, linear between two values."""
    weights = _by_percentile(percentile)

    def weigh(a: Tensor, g: Tensor) -> Tensor:
        return _sum(weights(g), a)

    return _weighed("percentile-cam", weigh, model, image, objectives, layer, percentile=percentile)


def guided_cam(
    model: Model,
    image: Tensor,
    objectives: Sequence[Objective],
    *,
    layer: str = "auto",
    percentile: float = 50.0,
) -> list[Attribution]:
    """`percentile_cam` with the gradient of guided backpropagation in place of G.

    The guided rule acts at every activation between the layer and the target, and at the layer's own output
    f as well: (f > 0) · (G > 0) · G.
    """
    weights = _by_percentile(percentile)

    def weigh(a: Tensor, g: Tensor) -> Tensor:
        return _sum(weights(g.clamp(min=0) * (a > 0)), a)

    return _weighed("guided-cam", weigh, model, image, objectives, layer, "guided", percentile=percentile)


def grad_cam_pp(
    model: Model, image: Tensor, objectives: Sequence[Objective], *, layer: str = "auto"
) -> list[Attribution]:
    """Σ_k w_k A_k with w_k = Σ α_k · max(G_k, 0), α = G² / (2 G² + ΣA_k · G³) (Chattopadhay et al. 2018)."""

    def weighed(a: Tensor, g: Tensor) -> Tensor:
        # 1e-6 keeps the quotient finite, as in pytorch-grad-cam
        below = 2 * g.square() + a.sum((1, 2), keepdim=True) * g.pow(3) + 1e-6
        alpha = torch.where(g != 0, g.square() / below, 0)
        return _sum((g.clamp(min=0) * alpha).sum((1, 2)), a)

    return _weighed("grad-cam++", weighed, model, image, objectives, layer)


def layer_cam(
    model: Model, image: Tensor, objectives: Sequence[Objective], *, layer: str = "auto"
) -> list[Attribution]:
    """Σ_k max(G_k, 0) · A_k, each position by its own gradient (Jiang et al. 2021)."""
    return _weighed("layer-cam", lambda a, g: (g.clamp(min=0) * a).sum(0), model, image, objectives, layer)


def eigen_cam(
    model: Model, image: Tensor, objectives: Sequence[Objective], *, layer: str = "auto"
) -> list[Attribution]:
    """The first principal component of A over its positions (Muhammad and Yeasin 2020).

    It knows of no class: the map is the same for every target. Its sign is free, and taken so that
    it goes with the mean of the channels.
    """
    image, at, a = _activation(model, image, objectives, layer)
    points = a.flatten(1).T  # (positions, c)
    points = points - points.mean(0)
    along = (points @ torch.linalg.svd(points, full_matrices=False).Vh[0]).view(a.shape[1:])
    along = along if (along * a.mean(0)).sum() >= 0 else -along
    scores = scores_of(model, image, objectives)[:, 0]
    return [
        _attribution("eigen-cam", objective, along, image, float(score), at)
        for objective, score in zip(objectives, scores, strict=True)
    ]


def score_cam(
    model: Model,
    image: Tensor,
    objectives: Sequence[Objective],
    *,
    layer: str = "auto",
    batch: int = 16,
) -> list[Attribution]:
    """Σ_k w_k A_k with w the softmax of the scores of the picture seen through each A_k (Wang et al. 2020).

    Each channel, stretched to [0, 1] and resized to the picture, is the mask by which the picture
    stands out from the network's mean colour. One sweep of c forwards serves all targets.
    """
    image, at, a = _activation(model, image, objectives, layer)
    low, high = a.amin((1, 2), keepdim=True), a.amax((1, 2), keepdim=True)
    masks = ((a - low) / (high - low + 1e-8))[:, None]
    mean = torch.tensor(model.mean, device=image.device, dtype=image.dtype).view(1, -1, 1, 1)

    def masked(start: int, stop: int) -> Tensor:
        mask = nn.functional.interpolate(masks[start:stop], image.shape[2:], mode="bilinear")
        return scores_of(model, mean + mask * (image - mean), objectives)

    sweep = torch.cat(list(in_batches(len(a), batch, masked)), 1)  # (k, c)
    scores = scores_of(model, image, objectives)
    return [
        _attribution("score-cam", objective, _sum(row.softmax(0), a), image, float(score), at)
        for objective, row, score in zip(objectives, sweep, scores, strict=True)
    ]


def guided_grad_cam(
    model: Model, image: Tensor, objectives: Sequence[Objective], *, layer: str = "auto"
) -> list[Attribution]:
    """Guided backpropagation times the positive part of Grad-CAM, resized to the picture: `(3, h, w)`."""
    coarse = grad_cam(model, image, objectives, layer=layer)
    image = checked(model, image, objectives)
    fine = image_gradients(model, image, objectives, "guided")
    notes = {"rule": "guided", "rewritten_calls": fine.calls}
    made = []
    for places, values in zip(coarse, fine.values, strict=True):
        shown = places.raw.to(values).clamp(min=0)[None, None]
        raw = values[0] * nn.functional.interpolate(shown, image.shape[2:], mode="bilinear")[0]
        made.append(replace(places, method="guided-grad-cam", raw=raw.cpu(), notes=notes))
    return made


def _activation(
    model: Model, image: Tensor, objectives: Sequence[Objective], name: str
) -> tuple[Tensor, Layer, Tensor]:
    """The checked image, the layer, and what it puts out as `(c, h, w)`, without gradients."""
    layer = position_layer(model, name)
    image = checked(model, image, objectives, layer.address)
    with torch.inference_mode(False), torch.no_grad(), frozen(model.net):
        found = activations(model, image, [layer.address])[layer.address]
    return image, layer, as_map(model, layer, found, (image.shape[2], image.shape[3]))[0]


Weigh: TypeAlias = Callable[[Tensor, Tensor], Tensor]
"""A layer's output A and a score's gradient G to it, both `(c, h, w)` -> the map `(h, w)`."""


def _weighed(
    method: str,
    weigh: Weigh,
    model: Model,
    image: Tensor,
    objectives: Sequence[Objective],
    name: str,
    rule: str = "plain",
    **notes: Any,
) -> list[Attribution]:
    layer = position_layer(model, name)
    image = checked(model, image, objectives, layer.address)
    found, size = layer_gradients(model, image, objectives, layer, rule), (image.shape[2], image.shape[3])
    if rule != "plain":
        notes |= {"rule": rule, "rewritten_calls": found.calls + 1}  # and the layer's own output
    a = as_map(model, layer, found.at, size)[0]
    made = []
    for objective, score, values in zip(objectives, found.scores, found.values, strict=True):
        g = as_map(model, layer, values, size)[0]
        if found.at.dim() == 3 and values.any() and not g.any():
            raise InvalidValue(
                f"after layer {layer.address} {objective.name} reads no patch, the class token alone; "
                f"take a layer before the last attention, as {position_layer(model).address}"
            )
        made.append(_attribution(method, objective, weigh(a, g), image, float(score), layer, **notes))
    return made


def _sum(weights: Tensor, a: Tensor) -> Tensor:
    """Σ_k w_k A_k."""
    return torch.einsum("k,khw->hw", weights, a)


_MOST_IN_QUANTILE = 1 << 24
"""torch.quantile refuses more numbers than that."""


def _by_percentile(percentile: float) -> Callable[[Tensor], Tensor]:
    """G `(c, h, w)` -> its q-th percentile over positions, `(c,)`."""
    if not 0 <= percentile <= 100:
        raise InvalidValue(f"percentile {percentile:g}: from 0 to 100")

    def weights(g: Tensor) -> Tensor:
        flat = g.flatten(1)
        parts = torch.split(flat, max(1, _MOST_IN_QUANTILE // flat.shape[1]))
        return torch.cat([torch.quantile(part, percentile / 100, dim=1) for part in parts])

    return weights


def _attribution(
    method: str, objective: Objective, raw: Tensor, image: Tensor, score: float, layer: Layer, **notes: Any
) -> Attribution:
    h, w = image.shape[2:]
    return Attribution(method, objective.name, raw.detach().cpu(), (h, w), score, layer.address, notes)
