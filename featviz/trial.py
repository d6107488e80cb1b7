"""Which arrangement of a network is fastest here, by trying them."""

from __future__ import annotations

import itertools
import math
import time
from collections.abc import Hashable
from dataclasses import replace
from typing import TypeVar
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from featviz.engines import engine_for
from featviz.frozen import frozen
from featviz.settings import EngineSettings
from featviz.types import Score

WORTH = 96
"""A run of fewer gradients is over before a trial would pay."""

TURNS = 2
"""How often each way is timed; its best time counts."""

GAIN = 0.96
"""What takes less than this share of the plain way's time is faster, and not merely by chance."""

_Any = TypeVar("_Any", bound=EngineSettings)
_tried: WeakKeyDictionary[nn.Module, dict[Hashable, tuple[bool, bool]]] = WeakKeyDictionary()


def arrangement(
    net: nn.Module, score: Score, image: Tensor, settings: _Any, gradients: float, what: Hashable
) -> _Any:
    """The settings with `fold` and `channels_last` decided for images like this one, as far as they are open.

    A run of fewer than `WORTH` gradients, a compiled one or one without data is left as it is, and so is one
    in which the network as it stands fails. `what` names the score: a network is tried once for each.
    """
    if settings.fold is not None and settings.channels_last is not None:
        return settings
    if settings.compile or gradients < WORTH or image.is_meta:
        return replace(settings, fold=settings.fold or False, channels_last=settings.channels_last or False)
    known = _tried.setdefault(net, {})
    key = what, tuple(image.shape), settings.fold, settings.channels_last, settings.precision, settings.lean
    if key not in known:
        with frozen(net):
            known[key] = _fastest(score, image, settings)
    return replace(settings, fold=known[key][0], channels_last=known[key][1])


def _fastest(score: Score, image: Tensor, settings: EngineSettings) -> tuple[bool, bool]:
    """The fastest fold and layout of those that are open; plain unless another is clearly faster."""
    size, settings = (image.shape[2], image.shape[3]), replace(settings, tile="none")
    folds, lasts = (
        [False, True] if each is None else [each] for each in (settings.fold, settings.channels_last)
    )
    ways = list(itertools.product(folds, lasts))
    engines = [engine_for(replace(settings, fold=fold, channels_last=last), size)[0] for fold, last in ways]
    best = [math.inf] * len(ways)
    for turn in range(1 + TURNS):
        for i, engine in enumerate(engines):
            start = time.perf_counter()
            try:
                float(engine(score, image)[1].sum())  # waits for a GPU
            except RuntimeError:  # such as views that a layout does not allow
                if not i:  # the plain way: the run will tell
                    return ways[0]
                continue
            if turn:  # the first shows an engine what there is to arrange
                best[i] = min(best[i], time.perf_counter() - start)
    least = min(range(len(ways)), key=best.__getitem__)
    return ways[least] if best[least] < GAIN * best[0] else ways[0]
