"""Measures a network on one image with rectangles of it replaced, as fast as the machine allows."""

from __future__ import annotations

import copy
import time
from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, fx, nn

from featviz.attribution.fused import fused_graph
from featviz.attribution.incremental import Incremental, layout_of
from featviz.attribution.sliding import Corners
from featviz.engines import out_of_memory
from featviz.errors import InvalidValue, ModelError
from featviz.layers import activations, frozen
from featviz.receptive_field import first_tensor
from featviz.types import OUTPUT, Model, Objective

Runner: TypeAlias = Callable[[Corners, tuple[int, int]], Tensor]
"""Corners `(b, 2)` and the size of the rectangles replaced -> numbers `(b, n)`."""

Pace: TypeAlias = tuple[torch.memory_format, int]
"""How the batches run: the order of the numbers in memory, and how many pictures a batch."""

_paces: WeakKeyDictionary[nn.Module, dict[tuple[object, ...], Pace]] = WeakKeyDictionary()


class Probe:
    """One image `(1, 3, h, w)` in which rectangles show `filled` instead.

    Without objectives every output of the network is measured, on a copy with batch norms folded and,
    on a CPU, only where a rectangle changes something; the copy is used only where it agrees with
    the network. With objectives those are measured, and with `outputs` all outputs after them. The
    first batches try what is faster and are kept. A batch that exceeds the memory is halved.
    """

    def __init__(
        self,
        model: Model,
        image: Tensor,
        filled: Tensor,
        objectives: Sequence[Objective] = (),
        outputs: bool = True,
        batch: int | None = None,
    ) -> None:
        if batch is not None and batch < 1:
            raise InvalidValue(f"batch {batch}: at least 1")
        self.model, self.image, self.filled = model, image.to(model.device), filled.to(model.device)
        self.forwards = 0
        self.limit = batch or 1 << 30
        self.key = (tuple(image.shape), str(model.device), bool(objectives), batch)
        chosen = _paces.setdefault(model.net, {}).get(self.key)
        with frozen(model.net), torch.inference_mode():
            if objectives:
                scores = partial(measured, model, objectives, outputs)
                self.runners: dict[torch.memory_format, Runner] = {
                    torch.contiguous_format: Whole(scores, self.image, self.filled)
                }
                whole = scores(self.image)
            else:
                layouts = (chosen[0],) if chosen else (torch.channels_last, torch.contiguous_format)
                self.runners, whole = _runners(model, self.image, self.filled, layouts)
        self.baseline = plain(whole)[0]
        usable = chosen is not None and chosen[0] in self.runners
        self.trials = [] if usable else self._candidates(batch) * 2
        self.times: dict[Pace, float] = {}

    def _candidates(self, batch: int | None) -> list[Pace]:
        per_picture = 224 * 224 / (self.image.shape[2] * self.image.shape[3])
        usual = batch or max(1, int((16 if self.model.device.type == "cpu" else 64) * per_picture))
        paces = [(layout, usual) for layout in self.runners]
        return paces if batch or usual == 1 else [*paces, (paces[0][0], max(1, usual // 4))]

    def measure(self, positions: Corners) -> Tensor:
        """Numbers `(p, n)`, each with one rectangle `(row, col, rows, cols)` of `(p, 4)` replaced."""
        made = torch.empty(len(positions), len(self.baseline), dtype=self.baseline.dtype)
        sizes = {tuple(size) for size in positions[:, 2:].tolist()}
        for size in sorted(sizes, reverse=True):
            waiting = self._neighbours_first(positions, size)
            while len(waiting):
                done = self._batch(positions[waiting][:, :2], size)
                made[waiting[: len(done)]] = done
                waiting = waiting[len(done) :]
        self.forwards += len(positions)
        return made

    def _neighbours_first(self, positions: Corners, size: tuple[int, ...]) -> Corners:
        """The numbers of the rectangles of one size, those alike in their distance to the border together.

        What changes behind a rectangle is cut off by the border, so a batch of like ones computes least.
        """
        found = np.flatnonzero((positions[:, 2:] == size).all(1))
        room = np.array(self.image.shape[2:]) - size
        depth = np.minimum(positions[found, :2], room - positions[found, :2])
        return found[np.lexsort((depth[:, 1], depth[:, 0] // 32))]

    def _batch(self, corners: Corners, size: tuple[int, ...]) -> Tensor:
        """The numbers of as many of the rectangles as one batch takes, from the first on."""
        while True:
            pace = self._pace()
            part = corners[: min(pace[1], self.limit)]
            begun = time.perf_counter()
            try:
                with frozen(self.model.net), torch.inference_mode():
                    made = self.runners[pace[0]](part, (size[0], size[1]))
            except RuntimeError as error:
                if not out_of_memory(error) or len(part) == 1:
                    raise
                self.limit = len(part) // 2
                continue
            made = plain(made)
            self._note(pace, (time.perf_counter() - begun) / len(part))
            return made

    def _pace(self) -> Pace:
        return self.trials[0] if self.trials else _paces[self.model.net][self.key]

    def _note(self, pace: Pace, seconds: float) -> None:
        """Keep the last time of each pace tried: its first run also sets things up."""
        if self.trials:
            self.times[pace] = seconds
            self.trials.pop(0)
            if not self.trials:
                _paces[self.model.net][self.key] = best = min(self.times, key=lambda p: self.times[p])
                self.runners = {best[0]: self.runners[best[0]]}


class Whole:
    """Runs the rectangles as whole pictures: each is written into a batch of copies and taken out again."""

    def __init__(self, measured: Callable[[Tensor], Tensor], picture: Tensor, filled: Tensor) -> None:
        self.measured, self.picture, self.filled = measured, picture, filled
        self.copies = picture[:0]

    def __call__(self, corners: Corners, size: tuple[int, int]) -> Tensor:
        """Numbers `(b, n)`."""
        if len(self.copies) < len(corners):
            self.copies = self.picture[:0]  # let go before more is asked for
            self.copies = self.picture.repeat(len(corners), 1, 1, 1)
            self.copies = self.copies.contiguous(memory_format=layout_of(self.picture))
        copies = self.copies[: len(corners)]
        spots = [(slice(r, r + size[0]), slice(c, c + size[1])) for r, c in corners.tolist()]
        try:
            for sample, (rows, cols) in zip(copies, spots, strict=True):
                sample[:, rows, cols] = self.filled[0, :, rows, cols]
            return self.measured(copies)
        finally:
            for sample, (rows, cols) in zip(copies, spots, strict=True):
                sample[:, rows, cols] = self.picture[0, :, rows, cols]


def outputs_of(made: object) -> Tensor:
    """What a network puts out as `(b, n)`: of maps and tokens the mean over positions."""
    found = first_tensor(made)
    if found is None:
        raise ModelError("the network puts out no tensor")
    if found.dim() == 3:  # tokens (b, n, d)
        return found.mean(1)
    return found.flatten(2).mean(2) if found.dim() > 3 else found


def measured(model: Model, objectives: Sequence[Objective], outputs: bool, images: Tensor) -> Tensor:
    """The objectives' scores on images, and then all outputs: `(b, k)` or `(b, k + n)`."""
    layers = [layer for objective in objectives for layer in objective.layers]
    found = activations(model, images, tuple(dict.fromkeys([*layers, OUTPUT] if outputs else layers)))
    scores = torch.stack([objective.measure(found) for objective in objectives], 1)
    return torch.cat([scores, outputs_of(found[OUTPUT])], 1) if outputs else scores


def _runners(
    model: Model, image: Tensor, filled: Tensor, layouts: Sequence[torch.memory_format]
) -> tuple[dict[torch.memory_format, Runner], Tensor]:
    """Layout -> runner, the likely fastest first, and the outputs of the image as it is."""
    picture, filling = model.normalise(image), model.normalise(filled)
    original = Whole(lambda batch: outputs_of(model.net(batch)), picture, filling)
    try:
        graph = fused_graph(model.net)
        fast = {layout: _fast(copy.deepcopy(graph), picture, filling, layout) for layout in layouts}
        runners = {layout: runner for layout, (runner, _) in fast.items()}
        whole = fast[layouts[0]][1]
        if all(_agree(runner, original, picture) for runner in runners.values()):
            return runners, whole
    except Exception as error:  # tracing runs the network's own code, so any kind may come
        if isinstance(error, RuntimeError) and out_of_memory(error):
            raise
    return {torch.contiguous_format: original}, original.measured(picture)


def _fast(
    graph: fx.GraphModule, picture: Tensor, filled: Tensor, layout: torch.memory_format
) -> tuple[Runner, Tensor]:
    """A runner in one layout, and the outputs of the picture as it is.

    Cutting and pasting pays on a CPU; a GPU would wait for the many small copies.
    """
    graph = graph.to(memory_format=layout)
    picture, filled = (t.clone(memory_format=layout) for t in (picture, filled))
    if picture.device.type == "cpu":
        network = Incremental(graph, picture)
        return lambda corners, size: outputs_of(network(filled, corners, size)), outputs_of(network.output)
    whole = Whole(lambda batch: outputs_of(graph(batch)), picture, filled)
    return whole, whole.measured(picture)


def _agree(runner: Runner, original: Runner, picture: Tensor) -> bool:
    """Whether two runners give the same for a rectangle in a corner and one in the middle."""
    h, w = picture.shape[2:]
    corners = np.array([[0, 0], [h // 3, w // 3]])
    size = (max(1, h // 7), max(1, w // 7))
    expected, found = original(corners, size), runner(corners, size)
    return bool((expected - found).abs().max() <= 1e-4 * expected.abs().max())


def plain(made: Tensor) -> Tensor:
    """A tensor on the CPU that autograd may use again."""
    with torch.inference_mode(False):
        return made.cpu().clone()
