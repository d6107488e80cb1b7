"""How a run's maps are laid out in one figure."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import PIL.Image

from featviz.output.checks import checked_rows
from featviz.output.figures import Panel, figure, words
from featviz.output.pil import to_pil

if TYPE_CHECKING:
    from featviz.output.explanations import Explanation, Explanations

ACROSS = 6
"""Panels in a row of a figure of many methods, the photo among them."""


def explanation_figure(explanations: Explanations, within: Sequence[tuple[float, float]]) -> PIL.Image.Image:
    """The photo, then every map over it with its target, score and range.

    One method has a row for each layer and percentile, with the targets across; many methods of one target
    fill rows; many of several have a row each.
    """
    maps = explanations.maps
    methods = list(dict.fromkeys(each.method for each in maps))
    several = len(methods) + len(explanations.missing) > 1
    panels = [_panel(each, own, several) for each, own in zip(maps, within, strict=True)]
    targets = list(dict.fromkeys(each.target for each in maps if "margin" not in each.notes))
    first = _photo(explanations, several)
    absent = [Panel(words([why]), [method]) for method, why in explanations.missing.items()]
    if any("check" in each.notes for each in maps):
        return figure("How far to trust these maps", checked_rows(maps, panels, first))
    if len(targets) == 1 and several:
        rows = _rows([first, *panels, *absent], ACROSS)
    else:
        found = _alike(maps, panels) if len(targets) > 1 else _rows(panels, min(len(panels), 4))
        found += _rows(absent, len(found[0]))
        rows = [[first if i == 0 else None, *row] for i, row in enumerate(found)]
    return figure(", ".join(targets) if several else methods[0], rows)


def _rows(panels: Sequence[Panel | None], columns: int) -> list[list[Panel | None]]:
    return [list(panels[i : i + columns]) for i in range(0, len(panels), columns)]


def _alike(maps: Sequence[Explanation], panels: Sequence[Panel]) -> list[list[Panel | None]]:
    """A row for each method, layer and percentile."""
    rows: dict[object, list[Panel | None]] = {}
    for each, panel in zip(maps, panels, strict=True):
        rows.setdefault((each.method, each.layer, each.notes.get("percentile")), []).append(panel)
    return list(rows.values())


def _photo(explanations: Explanations, several: bool) -> Panel:
    """The photo with its name, and where each map is named by its method with what they explain."""
    name = str(explanations.recipe.get("inputs", {}).get("photo", {}).get("path", ""))
    lines = [Path(name).name or "photo"]
    first = explanations.maps[0]
    return Panel(to_pil(first.photo), [*lines, first.target, _score(first)] if several else lines)


def _panel(each: Explanation, within: tuple[float, float], several: bool) -> Panel:
    lines = [each.method, each.target, _score(each)] if several else [each.target, _score(each)]
    where = f"at {each.layer}" if each.layer else ""
    if "percentile" in each.notes:
        where += f", percentile {each.notes['percentile']:g}"
    lines += [where] if where else []
    if each.display.mask or each.display.boxes:
        lines.append(_region(each))
    bar = None if each.display.mask else within
    return Panel(each.overlay(within), lines, bar, each.display.sign, each.display.cmap)


def _score(each: Explanation) -> str:
    lead = "lead" if "margin" in each.notes else "score"
    chance = f", p {each.notes['probability']:.3g}" if "probability" in each.notes else ""
    return f"{lead} {each.score:.3g}{chance}"


def _region(each: Explanation) -> str:
    """The box in words, with the threshold that it hangs on."""
    above = f"at {each.display.threshold:.0%} of the maximum"
    if each.region.box is None:
        return f"nothing {above}"
    top, left, bottom, right = each.region.box
    return f"box {top}–{bottom} × {left}–{right} {above}"
