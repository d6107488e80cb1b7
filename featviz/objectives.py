"""What can be maximised: numbers read off the activations of a network's layers.

Every function returns an `Objective` whose `measure` gives one score per image `(b,)`. Maps
`(b, c, h, w)`, tokens `(b, n, d)` and vectors `(b, c)` are all taken.
"""

from __future__ import annotations

import re
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.errors import InvalidValue, PositionOutOfRange
from featviz.types import OUTPUT, Activations, Objective


def layer(address: str) -> Objective:
    """DeepDream: the mean square of everything a layer puts out (Mordvintsev et al. 2015)."""
    return Objective((address,), lambda acts: _positions(acts[address]).square().mean((1, 2)), address)


def channel(address: str, index: int) -> Objective:
    """The mean of one channel over its positions."""
    return Objective(
        (address,), lambda acts: _positions(acts[address])[:, index].mean(1), f"{address}:{index}"
    )


def neuron(address: str, index: int, position: tuple[int, int] | None = None) -> Objective:
    """One neuron of a channel, at (row, col); by default the one in the middle of the map.

    The middle of n rows is n // 2. Tokens are addressed by their number as (token, 0). Measuring
    raises `PositionOutOfRange` where the map of that image has no such position.
    """

    def measure(acts: Activations) -> Tensor:
        found = acts[address]
        if found.dim() != 4:
            found = _positions(found).unsqueeze(3)  # (b, c, n, 1)
        rows, columns = found.shape[2:]
        row, col = position or (rows // 2, columns // 2)
        if not (0 <= row < rows and 0 <= col < columns):
            raise PositionOutOfRange(address, (row, col), (rows, columns))
        return found[:, index, row, col]

    spot = f"@{position[0]},{position[1]}" if position else "@middle"
    return Objective((address,), measure, f"{address}:{index}{spot}", placed=position is not None)


def class_(index: int, label: str = "") -> Objective:
    """The logit of one class: the network's output before any softmax (Simonyan et al. 2013)."""
    return Objective(
        (OUTPUT,), lambda acts: _positions(acts[OUTPUT])[:, index].mean(1), _class_name(index, label)
    )


def _class_name(index: int, label: str) -> str:
    """The target that names a class: 'class:tabby', 'class:"tiger cat"', 'class:281'."""
    bare = re.fullmatch(r"[A-Za-z_][\w'.-]*", label)
    if label and not bare and '"' not in label:
        return f'class:"{label}"'
    return f"class:{label if bare else index}"


def direction(address: str, vector: Tensor, cosine_power: float = 0.0) -> Objective:
    """The mean over positions of v·a · max(.1, cos(v, a))^p for a direction v among the channels.

    `vector` is `(c,)`. p = 0 gives the plain dot product; a higher power asks for the direction
    rather than for mere length (Carter et al. 2019, Activation Atlas).
    """

    def measure(acts: Activations) -> Tensor:
        found = _positions(acts[address])  # (b, c, n)
        along = vector.to(found.device, found.dtype).view(1, -1, 1)
        dot = (found * along).sum(1)
        if cosine_power:
            length = found.norm(dim=1) * along.norm() + 1e-6
            dot = dot * (dot / length).clamp(min=0.1).pow(cosine_power)
        return dot.mean(1)

    if vector.dim() != 1:
        raise InvalidValue(f"a direction is a vector, not an array of shape {tuple(vector.shape)}")
    return Objective((address,), measure, f"{address}:direction")


def guide(address: str, features: Tensor) -> Objective:
    """Guided dream: each position is drawn to that position of a guide which it matches best.

    With activations a at n positions and guide features y at m positions, the score is
    1/n Σ_i max_j a_i·y_j (the guided dream of Mordvintsev et al. 2015). `features` is the guide's
    activation `(1, c, h, w)`.
    """
    matched = _positions(features)[0]  # (c, m)

    def measure(acts: Activations) -> Tensor:
        found = _positions(acts[address])  # (b, c, n)
        with torch.no_grad():
            best = torch.einsum("bcn,cm->bnm", found, matched.to(found)).argmax(2)  # (b, n)
        wanted = matched.to(found)[:, best].transpose(0, 1)  # (b, c, n)
        return (found * wanted).sum(1).mean(1)

    return Objective((address,), measure, f"{address} guided")


def diversity(address: str) -> Objective:
    """How unlike the images of a batch are: -mean_{j≠i} cos(G_i, G_j), G the Gram matrices of a layer.

    The one objective whose score depends on the whole batch, for several faces of one unit (Olah et al.
    2017, after lucid). An image alone has 0.
    """

    def measure(acts: Activations) -> Tensor:
        found = _positions(acts[address])  # (b, c, n)
        gram = F.normalize((found @ found.transpose(1, 2)).flatten(1), dim=1)
        alike = gram @ gram.T  # (b, b)
        others: Tensor = (alike.sum(1) - alike.diagonal()) / max(1, len(alike) - 1)
        return -others

    return Objective((address,), measure, f"diversity of {address}")


def caricature(address: str, cosine_power: float = 4.0) -> Objective:
    """The mean over positions of a·p · max(.1, cos(a, p))^power, p what a photo gives there (lucid).

    A comparison: it takes the activations of b pictures and, after them, of b photos `(2b, c, h, w)`.
    """

    def measure(acts: Activations) -> Tensor:
        own, photo = _positions(acts[address]).chunk(2)
        dot = (own * photo).sum(1)
        length = own.norm(dim=1) * photo.norm(dim=1) + 1e-6
        along: Tensor = dot * (dot / length).clamp(min=0.1).pow(cosine_power)
        return along.mean(1)

    return Objective((address,), measure, f"caricature of {address}")


def inversion(address: str) -> Objective:
    """-‖a - p‖² / ‖p‖²: as near to a photo's activation p as can be (Mahendran & Vedaldi 2015, eq. 1 and 2).

    A comparison, as `caricature`.
    """

    def measure(acts: Activations) -> Tensor:
        own, photo = acts[address].flatten(1).chunk(2)
        return -(own - photo).square().sum(1) / photo.square().sum(1).clamp(min=1e-12)

    return Objective((address,), measure, f"inversion of {address}")


def likeness(address: str) -> Objective:
    """-‖a - p‖ / ‖p‖: what keeps an accentuated photo itself (Hamblin et al. 2024).

    A comparison, as `caricature`.
    """

    def measure(acts: Activations) -> Tensor:
        own, photo = acts[address].flatten(1).chunk(2)
        away: Tensor = (own - photo).norm(dim=1) / photo.norm(dim=1).clamp(min=1e-6)
        return -away

    return Objective((address,), measure, f"likeness in {address}")


def accentuation(target: Objective, address: str, weight: float) -> Objective:
    """A target, less `weight` times how far the picture has gone from its photo at a layer; a comparison."""
    like = likeness(address)

    def measure(acts: Activations) -> Tensor:
        own = target.measure({layer: found.chunk(2)[0] for layer, found in acts.items()})
        return own + weight * like.measure(acts)

    layers = tuple(dict.fromkeys((*target.layers, address)))
    return Objective(layers, measure, f"{target.name} accentuated", target.placed)


def channel_means(activation: Tensor) -> Tensor:
    """The mean of every channel over its positions `(b, c)`, of maps, tokens and vectors alike."""
    return _positions(activation).mean(2)


def _positions(activation: Tensor) -> Tensor:
    """Maps, tokens and vectors alike as `(b, channels, positions)`."""
    if activation.dim() == 3:  # tokens (b, n, d)
        return activation.transpose(1, 2)
    return activation.flatten(2) if activation.dim() > 2 else activation.unsqueeze(2)


OBJECTIVES: dict[str, Callable[..., Objective]] = {
    "layer": layer,
    "channel": channel,
    "neuron": neuron,
    "class": class_,
    "direction": direction,
    "guide": guide,
}

COMPARISONS: dict[str, Callable[..., Objective]] = {
    "caricature": caricature,
    "inversion": inversion,
    "likeness": likeness,
}
"""Objectives that hold pictures against photos, which stand after them in the batch."""
