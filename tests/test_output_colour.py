"""Colour maps: even to the eye by an independent measure, and diverging ones white in the middle."""

import numpy as np
import pytest
import torch

from featviz.errors import InvalidValue
from featviz.output.colour import COLOURMAPS, colourise


def lab(rgb):
    """sRGB in [0, 1] `(n, 3)` -> CIE 1976 L*a*b* under D65."""
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    to_xyz = np.array(
        [
            [0.4124564, 0.3575761, 0.1804375],
            [0.2126729, 0.7151522, 0.0721750],
            [0.0193339, 0.1191920, 0.9503041],
        ]
    )
    xyz = linear @ to_xyz.T / np.array([0.95047, 1.0, 1.08883])
    f = np.where(xyz > 216 / 24389, np.cbrt(xyz), (24389 / 27 * xyz + 16) / 116)
    return np.stack([116 * f[:, 1] - 16, 500 * (f[:, 0] - f[:, 1]), 200 * (f[:, 1] - f[:, 2])], 1)


def ramp(name, count=65):
    return colourise(torch.linspace(0, 1, count)[None], name)[0, :, 0].T.double().numpy()


@pytest.mark.parametrize("name", ["viridis", "inferno", "grey"])
def test_lightness_rises_evenly(name):
    lightness = lab(ramp(name))[:, 0]
    steps = np.diff(lightness)
    assert (steps > 0).all()
    straight = np.linspace(lightness[0], lightness[-1], len(lightness))
    assert np.abs(lightness - straight).max() < 0.08 * (lightness[-1] - lightness[0])


def test_the_diverging_map_is_white_in_the_middle_and_as_dark_at_both_ends():
    lightness = lab(ramp("blue-red"))[:, 0]
    assert lightness.argmax() == len(lightness) // 2
    assert lightness[len(lightness) // 2] > 95
    assert (np.diff(lightness[:33]) > 0).all() and (np.diff(lightness[32:]) < 0).all()
    assert abs(lightness[0] - lightness[-1]) < 5
    middle = ramp("blue-red")[32]
    assert np.ptp(middle) < 0.01
    assert ramp("blue-red")[0].argmax() == 2 and ramp("blue-red")[-1].argmax() == 0


@pytest.mark.parametrize("name", COLOURMAPS)
def test_between_the_colours_it_is_linear(name):
    codes = COLOURMAPS[name]
    table = np.array([[int(code[i : i + 2], 16) / 255 for i in (0, 2, 4)] for code in codes])
    values = torch.rand(5, 7, generator=torch.Generator().manual_seed(0))
    values[0, 0], values[0, 1], values[0, 2], values[0, 3] = 0.0, 1.0, -3.0, 9.0  # beyond is clipped
    made = colourise(values, name)
    assert made.shape == (1, 3, 5, 7)
    for channel in range(3):
        at = values.clamp(0, 1).double().numpy()
        expected = np.interp(at, np.linspace(0, 1, len(codes)), table[:, channel])
        assert np.allclose(made[0, channel].numpy(), expected, atol=1e-6)


def test_an_unknown_name():
    with pytest.raises(InvalidValue, match="nearest: viridis"):
        colourise(torch.zeros(2, 2), "virids")
