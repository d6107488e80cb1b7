"""Visualizations from noise: what they excite, how they start, what they refuse."""

import pytest
import torch
from conftest import tiny_model

from featviz.errors import ImageTooSmall, InvalidValue
from featviz.layers import score
from featviz.params import PARAMETERIZATIONS, gaussian_noise
from featviz.settings import RenderSettings
from featviz.targets import objective_of
from featviz.types import Draws
from featviz.visualize import render, robustness


def rendered(model, target, **settings):
    for step in render(model, target, RenderSettings(**settings)):
        last = step
    return last.image


@pytest.mark.parametrize("target", ["layer1:3", "layer3:20@middle", "class:tabby", "layer2:1 + layer2:2"])
def test_thirty_steps_excite_the_target_well_above_noise(embedded, target):
    """Seen clean, without the transforms that it was made under."""
    measured = score(embedded, objective_of(embedded, target))
    made = rendered(embedded, target, size=96, steps=30)
    with torch.no_grad():
        noise = measured(gaussian_noise(list(range(1, 9)), (96, 96)))
        reached = float(measured(made))
    assert reached > float(noise.mean()) + 6 * float(noise.std())
    assert made.shape == (1, 3, 96, 96) and made.min() >= 0 and made.max() <= 1


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_every_parameterization_climbs(name):
    model = tiny_model()
    measured = score(model, objective_of(model, "conv3:2"))
    made = rendered(model, "conv3:2", steps=20, param=name)
    noise = measured(gaussian_noise(list(range(8)), (32, 32)))
    assert float(measured(made)) > float(noise.mean()) + 4 * float(noise.std())


def test_the_size_is_the_networks_or_ones_own():
    model = tiny_model()
    assert rendered(model, "conv2:1", steps=1).shape[2:] == model.input_size
    assert rendered(model, "conv2:1", steps=1, size=50).shape[2:] == (50, 50)


def test_the_seed_makes_the_picture():
    model = tiny_model()
    first, again, other = (rendered(model, "conv2:1", steps=3, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_shifts_keep_the_whole_picture_in_view():
    """Padded by as much as both shifts can take, of which the crops leave half (lucid's 12, 8 and 4)."""
    for wide, both in ((8, 12), (16, 24), (5, 7), (1, 1)):
        for seed in range(5):
            image = torch.ones(1, 3, 40, 48)
            for transform in robustness(RenderSettings(jitter=wide, rotate=0.0, scale=0.0)):
                image = transform(image, Draws([seed], "step", 1))
            assert image.shape == (1, 3, 40 + both, 48 + both)
            assert int((image == 1).sum()) == 3 * 40 * 48
    assert robustness(RenderSettings(jitter=0, rotate=0.0, scale=0.0)) == []


def test_a_blurred_picture_is_smoother():
    model = tiny_model()

    def roughness(**settings):
        made = rendered(model, "conv2:1", steps=8, param="pixels", **settings)
        return float((made[..., 1:] - made[..., :-1]).abs().mean())

    assert roughness(blur=1.5, blur_every=2) < 0.6 * roughness()


@pytest.mark.parametrize("name", ["furier", "cppn"])
def test_an_unknown_parameterization(name):
    with pytest.raises(InvalidValue, match=f"param '{name}'.*one of pixels, fourier"):
        render(tiny_model(), "conv2:1", RenderSettings(param=name))


def test_a_picture_that_the_layer_cannot_take():
    from torch import nn

    from featviz.types import Model

    net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Conv2d(4, 4, 5)).eval()
    model = Model(net, "two", input_size=(32, 32))
    with pytest.raises(ImageTooSmall, match="at least 9"):
        render(model, "1:2", RenderSettings(size=8))


def test_the_network_is_left_as_found_after_half_a_run():
    model = tiny_model()
    model.net.train()
    steps = render(model, "conv2:1", RenderSettings(steps=5))
    next(steps)
    steps.close()
    assert all(module.training for module in model.net.modules())
