"""Device code without a GPU: the meta device refuses `.item()`, which on a GPU would be waited for."""

import pytest
import torch
from conftest import TinyNet, tiny_model

from featviz import objectives
from featviz.ascent import ascend
from featviz.deepdream import dream, picture
from featviz.layers import score
from featviz.params import PARAMETERIZATIONS
from featviz.regularizers import PENALTIES, PROJECTIONS
from featviz.render_settings import RenderSettings
from featviz.settings import DreamSettings
from featviz.transforms import TRANSFORMS
from featviz.types import Model
from featviz.visualize import render

TRANSFORM_SETTINGS = {
    "jitter": (4,), "roll": (4,), "scale": ([0.9, 1.1],), "rotate": (10,), "pad": (3,), "crop": (0.4, 1.0),
    "noise": (0.1,), "view": (0.5, 1.1, 10.0, (0.9, 1.1), 1.0, 1),
}  # fmt: skip
PENALTY_SETTINGS = {"tv": (0.1,), "l1": (0.1,), "l2": (0.1,)}
PROJECTION_SETTINGS = {"blur": (1.0,), "decay": (0.1,), "norm_clip": (20,), "contribution_clip": (20,)}
OBJECTIVE_SETTINGS = {
    "layer": ("conv2",),
    "channel": ("conv2", 3),
    "neuron": ("conv2", 3),
    "class": (2,),
    "direction": ("conv2", torch.ones(8), 2.0),  # its vector comes from a file, on the CPU
    "guide": ("conv2", torch.ones(1, 8, 4, 4)),
}


@pytest.fixture(scope="module")
def elsewhere():
    """The tiny net on the meta device, its addresses known from a net on the CPU."""
    model = tiny_model()
    return Model(TinyNet().eval().requires_grad_(False).to("meta"), model.name, input_size=(32, 32))


def one_step(model, param="pixels", objective="layer", **more):
    assert model.device.type == "meta"
    image = torch.empty(2, 3, 32, 32, device="meta")
    made = PARAMETERIZATIONS[param](image)
    optimizer = torch.optim.Adam(made.values, lr=0.05, maximize=True)
    measured = score(model, objectives.OBJECTIVES[objective](*OBJECTIVE_SETTINGS[objective]))
    steps = list(ascend(measured, made, optimizer, steps=2, seeds=[0, 1], **more))
    for step in steps:
        assert step.image.device.type == step.scores.device.type == "meta"
        assert step.image.shape == image.shape and step.scores.shape == (2,)
    assert all(value.device.type == "meta" for value in made.values)


def test_everything_is_tried_here():
    assert set(TRANSFORM_SETTINGS) == set(TRANSFORMS)
    assert set(PENALTY_SETTINGS) == set(PENALTIES)
    assert set(PROJECTION_SETTINGS) == set(PROJECTIONS)
    assert set(OBJECTIVE_SETTINGS) == set(objectives.OBJECTIVES)


def test_the_meta_device_refuses_a_look():
    with pytest.raises(RuntimeError):
        torch.empty(1, device="meta").item()


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_parameterizations(elsewhere, name):
    one_step(elsewhere, param=name)


@pytest.mark.parametrize("name", list(objectives.OBJECTIVES))
def test_objectives(elsewhere, name):
    one_step(elsewhere, objective=name)


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_transforms(elsewhere, name):
    one_step(elsewhere, transforms=[TRANSFORMS[name](*TRANSFORM_SETTINGS[name])])


@pytest.mark.parametrize("name", list(PENALTIES))
def test_penalties(elsewhere, name):
    one_step(elsewhere, penalties=[PENALTIES[name](*PENALTY_SETTINGS[name])])


@pytest.mark.parametrize("name", list(PROJECTIONS))
def test_projections(elsewhere, name):
    one_step(elsewhere, projections=[PROJECTIONS[name](*PROJECTION_SETTINGS[name])])


@pytest.mark.parametrize(
    "settings", [{}, {"decay": 0.1, "tv": 0.1, "keep_color": True}, {"tile": "40", "blur": 0.0}]
)
def test_a_dream(elsewhere, settings):
    photo = torch.empty(1, 3, 48, 64, device="meta")
    chosen = DreamSettings(steps=1, octaves=2, jitter=4, **settings)
    if chosen.tile == "40":
        chosen = DreamSettings(steps=1, octaves=1, tile="160", blur=0.0)
        photo = torch.empty(1, 3, 48, 200, device="meta")
    mask = torch.empty(1, 1, *photo.shape[2:], device="meta")
    for step in dream(elsewhere, photo, "conv2", chosen, mask=mask, guide=photo):
        assert step.image.device.type == "meta"
    assert picture(photo, step, chosen, mask).device.type == "meta"


@pytest.mark.parametrize("param", list(PARAMETERIZATIONS))
def test_a_render(elsewhere, param):
    settings = RenderSettings(size=32, steps=2, blur=0.5, blur_every=1, param=param)
    for step in render(elsewhere, "class:2", settings):
        assert step.image.device.type == "meta"
