"""What a run gives: a picture or a film, each with the recipe that makes it again."""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
from torch import Tensor

from featviz.output.pictures import write_picture
from featviz.output.pil import to_pil
from featviz.output.video import write_video


@dataclass(frozen=True, eq=False)
class Picture:
    """An image `(1, 3, h, w)` in [0, 1] with its recipe; a notebook shows it."""

    image: Tensor
    recipe: dict[str, Any]
    alpha: Tensor | None = None

    def to_pil(self) -> PIL.Image.Image:
        """The picture as an 8-bit RGB or RGBA image."""
        return to_pil(self.image, self.alpha)

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write it, the recipe inside; raises `OutputExists` rather than replace a file unasked."""
        return write_picture(path, self.image, self.recipe, alpha=self.alpha, overwrite=overwrite)

    def _repr_png_(self) -> bytes:
        buffer = io.BytesIO()
        self.to_pil().save(buffer, "png")
        return buffer.getvalue()


@dataclass(frozen=True, eq=False)
class Film:
    """Frames `(1, 3, h, w)` in [0, 1], made one by one while they are read, with their recipe."""

    frames: Iterator[Tensor]
    fps: int
    recipe: dict[str, Any]

    def save(self, path: str | Path, *, overwrite: bool = False) -> Path:
        """Write it as .mp4 or .gif, the recipe in a file beside it; a film is read and saved once."""
        return write_video(path, self.frames, self.recipe, fps=self.fps, overwrite=overwrite)
