"""Pictures that carry the recipe they were made by."""

from __future__ import annotations

import json
import re
import warnings
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

from PIL import ExifTags, Image
from PIL.PngImagePlugin import PngImageFile, PngInfo
from torch import Tensor

from featviz.errors import InvalidValue, OutputError, RecipeError, nearest
from featviz.output.files import check_place, is_folder, placed, require
from featviz.output.pil import to_pil

Writer: TypeAlias = Callable[[Image.Image, Path, Mapping[str, Any], int], None]
"""Writes an RGB or RGBA picture with its recipe to a file, at a quality from 1 to 100."""

_KEY = "featviz"
_MARK = f"{_KEY} "  # before the recipe where other programs' comments may stand
_ASCII = b"ASCII\0\0\0"  # EXIF 2.3, table 9: the character code of UserComment
_JPEG_ROOM = 65_400  # bytes of recipe that fit an EXIF segment of 65 533 with its tags


def write_picture(
    path: str | Path,
    image: Tensor,
    recipe: Mapping[str, Any],
    *,
    alpha: Tensor | None = None,
    overwrite: bool = False,
    quality: int = 95,
) -> Path:
    """Write image `(1, 3, h, w)` in the format of the suffix, with its recipe inside.

    The same input gives the same bytes. JPEG has no alpha, so there the picture stands on white.
    `quality` (1 to 100) is JPEG's and WebP's; WebP at 100 is lossless. Raises what `check_output`
    raises, and OutputError or RecipeError for what the format cannot hold; nothing is then left behind.
    """
    if not 1 <= quality <= 100:
        raise InvalidValue(f"quality {quality}: from 1 to 100")
    path = check_output(path, overwrite)
    picture = to_pil(image, alpha)
    with placed(path, overwrite) as file:
        try:
            WRITERS[path.suffix.lower()](picture, file, recipe, quality)
        except (OSError, ValueError) as problem:  # ValueError: larger than the format allows
            raise OutputError(f"{path}: {getattr(problem, 'strerror', None) or problem}") from problem
    return path


def check_output(path: str | Path, overwrite: bool = False, suffixes: Iterable[str] | None = None) -> Path:
    """Refuse, before any work, an output that could not be written afterwards.

    `suffixes` are the known ones: those of `WRITERS` unless given. Raises InvalidValue for another
    suffix, OutputExists, or OutputError.
    """
    path = Path(path)
    known = tuple(WRITERS if suffixes is None else suffixes)
    suffix = path.suffix.lower()
    if suffix not in known and not is_folder(path):
        named = f"the suffix {path.suffix!r}" if suffix else "no suffix"
        raise InvalidValue(f"{path} has {named}; known: {' '.join(known)}{nearest(suffix, known, 1)}")
    check_place(path, overwrite)
    if suffix not in WRITERS:
        check_place(sidecar(path), overwrite)
    return path


def recipe_text(recipe: Mapping[str, Any], *, ascii_only: bool = False, indent: int | None = None) -> str:
    """The recipe as JSON with sorted keys; the same data gives the same text."""
    separators = (",", ":") if indent is None else None
    try:
        text = json.dumps(
            dict(recipe),
            sort_keys=True,
            separators=separators,
            ensure_ascii=ascii_only,
            allow_nan=False,
            indent=indent,
        )
    except (TypeError, ValueError) as problem:
        raise RecipeError(f"the recipe is not plain JSON data: {problem}") from problem
    # file names that are not UTF-8 hold lone surrogates, which UTF-8 cannot: escape those
    return re.sub("[\ud800-\udfff]", lambda match: f"\\u{ord(match[0]):04x}", text)


def _write_png(picture: Image.Image, file: Path, recipe: Mapping[str, Any], _quality: int) -> None:
    info = PngInfo()
    info.add_text("Software", _KEY)
    info.add_itxt(_KEY, recipe_text(recipe))  # not compressed: Pillow reads back at most 1 MB of that
    picture.save(file, "PNG", pnginfo=info)


def _write_jpeg(picture: Image.Image, file: Path, recipe: Mapping[str, Any], quality: int) -> None:
    if picture.mode == "RGBA":
        white = Image.new("RGB", picture.size, "white")
        white.paste(picture, mask=picture.getchannel("A"))
        picture = white
    exif = _exif(recipe)
    if len(exif) > _JPEG_ROOM:
        raise ValueError(f"a JPEG cannot hold a recipe of {len(exif)} bytes; write .png")
    full_colour = 0 if quality >= 90 else 2  # 4:4:4, or 4:2:0
    picture.save(file, "JPEG", quality=quality, subsampling=full_colour, optimize=True, exif=exif)


