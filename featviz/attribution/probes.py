"""Measures a network on one image with rectangles of it replaced, as fast as the machine allows."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import TypeAlias

import numpy as np
import torch
from torch import Tensor, fx

from featviz.attribution.fused import fused_graph
from featviz.attribution.incremental import Incremental, layout_of
from featviz.attribution.scores import beyond_outputs
from featviz.attribution.sliding import Corners
from featviz.engines import out_of_memory
from featviz.errors import InvalidValue, ModelError
from featviz.layers import activations, frozen
from featviz.receptive_field import first_tensor
from featviz.types import OUTPUT, Model, Objective

Runner: TypeAlias = Callable[[Corners, tuple[int, int]], Tensor]
"""Corners `(b, 2)` and the size of the rectangles replaced -> numbers `(b, n)`."""

CPU_BATCH, GPU_BATCH = 16, 64
"""Pictures of 224 by 224 pixels at once; of other sizes as many as have so many pixels."""


class Probe:
    """One image `(1, 3, h, w)` in which rectangles show `filled` instead.

    Without objectives every output of the network is measured, on a copy with batch norms folded and,
    on a CPU, only where a rectangle changes something; the copy is used only where it agrees with
    the network. With objectives those are measured, and with `outputs` all outputs after them. A
    batch that exceeds the memory is halved.
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
        usual = CPU_BATCH if model.device.type == "cpu" else GPU_BATCH
        self.batch = batch or max(1, usual * 224 * 224 // (image.shape[2] * image.shape[3]))
        with frozen(model.net), torch.inference_mode():
            if objectives:
                scores = partial(measured, model, objectives, outputs)
                self.runner: Runner = Whole(scores, self.image, self.filled)
                whole = scores(self.image)
            else:
                self.runner, whole = _runner(model, self.image, self.filled)
        self.baseline = plain(whole)[0]

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
            part = corners[: self.batch]
            try:
                with frozen(self.model.net), torch.inference_mode():
                    return plain(self.runner(part, (size[0], size[1])))
            except RuntimeError as error:
                if not out_of_memory(error) or len(part) == 1:
                    raise
            self.batch = len(part) // 2


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
        for sample, (rows, cols) in zip(copies, spots, strict=True):
            sample[:, rows, cols] = self.filled[0, :, rows, cols]
        try:
            numbers = self.measured(copies)
        except RuntimeError:
            self.copies = self.picture[:0]  # memory may have run out, and less is to be asked for next
            raise
        for sample, (rows, cols) in zip(copies, spots, strict=True):
            sample[:, rows, cols] = self.picture[0, :, rows, cols]
        return numbers


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


def numbers_of(model: Model, objectives: Sequence[Objective]) -> Callable[[Tensor], Tensor]:
    """Images `(b, 3, h, w)` -> the numbers that `scores.read` takes, on the CPU."""
    others = beyond_outputs(objectives)

    def numbers(images: Tensor) -> Tensor:
        with frozen(model.net), torch.inference_mode():
            if not others:
                return plain(outputs_of(model(images)))
            return plain(measured(model, others, len(others) < len(objectives), images))

    return numbers


def _runner(model: Model, image: Tensor, filled: Tensor) -> tuple[Runner, Tensor]:
    """What runs the rectangles, and the outputs of the image as it is."""
    picture, filling = model.normalise(image), model.normalise(filled)
    original = Whole(lambda batch: outputs_of(model.net(batch)), picture, filling)
    try:
        runner, whole = _fast(fused_graph(model.net), picture, filling)
        if _agree(runner, original, picture):
            return runner, whole
    except Exception as error:  # tracing runs the network's own code, so any kind may come
        if isinstance(error, RuntimeError) and out_of_memory(error):
            raise
    return original, original.measured(picture)


def _fast(graph: fx.GraphModule, picture: Tensor, filled: Tensor) -> tuple[Runner, Tensor]:
    """A runner on the graph, and the outputs of the picture as it is.

    Channels last was faster on a CPU for each of eight architectures, by 2 to 150 %; a rule rather than
    a timed trial, which on a busy machine chooses by chance, and then the last bits are not the same again.
    Cutting and pasting pays on a CPU; a GPU would wait for the many small copies.
    """
    graph = graph.to(memory_format=torch.channels_last)
    picture, filled = (each.clone(memory_format=torch.channels_last) for each in (picture, filled))
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
