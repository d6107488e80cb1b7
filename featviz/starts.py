"""Several starts of a visualization, of which the surest is gone on with."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import lru_cache, partial
from itertools import accumulate, islice

import torch
from torch import Tensor, nn

from featviz.ingredients import seen_at
from featviz.layer_table import layer_table
from featviz.layers import activations, frozen
from featviz.render_settings import RenderSettings
from featviz.targets import class_number
from featviz.transforms import view
from featviz.types import OUTPUT, Draws, Model, Objective, Step, Transform

TRIED = 0.125
"""The share of the steps after which the starts are compared."""

LOOKS = 8
"""How often each is looked at, each time from elsewhere."""

SIDES = (0.9, 1.05)
"""The least and the largest part of its sides that is seen then: nearly the whole picture."""


def trial(settings: RenderSettings) -> tuple[int, int]:
    """How many starts are tried, and for how many steps each; one start and none where there is no trial."""
    starts = 1 if settings.same_start else settings.starts or 1
    each = int(TRIED * (settings.steps or 1))  # none in runs too short for it
    return (starts, each) if starts > 1 and each else (1, 0)


@lru_cache
def work(settings: RenderSettings) -> tuple[float, ...]:
    """What is done after each step, those on trial first, in steps at full size."""
    (starts, each), last = trial(settings), settings.view_scale or 1.0
    costs = [(seen_at(settings, index) / last) ** 2 for index in range(1, 1 + (settings.steps or 1))]
    return tuple(accumulate(costs[:each] * starts + costs[0 if _shows_all(settings) else each :]))


def share_done(settings: RenderSettings, index: int) -> float:
    """The share of a picture's work that is done after the step of that number."""
    (starts, each), done = trial(settings), work(settings)
    before = starts * each if index <= 0 else len(done) - (settings.steps or 1)
    return done[before + index - 1] / done[-1]


def _shows_all(settings: RenderSettings) -> bool:
    """Whether the steps that were on trial are shown, too, and so made again."""
    return settings.animate or settings.snapshots > 0


def surest(
    model: Model,
    objectives: Sequence[Objective],
    settings: RenderSettings,
    begin: Callable[[Sequence[int]], Iterator[Step]],
) -> Iterator[Step]:
    """Begin `settings.starts` climbs, and for each objective go on with the one that is surest of it.

    `begin` gives the climb of all objectives from each one's start of that number. While starts are tried,
    the steps' numbers count up to 0. Objectives that climb together, and of which different starts are best,
    begin those anew, and so does what shows every step.
    """
    climbs = [begin([start] * len(objectives)) for start in range(trial(settings)[0])]
    look = view(*SIDES, settings.rotate or 0.0, size=settings.view_scale or 1.0)
    return _tried(model.net, partial(sureness, model, objectives, look), settings, begin, climbs)


def _tried(
    net: nn.Module,
    sure: Callable[[Tensor], Tensor],
    settings: RenderSettings,
    begin: Callable[[Sequence[int]], Iterator[Step]],
    climbs: Sequence[Iterator[Step]],
) -> Iterator[Step]:
    found, (starts, each) = [], trial(settings)
    with frozen(net):  # held here, since the climbs end in any order
        for number, climb in enumerate(climbs):
            for step in islice(climb, each):
                yield replace(step, index=step.index - each * (starts - number))
            found.append(sure(step.image))
        best = torch.stack(found).nan_to_num(nan=-torch.inf).argmax(0).tolist()
        alike = len(set(best)) == 1 and not _shows_all(settings)
        going = climbs[best[0]] if alike else begin(best)
        climb, climbs = going, ()  # the others need not be kept
        yield from going


@torch.no_grad()
def sureness(model: Model, objectives: Sequence[Objective], look: Transform, images: Tensor) -> Tensor:
    """How sure the network is of each objective in its images `(objectives · faces, 3, h, w)`.

    `(objectives,)`: the mean over several looks of a class's log-probability, and of what any other
    objective measures.
    """
    layers = list(dict.fromkeys(layer for objective in objectives for layer in objective.layers))
    classes = [class_number(objective, layer_table(model)[-1].channels) for objective in objectives]
    total = torch.zeros(len(objectives))
    for number in range(LOOKS):
        draws = Draws([0] * len(images), "look", number)  # whatever its place in the batch
        seen = activations(model, look(images, draws), layers)
        for i, objective in enumerate(objectives):
            own = {layer: found.chunk(len(objectives))[i] for layer, found in seen.items()}
            class_ = classes[i]
            certain = objective.measure(own) if class_ is None else own[OUTPUT].log_softmax(1)[:, class_]
            total[i] += certain.mean().cpu() / LOOKS
    return total
