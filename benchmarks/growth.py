"""How the time grows with pixels, units and steps: a table, and a figure of three log-log plots.

`python -m benchmarks.growth [--out FILE --threads N --repeats N]`: the embedded network. Pixels: a step of a
dream of one octave of 256, 512 and 1024 px, without what comes before the first step. Units: 1, 8 and 64
channels of layer3 at 96 px, 4 steps each, as `featviz.render` makes them one by one, with score cards and
sheet. Steps: a whole dream of 12 and 48 steps at 256 px. Medians; linear growth is 1.00.
"""

from __future__ import annotations

import argparse
import math
import statistics
import time
from collections.abc import Sequence
from dataclasses import dataclass

import PIL.Image
import torch
from PIL import ImageDraw, ImageFont

import featviz
from benchmarks.apart import machine
from benchmarks.paired import timed
from featviz.deepdream import dream
from featviz.output.figures import FAINT, INK, PAPER
from featviz.settings import DreamSettings
from featviz.targets import BETWEEN_TARGETS

SIDES, UNITS, STEPS = (256, 512, 1024), (1, 8, 64), (12, 48)
LAYER = "layer3"

FINE = 3
"""Lines are drawn so many times too large, then averaged."""

PANEL, GAP, TOP, BOTTOM, LEFT = 440, 116, 96, 92, 104
"""The sides of a plot and what is around it, in pixels."""

LINEAR, GRID, COLOUR = (168, 168, 176), (236, 236, 240), (200, 30, 60)
DOT = 8


