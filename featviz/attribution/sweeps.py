"""Every output of a network for one image with a window of it hidden, at every place."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from featviz.attribution.probes import Probe
from featviz.attribution.sliding import Corners
from featviz.errors import InvalidValue, OutputError, UnknownName
from featviz.types import Model, derive_seed


@dataclass(frozen=True, eq=False)
class Hidden:
    """What one size of window gave: places `(row, col, rows, cols)` `(p, 4)` and outputs `(p, n)`."""

    window: int
    stride: int
    positions: Corners
    outputs: Tensor


@dataclass(frozen=True, eq=False)
class Sweep:
    """The outputs `(n,)` of an image as it is, and with windows of it hidden; `size` is (rows, columns)."""

    model: str
    size: tuple[int, int]
    fill: str
    seed: int
    outputs: Tensor
    hidden: tuple[Hidden, ...]

    def save(self, path: str | Path) -> Path:
        """Write an .npz: `outputs`, and for window w `positions_w`, `outputs_w`, `stride_w`.

        Raises `OutputError`.
        """
        about = {"model": self.model, "size": self.size, "fill": self.fill, "seed": self.seed}
        arrays = {"about": np.array(json.dumps(about)), "outputs": self.outputs.numpy()}
        for one in self.hidden:
            arrays[f"positions_{one.window}"] = one.positions
            arrays[f"outputs_{one.window}"] = one.outputs.numpy()
            arrays[f"stride_{one.window}"] = np.array(one.stride)
        try:
            with Path(path).open("wb") as file:  # a path would get .npz appended
                np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        except OSError as problem:
            raise OutputError(f"{path}: {problem.strerror}") from problem
        return Path(path)

    @staticmethod
    def load(path: str | Path) -> Sweep:
        """Read what `save` wrote; raises `InvalidValue` for anything else."""
        try:
            with np.load(Path(path), allow_pickle=False) as file:
                about = json.loads(str(file["about"]))
                windows = [int(name.removeprefix("positions_")) for name in file if "positions_" in name]
                hidden = tuple(
                    Hidden(
                        window,
                        int(file[f"stride_{window}"]),
                        file[f"positions_{window}"],
                        torch.from_numpy(file[f"outputs_{window}"]),
                    )
                    for window in windows
                )
                outputs = torch.from_numpy(file["outputs"])
        except Exception as problem:  # numpy raises errors of every kind on what it cannot read
            raise InvalidValue(f"{path} is no saved sweep: {problem}") from problem
        size = (about["size"][0], about["size"][1])
        return Sweep(about["model"], size, about["fill"], about["seed"], outputs, hidden)


def sweep(
    model: Model,
    image: Tensor,
    *,
    windows: Sequence[int] = (32, 64, 96),
    stride: int | None = None,
    fill: str = "noise",
    seed: int = 0,
    batch: int | None = None,
) -> Sweep:
    """Hide square windows of an image `(1, 3, h, w)`, one at a time, and keep every output.

    A window's side and stride are in pixels; the stride is by default half the window. The last
    window of a row or column is cut off at the border. Raises `InvalidValue` and `UnknownName`.
    """
    places = {window: (step, grid(size_of(image), window, step)) for window, step in steps(windows, stride)}
    probe = Probe(model, image, filling(image, fill, seed), batch=batch)
    hidden = tuple(Hidden(w, step, at, probe.measure(at)) for w, (step, at) in places.items())
    return Sweep(model.name, size_of(image), fill, seed, probe.baseline, hidden)


def steps(windows: Sequence[int], stride: int | None) -> list[tuple[int, int]]:
    """Each window with its stride; raises `InvalidValue` where pixels between windows would go unseen."""
    if not windows or len(set(windows)) < len(windows):
        raise InvalidValue(
            f"windows {','.join(map(str, windows)) or 'of no size'}: one or more different sizes"
        )
    for window in windows:
        if window < 1:
            raise InvalidValue(f"window {window}: at least 1 pixel")
        if stride is not None and not 1 <= stride <= window:
            raise InvalidValue(f"stride {stride} with a window of {window}: from 1 to {window}")
    return [(window, stride or max(1, window // 2)) for window in windows]


def grid(size: tuple[int, int], window: int, stride: int) -> Corners:
    """Where a window goes, row by row: `(row, col, rows, cols)` `(p, 4)`, the last ones cut off."""
    if window > min(size):
        raise InvalidValue(f"window {window} on an image of {size[0]}x{size[1]}: at most {min(size)}")
    rows, cols = (stops(side, window, stride) for side in size)
    return np.array([(r, c, min(window, size[0] - r), min(window, size[1] - c)) for r in rows for c in cols])


def stops(side: int, window: int, stride: int) -> list[int]:
    """Where the window begins along one side: ceil((side − window) / stride) + 1 stops."""
    return [i * stride for i in range(-(-(side - window) // stride) + 1)]


def size_of(image: Tensor) -> tuple[int, int]:
    """(rows, columns) of an image `(1, 3, h, w)`; raises `InvalidValue` for any other shape."""
    if image.dim() != 4 or image.shape[:2] != (1, 3):
        raise InvalidValue(f"an image is (1, 3, h, w), not {tuple(image.shape)}")
    return int(image.shape[2]), int(image.shape[3])


def filling(image: Tensor, fill: str, seed: int) -> Tensor:
    """What shows in place of an image `(1, 3, h, w)`; raises `UnknownName`."""
    if fill not in FILLS:
        raise UnknownName(fill, FILLS, hint=f"the fills are {', '.join(FILLS)}")
    return FILLS[fill](image, seed)


def _noise(image: Tensor, seed: int) -> Tensor:
    """Gaussian noise of mean .5 and deviation .1, clipped to [0, 1]: one draw, seen by every window."""
    generator = torch.Generator().manual_seed(derive_seed(seed, "occlusion", "noise"))
    return torch.randn(image.shape, generator=generator).mul(0.1).add(0.5).clamp(0, 1).to(image)


def _mean(image: Tensor, _seed: int) -> Tensor:
    return image.mean((2, 3), keepdim=True).expand_as(image)


def _blur(image: Tensor, _seed: int) -> Tensor:
    """The image blurred by a gaussian of a twentieth of its shorter side, mirrored at the border."""
    for axis in (2, 3):
        sigma = min(image.shape[2:]) / 20
        radius = min(int(3 * sigma + 0.5), image.shape[axis] - 1)
        at = torch.arange(-radius, radius + 1, dtype=image.dtype, device=image.device)
        kernel = torch.exp(-0.5 * (at / sigma) ** 2)
        kernel = (
            (kernel / kernel.sum()).view(1, 1, -1, 1)
            if axis == 2
            else (kernel / kernel.sum()).view(1, 1, 1, -1)
        )
        border = (0, 0, radius, radius) if axis == 2 else (radius, radius, 0, 0)
        planes = F.pad(image.transpose(0, 1), border, mode="reflect")
        image = F.conv2d(planes, kernel).transpose(0, 1)
    return image


FILLS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "noise": _noise,
    "mean": _mean,
    "black": lambda image, _seed: torch.zeros_like(image),
    "grey": lambda image, _seed: torch.full_like(image, 0.5),
    "blur": _blur,
}
"""Name -> what hides a window, from image and seed, in pixel space: `(1, 3, h, w)`."""
