"""Testing an explanation's maps: what deletion, insertion and shuffled weights say of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import Tensor

from featviz.attribution.faithfulness import Curves, curves, random_curves
from featviz.attribution.randomisation import Stage, cascade
from featviz.attribution.verdicts import verdict
from featviz.output.display import Display
from featviz.output.overlays import signed
from featviz.types import Attribution, Model, Objective

PATCHES = (7, 7)
"""The grain of random maps beside one that is made of windows or masks."""


def checked(
    model: Model,
    image: Tensor,
    objectives: Sequence[Objective],
    made: Sequence[Attribution],
    again: Callable[[Model], Sequence[Attribution]],
    sign: str,
) -> list[Attribution]:
    """The same maps, with what the tests found in the notes' `check`.

    `again` makes the maps of another model; `sign` is the part of them that is shown, and tested.
    """
    stages = cascade(model, lambda other: [_importance(each, sign) for each in again(other)])
    told = []
    for each, objective, found in zip(made, objectives, stages, strict=True):
        own = curves(model, image, objective, _importance(each, sign))
        chance = random_curves(model, image, objective, _grain(each))
        said = verdict(each.method, own, chance, found, _incompleteness(each))
        told.append(replace(each, notes={**each.notes, "check": _plain(own, chance, found, said)}))
    return told


def _importance(each: Attribution, sign: str) -> Tensor:
    """What is shown of a map `(h, w)`; where that is its positive part, the rest still has its order."""
    shown = Display(sign=sign).of(each).sign
    values = each.map.float().cpu()
    return values if shown == "pos" else signed(values, shown)


def _grain(each: Attribution) -> tuple[int, int]:
    """Cells of random maps as fine as this one: pixels, or the positions of its layer."""
    fine = each.raw.dim() == 3 or each.layer
    return (each.raw.shape[-2], each.raw.shape[-1]) if fine else PATCHES


def _incompleteness(each: Attribution) -> float | None:
    """By which share of the score's change integrated gradients miss it."""
    change = each.notes.get("difference")
    return float(each.notes["completeness_error"]) / abs(change) if change else None


def _plain(own: Curves, chance: Sequence[Curves], stages: Sequence[Stage], said: list[str]) -> dict[str, Any]:
    return {
        "shares": list(own.shares),
        "deletion": list(own.deletion),
        "insertion": list(own.insertion),
        "random_deletion": [list(each.deletion) for each in chance],
        "random_insertion": [list(each.insertion) for each in chance],
        "randomised": [asdict(stage) for stage in stages],
        "verdict": said,
    }
