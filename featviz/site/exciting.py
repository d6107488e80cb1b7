"""The photos that excite a unit most: each with where it answers, and the part that its maximum sees."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.explaining import fitted_to
from featviz.layers import activations, find_layer, frozen
from featviz.output.overlays import heatmap, overlay
from featviz.output.photos import read_photo
from featviz.output.pictures import write_picture
from featviz.site.plan import Plan, Unit
from featviz.sizes import resize, shortened
from featviz.targets import objective_of

SHOWN = 4
"""Photos shown for a unit."""

SMALL, LEAST = 224, 48  # pixels: a photo's shorter side on a page; the least part shown of one


@dataclass(frozen=True)
class Exciting:
    """One photo for one unit: the unit's score, and the files with its overlay and its part."""

    photo: str
    score: float
    overlay: str
    part: str


def exciting(plan: Plan, photos: Sequence[Path]) -> dict[str, list[Exciting]]:
    """By a unit's slug the photos that excite it most, strongest first; their pictures are written.

    A unit's score is its objective's, the mean over positions: what its visualization ascends.
    """
    scores = torch.stack([_scores(plan, photo) for photo in photos])  # (photos, units)
    count = min(SHOWN, len(photos))
    best = scores.topk(count, dim=0).indices  # (count, units)
    found: dict[str, list[Exciting]] = {}
    for number, photo in enumerate(photos):
        chosen = [
            (rank, unit)
            for k, unit in enumerate(plan.units)
            for rank in (best[:, k] == number).nonzero().flatten().tolist()
        ]
        if chosen:
            _show(plan, photo, chosen)
    for k, unit in enumerate(plan.units):
        found[unit.slug] = [
            Exciting(
                photos[int(n)].name,
                float(scores[n, k]),
                _file(unit, rank, "over"),
                "" if _whole(plan, unit) else _file(unit, rank, "part"),
            )
            for rank, n in enumerate(best[:, k])
        ]
    return found


@torch.no_grad()
def _scores(plan: Plan, photo: Path) -> Tensor:
    objectives = [objective_of(plan.model, unit.target) for unit in plan.units]
    layers = list(dict.fromkeys(layer for each in objectives for layer in each.layers))
    with frozen(plan.model.net):
        found = activations(plan.model, _image(plan, photo), layers)
        return torch.cat([each.measure(found).cpu() for each in objectives])


def _image(plan: Plan, photo: Path) -> Tensor:
    return fitted_to(plan.model, read_photo(photo).image.to(plan.model.device))


def _whole(plan: Plan, unit: Unit) -> bool:
    """Whether the unit has no position, so that it sees all of a photo."""
    return unit.number is None or unit.group == "classes" or not find_layer(plan.model, unit.group).spatial


def _file(unit: Unit, rank: int, kind: str) -> str:
    return f"photos/{unit.slug}-{rank + 1}-{kind}.webp"


@torch.no_grad()
def _show(plan: Plan, photo: Path, chosen: Sequence[tuple[int, Unit]]) -> None:
    """Write the overlays and the parts of one photo, from one forward."""
    image = _image(plan, photo)
    rows = {unit.group: find_layer(plan.model, unit.group) for _, unit in chosen if not _whole(plan, unit)}
    with frozen(plan.model.net):
        layers = [row.address for row in rows.values()]
        found = activations(plan.model, image, layers) if layers else {}
    for rank, unit in chosen:
        shown = image
        if unit.group in rows and unit.number is not None:
            row = rows[unit.group]
            grid = found[row.address][0, unit.number].float()
            shown = overlay(image, _colours(grid, image), 0.45)
            part = _part(image, grid, row.receptive_field or math.inf)
            _write(plan, part, _file(unit, rank, "part"))
        _write(plan, shown, _file(unit, rank, "over"))


def _colours(grid: Tensor, image: Tensor) -> Tensor:
    full = F.interpolate(grid[None, None], image.shape[2:], mode="bilinear", align_corners=False)[0, 0]
    high = float(full.max())
    if high <= 0:
        return torch.zeros_like(image)
    return heatmap(full.clamp(min=0).cpu(), "pos", 0.0, high).to(image.device)


def _part(image: Tensor, grid: Tensor, field: float) -> Tensor:
    """The square of the receptive field about the position that answers most, inside the image."""
    h, w = image.shape[2:]
    row, column = divmod(int(grid.argmax()), grid.shape[1])
    side = int(min(max(field, LEAST), h, w))
    middle = (row + 0.5) * h / grid.shape[0], (column + 0.5) * w / grid.shape[1]
    top, left = (
        int(min(max(at - side / 2, 0), length - side)) for at, length in zip(middle, (h, w), strict=True)
    )
    return image[..., top : top + side, left : left + side]


def _write(plan: Plan, image: Tensor, file: str) -> None:
    small = resize(image, shortened((image.shape[2], image.shape[3]), SMALL))
    write_picture(plan.folder / file, small.clamp(0, 1).cpu(), {}, overwrite=True, quality=80)
