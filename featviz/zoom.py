"""A film into a dream: each frame dreams the frame before it, magnified."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.deepdream import DreamStep, dream, picture
from featviz.settings import DreamSettings
from featviz.types import Model, Objective, derive_seed


def zoom_frames(
    model: Model, photo: Tensor, target: str | Objective, settings: DreamSettings, **more: Any
) -> Iterator[tuple[int, DreamStep, Tensor | None]]:
    """A film into the dream: each frame dreams the frame before it, magnified about its middle.

    The first frame is the dream itself; each later one adds a quarter of its steps and is brought back
    to its colour mean and contrast, or the feedback would burn out in a second. Yields (frame from 1,
    step, and with the frame's last step its picture).
    """
    first: Tensor | None = None
    for frame in range(1, settings.zoom + 1):
        steps = frame_steps(settings, frame)
        own = replace(settings, steps=steps, seed=derive_seed(settings.seed, "frame", frame) >> 31)
        for step in dream(model, photo, target, own, **more):
            if step.octave < step.octaves or step.index < steps:
                yield frame, step, None
        done = picture(photo, step, own, more.get("mask"))
        first = done if first is None else first
        done = like_contrast(done, first)
        yield frame, step, done
        photo = magnify(done, 1 + settings.zoom_rate)


def frame_steps(settings: DreamSettings, frame: int) -> int:
    """Steps in each octave of a frame of a zoom, counted from 1."""
    return settings.steps if frame == 1 else -(-settings.steps // 4)


def like_contrast(image: Tensor, other: Tensor) -> Tensor:
    """An image brought to the mean of another, colour by colour, and to no more than its deviation."""
    mean, sd = image.mean((2, 3), keepdim=True), image.std((2, 3), keepdim=True)
    gain = (other.std((2, 3), keepdim=True) / (sd + 1e-6)).clamp_(max=1.0)
    return ((image - mean) * gain + other.mean((2, 3), keepdim=True)).clamp_(0, 1)


def magnify(image: Tensor, factor: float) -> Tensor:
    """The middle of an image, magnified, at the same size."""
    theta = torch.tensor([[[1 / factor, 0, 0], [0, 1 / factor, 0]]]).to(image)
    grid = F.affine_grid(theta, list(image.shape), align_corners=False)
    return F.grid_sample(image, grid, mode="bicubic", padding_mode="border", align_corners=False).clamp_(0, 1)
