"""What tests found of maps, drawn beside them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from featviz.output.curves import Line, plot
from featviz.output.figures import Panel, words
from featviz.types import Attribution


def checked_rows(
    maps: Sequence[Attribution], panels: Sequence[Panel], photo: Panel
) -> list[list[Panel | None]]:
    """A row for each tested map: itself, its curves, its likeness under shuffled weights, the verdict."""
    tested = [
        (each.notes["check"], panel)
        for each, panel in zip(maps, panels, strict=True)
        if "check" in each.notes
    ]
    return [
        [
            None if i else photo,
            panel,
            _curve(check, "deletion", "share of the pixels removed"),
            _curve(check, "insertion", "share of the pixels put in"),
            _likeness(check["randomised"]),
            Panel(words(check["verdict"]), ["What the tests found"]),
        ]
        for i, (check, panel) in enumerate(tested)
    ]


def _curve(check: Mapping[str, Any], name: str, about: str) -> Panel:
    chance = list(zip(*check[f"random_{name}"], strict=True))
    mean = [sum(each) / len(each) for each in chance]
    lines = [
        Line("random maps", mean, [min(each) for each in chance], [max(each) for each in chance]),
        Line("this map", check[name]),
    ]
    values = [*check[name], *lines[0].low, *lines[0].high]
    bottom, top = min(0.0, *values), max(values)
    better = "lower is better" if name == "deletion" else "higher is better"
    drawn = plot(check["shares"], lines, about, top if top > bottom else bottom + 1, bottom)
    return Panel(drawn, [name.capitalize(), f"score by share of pixels; {better}"])


def _likeness(stages: Sequence[Mapping[str, Any]]) -> Panel:
    ranks = [1.0, *(stage["rank_correlation"] for stage in stages)]
    likeness = [1.0, *(stage["ssim"] for stage in stages)]
    lines = [Line("rank correlation", ranks), Line("structural similarity", likeness)]
    about = f"weights shuffled from the output down, {len(stages)} stages"
    drawn = plot(list(range(len(ranks))), lines, about, 1.0, min(0.0, *ranks, *likeness))
    return Panel(drawn, ["Likeness to the first map", f"the last stage goes down to {stages[-1]['module']}"])
