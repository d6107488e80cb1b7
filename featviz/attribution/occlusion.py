"""Occlusion: how much a score drops when a window of the image is hidden (Zeiler and Fergus 2014)."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from featviz.attribution import sweeps
from featviz.attribution.coarse import coarse_to_fine as refined
from featviz.attribution.probes import Probe
from featviz.attribution.rise import rise
from featviz.attribution.scores import SCORES, beyond_outputs, check_score, read
from featviz.attribution.sliding import Corners
from featviz.attribution.sweeps import FILLS, Hidden, Sweep, sweep
from featviz.errors import InvalidValue, nearest
from featviz.types import Attribution, Model, Objective

__all__ = ["FILLS", "OVERLAPS", "SCORES", "Hidden", "Sweep", "occlusion", "rise", "sweep"]

OVERLAPS = ("auto", "mean", "sum")


class _Places(NamedTuple):
    """Where one size of window goes, and the outputs there if a sweep has them."""

    window: int
    stride: int
    positions: Corners
    outputs: Tensor | None = None


def occlusion(
    model: Model,
    image: Tensor,
    objectives: Sequence[Objective],
    *,
    windows: Sequence[int] | None = None,
    stride: int | None = None,
    fill: str = "noise",
    score: str = "logit",
    overlap: str = "auto",
    seed: int = 0,
    batch: int | None = None,
    sweep: Sweep | None = None,
    coarse_to_fine: bool = False,
) -> list[Attribution]:
    """One map `(h, w)` an objective, windows of all sizes in it: positive = hiding it lowers the score.

    A window adds the drop f(x) − f(x hidden) to the pixels that it hides, and a pixel's value is the
    mean over the windows on it, or with `overlap="sum"` their sum. `score="inverse"` adds 1/s, s the
    score with the window hidden; `overlap="auto"` is the sum there and the mean elsewhere. prob, logprob
    and margin are of classes only. A `sweep` made before answers for classes without a forward; stride, fill
    and seed are then its own, and `windows` chooses among its windows. `coarse_to_fine` interpolates what is
    not near a large value. Raises `InvalidValue`, `UnknownName`.
    """
    size = sweeps.size_of(image)
    _check(objectives, score, overlap, sweep, coarse_to_fine)
    if sweep is not None:
        sweep.check(model, image)
        sweep = sweep.only(windows) if windows is not None else sweep
        fill, seed = sweep.fill, sweep.seed
    if overlap == "auto":
        overlap = "sum" if score == "inverse" else "mean"
    places = _places(size, windows, stride, sweep)
    probe = _probe(model, image, objectives, sweeps.filling(image, fill, seed), batch, sweep)
    added, plain, value = _contribution(objectives, score, probe, sweep)
    maps, measured = _maps(size, places, added, overlap, coarse_to_fine)
    notes = {
        "windows": [p.window for p in places],
        "strides": [p.stride for p in places],
        **{"fill": fill, "seed": seed, "scored": score, "overlap": overlap},
        "forwards": probe.forwards if probe else 0,
    }
    if coarse_to_fine:
        notes |= {"approximate": True, "saved": 1 - measured / sum(len(p.positions) for p in places)}
    return [
        Attribution("occlusion", o.name, made, size, before, notes={**notes, "value": own})
        for o, made, before, own in zip(objectives, maps, plain.tolist(), value.tolist(), strict=True)
    ]


def _check(
    objectives: Sequence[Objective],
    score: str,
    overlap: str,
    sweep: Sweep | None,
    coarse: bool,
) -> None:
    check_score(score, list(SCORES))
    if overlap not in OVERLAPS:
        raise InvalidValue(f"overlap {overlap!r}{nearest(overlap, OVERLAPS)}; one of {', '.join(OVERLAPS)}")
    others = beyond_outputs(objectives)
    if others and score not in ("logit", "inverse"):
        raise InvalidValue(f"score {score} of {others[0].name}: only classes have one; take logit or inverse")
    if sweep is not None and coarse:
        raise InvalidValue("coarse to fine with a sweep: the sweep has every place already")


def _places(
    size: tuple[int, int], windows: Sequence[int] | None, stride: int | None, sweep: Sweep | None
) -> list[_Places]:
    if sweep is not None:
        return [_Places(h.window, h.stride, h.positions, h.outputs) for h in sweep.hidden]
    return [_Places(w, step, sweeps.grid(size, w, step)) for w, step in sweeps.steps(size, windows, stride)]


def _probe(
    model: Model,
    image: Tensor,
    objectives: Sequence[Objective],
    filled: Tensor,
    batch: int | None,
    sweep: Sweep | None,
) -> Probe | None:
    """What measures all that a sweep made before does not tell."""
    others = beyond_outputs(objectives)
    if sweep is not None and not others:
        return None
    outputs = sweep is None and len(others) < len(objectives)
    return Probe(model, image, filled, others, outputs, batch)


def _contribution(
    objectives: Sequence[Objective], score: str, probe: Probe | None, sweep: Sweep | None
) -> tuple[Callable[[Corners, Tensor | None], Tensor], Tensor, Tensor]:
    """What windows add to the map `(p, k)`, and of the image as it is the plain values and the scores."""

    def joined(measured: Tensor | None, outputs: Tensor | None) -> Tensor:
        return torch.cat([part for part in (measured, outputs) if part is not None], 1)

    before = joined(probe.baseline[None] if probe else None, sweep.outputs[None] if sweep else None)
    value = read(objectives, score, before)[0]

    def added(positions: Corners, outputs: Tensor | None = None) -> Tensor:
        hidden = read(objectives, score, joined(probe.measure(positions) if probe else None, outputs))
        return _inverse(hidden) if score == "inverse" else value - hidden

    return added, read(objectives, "logit", before)[0], value


def _inverse(scores: Tensor) -> Tensor:
    """1/s; it tells where a class is only while every s is positive."""
    if (scores <= 0).any():
        warnings.warn(
            f"the inverse of scores down to {float(scores.min()):.3g}: 1/s changes sign at 0, so the map "
            "misleads there; the score logit has no such limit",
            stacklevel=5,
        )
    return 1 / scores


def _maps(
    size: tuple[int, int],
    places: Sequence[_Places],
    added: Callable[[Corners, Tensor | None], Tensor],
    overlap: str,
    coarse: bool,
) -> tuple[Tensor, int]:
    """Maps `(k, h, w)` over windows of every size, and how many windows were measured."""
    total, count, measured = torch.zeros(()), torch.zeros(()), 0
    for one in places:
        if coarse:
            values, made = refined(lambda positions: added(positions, None), one.positions)
        else:
            values, made = added(one.positions, one.outputs), len(one.positions)
        measured += made
        total = total + spread(values.T, one.positions, size)
        count = count + spread(torch.ones(1, len(one.positions)), one.positions, size)
    return (total / count.clamp(min=1) if overlap == "mean" else total).float(), measured


def spread(values: Tensor, positions: Corners, size: tuple[int, int]) -> Tensor:
    """Values `(k, p)` added to all pixels of their rectangles `(p, 4)`: `(k, h, w)` in float64.

    Each rectangle is put down as four corners, which two running sums fill in.
    """
    row, col, rows, cols = torch.from_numpy(positions).long().T
    width = size[1] + 1
    corners = torch.zeros(len(values), (size[0] + 1) * width, dtype=torch.float64)
    ends = ((1, row, col), (-1, row + rows, col), (-1, row, col + cols), (1, row + rows, col + cols))
    for sign, r, c in ends:
        corners.index_add_(1, r * width + c, sign * values.double())
    return corners.view(-1, size[0] + 1, width).cumsum(1).cumsum(2)[:, :-1, :-1]
