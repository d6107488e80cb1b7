"""From an explanation's signed map to what is shown: scaling, colours, overlay, mask and box."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from featviz.errors import InvalidValue, nearest
from featviz.output.colour import colourise

SIGNS = ("both", "pos", "neg", "abs")
NORMS = ("minmax", "p99", "shared", "none")


class EmptyMap(UserWarning):
    """A map with nothing to show: all zero, constant, or not finite."""


def signed(values: Tensor, sign: str) -> Tensor:
    """The part of a map `(h, w)` that is asked for: both, pos, neg (as positive numbers) or abs."""
    if sign not in SIGNS:
        raise InvalidValue(f"sign {sign!r}{nearest(sign, SIGNS)}; one of {', '.join(SIGNS)}")
    parts = {"both": values, "pos": values.clamp(min=0), "neg": (-values).clamp(min=0), "abs": values.abs()}
    return parts[sign]


def limits(maps: Sequence[Tensor], sign: str, norm: str, together: bool = False) -> list[tuple[float, float]]:
    """What 0 and 1 stand for in each map (already `signed`): of its own, or of all together, as for shared.

    minmax and shared go from the least to the largest value, p99 to the 99th percentile; with sign both
    the range lies evenly about 0. none takes the values as they are, 0 to 1 or -1 to 1.
    """
    if norm not in NORMS:
        raise InvalidValue(f"norm {norm!r}{nearest(norm, NORMS)}; one of {', '.join(NORMS)}")
    if together or norm == "shared":
        return [_limits(torch.cat([each.flatten() for each in maps]), sign, norm)] * len(maps)
    return [_limits(each.flatten(), sign, norm) for each in maps]


def _limits(values: Tensor, sign: str, norm: str) -> tuple[float, float]:
    if norm == "none":
        return (-1.0 if sign == "both" else 0.0), 1.0
    values = values[torch.isfinite(values)]
    if not len(values):
        return 0.0, 0.0
    rank = max(1, round(len(values) * (0.99 if norm == "p99" else 1.0)))
    if sign == "both":
        reach = _ranked(values.abs(), rank)
        return -reach, reach
    return float(values.min()), _ranked(values, rank)


def _ranked(values: Tensor, rank: int) -> float:
    """The value of a rank; where that is the least one still, as in a map of few points, the largest."""
    found = values.kthvalue(rank).values
    return float(found if found > values.min() else values.max())


def scaled(values: Tensor, low: float, high: float, name: str = "the map") -> Tensor:
    """A map brought to [0, 1]; one with nothing to show becomes its zero, with an `EmptyMap` warning."""
    bad = ~torch.isfinite(values)
    if bool(bad.any()):
        warnings.warn(
            f"{name}: {int(bad.sum())} of {bad.numel()} values are not finite", EmptyMap, stacklevel=3
        )
        values = values.masked_fill(bad, 0.0)
    zero = min(max(-low / (high - low), 0.0), 1.0) if high > low else 0.0
    first = float(values.flatten()[0])
    if not high > low or bool((values == first).all()):
        why = "all zero" if first == 0 else f"constant at {first:g}"
        warnings.warn(f"{name} is {why}: nothing to show", EmptyMap, stacklevel=3)
        return torch.full_like(values, zero)
    return ((values - low) / (high - low)).clamp(0, 1)


def overlay(photo: Tensor, colours: Tensor, alpha: float = 0.5) -> Tensor:
    """A plain blend of colours `(1, 3, h, w)` over a photo of that size, itself in grey so that hues tell."""
    if not 0 <= alpha <= 1:
        raise InvalidValue(f"alpha {alpha}: from 0 to 1")
    grey = photo.mean(1, keepdim=True).expand_as(photo)
    return (1 - alpha) * grey + alpha * colours


def heatmap(
    values: Tensor, sign: str, low: float, high: float, cmap: str = "", name: str = "the map"
) -> Tensor:
    """A signed map `(h, w)` in colours `(1, 3, h, w)`; by default blue-red for both signs, else inferno."""
    chosen = cmap or ("blue-red" if sign == "both" else "inferno")
    if sign == "both" and low == high:
        low, high = -1.0, 1.0  # nothing to show, so the colour of 0 and not of the lowest value
    return colourise(scaled(values, low, high, name), chosen)


@dataclass(frozen=True)
class Region:
    """Where a map is strong: `mask` `(h, w)` of its largest connected part, and that part's box.

    `box` is (top, left, bottom, right), the last two exclusive; None where nothing is strong.
    """

    mask: Tensor
    box: tuple[int, int, int, int] | None


def region(values: Tensor, threshold: float = 0.5) -> Region:
    """The largest connected part (4 neighbours) of a map above `threshold` times its maximum."""
    if not 0 < threshold <= 1:
        raise InvalidValue(f"threshold {threshold}: more than 0, up to 1")
    peak = float(values.max())
    strong = values >= threshold * peak if peak > 0 else torch.zeros_like(values, dtype=torch.bool)
    mask = _largest_part(strong)
    if not bool(mask.any()):
        return Region(mask, None)
    rows, columns = mask.any(1).nonzero(), mask.any(0).nonzero()
    return Region(mask, (int(rows[0]), int(columns[0]), int(rows[-1]) + 1, int(columns[-1]) + 1))


def _largest_part(strong: Tensor) -> Tensor:
    """By spreading each pixel's number to its neighbours until nothing changes."""
    h, w = strong.shape
    numbers = torch.arange(1, h * w + 1, dtype=torch.float32).view(1, 1, h, w) * strong
    while True:
        across = torch.nn.functional.max_pool2d(numbers, (1, 3), 1, (0, 1))
        down = torch.nn.functional.max_pool2d(numbers, (3, 1), 1, (1, 0))
        spread = torch.maximum(across, down) * strong
        if torch.equal(spread, numbers):
            break
        numbers = spread
    found, counts = torch.unique(numbers[numbers > 0], return_counts=True)
    return (numbers[0, 0] == found[counts.argmax()]) if len(found) else strong
