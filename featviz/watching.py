"""What a run tells whoever watches it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor


@dataclass(frozen=True)
class Progress:
    """Where a run stands: the share of the work done, the step, and the picture made on demand.

    The step is 0 while starts are tried.
    """

    done: float
    step: int
    steps: int
    scores: Tensor
    image: Callable[[], Tensor]
    octave: int = 1
    octaves: int = 1
    frame: int = 1
    frames: int = 1


Watch = Callable[[Progress], bool | None]
"""Called after each step; a true answer ends the run with the picture as it stands."""
