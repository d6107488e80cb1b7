"""Line plots drawn with Pillow, in the place of a figure's panel."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import PIL.Image
from PIL import ImageDraw, ImageFont

from featviz.output.figures import FAINT, INK, PAPER

FINE = 3
"""Pixels are drawn so many times too small, then averaged, for smooth lines."""

LEFT, RIGHT, TOP, BOTTOM = 42, 8, 8, 36
SHADE, AXIS, GRID = (226, 226, 232), (170, 170, 178), (238, 238, 242)
COLOURS = ((178, 24, 43), (33, 102, 172), (27, 120, 55))


@dataclass(frozen=True)
class Line:
    """Values over x, their name, and for a band its lower and upper edge."""

    name: str
    values: Sequence[float]
    low: Sequence[float] = ()
    high: Sequence[float] = ()


def plot(
    x: Sequence[float], lines: Sequence[Line], about: str, top: float = 1.0, bottom: float = 0.0
) -> Callable[[tuple[int, int]], PIL.Image.Image]:
    """Lines over x; one with a band is grey, the others coloured in turn, named in a legend.

    `about` names the x axis. The y axis goes from `bottom` to `top`.
    """

    def drawn(size: tuple[int, int]) -> PIL.Image.Image:
        frame = _Frame(size, (min(x), max(x)), (bottom, top))
        lines_first = sorted(lines, key=lambda line: not line.low)
        for line in lines_first:
            frame.line(x, line, FAINT if line.low else COLOURS[_coloured(lines, line) % len(COLOURS)])
        return frame.finished(about, [(line.name, bool(line.low), _coloured(lines, line)) for line in lines])

    return drawn


def _coloured(lines: Sequence[Line], line: Line) -> int:
    return [each for each in lines if not each.low].index(line) if not line.low else -1


class _Frame:
    """Axes of one plot and what is drawn within them."""

    def __init__(self, size: tuple[int, int], x: tuple[float, float], y: tuple[float, float]) -> None:
        self.size, self.x, self.y = size, x, y
        self.sheet = PIL.Image.new("RGB", (size[0] * FINE, size[1] * FINE), PAPER)
        self.draw = ImageDraw.Draw(self.sheet)
        for share in (0.0, 0.5, 1.0):
            level = y[0] + share * (y[1] - y[0])
            self.draw.line([self.at(x[0], level), self.at(x[1], level)], AXIS if not share else GRID, FINE)

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Where a point lies in the fine picture."""
        across = (x - self.x[0]) / (self.x[1] - self.x[0])
        up = (y - self.y[0]) / (self.y[1] - self.y[0])
        width, height = self.size[0] - LEFT - RIGHT, self.size[1] - TOP - BOTTOM
        return (LEFT + across * width) * FINE, (TOP + (1 - up) * height) * FINE

    def line(self, x: Sequence[float], line: Line, colour: tuple[int, int, int]) -> None:
        if line.low:
            edge = [self.at(*point) for point in zip(x, line.high, strict=True)]
            edge += [self.at(*point) for point in zip(x, line.low, strict=True)][::-1]
            self.draw.polygon(edge, SHADE)
        points = [self.at(*point) for point in zip(x, line.values, strict=True)]
        self.draw.line(points, colour, 2 * FINE, joint="curve")

    def finished(self, about: str, legend: Sequence[tuple[str, bool, int]]) -> PIL.Image.Image:
        sheet = self.sheet.resize(self.size, PIL.Image.Resampling.BOX)
        draw, font = ImageDraw.Draw(sheet), ImageFont.load_default(12)
        for level in self.y:
            text = f"{level:.2g}"
            _, top = self.at(self.x[0], level)
            draw.text((LEFT - 6 - draw.textlength(text, font), top / FINE - 7), text, FAINT, font)
        draw.text((LEFT, self.size[1] - BOTTOM + 4), about, FAINT, font)
        left = float(LEFT)
        for name, band, number in legend:
            colour = FAINT if band else COLOURS[number % len(COLOURS)]
            draw.line((left, self.size[1] - 9, left + 14, self.size[1] - 9), colour, 2)
            draw.text((left + 18, self.size[1] - 17), name, INK, font)
            left += 30 + draw.textlength(name, font)
        return sheet
