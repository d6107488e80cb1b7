"""Reading any photo a person owns."""

from __future__ import annotations

import hashlib
import re
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from PIL import Image, UnidentifiedImageError
from torch import Tensor

from featviz.errors import PhotoError
from featviz.output.files import require
from featviz.output.pil import from_pil

# Pillow lists these, but they need other programs or hold no photo.
_NOT_PHOTOS = frozenset({"BUFR", "EPS", "FPX", "GRIB", "HDF5", "IPTC", "MIC", "MPEG", "WMF"})


@dataclass(frozen=True, eq=False)
class Photo:
    """A photo as read: image `(1, 3, h, w)`, alpha `(1, 1, h, w)`, and the SHA-256 of the file's bytes."""

    image: Tensor
    alpha: Tensor | None
    path: str
    digest: str


def read_photo(path: str | Path) -> Photo:
    """Read a photo upright, in sRGB, with its alpha.

    Raises PhotoError for what is missing, no complete picture, or larger than Pillow's limit
    against decompression bombs.
    """
    path = Path(path)
    require(path, PhotoError)
    if not path.is_file():
        raise PhotoError(f"{path} is a directory, not a photo" if path.is_dir() else f"{path} is not a file")
    try:
        with path.open("rb") as file:
            if not file.read(1):
                raise PhotoError(f"{path} is empty")
            digest = _digest(file)
            image, alpha = _decode(file)
    except PermissionError as problem:
        raise PhotoError(f"{path} may not be read: permission denied") from problem
    except PhotoError:
        raise
    except Exception as problem:  # on damaged data, decoders raise errors of every kind
        raise PhotoError(f"{path}: {_reason(problem)}") from problem
    return Photo(image, alpha, str(path), digest)


def _digest(file: BinaryIO) -> str:
    file.seek(0)
    state = hashlib.sha256()
    while block := file.read(1 << 20):
        state.update(block)
    file.seek(0)
    return state.hexdigest()


def _decode(file: BinaryIO) -> tuple[Tensor, Tensor | None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # half the bomb limit, odd metadata: the picture is fine
        with Image.open(file) as pil:
            if pil.format in _NOT_PHOTOS:
                raise UnidentifiedImageError
            return from_pil(pil)


def _reason(problem: Exception) -> str:
    if isinstance(problem, Image.DecompressionBombError):
        found = re.search(r"\d+", str(problem))
        size = f"{int(found[0]) / 1e6:,.0f} megapixels" if found else "its size"
        limit = f"{2 * (Image.MAX_IMAGE_PIXELS or 0) / 1e6:,.0f}"
        return f"{size} is over the limit of {limit} that guards against decompression bombs"
    if isinstance(problem, UnidentifiedImageError):
        return "not an image that can be read"
    if isinstance(problem, MemoryError):
        return "not enough memory to read it"
    text = " ".join(str(problem).split()) or type(problem).__name__
    return f"damaged or incomplete ({text})"


def find_photos(paths: Sequence[str | Path]) -> list[Path]:
    """The files as given, each folder replaced by the photos in it in natural order (2 before 10).

    Folders inside are not entered; hidden files are left out. Raises PhotoError for a path that is
    missing and for a folder without photos.
    """
    found: list[Path] = []
    for path in map(Path, paths):
        require(path, PhotoError)
        found += _photos_in(path) if path.is_dir() else [path]
    return found


def _photos_in(folder: Path) -> list[Path]:
    names = Image.registered_extensions().items()
    suffixes = {suffix for suffix, kind in names if kind in Image.OPEN and kind not in _NOT_PHOTOS}
    try:
        inside = [entry for entry in folder.iterdir() if entry.suffix.lower() in suffixes]
    except OSError as problem:
        raise PhotoError(f"{folder}: {problem.strerror}") from problem
    photos = [entry for entry in inside if entry.is_file() and not entry.name.startswith(".")]
    if not photos:
        raise PhotoError(f"no photo in the folder {folder}")
    return sorted(photos, key=_natural)


def _natural(path: Path) -> tuple[list[str | int], str]:
    parts = re.split(r"(\d+)", path.name.lower())
    return [int(part) if part.isdigit() else part for part in parts], path.name
