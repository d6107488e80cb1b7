"""Between PIL's pictures of every mode and tensors in [0, 1]."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from PIL import ExifTags, Image, ImageCms
from torch import Tensor

from featviz.errors import InvalidValue

Planes: TypeAlias = npt.NDArray[np.float32]
"""`(3, h, w)` colour or `(4, h, w)` colour and alpha, in [0, 1]."""

_STRIPE = 1 << 20  # pixels handled at once, so that a huge picture needs no second full copy

_SPACES = {"RGB ": "RGB", "GRAY": "L", "CMYK": "CMYK"}  # an ICC profile's colour space -> Pillow's mode


def from_pil(pil: Image.Image) -> tuple[Tensor, Tensor | None]:
    """A PIL picture of any mode -> image `(1, 3, h, w)` and alpha `(1, 1, h, w)` or None.

    Turned upright by its EXIF orientation, and converted to sRGB by its ICC profile where that can
    be used.
    """
    pil.load()  # some formats turn the picture upright here, and then drop their orientation
    decode = _decoder(pil)
    count = 4 if pil.has_transparency_data else 3
    orientation = _orientation(pil)
    size = (pil.width, pil.height) if orientation >= 5 else (pil.height, pil.width)
    planes: Planes = np.empty((count, *size), np.float32)
    stored = _as_stored(planes, orientation)
    for top, bottom in _stripes(pil.height, pil.width):
        stored[:, top:bottom] = decode(pil.crop((0, top, pil.width, bottom)))
    whole = torch.from_numpy(planes)[None]
    return whole[:, :3], whole[:, 3:] if count == 4 else None


def _stripes(height: int, width: int) -> list[tuple[int, int]]:
    rows = max(1, _STRIPE // max(1, width))
    return [(top, min(top + rows, height)) for top in range(0, height, rows)]


def _orientation(pil: Image.Image) -> int:
    try:
        value = pil.getexif().get(ExifTags.Base.Orientation, 1)
    except Exception:  # damaged EXIF says nothing
        return 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def _as_stored(planes: Planes, orientation: int) -> Planes:
    """A view on the upright planes with the rows and columns of the file (EXIF 2.3, tag 0x0112)."""
    if orientation >= 5:
        planes = planes.swapaxes(1, 2)
    if orientation in (3, 4, 6, 7):  # row 0 of the file is the bottom, or the right
        planes = planes[:, ::-1]
    if orientation in (2, 3, 7, 8):  # column 0 of the file is the right, or the bottom
        planes = planes[:, :, ::-1]
    return planes


def _decoder(pil: Image.Image) -> Callable[[Image.Image], Planes]:
    """What turns a stripe of this picture into planes."""
    if pil.mode.startswith(("I", "F")):
        scale, cut = _scale(pil), pil.info.get("transparency")
        return lambda stripe: _deep_planes(stripe, scale, cut if pil.has_transparency_data else None)
    convert = _colour_conversion(pil)
    alpha = pil.has_transparency_data

    def decode(stripe: Image.Image) -> Planes:
        bands = [convert(stripe)]
        if alpha:
            bands.append(stripe.convert("RGBA").getchannel("A"))
        pixels = np.concatenate([np.atleast_3d(np.asarray(band)) for band in bands], axis=2)
        planes: Planes = np.divide(pixels.transpose(2, 0, 1), np.float32(255), dtype=np.float32)
        return planes

    return decode


def _scale(pil: Image.Image) -> float:
    """The value that is white: 65535 for 16 bits, 1 for floats, unless the picture goes beyond.

    A 32-bit picture with nothing above 65535 holds 16-bit values. Floats up to 1.5 are an overshoot
    and get clipped; above that, the picture counts to 255, 65535 or its own maximum.
    """
    if pil.mode.startswith("I;16"):
        return 65535.0
    top = pil.getextrema()[1]
    if not isinstance(top, int | float) or not np.isfinite(top):
        return 1.0
    if pil.mode == "I":
        return 65535.0 if top <= 65535 else float(2**31 - 1)
    return 1.0 if top <= 1.5 else next((white for white in (255.0, 65535.0) if top <= white), float(top))


def _deep_planes(stripe: Image.Image, scale: float, cut: Any) -> Planes:
    """Planes of a gray picture of more than 8 bits; `cut` is the one value that is transparent."""
    values = np.asarray(stripe)
    gray = np.nan_to_num(np.clip(values / np.float32(scale), 0, 1)).astype(np.float32)
    planes = [gray, gray, gray]
    return np.stack(planes if cut is None else [*planes, (values != cut).astype(np.float32)])


def _colour_conversion(pil: Image.Image) -> Callable[[Image.Image], Image.Image]:
    """What turns a stripe into RGB: by the ICC profile where it can be used, else by Pillow."""
    found = _profile(pil)
    if found is None:
        return lambda stripe: stripe.convert("RGB")
    profile, mode = found
    try:
        transform = ImageCms.buildTransform(profile, ImageCms.createProfile("sRGB"), mode, "RGB")
    except ImageCms.PyCMSError:
        return lambda stripe: stripe.convert("RGB")
    return lambda stripe: transform.apply(stripe if stripe.mode == mode else stripe.convert(mode))


def _profile(pil: Image.Image) -> tuple[ImageCms.ImageCmsProfile, str] | None:
    """The picture's ICC profile and the mode that it speaks of; None where there is none of use."""
    if pil.mode == "LAB":
        return ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")), "LAB"
    try:
        profile = ImageCms.ImageCmsProfile(io.BytesIO(pil.info["icc_profile"]))
        mode = _SPACES[profile.profile.xcolor_space]
    except (OSError, KeyError, TypeError):  # none, or a broken one
        return None
    speaks_of = {"RGB": pil.mode != "CMYK", "L": pil.mode in ("1", "L", "LA"), "CMYK": pil.mode == "CMYK"}
    return (profile, mode) if speaks_of[mode] else None


def to_pil(image: Tensor, alpha: Tensor | None = None) -> Image.Image:
    """Image `(1, 3, h, w)` or `(3, h, w)` in [0, 1] -> 8-bit RGB, or RGBA with alpha `(1, 1, h, w)`.

    Level = floor(255 x + 1/2), clipped.
    """
    planes = [_single(image, 3)] if alpha is None else [_single(image, 3), _single(alpha, 1)]
    height, width = planes[0].shape[1:]
    if planes[-1].shape[1:] != planes[0].shape[1:]:
        raise InvalidValue(f"alpha of {tuple(planes[-1].shape[1:])} on an image of {(height, width)}")
    pil = Image.new("RGB" if alpha is None else "RGBA", (width, height))
    for top, bottom in _stripes(height, width):
        levels = [plane[:, top:bottom].float().mul(255).add_(0.5).clamp_(0, 255).byte() for plane in planes]
        pixels = torch.cat([level.cpu() for level in levels]).permute(1, 2, 0).contiguous().numpy()
        pil.paste(Image.fromarray(pixels), (0, top))
    return pil


def _single(image: Tensor, channels: int) -> Tensor:
    planes = image.detach()[0] if image.ndim == 4 and len(image) == 1 else image.detach()
    if planes.ndim != 3 or len(planes) != channels:
        raise InvalidValue(f"a picture needs shape (1, {channels}, h, w), not {tuple(image.shape)}")
    return planes
