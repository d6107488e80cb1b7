"""The named ways of making a visualization: rows of settings, each with its source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, TypeVar

from featviz.errors import UnknownName
from featviz.render_settings import RenderSettings


@dataclass(frozen=True)
class Preset:
    """What a preset sets, where it comes from, and what to expect of it."""

    source: str
    about: str
    values: Mapping[str, Any]


class PresetNotFound(UnknownName):
    """No preset of that name."""

    kind = "preset"


_PIXELS = {"param": "pixels", "optimizer": "gradient", "rate": 100.0, "stretch": True}

PRESETS: dict[str, Preset] = {
    "views": Preset(
        "featviz, docs/visualizing.md",
        "whole objects: Fourier, wide random crops, contrast and batch-norm statistics held; the default",
        {
            "starts": 4,
            "statistics": 10.0,
            "slack": 1.0,
            "steps": 256,
            "rate": 0.06,
            "decay": 1.5,
            "contrast": 1.2,
            "view_low": 0.3,
            "view_high": 1.05,
            "view_scale": 0.715,
            "view_from": 0.35,
            "rotate": 10.0,
            "noise": 0.1,
            "cooling": 0.4,
        },
    ),
    "whole": Preset(
        "featviz",
        "the picture seen whole, hardly moved: what caricature, invert and accentuate start with",
        {
            "steps": 256,
            "rate": 0.05,
            "decay": 1.2,
            "contrast": 1.2,
            "view_low": 0.92,
            "view_high": 1.02,
            "rotate": 3.0,
            "noise": 0.03,
            "cooling": 0.4,
        },
    ),
    "fourier": Preset(
        "Olah et al. 2017; lucid",
        "textures and parts: decorrelated Fourier, small shifts, turns and magnifications",
        {"steps": 512, "decay": 1.0, "jitter": 8, "rotate": 10.0, "scale": 0.1},
    ),
    "maco": Preset(
        "Fel et al. 2023; fewer and wider views than theirs",
        "natural light and colours: phase alone, the spectrum of natural images held",
        {
            "param": "maco",
            "optimizer": "nadam",
            "rate": 0.3,
            "steps": 256,
            "view_low": 0.3,
            "view_high": 1.0,
            "view_scale": 0.715,
            "views": 2,
            "noise": 0.08,
        },
    ),
    "cppn": Preset(
        "Mordvintsev et al. 2018; lucid",
        "smooth forms at any size, painted by a small network of the coordinates",
        {"param": "cppn", "rate": 0.005, "steps": 256, "start_noise": 0.0},
    ),
    "gaussian": Preset(
        "the plain loop of Yosinski et al. 2015: add the gradient, blur, repeat",
        "soft shapes from pixels",
        {
            "param": "pixels",
            "optimizer": "normalised",
            "rate": 0.02,
            "steps": 400,
            "blur": 0.7,
            "blur_every": 4,
            "jitter": 8,
            "stretch": True,
        },
    ),
    "yosinski1": Preset(
        "Yosinski et al. 2015, setting 1",
        "blur and the weaker half of the pixels cleared",
        {**_PIXELS, "steps": 500, "blur": 0.5, "blur_every": 4, "norm_percentile": 50.0},
    ),
    "yosinski2": Preset(
        "Yosinski et al. 2015, setting 2",
        "strong decay, sparse",
        {**_PIXELS, "steps": 750, "shrink": 0.3, "norm_percentile": 20.0},
    ),
    "yosinski3": Preset(
        "Yosinski et al. 2015, setting 3, most of the paper's figures",
        "smooth, by wide blur",
        {**_PIXELS, "steps": 1000, "shrink": 0.0001, "blur": 1.0, "blur_every": 4},
    ),
    "yosinski4": Preset(
        "Yosinski et al. 2015, setting 4",
        "only pixels that contribute stay",
        {**_PIXELS, "steps": 1000, "blur": 0.5, "blur_every": 4, "contribution_percentile": 90.0},
    ),
}
"""Name -> preset. What a preset does not set is off."""

DEFAULT = "views"

ALL = "all"
"""In the place of a preset: one picture by each of them."""

OFF: Mapping[str, Any] = {
    "steps": 256,
    "rate": 0.05,
    "param": "fourier",
    "optimizer": "adam",
    "decay": 1.0,
    "cooling": 0.0,
    "starts": 1,
    "start_noise": 10 / 255,
    "view_low": 1.0,
    "view_high": 1.0,
    "view_scale": 1.0,
    "view_from": 0.0,
    "views": 1,
    "jitter": 0,
    "rotate": 0.0,
    "scale": 0.0,
    "noise": 0.0,
    "statistics": 0.0,
    "slack": 0.0,
    "blur": 0.0,
    "blur_every": 4,
    "shrink": 0.0,
    "norm_percentile": 0.0,
    "contribution_percentile": 0.0,
    "contrast": 0.0,
    "stretch": False,
}
"""What a setting is where neither the user nor the preset says."""


_Any = TypeVar("_Any", bound=RenderSettings)


def resolved(settings: _Any) -> _Any:
    """The settings with what is left open filled in by their preset, if one; raises `PresetNotFound`."""
    name = settings.preset or DEFAULT
    if name == ALL:
        return settings
    if name not in PRESETS:
        raise PresetNotFound(name, PRESETS, hint=f"the presets are {', '.join(PRESETS)}")
    values = {**OFF, **PRESETS[name].values}
    open_ = [f.name for f in fields(settings) if getattr(settings, f.name) is None]
    filled = {key: values[key] for key in open_ if key in values}
    return replace(settings, preset=name, **filled)
