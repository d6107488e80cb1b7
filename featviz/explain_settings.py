"""The settings of every explanation method; what they mean is told by the methods themselves."""

from __future__ import annotations

from dataclasses import dataclass, fields

from featviz.settings import Settings, option


@dataclass(frozen=True)
class ExplainSettings(Settings):
    """What all methods share: the size that the network sees, and how the map is shown."""

    size: int | None = option(
        None, "shorter side that the network sees, by default its input size", at_least=1
    )
    sign: str = option("auto", "part of the map shown: auto, both, pos, neg, abs", panel="Display")
    norm: str = option("auto", "range shown: auto, minmax, p99, shared, none", panel="Display")
    cmap: str = option("", "viridis, inferno, blue-red, grey", panel="Display")
    alpha: float = option(0.6, "how far the map covers the photo", at_least=0, panel="Display")
    margin: bool = option(
        True, "with several targets, also the first's lead over the second", panel="Display"
    )
    show: str = option("figure", "what is saved: figure, overlay, heatmap, mask", panel="Display")
    mask: bool = option(False, "show the photo where the map is strong, and nothing else", panel="Display")
    boxes: bool = option(False, "draw a box around where the map is strong", panel="Display")
    threshold: float = option(
        0.5, "strong: the largest part above so much of the maximum", above=0, at_most=1, panel="Display"
    )
    check: bool = option(False, "test the map, and say what the tests found (slower)")


@dataclass(frozen=True)
class IntegratedSettings(ExplainSettings):
    """Integrated gradients."""

    steps: int = option(50, "points on the way from the baseline", at_least=1)
    baseline: str = option("black", "where the way starts: black, grey, white, mean")


@dataclass(frozen=True)
class SmoothSettings(ExplainSettings):
    """SmoothGrad."""

    of: str = option("gradient", "the gradient method that is averaged")
    samples: int = option(25, "noisy copies", at_least=1)
    noise: float = option(0.15, "their noise, as a share of the image's range", at_least=0)
    seed: int = option(0, "the same seed gives the same map", at_least=0)


@dataclass(frozen=True)
class LayerSettings(ExplainSettings):
    """A class activation map taken at a layer."""

    layer: str = option("auto", "layer, may repeat; auto is the last with positions", many=True, short="-l")


@dataclass(frozen=True)
class PercentileSettings(LayerSettings):
    """A class activation map weighted by a percentile of the gradient."""

    percentile: str = option("50", "percentile of the gradient over positions; 50,75,90 gives a row each")


@dataclass(frozen=True)
class OcclusionSettings(ExplainSettings):
    """Occlusion by sliding windows."""

    window: str = option(
        "auto", "sides of the windows in pixels, all in one map; auto: 32,64,96 at 224 pixels, in proportion"
    )
    stride: int | None = option(None, "pixels between windows, by default half a window", at_least=1)
    fill: str = option("noise", "what hides: noise, mean, black, grey, blur")
    score: str = option("logit", "what drops: logit, prob, logprob, margin, or inverse for 1/s")
    overlap: str = option("auto", "windows on one pixel: mean, sum, or auto")
    seed: int = option(0, "the same seed gives the same noise", at_least=0)
    coarse_to_fine: bool = option(False, "fast and approximate: refine only where much drops")


@dataclass(frozen=True)
class RiseSettings(ExplainSettings):
    """RISE."""

    masks: int = option(1000, "random masks", at_least=1)
    cells: int = option(7, "cells along a mask's side", at_least=1)
    keep: float = option(0.5, "share of the picture left in view", above=0)
    score: str = option("prob", "what is averaged: prob, logit, logprob, margin")
    seed: int = option(0, "the same seed gives the same masks", at_least=0)


@dataclass(frozen=True)
class ActivationSettings(Settings):
    """A sheet of what channels answer to a photo."""

    layer: str = option("", "layer, may repeat; without it every ReLU-like one", many=True, short="-l")
    channels: int = option(16, "channels of each layer", at_least=1)
    order: str = option("strength", "which come first: strength or number")
    scale: str = option("shared", "range of the colours: shared by a layer's channels, or own")
    size: int | None = option(
        None, "shorter side that the network sees, by default its input size", at_least=1
    )


@dataclass(frozen=True)
class KernelSettings(Settings):
    """A sheet of the first layer's kernels."""

    cell: int = option(64, "side of a kernel's picture in pixels", at_least=8)


@dataclass(frozen=True)
class SeveralSettings(PercentileSettings):
    """Several methods side by side."""

    method: str = option("", "method, may repeat; without it all", many=True)
    masks: int = option(500, "random masks of RISE", at_least=1)
    seed: int = option(0, "the same seed gives the same maps", at_least=0)


@dataclass(frozen=True)
class CheckSettings(SeveralSettings):
    """Several methods, tested."""

    method: str = option(
        "", "method, may repeat; by default gradient, guided-backprop and grad-cam", many=True
    )
    check: bool = option(True, "test the maps", panel="Display")


METHOD_SETTINGS: dict[str, type[ExplainSettings]] = {
    "gradient": ExplainSettings,
    "input-x-gradient": ExplainSettings,
    "deconvnet": ExplainSettings,
    "guided-backprop": ExplainSettings,
    "integrated-gradients": IntegratedSettings,
    "smoothgrad": SmoothSettings,
    "cam": ExplainSettings,
    "grad-cam": LayerSettings,
    "percentile-cam": PercentileSettings,
    "guided-cam": PercentileSettings,
    "grad-cam++": LayerSettings,
    "layer-cam": LayerSettings,
    "score-cam": LayerSettings,
    "eigen-cam": LayerSettings,
    "guided-grad-cam": LayerSettings,
    "occlusion": OcclusionSettings,
    "rise": RiseSettings,
}
"""Method -> its settings; each is given to the method by name."""

EXPLAIN_SETTINGS: dict[str, type[ExplainSettings]] = {
    **METHOD_SETTINGS,
    "all": SeveralSettings,
    "check": CheckSettings,
}
"""Subcommand of explain -> its settings."""

CHECKED = ("gradient", "guided-backprop", "grad-cam")
"""What `explain check` tests where no method is named."""

DISPLAY = tuple(setting.name for setting in fields(ExplainSettings))
"""Settings that are not the method's own."""
