"""How the maps of one run are shown: which sign, over which range, together or each its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

from torch import Tensor

from featviz.errors import InvalidValue, nearest
from featviz.output.overlays import Region, limits, region, signed
from featviz.regularizers import gaussian_blur
from featviz.types import Attribution

SHOWS = ("figure", "overlay", "heatmap", "mask")
TWO_SIGNED = ("occlusion",)
"""Methods whose map says against the target as much as for it."""

GRAIN = 1 / 32
"""What maps of single pixels are blurred by before a region is sought, of the shorter side."""


@dataclass(frozen=True)
class Display:
    """Which part of a map is shown, its range, colours and cover, and what is drawn of its strong part."""

    sign: str = "auto"
    norm: str = "auto"
    cmap: str = ""
    alpha: float = 0.6
    show: str = "figure"
    mask: bool = False
    boxes: bool = False
    threshold: float = 0.5

    def __post_init__(self) -> None:
        if self.show not in SHOWS:
            raise InvalidValue(f"show {self.show!r}{nearest(self.show, SHOWS)}; one of {', '.join(SHOWS)}")

    def of(self, attribution: Attribution) -> Display:
        """What auto means: gradients by magnitude up to the 99th percentile, maps by their positive part.

        A margin, and the methods that speak against a target too, show both signs.
        """
        gradient = attribution.raw.dim() == 3
        both = "margin" in attribution.notes or attribution.method in TWO_SIGNED
        sign = ("both" if both else "abs" if gradient else "pos") if self.sign == "auto" else self.sign
        norm = ("p99" if gradient else "minmax") if self.norm == "auto" else self.norm
        return replace(self, sign=sign, norm=norm)

    def region(self, values: Tensor) -> Region:
        """Where a map `(h, w)` is strong in favour of its target.

        Gradients are shown by magnitude and are grainy: blurred by `GRAIN`, so that parts connect.
        """
        if self.sign != "abs":
            return region(signed(values, "pos"), self.threshold)
        radius = GRAIN * min(values.shape)
        return region(gaussian_blur(values.abs()[None, None], radius)[0, 0], self.threshold)


def ranges(maps: Sequence[Attribution], displays: Sequence[Display], norm: str) -> list[tuple[float, float]]:
    """What each map's colours begin and end at.

    With norm auto the targets of one method at one layer share a range, so that their strengths compare;
    shared does so over all layers, too. A margin has its own.
    """
    groups: dict[object, list[int]] = {}
    for i, each in enumerate(maps):
        place = (each.method, each.layer, each.notes.get("percentile"))
        alone = "margin" in each.notes or norm not in ("auto", "shared")
        groups.setdefault(i if alone else place if norm == "auto" else each.method, []).append(i)
    found = [(0.0, 0.0)] * len(maps)
    for members in groups.values():
        display = displays[members[0]]
        shown = [signed(maps[i].map.float().cpu(), display.sign) for i in members]
        for i, within in zip(members, limits(shown, display.sign, display.norm, True), strict=True):
            found[i] = within
    return found
