"""Coarse to fine: measure a wide grid, then only where the result is large; interpolate the rest."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from featviz.attribution.sliding import Corners

Grid = npt.NDArray[np.float64]

SHARES = ((4, 1.0), (2, 0.5), (1, 0.25))
"""Every so many places of the full grid -> the share of the places new to that grid that is measured."""


def coarse_to_fine(measure: Callable[[Corners], Tensor], positions: Corners) -> tuple[Tensor, int]:
    """Values `(p, k)` at all `positions` `(p, 4)` of a full grid, and how many were measured.

    `measure` gives `(m, k)`. Each finer grid starts from the coarser one, bilinearly interpolated,
    and measures the places with the largest interpolated values, each of the k counted in units of its
    largest.
    """
    rows, cols = np.unique(positions[:, 0]), np.unique(positions[:, 1])
    index = np.arange(len(positions)).reshape(len(rows), len(cols))
    known: dict[int, Grid] = {}
    at = (np.empty(0, int), np.empty(0, int))
    values: Grid = np.empty((0, 0, 0))
    for step, share in SHARES:
        finer = (_every(len(rows), step), _every(len(cols), step))
        guess = _interpolated(values, at, finer) if len(at[0]) else None
        here = index[np.ix_(*finer)]
        wanted = _largest(guess, [i not in known for i in here.ravel()], share)
        places = here.ravel()[wanted]
        if len(places):
            known.update(zip(places.tolist(), measure(positions[places]).double().numpy(), strict=True))
        count = len(next(iter(known.values())))
        values = np.zeros((*here.shape, count)) if guess is None else guess
        for spot in np.ndindex(here.shape):
            values[spot] = known.get(int(here[spot]), values[spot])
        at = finer
    return torch.from_numpy(values.reshape(len(positions), -1)), len(known)


def _every(count: int, step: int) -> npt.NDArray[np.int64]:
    """0, step, 2·step … and the last."""
    return np.unique([*range(0, count, step), count - 1])


def _interpolated(values: Grid, at: tuple[Corners, Corners], finer: tuple[Corners, Corners]) -> Grid:
    """A grid of values `(r, c, k)` known at rows and columns `at`, bilinearly at those of `finer`."""
    for axis in (0, 1):
        moved = np.moveaxis(values, axis, 0)
        flat = moved.reshape(len(moved), -1)
        made = np.stack([np.interp(finer[axis], at[axis], column) for column in flat.T], 1)
        values = np.moveaxis(made.reshape(-1, *moved.shape[1:]), 0, axis)
    return np.ascontiguousarray(values)


def _largest(guess: Grid | None, new: list[bool], share: float) -> npt.NDArray[np.int64]:
    """Which of the new places to measure: all without a guess, else the share with the largest values."""
    fresh = np.flatnonzero(new)
    if guess is None:
        return fresh
    flat = guess.reshape(-1, guess.shape[-1])
    rank = (flat / np.abs(flat).max(0).clip(1e-30)).max(1)[fresh]
    return fresh[np.argsort(-rank, kind="stable")[: int(np.ceil(share * len(fresh)))]]
