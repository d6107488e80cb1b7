"""Whether a map shows what the score hangs on: deletion and insertion (Petsiuk et al. 2018)."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.attribution.batches import in_batches
from featviz.attribution.probes import numbers_of
from featviz.attribution.scores import read
from featviz.attribution.sweeps import FILLS
from featviz.types import OUTPUT, Draws, Model, Objective

BATCH = 8
"""Pictures at once; more are no faster on a CPU, and memory stays small."""


@dataclass(frozen=True)
class Curves:
    """Scores while pixels are taken away, and while they are put in; `shares` of the pixels, from 0 to 1."""

    shares: tuple[float, ...]
    deletion: tuple[float, ...]
    insertion: tuple[float, ...]

    @property
    def deletion_area(self) -> float:
        """The area under the deletion curve by trapezoids; small where the map finds what counts."""
        return _area(self.shares, self.deletion)

    @property
    def insertion_area(self) -> float:
        """The area under the insertion curve; large where the map finds what counts."""
        return _area(self.shares, self.insertion)


def _area(x: Sequence[float], y: Sequence[float]) -> float:
    points = list(zip(x, y, strict=True))
    return sum((b[0] - a[0]) * (a[1] + b[1]) / 2 for a, b in itertools.pairwise(points))


def curves(model: Model, image: Tensor, objective: Objective, importance: Tensor, steps: int = 16) -> Curves:
    """What becomes of the score as the most important pixels go, and as they come.

    `importance` `(h, w)` ranks the pixels, ties by position. Deletion puts the network's mean colour in
    their place; insertion starts from the blurred image. The score is the probability where the objective
    is of classes alone, itself otherwise.
    """
    image = image.to(model.device)
    order = importance.detach().flatten().cpu().sort(descending=True, stable=True).indices
    rank = torch.empty_like(order)
    rank[order] = torch.arange(len(order))
    rank = rank.view(importance.shape).to(image.device)
    shares = [i / steps for i in range(steps + 1)]
    mean = torch.tensor(model.mean).to(image).view(1, -1, 1, 1).expand_as(image)
    chosen = [rank < round(share * len(order)) for share in shares]
    gone = _scores(model, objective, [torch.where(part, mean, image) for part in chosen])
    blurred = FILLS["blur"](image, 0)
    come = _scores(model, objective, [torch.where(part, image, blurred) for part in chosen])
    return Curves(tuple(shares), tuple(gone), tuple(come))


def _scores(model: Model, objective: Objective, images: Sequence[Tensor]) -> list[float]:
    measure = numbers_of(model, [objective])
    score = "prob" if objective.layers == (OUTPUT,) else "logit"
    parts = in_batches(len(images), BATCH, lambda a, b: measure(torch.cat(list(images[a:b]))))
    return [float(each) for each in read([objective], score, torch.cat(list(parts)))[:, 0]]


def random_curves(
    model: Model,
    image: Tensor,
    objective: Objective,
    cells: tuple[int, int],
    *,
    maps: int = 8,
    steps: int = 16,
    seed: int = 0,
) -> list[Curves]:
    """The curves of random maps: noise on a grid of `cells`, made larger bilinearly.

    A map must be compared with chance of its own grain: scattered pixels spoil a picture sooner than
    patches do.
    """
    size = (image.shape[2], image.shape[3])
    found = []
    for number in range(maps):
        noise = Draws([seed], "random map", number).normal(1, *cells)
        values = noise if cells == size else F.interpolate(noise, size, mode="bilinear", align_corners=False)
        found.append(curves(model, image, objective, values[0, 0], steps))
    return found
