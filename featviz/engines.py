"""How a score's value and gradient are computed; engines nest, and none knows the loop.

An engine takes a score and an image `(b, 3, h, w)` and gives the scores `(b,)` and the gradient of
their sum, in float32. The value is detached and stays on the image's device: nothing here waits for a GPU.
"""

from __future__ import annotations

import itertools
import warnings
from collections.abc import Callable

import torch
from torch import Tensor

from featviz.arrangement import Arranged, Learning, Weights
from featviz.backward.lean import Lean
from featviz.errors import InvalidValue, nearest
from featviz.settings import EngineSettings
from featviz.types import Draws, Engine, Score

WHOLE = 5 << 19
"""Pictures of up to so many pixels (1620 squared) are taken whole, larger ones by tiles, where nobody knows
what memory there is."""

TILE = 512

LITTLE = 1 << 17
"""Pixels of a batch, 362 squared, below which to keep less costs time and saves little."""

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}


def eager(score: Score, image: Tensor) -> tuple[Tensor, Tensor]:
    """One plain forward and backward."""
    with torch.inference_mode(False), torch.enable_grad():
        leaf = (image.clone() if image.is_inference() else image).detach().requires_grad_(True)
        scores = score(leaf)
        (gradient,) = torch.autograd.grad(scores.sum(), leaf)
    return scores.detach(), gradient


def lean(inner: Engine = eager, least: int = LITTLE) -> Engine:
    """Keep for the backward only what an image's gradient needs; equal to `inner` within 1e-5 relative.

    Where a value is nearly at a gate's bound, rounding may take it to the other side. Batches of fewer than
    `least` pixels are `inner`'s.
    """

    def engine(score: Score, image: Tensor) -> tuple[Tensor, Tensor]:
        if image[:, 0].numel() < least:
            return inner(score, image)
        with Lean():
            return inner(score, image)

    return engine