def _write_webp(picture: Image.Image, file: Path, recipe: Mapping[str, Any], quality: int) -> None:
    lossless = quality == 100
    picture.save(file, "WEBP", quality=quality, lossless=lossless, exact=True, exif=_exif(recipe))


def _write_tiff(picture: Image.Image, file: Path, recipe: Mapping[str, Any], _quality: int) -> None:
    note = _MARK + recipe_text(recipe, ascii_only=True)
    tags = {ExifTags.Base.ImageDescription.value: note, ExifTags.Base.Software.value: _KEY}
    picture.save(file, "TIFF", compression="tiff_adobe_deflate", tiffinfo=tags)


def _exif(recipe: Mapping[str, Any]) -> bytes:
    note = _MARK + recipe_text(recipe, ascii_only=True)
    exif = Image.Exif()
    exif[ExifTags.Base.Software] = _KEY
    exif[ExifTags.IFD.Exif] = {ExifTags.Base.UserComment: _ASCII + note.encode("ascii")}
    return exif.tobytes()


WRITERS: dict[str, Writer] = {
    ".png": _write_png,
    ".jpg": _write_jpeg,
    ".jpeg": _write_jpeg,
    ".webp": _write_webp,
    ".tif": _write_tiff,
    ".tiff": _write_tiff,
}


def sidecar(path: Path) -> Path:
    """Where the recipe of a file stands that cannot carry it: `movie.mp4` -> `movie.mp4.json`."""
    return path.with_name(path.name + ".json")


def write_sidecar(path: Path, recipe: Mapping[str, Any], overwrite: bool) -> Path:
    """Write the recipe of `path` beside it."""
    place, text = sidecar(path), recipe_text(recipe, indent=2)
    with placed(place, overwrite) as file:
        try:
            file.write_text(text + "\n", encoding="utf-8", newline="\n")
        except OSError as problem:
            raise OutputError(f"{place}: {problem.strerror}") from problem
    return place


def read_recipe(path: str | Path) -> dict[str, Any]:
    """The recipe that a picture carries, or that stands beside it, or that is the file itself (.json).

    Raises RecipeError where there is none, or none that can be read.
    """
    path = Path(path)
    require(path, RecipeError)
    if not path.is_file():
        raise RecipeError(f"{path} is not a file")
    text = None if path.suffix.lower() == ".json" else _carried(path)
    if text is None:
        beside = path if path.suffix.lower() == ".json" else sidecar(path)
        if not beside.is_file():
            raise RecipeError(f"{path} carries no featviz recipe")
        path, text = beside, _file_text(beside)
    try:
        recipe = json.loads(text)
    except (ValueError, RecursionError) as problem:
        raise RecipeError(f"the recipe in {path} is damaged: {problem}") from problem
    if not isinstance(recipe, dict):
        raise RecipeError(f"the recipe in {path} is damaged: it is no JSON object")
    return recipe


def _file_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as problem:
        raise RecipeError(f"{path} cannot be read: {problem}") from problem


def _carried(path: Path) -> str | None:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # sizes and odd metadata do not matter here
            with Image.open(path) as picture:
                return _png_text(picture) or _exif_text(picture)
    except PermissionError as problem:
        raise RecipeError(f"{path} may not be read: permission denied") from problem
    except Image.DecompressionBombError as problem:
        raise RecipeError(f"{path} is larger than Pillow opens: its recipe cannot be read") from problem
    except Exception:  # no picture, or a damaged one: then the sidecar may know
        return None


def _png_text(picture: Image.Image) -> str | None:
    text = picture.info.get(_KEY)
    if text is None and isinstance(picture, PngImageFile):
        text = picture.text.get(_KEY)  # other programs move the chunk behind the pixels
    return text


def _exif_text(picture: Image.Image) -> str | None:
    exif = picture.getexif()
    notes = (
        exif.get_ifd(ExifTags.IFD.Exif).get(ExifTags.Base.UserComment),
        exif.get(ExifTags.Base.ImageDescription),
    )
    for note in notes:
        text = note.removeprefix(_ASCII).decode("ascii", "replace") if isinstance(note, bytes) else note
        if isinstance(text, str) and text.startswith(_MARK):
            return text.removeprefix(_MARK)
    return None
