"""RISE: the mean of random masks, weighted by the score that each leaves (Petsiuk et al. 2018)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.attribution.probes import numbers_of
from featviz.attribution.scores import SCORES, check_score, read
from featviz.attribution.sweeps import size_of
from featviz.engines import out_of_memory
from featviz.errors import InvalidValue
from featviz.types import Attribution, Model, Objective, derive_seed


def rise(
    model: Model,
    image: Tensor,
    objectives: Sequence[Objective],
    *,
    masks: int = 1000,
    cells: int = 7,
    keep: float = 0.5,
    score: str = "prob",
    seed: int = 0,
    batch: int | None = None,
) -> list[Attribution]:
    """One map `(h, w)` an objective: S = 1/(n·keep) Σ s(x ⊙ m + μ ⊙ (1 − m)) · m over n masks m.

    A mask is a grid of `cells` by `cells`, each 1 with probability `keep`, made larger bilinearly and cut
    out at a random shift. Hidden is the network's own mean colour μ, which is 0 to it. s is a class's
    probability, as in the paper, or another `score`; objectives that are no class are taken as they are.
    All are read from the same forwards. Raises `InvalidValue`, `UnknownName`.
    """
    size = size_of(image)
    _check(masks, cells, keep, score, batch)
    image = image.to(model.device)
    measure = numbers_of(model, objectives)
    draw = _Masks(masks, cells, keep, seed, size)
    total = torch.zeros(len(objectives), *size, dtype=torch.float64)
    at, limit = 0, batch or (8 if image.device.type == "cpu" else 64)
    while at < masks:
        try:
            mask = draw(at, min(at + limit, masks))
            numbers = measure(_hidden(model, image, mask.to(image)))
        except RuntimeError as error:
            if not out_of_memory(error) or limit == 1:
                raise
            limit //= 2
            continue
        total += torch.einsum("bk,bhw->khw", read(objectives, score, numbers), mask[:, 0].double())
        at += len(mask)
    maps = (total / (masks * keep)).float()
    before = measure(image)
    values = zip(read(objectives, "logit", before)[0], read(objectives, score, before)[0], strict=True)
    notes = {
        "masks": masks,
        "cells": cells,
        "keep": keep,
        "scored": score,
        "seed": seed,
        "forwards": masks + 1,
    }
    return [
        Attribution("rise", o.name, made, size, float(own), notes={**notes, "value": float(value)})
        for o, made, (own, value) in zip(objectives, maps, values, strict=True)
    ]


def _check(masks: int, cells: int, keep: float, score: str, batch: int | None) -> None:
    check_score(score, [name for name in SCORES if name != "inverse"])
    for name, number in (("masks", masks), ("cells", cells), ("batch", batch)):
        if number is not None and number < 1:
            raise InvalidValue(f"{name} {number}: at least 1")
    if not 0 < keep < 1:
        raise InvalidValue(f"keep {keep:g}: more than 0 and less than 1")


def _hidden(model: Model, image: Tensor, mask: Tensor) -> Tensor:
    mean = torch.tensor(model.mean).to(image).view(1, -1, 1, 1)
    return image * mask + mean * (1 - mask)


class _Masks:
    """Masks by number, `(b, 1, h, w)`: a mask is the same whatever batch it comes in."""

    def __init__(self, masks: int, cells: int, keep: float, seed: int, size: tuple[int, int]) -> None:
        generator = torch.Generator().manual_seed(derive_seed(seed, "rise"))
        self.size = size
        self.cell = tuple(-(-side // cells) for side in size)
        self.larger = tuple((cells + 1) * side for side in self.cell)
        self.grids = (torch.rand(masks, 1, cells, cells, generator=generator) < keep).float()
        self.shifts = [torch.randint(0, side, (masks,), generator=generator) for side in self.cell]

    def __call__(self, first: int, last: int) -> Tensor:
        grids = F.interpolate(self.grids[first:last], self.larger, mode="bilinear", align_corners=False)
        rows, cols = (shift[first:last].tolist() for shift in self.shifts)
        height, width = self.size
        cut = [g[:, r : r + height, c : c + width] for g, r, c in zip(grids, rows, cols, strict=True)]
        return torch.stack(cut)