def arranged(fold: bool = True, channels_last: bool = True, inner: Engine = eager) -> Engine:
    """Fold batch norms into their convolutions, lay channels last.

    Scores equal `inner`'s within 1e-4 relative in float32, gradients too where no gate is so near its bound
    that rounding takes it to the other side. One engine is for one network: its first gradient is `inner`'s,
    and shows which norm follows which convolution.
    """
    weights: list[tuple[Weights, Weights]] | None = None

    def engine(score: Score, image: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal weights

        def laid(x: Tensor) -> Tensor:
            return score(x.contiguous(memory_format=torch.channels_last) if channels_last else x)

        if weights is None:
            with Learning() as learning:
                found = inner(laid, image)
            weights = learning.weights(fold, channels_last)
            return found
        with Arranged(weights) as mode:
            found = inner(laid, image)
        if mode.waiting:  # this forward went another way than the first
            weights = None
            return inner(score, image)
        return found

    return engine if fold or channels_last else inner


def autocast(dtype: torch.dtype = torch.bfloat16, inner: Engine = eager) -> Engine:
    """Run the network in half precision, image and gradient in float32.

    Scores to about 1e-2 relative, gradients to about 1e-1, since rounding closes some gates of ReLUs and
    max-pools and opens others.
    """

    def engine(score: Score, image: Tensor) -> tuple[Tensor, Tensor]:
        def halved(x: Tensor) -> Tensor:
            with torch.autocast(x.device.type, dtype=dtype):
                return score(x).float()

        return inner(halved, image)

    return engine


def compiled(inner: Engine = eager) -> Engine:
    """Compile each score by `torch.compile` at its first use; equal to eager within float32 rounding."""
    made: dict[Score, Score] = {}

    def engine(score: Score, image: Tensor) -> tuple[Tensor, Tensor]:
        if score not in made:
            made[score] = torch.compile(score, dynamic=False)
        return inner(made[score], image)

    return engine


def tiled(tile: int | None, margin: int = 64, inner: Engine = eager, seed: int = 0) -> Engine:
    """Compute the gradient tile by tile, in memory that depends on the tile and not on the picture.

    Tiles are `tile` pixels square and all alike; each keeps only its part at least `margin` pixels
    from its border (or the picture's own border), and the whole grid shifts at random from step to
    step, so no seam can stay. Where memory runs out the tile is halved, with a warning. The score is
    the mean over tiles. None means the whole picture at once.
    """
    if tile is not None and tile <= 2 * margin:
        raise InvalidValue(
            f"tile {tile} leaves nothing inside its margin of {margin}; at least {2 * margin + 1}"
        )
    side = tile
    calls = 0

    def engine(score: Score, image: Tensor) -> tuple[Tensor, Tensor]:
        nonlocal side, calls
        calls += 1
        while True:
            try:
                if side is None or max(image.shape[2:]) <= side:
                    return inner(score, image)
                return _by_tiles(inner, score, image, side, margin, Draws([seed], "tiles", calls))
            except RuntimeError as error:
                smaller = min(side or 1 << 30, max(image.shape[2:])) // 2
                if not out_of_memory(error) or smaller <= 2 * margin:
                    raise
                side = smaller
            warnings.warn(f"memory ran out: going on with tiles of {side} pixels", stacklevel=2)

    return engine


def _by_tiles(
    inner: Engine, score: Score, image: Tensor, tile: int, margin: int, draws: Draws
) -> tuple[Tensor, Tensor]:
    gradient = torch.empty_like(image)
    h, w = image.shape[2:]
    shift = draws.integers(0, tile - 2 * margin - 1, 2)[0].tolist()
    total, count = torch.zeros(len(image), device=image.device), 0
    for top, bottom in _cuts(h, tile - 2 * margin, shift[0]):
        for left, right in _cuts(w, tile - 2 * margin, shift[1]):
            y, x = _start(top, h, tile, margin), _start(left, w, tile, margin)
            scores, part = inner(score, image[..., y : y + tile, x : x + tile])
            gradient[..., top:bottom, left:right] = part[..., top - y : bottom - y, left - x : right - x]
            total, count = total + scores, count + 1
    return total / count, gradient


def _cuts(length: int, stride: int, shift: int) -> list[tuple[int, int]]:
    """The parts into which a grid of `stride`, shifted, divides a side."""
    edges = [0, *range(shift + 1, length, stride), length] if shift + 1 < length else [0, length]
    return list(itertools.pairwise(edges))


def _start(first: int, length: int, tile: int, margin: int) -> int:
    """Where a tile begins so that it holds its part and its margin, or ends at the border."""
    return max(0, min(first - margin, length - tile))


def out_of_memory(error: RuntimeError) -> bool:
    """Whether an error says that memory ran out, on a GPU or (where torch can tell) on the CPU."""
    return isinstance(error, torch.OutOfMemoryError) or "can't allocate memory" in str(error)


def base_engine(settings: EngineSettings) -> Engine:
    """The engine that the settings ask for at any image size, of one network.

    Raises `InvalidValue` where a compiled network is to be arranged, too.
    """
    if settings.compile:
        if settings.fold or settings.channels_last:
            asked = "fold" if settings.fold else "channels_last"
            raise InvalidValue(f"compile with {asked}: a compiler arranges the network itself")
        return compiled()  # it keeps little by itself, too
    engine = arranged(settings.fold or False, settings.channels_last or False)
    return lean(engine) if settings.lean else engine


def engine_for(
    settings: EngineSettings, size: tuple[int, int], base: Engine | None = None
) -> tuple[Engine, bool]:
    """The engine that the settings ask for at an image size, and whether it takes the image whole.

    `base` is a `base_engine` to go on with.
    """
    engine = base or base_engine(settings)
    if settings.precision != "float32":
        engine = autocast(_precision(settings.precision), engine)
    tile = _tile(settings.tile, size)
    return tiled(tile, inner=engine, seed=settings.seed), tile is None


def _precision(name: str) -> torch.dtype:
    if name not in PRECISIONS:
        raise InvalidValue(f"precision {name!r}{nearest(name, PRECISIONS)}; one of {', '.join(PRECISIONS)}")
    return PRECISIONS[name]


def by_tile(settings: EngineSettings, size: tuple[int, int]) -> tuple[int, int]:
    """The size at which the network sees an image of `size`: its own, or that of a tile."""
    side = _tile(settings.tile, size) or max(size)
    return min(side, size[0]), min(side, size[1])


def _tile(tile: str, size: tuple[int, int]) -> int | None:
    if tile == "none":
        return None
    if tile == "auto":
        return TILE if size[0] * size[1] > WHOLE else None
    if not tile.isdecimal():
        raise InvalidValue(f"tile {tile!r}: auto, none, or a number of pixels")
    return int(tile) if max(size) > int(tile) else None


ENGINES: dict[str, Callable[..., Engine]] = {
    "eager": lambda: eager,
    "lean": lean,
    "arranged": arranged,
    "autocast": autocast,
    "compiled": compiled,
    "tiled": tiled,
}
