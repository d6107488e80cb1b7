"""Feature visualization: an image from gaussian noise that excites a target (Olah et al. 2017)."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from featviz.ascent import ascend
from featviz.engines import engine_for
from featviz.errors import InvalidValue, nearest
from featviz.layers import check_size, frozen, score
from featviz.params import PARAMETERIZATIONS, gaussian_noise
from featviz.regularizers import blur
from featviz.settings import RenderSettings
from featviz.targets import objective_of
from featviz.transforms import jitter, pad, rotate, scale
from featviz.types import Model, Objective, Parameterization, Score, Step, Transform


def render(model: Model, target: str | Objective, settings: RenderSettings) -> Iterator[Step]:
    """Ascend from gaussian noise to an image that excites `target`, one `Step` at a time.

    Adam over the parameterization, under random shifts, turns and magnifications. Raises
    `ImageTooSmall` where the picture does not reach the target's layers.
    """
    objective = objective_of(model, target)
    size = (settings.size, settings.size) if settings.size else model.input_size
    check_size(model, objective.layers, size)
    start = gaussian_noise([settings.seed], size).to(model.device)
    param = _parameterization(start, settings)
    return _climb(model, score(model, objective), param, settings, size)


def _climb(
    model: Model, measured: Score, param: Parameterization, settings: RenderSettings, size: tuple[int, int]
) -> Iterator[Step]:
    with frozen(model.net):
        yield from ascend(
            measured,
            param,
            torch.optim.Adam(param.values, lr=settings.rate, maximize=True),
            steps=settings.steps,
            seeds=[settings.seed],
            engine=engine_for(settings, size)[0],
            transforms=robustness(settings),
            projections=[blur(settings.blur, settings.blur_every)] if settings.blur else [],
        )


def robustness(settings: RenderSettings) -> list[Transform]:
    """Transformation robustness in lucid's order: pad, jitter, scale, rotate, jitter by half."""
    wide, narrow = settings.jitter, settings.jitter // 2
    transforms = [pad(wide + narrow, 0.5), jitter(wide)] if wide else []
    if settings.scale:
        transforms.append(scale([1 + settings.scale * k / 5 for k in range(-5, 6)]))
    if settings.rotate:
        transforms.append(rotate(settings.rotate))
    return [*transforms, jitter(narrow)] if narrow else transforms


def _parameterization(start: torch.Tensor, settings: RenderSettings) -> Parameterization:
    if settings.param not in PARAMETERIZATIONS:
        known = ", ".join(PARAMETERIZATIONS)
        raise InvalidValue(
            f"param {settings.param!r}{nearest(settings.param, PARAMETERIZATIONS)}; one of {known}"
        )
    if settings.param == "fourier":
        return PARAMETERIZATIONS["fourier"](start, decay=settings.decay)
    return PARAMETERIZATIONS[settings.param](start)
