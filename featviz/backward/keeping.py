"""Tensors kept for the backward as they are, whatever a network does to them in place later.

Plain autograd refuses the backward where a tensor that it kept was written into. What is kept here may be
what plain autograd does not keep, so that a network that works with it has to work here: before a tensor is
written into, whatever was kept of its memory is copied.
"""

from __future__ import annotations

from typing import Any

from torch import Tensor
from torch.utils.weak import TensorWeakRef

_CHANGED = "what the lean backward kept was modified by an inplace operation that it did not see"


class Keeper:
    """Knows what was kept of which memory, as long as it is kept."""

    def __init__(self) -> None:
        self._kept: dict[int, list[TensorWeakRef]] = {}

    def keep(self, x: Tensor) -> Tensor:
        """A tensor to save for the backward, of the same memory but without the count of writes into it.

        Of a tensor kept before the one that was made then.
        """
        if hasattr(x, "_watched"):
            return x
        kept = x.data
        kept._watched = watched = x.detach()  # type: ignore[attr-defined]  # counts with x
        kept._count = watched._version  # type: ignore[attr-defined]
        self._kept.setdefault(_memory(x), []).append(TensorWeakRef(kept))
        return kept

    def writing(self, x: Tensor) -> None:
        """Copy what was kept of the memory of a tensor that is about to be written into."""
        for each in self._kept.pop(_memory(x), ()):
            kept: Any = each()
            if kept is not None and _memory(kept) == _memory(x):  # an address may be another's by now
                kept.data = kept.data.clone()
                kept._watched = None


def unchanged(kept: Tensor) -> Tensor:
    """What was kept. Raises `RuntimeError` where it was written into unseen, as plain autograd does."""
    watched = getattr(kept, "_watched", None)  # what came through hooks on saved tensors is its own
    if watched is not None and watched._version != kept._count:  # type: ignore[attr-defined]
        raise RuntimeError(_CHANGED)
    return kept


def _memory(x: Tensor) -> int:
    return int(x.untyped_storage()._cdata)
