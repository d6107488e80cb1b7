"""Every output of a network for one image with a window of it hidden, at every place."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
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
    """The outputs `(n,)` of an image as it is, and with windows of it hidden.

    `size` is (rows, columns); `model` is the digest of the network's weights, `image` that of the pixels.
    """

    model: str
    image: str
    size: tuple[int, int]
    fill: str
    seed: int
    outputs: Tensor
    hidden: tuple[Hidden, ...]

    def save(self, path: str | Path) -> Path:
        """Write an .npz: `outputs`, and for window w `positions_w`, `outputs_w`, `stride_w`.

        Raises `OutputError`.
        """
        about = {
            "model": self.model,
            "image": self.image,
            "size": self.size,
            "fill": self.fill,
            "seed": self.seed,
        }
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

    def check(self, model: Model, image: Tensor) -> None:
        """Raise `InvalidValue` where the sweep is of another picture or another network."""
        if self.size != size_of(image):
            raise InvalidValue("a sweep of {}x{} for an image of {}x{}".format(*self.size, *size_of(image)))
        if self.image != digest(image):
            raise InvalidValue("these scores are of another picture")
        if self.model != model.digest:
            raise InvalidValue(f"these scores are of other weights than those of {model.name}")

    def only(self, windows: Sequence[int]) -> Sweep:
        """The sweep of these windows alone; raises `InvalidValue` for one that was not swept."""
        swept = [one.window for one in self.hidden]
        for window in windows:
            if window not in swept:
                raise InvalidValue(f"window {window}: the scores are of {', '.join(map(str, swept))}")
        return replace(self, hidden=tuple(one for one in self.hidden if one.window in windows))

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
            size = (about["size"][0], about["size"][1])
            return Sweep(about["model"], about["image"], size, about["fill"], about["seed"], outputs, hidden)
        except Exception as problem:  # numpy raises errors of every kind on what it cannot read
            raise InvalidValue(f"{path} is no saved sweep: {problem}") from problem


def sweep(
    model: Model,
    image: Tensor,
    *,
    windows: Sequence[int] | None = None,
    stride: int | None = None,
    fill: str = "noise",
    seed: int = 0,
    batch: int | None = None,
) -> Sweep:
    """Hide square windows of an image `(1, 3, h, w)`, one at a time, and keep every output.

    A window's side and stride are in pixels; the sides are by default a seventh, two and three sevenths of
    the shorter side, the stride half the window. The last window of a row or column is cut off at the
    border. Raises `InvalidValue` and `UnknownName`.
    """
    size = size_of(image)
    places = {window: (step, grid(size, window, step)) for window, step in steps(size, windows, stride)}
    probe = Probe(model, image, filling(image, fill, seed), batch=batch)
    hidden = tuple(Hidden(w, step, at, probe.measure(at)) for w, (step, at) in places.items())
    return Sweep(model.digest, digest(image), size, fill, seed, probe.baseline, hidden)


def steps(size: tuple[int, int], windows: Sequence[int] | None, stride: int | None) -> list[tuple[int, int]]:
    """Each window with its stride; raises `InvalidValue` where pixels between windows would go unseen."""
    if windows is None:  # 32, 64 and 96 at 224 pixels
        windows = sorted({max(1, round(min(size) * k / 7)) for k in (1, 2, 3)})
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


def digest(image: Tensor) -> str:
    """SHA-256 of an image's pixels."""
    return hashlib.sha256(image.detach().cpu().contiguous().numpy().tobytes()).hexdigest()


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
