"""Long work in batches that shrink when memory runs out."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TypeVar

from featviz.engines import out_of_memory
from featviz.errors import InvalidValue

T = TypeVar("T")


def in_batches(total: int, size: int, work: Callable[[int, int], T]) -> Iterator[T]:
    """`work(start, stop)` over all of `total`, `size` at a time, halved each time memory runs out.

    Any other error, and memory that does not even hold one, is passed on.
    """
    if size < 1:
        raise InvalidValue(f"batch {size}: at least 1")
    start = 0
    while start < total:
        stop = min(start + size, total)
        try:
            made = work(start, stop)
        except RuntimeError as error:
            if not out_of_memory(error) or stop - start == 1:
                raise
            size = (stop - start) // 2
            continue
        yield made
        start = stop