@dataclass(frozen=True)
class Growth:
    """Seconds for amounts of something, and how each amount is written."""

    name: str
    amounts: Sequence[int]
    labels: Sequence[str]
    seconds: Sequence[float]

    @property
    def beside_linear(self) -> list[float]:
        """Seconds over those of the least amount, grown linearly."""
        first = self.seconds[0] / self.amounts[0]
        return [took / (first * amount) for took, amount in zip(self.seconds, self.amounts, strict=True)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", default="docs/growth.png")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=3)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = featviz.load(device="cpu")
    print(f"{machine(options.threads)}; medians of {options.repeats}\n")
    print("| what | amount | times | seconds | beside linear |\n|---|---|---|---|---|")
    found = []
    for measure in (by_pixels, by_units, by_steps):
        found.append(measure(model, options.repeats))
        print("\n".join(lines(found[-1])), flush=True)
    drawn(found).save(options.out)


def by_pixels(model, repeats) -> Growth:
    seconds = measured([lambda side=side: dream_step(model, side) for side in SIDES], repeats)
    labels = [f"{side}x{side}" for side in SIDES]
    return Growth("pixels: one step of a dream", [side * side for side in SIDES], labels, seconds)


def by_units(model, repeats) -> Growth:
    targets = [BETWEEN_TARGETS.join(f"{LAYER}:{k}" for k in range(count)) for count in UNITS]
    runs = [lambda t=t: timed(lambda: featviz.render(model, t, size=96, steps=4))[0] for t in targets]
    return Growth("units: channels of 96 px", UNITS, [str(n) for n in UNITS], measured(runs, repeats))


def by_steps(model, repeats) -> Growth:
    photo = noise(256)
    runs = [
        lambda n=n: timed(lambda: featviz.dream(model, photo, LAYER, octaves=1, steps=n))[0] for n in STEPS
    ]
    return Growth("steps: a dream of 256 px", STEPS, [str(n) for n in STEPS], measured(runs, repeats))


def measured(runs, repeats) -> list[float]:
    """The median seconds of each run, the runs taking turns; the least is run once before."""
    runs[0]()
    turns = [[run() for run in runs] for _ in range(repeats)]
    return [statistics.median(each) for each in zip(*turns, strict=True)]


def dream_step(model, side) -> float:
    """Seconds a step, the first one left out."""
    count = 3 * SIDES[-1] // side
    steps = dream(model, noise(side), LAYER, DreamSettings(octaves=1, steps=count + 1))
    next(steps)
    begun = time.perf_counter()
    for _ in steps:
        pass
    return (time.perf_counter() - begun) / count


def noise(side):
    return torch.rand(1, 3, side, side, generator=torch.Generator().manual_seed(0))


def lines(growth) -> list[str]:
    """A growth's lines of the table."""
    rows = zip(growth.labels, growth.amounts, growth.seconds, growth.beside_linear, strict=True)
    return [
        f"| {growth.name} | {label} | {amount / growth.amounts[0]:g} | {took:.3f} | {beside:.2f} |"
        for label, amount, took, beside in rows
    ]


def drawn(growths) -> PIL.Image.Image:
    """The plots beside each other."""
    width = LEFT + len(growths) * PANEL + (len(growths) - 1) * GAP + 40
    sheet = PIL.Image.new("RGB", (width, TOP + PANEL + BOTTOM), PAPER)
    for i, growth in enumerate(growths):
        Plot(growth).on(sheet, (LEFT + i * (PANEL + GAP), TOP))
    return sheet


class Plot:
    """Seconds over amounts, both in powers of 2 around the first point."""

    def __init__(self, growth) -> None:
        self.growth = growth
        reach = math.log2(growth.amounts[-1] / growth.amounts[0])
        tallest = max(reach, math.log2(max(growth.seconds) / growth.seconds[0]))
        self.edge = 0.1 * reach
        self.across, self.up = reach + 2 * self.edge, tallest + 2 * self.edge

    def at(self, times, slower) -> tuple[float, float]:
        """Where a point lies, `times` the first amount and `slower` than it, in pixels of the plot."""
        x, y = math.log2(times) + self.edge, math.log2(slower) + self.edge
        return x / self.across * PANEL, (1 - y / self.up) * PANEL

    def points(self) -> list[tuple[float, float]]:
        growth = self.growth
        pairs = zip(growth.amounts, growth.seconds, strict=True)
        return [self.at(n / growth.amounts[0], s / growth.seconds[0]) for n, s in pairs]

    def on(self, sheet, corner) -> None:
        """Draw it with its corner there."""
        sheet.paste(self.lines().resize((PANEL, PANEL), PIL.Image.Resampling.BOX), corner)
        self.words(ImageDraw.Draw(sheet), *corner)

    def lines(self) -> PIL.Image.Image:
        """Grid, linear growth and points, `FINE` times too large."""
        fine = PIL.Image.new("RGB", (PANEL * FINE, PANEL * FINE), PAPER)
        draw = ImageDraw.Draw(fine)
        for x, y in self.straight():
            draw.line([(x * FINE, 0), (x * FINE, PANEL * FINE)], GRID, FINE)
            draw.line([(0, y * FINE), (PANEL * FINE, y * FINE)], GRID, FINE)
        draw.line([scaled(self.at(2.0**k, 2.0**k)) for k in (-self.edge, self.across)], LINEAR, 2 * FINE)
        draw.line([(0, 0), (0, PANEL * FINE - 1), (PANEL * FINE, PANEL * FINE - 1)], LINEAR, 2 * FINE)
        draw.line([scaled(point) for point in self.points()], COLOUR, 3 * FINE, joint="curve")
        for x, y in map(scaled, self.points()):
            r = DOT * FINE
            draw.ellipse((x - r, y - r, x + r, y + r), COLOUR, PAPER, 2 * FINE)
        return fine

    def straight(self) -> list[tuple[float, float]]:
        """Where the points would be if growth were linear."""
        times = [amount / self.growth.amounts[0] for amount in self.growth.amounts]
        return [self.at(n, n) for n in times]

    def words(self, draw, left, top) -> None:
        """Title, amounts, seconds, and what the greatest amount costs."""
        title, plain, small = (ImageFont.load_default(size) for size in (26, 22, 20))
        what, about = self.growth.name.split(": ")
        draw.text((left, top - 74), what.capitalize(), INK, title)
        draw.text((left, top - 40), about, FAINT, small)
        first = self.growth.seconds[0]
        for n, label, (x, y) in zip(self.growth.amounts, self.growth.labels, self.straight(), strict=True):
            draw.text((left + x, top + PANEL + 12), label, INK, plain, anchor="ma")
            level = first * n / self.growth.amounts[0]
            draw.text((left - 12, top + y), f"{level:.2g} s", FAINT, small, anchor="rm")
        draw.text((left + PANEL / 2, top + PANEL + 50), what, FAINT, small, anchor="ma")
        middle = self.at(*[2 ** ((self.across - 2 * self.edge) * 0.7)] * 2)
        draw.text((left + middle[0] - 12, top + middle[1] - 12), "linear", LINEAR, small, anchor="rs")
        more, longer = (each[-1] / each[0] for each in (self.growth.amounts, self.growth.seconds))
        corner = left + PANEL - 16, top + PANEL - 52
        draw.text(
            corner,
            f"{more:g} times the {what}\n{longer:.1f} times the time",
            COLOUR,
            plain,
            anchor="rd",
            align="right",
        )


def scaled(point) -> tuple[float, float]:
    return point[0] * FINE, point[1] * FINE


if __name__ == "__main__":
    main()
