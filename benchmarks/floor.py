"""A step of a dream, a class and a channel beside the bare forward and backward that it cannot do without.

`python -m benchmarks.floor [--networks A B … --threads N --pairs N]`: the floor is plain autograd of the
objective, through the frozen network up to the same layer, at the size that the network sees in the step.
Shares are floor seconds over ours: at 1.00 a step costs nothing but its gradient, above that less than plain
autograd's. A dream is one octave of 512 px; class and channel are the default preset at the network's size.
What comes before the first step is left out, the trial of arrangements included, and so is the first
steps' waking, over after 16. Where the preset weighs statistics, there is a line without them. The random
weights are always the same.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import torch

import featviz
from benchmarks.apart import machine
from benchmarks.paired import told
from featviz import engines, ingredients, trial
from featviz.deepdream import dream
from featviz.layers import frozen, score
from featviz.models import EMBEDDED
from featviz.presets import resolved
from featviz.render_settings import RenderSettings
from featviz.settings import DreamSettings
from featviz.targets import objective_of
from featviz.types import Model, Objective, Step
from featviz.visualize import picture_size, render, seen

SIDE, LAYER, STEPS = 512, "layer3", 12


@dataclass(frozen=True)
class Case:
    """Steps to be timed, the objective that they ascend, and the size at which the network sees them."""

    name: str
    start: Callable[[], Iterator[Step]]
    objective: Objective
    size: tuple[int, int]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--networks", nargs="+", default=(EMBEDDED, "resnet18"))
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    ingredients.WAKING = trial.WORTH = 0
    print(f"{machine(options.threads)}; {options.pairs} pairs of {STEPS} steps\n")
    print("| network | step | the network sees | floor ms | ours ms | floor / ours |\n" + "|---" * 6 + "|")
    for network in options.networks:
        model = featviz.load(network, untrained=network != EMBEDDED, device="cpu")
        for case in cases(model):
            print(row(model, case, options.pairs), flush=True)


def cases(model) -> list[Case]:
    """The dream, and class and channel, by default and, where that weighs them, without statistics."""
    found = [dreamed(model)]
    for name, target in (("class", "class:281"), ("channel", f"{LAYER}:0")):
        found.append(rendered(model, name, target))
        if resolved(RenderSettings()).statistics:
            found.append(rendered(model, f"{name}, statistics 0", target, statistics=0.0))
    return found


def dreamed(model) -> Case:
    photo = torch.rand(1, 3, SIDE, SIDE, generator=torch.Generator().manual_seed(0))
    settings = DreamSettings(octaves=1, steps=STEPS + 1)
    return Case(
        "dream",
        lambda: dream(model, photo, LAYER, settings),
        objective_of(model, LAYER),
        (SIDE, SIDE),
    )


def rendered(model, name, target, **more) -> Case:
    settings = resolved(RenderSettings(steps=STEPS + 1, view_from=0.0, starts=1, **more))
    objective, size = objective_of(model, target), picture_size(model, settings)
    share = seen(model, objective.layers, settings, size).view_scale or 1.0
    shown = round(size[0] * share), round(size[1] * share)
    return Case(name, lambda: render(model, target, settings), objective, shown)


def row(model, case, pairs) -> str:
    """A line of the table; the two take turns, and who is first changes from pair to pair."""
    turns = [lambda: bare(model, case), lambda: stepped(case)]
    for turn in turns:
        turn()
    found = []
    for i in range(pairs):
        order = turns[:: -1 if i % 2 else 1]
        took = [turn() for turn in order]
        found.append(took[:: -1 if i % 2 else 1])
    floor, ours = (1000 * statistics.median(each) for each in zip(*found, strict=True))
    shares = told(sorted(one / other for one, other in found))
    size = "x".join(str(side) for side in case.size)
    return f"| {model.name} | {case.name} | {size} | {floor:.0f} | {ours:.0f} | {shares} |"


def stepped(case) -> float:
    """Seconds a step, without the first one and what comes before it."""
    steps = case.start()
    next(steps)
    begun = time.perf_counter()
    count = sum(1 for _ in steps)
    return (time.perf_counter() - begun) / count


def bare(model: Model, case) -> float:
    """Seconds of one forward and backward."""
    image = torch.rand(1, 3, *case.size, generator=torch.Generator().manual_seed(0))
    measured = score(model, case.objective)
    with frozen(model.net):
        engines.eager(measured, image)
        begun = time.perf_counter()
        for _ in range(STEPS):
            engines.eager(measured, image)
    return (time.perf_counter() - begun) / STEPS


if __name__ == "__main__":
    main()
