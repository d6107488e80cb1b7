"""The one optimisation loop: climb a score in image space, one `Step` at a time."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

import torch
from torch import Tensor

from featviz.engines import eager
from featviz.errors import InvalidValue, NonFiniteScore
from featviz.types import (
    Draws,
    Engine,
    Parameterization,
    Penalty,
    Precondition,
    Projection,
    Score,
    Step,
    Transform,
)

CHECK_EVERY = 16
"""Steps between two looks at the scores on a GPU, which each time has to be waited for."""


def ascend(
    score: Score,
    param: Parameterization,
    optimizer: torch.optim.Optimizer,
    *,
    steps: int,
    seeds: Sequence[int] = (0,),
    engine: Engine = eager,
    transforms: Sequence[Transform] | Callable[[int], Sequence[Transform]] = (),
    penalties: Sequence[Penalty] = (),
    projections: Sequence[Projection] = (),
    precondition: Precondition | None = None,
) -> Iterator[Step]:
    """Yield after every step of the ascent; when to stop earlier is up to whoever iterates.

    Each step decodes the image, takes the gradient of the transformed image's score less the
    penalties, lets `precondition` change it, passes it back through the parameterization, steps the
    optimizer (made over `param.values` with maximize=True) and projects. `transforms` may be given by the
    step's number. `seeds` has one number per image. Raises `NonFiniteScore` with the last good image: a step
    that is not finite moves nothing.
    """
    if steps < 1:
        raise InvalidValue(f"steps {steps}: at least 1")
    with torch.enable_grad():
        image = param.decode()
    finite = torch.ones(len(image), dtype=torch.bool, device=image.device)
    for index in range(1, steps + 1):
        draws = Draws(seeds, "step", index)
        moves = transforms(index) if callable(transforms) else transforms
        scores, gradient = _measure(score, image.detach(), engine, moves, penalties, draws)
        finite = finite & torch.isfinite(scores) & torch.isfinite(gradient.sum((1, 2, 3)))
        gradient.masked_fill_(~finite.view(-1, 1, 1, 1), 0.0)
        if _may_look(image.device, index, steps) and not bool(finite.all()):
            raise NonFiniteScore(index, image.detach())
        raw = gradient.clone() if projections and precondition else gradient
        if precondition is not None:
            gradient = precondition(gradient, index)
        with torch.enable_grad():
            _move(param, optimizer, image, gradient)
            if projections:
                _project(param, projections, raw, index)
            image = param.decode()
        yield Step(index, scores, image.detach())


def _measure(
    score: Score,
    image: Tensor,
    engine: Engine,
    transforms: Sequence[Transform],
    penalties: Sequence[Penalty],
    draws: Draws,
) -> tuple[Tensor, Tensor]:
    """Scores, and the gradient of score(transformed image) - penalties(image) at the image."""
    if not transforms and not penalties:
        return engine(score, image)
    with torch.inference_mode(False), torch.enable_grad():
        leaf = image.detach().requires_grad_(True)
        moved = leaf
        for transform in transforms:
            moved = transform(moved, draws)
        scores, gradient = engine(score, moved.detach())
        if transforms:
            (gradient,) = torch.autograd.grad(moved, leaf, gradient)
        for penalty in penalties:
            (against,) = torch.autograd.grad(penalty(leaf).sum(), leaf)
            gradient = gradient - against
    return scores, gradient


def _may_look(device: torch.device, index: int, steps: int) -> bool:
    """Whether to read values back now: at once on the CPU, seldom on a GPU, never without data."""
    if device.type == "meta":
        return False
    return device.type == "cpu" or index % CHECK_EVERY == 0 or index == steps


def _move(param: Parameterization, optimizer: torch.optim.Optimizer, image: Tensor, gradient: Tensor) -> None:
    if image is param.values[0]:  # pixels: the gradient as it is, without a copy
        slopes: tuple[Tensor, ...] = (gradient,)
    else:
        slopes = torch.autograd.grad(image, param.values, gradient)
    for value, slope in zip(param.values, slopes, strict=True):
        value.grad = slope
    optimizer.step()
    for value in param.values:
        value.grad = None


@torch.no_grad()
def _project(
    param: Parameterization, projections: Sequence[Projection], gradient: Tensor, index: int
) -> None:
    image = param.decode()
    for projection in projections:
        image = projection(image, gradient, index)
    param.assign(image)
