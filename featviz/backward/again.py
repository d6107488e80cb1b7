"""Tensors that the backward makes again instead of keeping them: each knows how it was made, and of what.

A chain of cheap calls begins at a tensor that is kept: one smaller than what is made of it, or one that has
to be kept anyway. Within a backward what several calls ask for is made once.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from featviz.backward.keeping import Keeper

Step = Callable[[Tensor], Tensor]

EXPANDING = 2
"""How many times as large as what it was made of a tensor has to be for that to be kept in its place."""


class Call:
    """One call of a chain: of what the call before made, or of what is kept."""

    def __init__(self, step: Step, before: Call | None, view: bool = False) -> None:
        self.step, self.before, self.view = step, before, view
        self._asking = 0
        self._value: Tensor | None = None

    def ask(self) -> Call:
        """One more function's backward will need what the call made."""
        self._asking += 1
        return self

    def take(self, root: Tensor) -> tuple[Tensor, bool]:
        """What the call made, and whether nobody else will ask for it, who takes it owning it then.

        A view is of what others may ask for.
        """
        self._asking -= 1
        value = self._make(root)
        if self._asking > 0:
            return value, False
        self._value = None
        return value, not self.view

    def _make(self, root: Tensor) -> Tensor:
        if self._value is not None:
            return self._value
        value = self.step(root if self.before is None else self.before._make(root))
        self._value = value if self._asking > 0 else None
        return value


class Made:
    """How a tensor was made: the last call of a chain, and what the chain began with."""

    def __init__(self, call: Call | None, root: Tensor, free: bool) -> None:
        self.call, self.root, self.free = call, root, free  # free: it is kept anyway
        self._versions = 0, root._version

    def kept(self, keeper: Keeper) -> Tensor:
        """What the chain began with, kept from now on."""
        self.root, self.free = keeper.keep(self.root), True
        self._versions = self._versions[0], self.root._version
        return self.root

    def note(self, y: Tensor) -> None:
        """Let y know that this is how it was made."""
        self._versions = y._version, self.root._version
        y._made = self  # type: ignore[attr-defined]

    def holds(self, y: Tensor) -> bool:
        """Whether neither y nor what the chain began with was written into since."""
        return self._versions == (y._version, self.root._version)


def made_of(x: Tensor) -> Made | None:
    """How a tensor was made, where that is known and still true."""
    made: Made | None = getattr(x, "_made", None)
    return made if made is not None and made.holds(x) else None


def kept_of(x: Tensor, keeper: Keeper, *, lost: bool = False) -> tuple[Tensor, Call | None] | None:
    """What is kept to make x again for one function more; None where x itself is as little.

    With `lost` x is about to be overwritten, so that its like is better than x.
    """
    made = made_of(x)
    if made is None or not (made.free or lost or EXPANDING * made.root.nbytes <= x.nbytes):
        return None
    return made.kept(keeper), made.call and made.call.ask()


def mark(y: Tensor, step: Step, x: Tensor) -> None:
    """Note on y that a step made it of x."""
    chained(y, step, made_of(x) or Made(None, x.detach(), False))


def chained(y: Tensor, step: Step, made: Made, view: bool = False) -> None:
    """Note on y that a step made it of what was made so."""
    Made(Call(_as_now(step, y), made.call, view), made.root, made.free).note(y)


def forget(x: Tensor) -> None:
    """Let go of how a tensor was made, and of what that holds."""
    if hasattr(x, "_made"):
        del x._made


def halved(x: Tensor) -> bool:
    """Whether autocast is on where x lies."""
    return x.device.type != "meta" and torch.is_autocast_enabled(x.device.type)


def _as_now(step: Step, x: Tensor) -> Step:
    """The step in the precision of this moment: a backward runs outside of autocast."""
    if not halved(x):
        return step
    kind, dtype = x.device.type, torch.get_autocast_dtype(x.device.type)

    def again(value: Tensor) -> Tensor:
        with torch.autocast(kind, dtype):
            return step(value)

    return again


def permuted(func: Any, input: Tensor, *args: Any, **kwargs: Any) -> Any:
    """A view of what is known how it was made; None of anything else."""
    made = made_of(input)
    if made is None:
        return None
    y: Tensor = func(input, *args, **kwargs)
    chained(y, lambda x: func(x, *args, **kwargs), made, view=True)
    return y
