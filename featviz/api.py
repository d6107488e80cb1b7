"""The library's front door: pictures in, pictures out."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
import PIL.Image
import torch
from torch import Tensor, nn

from featviz.errors import InvalidValue, MethodNotFound
from featviz.explain_settings import METHOD_SETTINGS
from featviz.explaining import top_classes
from featviz.models import load
from featviz.output.explanations import Explanation, Explanations
from featviz.output.photos import Photo, read_photo
from featviz.output.pil import from_pil
from featviz.output.results import Film, Picture
from featviz.presets import resolved
from featviz.recipes import SETTINGS, recipe_for
from featviz.render_settings import RenderSettings
from featviz.runs import run
from featviz.settings import DreamSettings, Settings
from featviz.types import Model, Objective
from featviz.watching import Watch

Image: TypeAlias = "str | Path | PIL.Image.Image | np.ndarray[Any, Any] | Tensor"
"""A file, a Pillow image, an array `(h, w, 3)` of bytes or in [0, 1], a tensor `(1, 3, h, w)` in [0, 1]."""


def dream(
    model: Model | nn.Module | str,
    image: Image,
    target: str | Objective = "layer3",
    *,
    guide: Image | None = None,
    mask: Image | None = None,
    watch: Watch | None = None,
    **settings: Any,
) -> Picture | Film:
    """DeepDream an image; the settings are those of `DreamSettings` by name.

    `dream(model, "photo.jpg", "layer3", steps=20).save("dream.png")`. Gives a `Film` with zoom or
    animate, a `Picture` otherwise. Raises what `featviz.errors` lists.
    """
    photos = {"photo": as_photo(image)}
    if guide is not None:
        photos["guide"] = as_photo(guide)
    if mask is not None:
        photos["mask"] = as_photo(mask)
    made = _run("dream", model, target, DreamSettings.make(**settings), photos, watch)
    assert isinstance(made, (Picture, Film))
    return made


def explain(
    model: Model | nn.Module | str,
    image: Image,
    method: str = "grad-cam",
    target: str | Objective | None = None,
    **settings: Any,
) -> Explanation:
    """Explain a decision; the settings are those of the method in `featviz.explain_settings` by name.

    `explain(model, "cat.jpg", "grad-cam", "class:tabby").save("why.png")`. Without a target it is the
    class that the network holds most likely. Raises `MethodNotFound` and what the method raises.
    """
    if method not in METHOD_SETTINGS:
        raise MethodNotFound(method, METHOD_SETTINGS)
    ready, photo = as_model(model), as_photo(image)
    if target is None:
        target = top_classes(ready, photo.image, 1, settings.get("size"))[0]
    made = _run(
        f"explain {method}", ready, target, METHOD_SETTINGS[method].make(**settings), {"photo": photo}, None
    )
    assert isinstance(made, Explanations)
    return made.maps[0]


def render(
    model: Model | nn.Module | str, target: str | Objective, *, watch: Watch | None = None, **settings: Any
) -> Picture | Film:
    """Visualize a target from gaussian noise; the settings are those of `RenderSettings` by name.

    `render(model, "layer3:97").save("channel.png")`. Gives a `Film` with animate.
    """
    made = _run("render", model, target, resolved(RenderSettings.make(**settings)), {}, watch)
    assert isinstance(made, (Picture, Film))
    return made


def caricature(
    model: Model | nn.Module | str, image: Image, target: str | Objective = "layer3", **settings: Any
) -> Picture | Film:
    """Exaggerate what a layer sees in an image; the settings are those of `CaricatureSettings` by name."""
    return _compared("caricature", model, image, target, settings)


def invert(
    model: Model | nn.Module | str, image: Image, target: str | Objective = "layer3", **settings: Any
) -> Picture | Film:
    """Show what a layer keeps of an image; the settings are those of `InversionSettings` by name."""
    return _compared("inversion", model, image, target, settings)


def accentuate(
    model: Model | nn.Module | str, image: Image, target: str | Objective, **settings: Any
) -> Picture | Film:
    """Make an image more of something; the settings are those of `AccentuationSettings` by name."""
    return _compared("accentuation", model, image, target, settings)


def _compared(
    command: str,
    model: Model | nn.Module | str,
    image: Image,
    target: str | Objective,
    settings: Mapping[str, Any],
) -> Picture | Film:
    chosen = resolved(SETTINGS[command].make(**settings))
    made = _run(command, model, target, chosen, {"photo": as_photo(image)}, None)
    assert isinstance(made, (Picture, Film))
    return made


def _run(
    command: str,
    model: Model | nn.Module | str,
    target: str | Objective,
    settings: Settings,
    photos: Mapping[str, Photo],
    watch: Watch | None,
) -> Picture | Film | Explanations:
    ready = as_model(model)
    objective = target if isinstance(target, Objective) else None
    name = target.name if isinstance(target, Objective) else target
    recipe = recipe_for(command, ready, name, settings, photos)
    return run(recipe, model=ready, inputs=photos, watch=watch, objective=objective)


def as_model(model: Model | nn.Module | str) -> Model:
    """A model as it is, a name loaded, a bare network with ImageNet's normalisation."""
    if isinstance(model, Model):
        return model
    return load(model) if isinstance(model, str) else Model(model, type(model).__name__)


def as_photo(image: Image) -> Photo:
    """Any kind of image as a `Photo`; one from memory has the digest of its pixels and no path."""
    if isinstance(image, (str, Path)):
        return read_photo(image)
    alpha = None
    if isinstance(image, np.ndarray):
        image, alpha = _from_array(image)
    if isinstance(image, PIL.Image.Image):
        image, alpha = from_pil(image)
    if not isinstance(image, Tensor) or image.dim() != 4 or image.shape[:2] != (1, 3):
        shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
        raise InvalidValue(f"an image tensor is (1, 3, h, w) in [0, 1], not {shape}")
    pixels = image.detach().float().cpu().contiguous()
    if not pixels.numel():
        raise InvalidValue(f"an image of {pixels.shape[2]}x{pixels.shape[3]} has no pixels")
    low, high = (float(end) for end in pixels.aminmax())
    if not (low >= -0.5 and high <= 1.5):  # a resampled picture may overshoot a little; NaN is refused, too
        raise InvalidValue(f"an image has values in [0, 1], not {low:g} to {high:g}")
    pixels = pixels.clamp(0, 1)
    return Photo(pixels, alpha, "", hashlib.sha256(pixels.numpy().tobytes()).hexdigest())


def _from_array(array: np.ndarray[Any, Any]) -> tuple[Tensor, Tensor | None]:
    """Image `(1, 3, h, w)` and alpha `(1, 1, h, w)` of bytes or floats, grey or coloured."""
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)):
        raise InvalidValue(f"an image array is (h, w), (h, w, 3) or (h, w, 4), not {array.shape}")
    if array.dtype != np.uint8 and array.dtype.kind != "f":
        raise InvalidValue(f"an image array holds bytes or floats in [0, 1], not {array.dtype}")
    scale = 255 if array.dtype == np.uint8 else 1
    planes = torch.from_numpy(np.divide(np.atleast_3d(array), scale, dtype=np.float32)).permute(2, 0, 1)[None]
    colours = planes[:, :3] if planes.shape[1] > 1 else planes.expand(-1, 3, -1, -1)
    return colours, planes[:, 3:] if planes.shape[1] == 4 else None
