"""How a dream's gradient is shaped: colour, smoothing, evenness, size, mask."""

import numpy as np
import torch

from featviz.preconditioning import BAND, shaped
from featviz.regularizers import gaussian_blur
from featviz.settings import DreamSettings


def noise(h=48, w=64, seed=0):
    return torch.randn(1, 3, h, w, generator=torch.Generator().manual_seed(seed))


def plain(**more):
    return DreamSettings(**{"blur": 0.0, "even": 0.0, "colour": 1.0, **more})


def test_the_mean_size_becomes_one_and_the_direction_stays():
    gradient = 1e-7 * noise()
    made = shaped(plain(), 16, None)(gradient.clone(), 1)
    assert abs(float(made.abs().mean()) - 1) < 1e-4
    torch.testing.assert_close(made, gradient / gradient.abs().mean(), atol=0, rtol=1e-4)


def test_colour_is_damped_towards_the_mean_of_the_three():
    gradient = noise()
    made = shaped(plain(colour=0.5), 16, None)(gradient.clone(), 1).double()
    grey = gradient.double().mean(1, keepdim=True)
    expected = grey + 0.5 * (gradient.double() - grey)
    torch.testing.assert_close(made, expected / expected.abs().mean(), atol=1e-5, rtol=1e-5)


def test_smoothing_is_the_sum_of_three_blurs_also_where_it_goes_by_bands():
    gradient = noise(BAND + 70, 12)
    settings = plain(blur=2.0, steps=4)
    made = shaped(settings, 16, None)(gradient.clone(), 2)
    sigma = 2.0 * (0.5 + 2 * 2 / 4)
    expected = sum(gaussian_blur(gradient, sigma * k) for k in (0.5, 1.0, 2.0))
    torch.testing.assert_close(made, expected / expected.abs().mean(), atol=1e-4, rtol=1e-4)


def test_blur_by_default_goes_with_the_stride():
    def roughness(stride):
        made = shaped(plain(blur=None), stride, None)(noise(), 1)
        return float((made[..., 1:] - made[..., :-1]).abs().mean())

    found = [roughness(stride) for stride in (4, 8, 16, 32)]
    assert found == sorted(found, reverse=True) and found[0] > 1.5 * found[-1]


def test_evenness_raises_what_is_weak():
    gradient = noise(128, 256)
    gradient[..., 128:] *= 0.1
    ratios = []
    for even in (0.0, 0.8):
        made = shaped(plain(even=even), 16, None)(gradient.clone(), 1).abs()
        ratios.append(float(made[..., 192:].mean() / made[..., :64].mean()))
    assert np.isclose(ratios[0], 0.1, rtol=0.05)
    assert np.isclose(ratios[1], 0.1**0.2, rtol=0.15)  # (1/10) / (1/10)^0.8


def test_nothing_moves_outside_the_mask_and_no_gradient_gives_none():
    mask = torch.zeros(1, 1, 48, 64)
    mask[..., :30] = 1
    made = shaped(DreamSettings(), 16, mask)(noise(), 1)
    assert made[..., 30:].abs().max() == 0 and made[..., :30].abs().mean() > 0.5
    still = shaped(DreamSettings(), 16, None)(torch.zeros(1, 3, 48, 64), 1)
    assert torch.equal(still, torch.zeros(1, 3, 48, 64))
