"""What every member of a family has to hold, run over its whole dict.

The numbers of each member are checked beside it: this is what any new one must pass unasked.
"""

import importlib
import inspect
import json
import pkgutil

import numpy as np
import pytest
import torch
from conftest import TinyNet, seeded, unit_images
from PIL import Image

import featviz
from featviz import objectives
from featviz.ascent import ascend
from featviz.engines import ENGINES, eager
from featviz.layer_table import layer_table
from featviz.layers import activations, score
from featviz.models import MODELS, load
from featviz.output import VIDEO_WRITERS, WRITERS, read_recipe, write_picture, write_video
from featviz.params import PARAMETERIZATIONS
from featviz.recipes import SETTINGS
from featviz.regularizers import PENALTIES, PROJECTIONS
from featviz.runs import RUNNERS
from featviz.settings import Settings
from featviz.transforms import TRANSFORMS
from featviz.types import Draws, Objective, Parameterization

# how to make each member for the tiny net; one without an entry here fails its test
OBJECTIVE = {
    "layer": ("conv3",),
    "channel": ("conv3", 1),
    "neuron": ("conv3", 1),
    "class": (3,),
    "direction": ("conv3", torch.linspace(0.2, 1, 8)),
    "guide": ("conv3", torch.ones(1, 8, 2, 2)),
}
TRANSFORM = {
    "jitter": (3,),
    "roll": (3,),
    "scale": ([0.9, 1.1],),
    "rotate": (5,),
    "pad": (2,),
    "crop": (0.5, 1.0),
    "view": (0.4, 1.1, 10),
    "noise": (0.01,),
}
PROJECTION = {"blur": (0.8,), "decay": (0.2,), "norm_clip": (30,), "contribution_clip": (30,)}
ENGINE = {"arranged": (), "eager": (), "lean": (), "autocast": (), "compiled": (), "tiled": (150, 64)}


@pytest.mark.parametrize("name", list(objectives.OBJECTIVES))
def test_objectives_climb_on_a_tiny_net(tiny, name):
    objective = objectives.OBJECTIVES[name](*OBJECTIVE[name])
    assert isinstance(objective, Objective) and objective.name and objective.layers
    measured = score(tiny, objective)
    param = PARAMETERIZATIONS["pixels"](unit_images(2, 3, 32, 32) * 0.2 + 0.4)
    optimizer = torch.optim.Adam(param.values, lr=0.02, maximize=True)
    scores = torch.stack([s.scores for s in ascend(measured, param, optimizer, steps=15, seeds=[0, 1])])
    assert scores.shape == (15, 2)
    assert (scores[-1] > scores[0]).all()


@pytest.mark.parametrize("name", list(objectives.COMPARISONS))
def test_comparisons_climb_towards_the_photo(tiny, name):
    """Two pictures and, after them, what each is held against."""
    photos = unit_images(2, 3, 32, 32, seed=5)
    measured = score(tiny, objectives.COMPARISONS[name]("conv3"))
    param = PARAMETERIZATIONS["pixels"](unit_images(2, 3, 32, 32) * 0.2 + 0.4)
    optimizer = torch.optim.Adam(param.values, lr=0.02, maximize=True)
    climb = ascend(lambda image: measured(torch.cat([image, photos])), param, optimizer, steps=15)
    scores = torch.stack([step.scores for step in climb])
    assert scores.shape == (15, 2)
    assert (scores[-1] > scores[0]).all()


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
@pytest.mark.parametrize("size", [(8, 8), (7, 9), (1, 6), (21, 10)])
def test_parameterizations_decode_the_image_they_start_from(name, size):
    image = unit_images(2, 3, *size) * 0.9 + 0.05
    param = PARAMETERIZATIONS[name](image)
    assert isinstance(param, Parameterization)
    torch.testing.assert_close(param.decode(), image, rtol=0, atol=1e-4)
    param.assign(1 - image)
    torch.testing.assert_close(param.decode(), 1 - image, rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_transforms_keep_batch_and_range_and_repeat_their_draw(name):
    transform, image = TRANSFORMS[name](*TRANSFORM[name]), unit_images(2, 3, 14, 20)
    first = transform(image, Draws([0, 1], "step", 1))
    assert first.shape[:2] == (2, 3) and first.dtype == image.dtype
    assert first.min() > -0.1 and first.max() < 1.1
    assert torch.equal(first, transform(image, Draws([0, 1], "step", 1)))
    swapped = transform(image.flip(0), Draws([1, 0], "step", 1))
    torch.testing.assert_close(swapped.flip(0), first)


@pytest.mark.parametrize("name", list(PENALTIES))
def test_penalties_are_linear_in_their_weight_and_at_rest_on_grey(name):
    image = unit_images(2, 3, 6, 8)
    values = PENALTIES[name](1.0)(image)
    assert values.shape == (2,) and (values > 0).all()
    torch.testing.assert_close(PENALTIES[name](2.5)(image), 2.5 * values)
    assert PENALTIES[name](1.0)(torch.full((1, 3, 6, 8), 0.45)).abs().item() < 1e-6


@pytest.mark.parametrize("name", list(PROJECTIONS))
def test_projections_keep_shape_range_and_grey(name):
    projection = PROJECTIONS[name](*PROJECTION[name])
    image, gradient = unit_images(2, 3, 9, 12), unit_images(2, 3, 9, 12, seed=1)
    out = projection(image, gradient, 1)
    assert out.shape == image.shape and out.min() >= 0 and out.max() <= 1
    grey = torch.full_like(image, 0.45)
    torch.testing.assert_close(projection(grey, gradient, 1), grey)


@pytest.mark.parametrize("name", [name for name in ENGINES if name != "compiled"])  # slow: see test_engines
def test_engines_give_scores_and_gradients_of_the_right_shape(tiny, name):
    engine = ENGINES[name](*ENGINE[name])
    measured, image = score(tiny, objectives.layer("conv2")), unit_images(2, 3, 32, 40)
    engine(measured, image)  # the first may differ from those that follow
    scores, gradient = engine(measured, image)
    expected = eager(measured, image)
    assert scores.shape == (2,) and gradient.shape == image.shape
    assert not scores.requires_grad and not gradient.requires_grad
    assert torch.cosine_similarity(gradient.flatten(1), expected[1].flatten(1)).min() > 0.99


@pytest.mark.parametrize("suffix", list(WRITERS))
def test_writers_reopen_equal_with_their_recipe(tmp_path, suffix):
    rows, columns = np.mgrid[0:24, 0:32]
    smooth = np.stack([rows / 24, columns / 32, (rows + columns) / 56])[None]
    recipe = {"command": "dream", "target": "häß ⟨3⟩", "settings": {"a": [1, 2.5, None, True]}}
    path = write_picture(tmp_path / f"picture{suffix}", torch.from_numpy(smooth).float(), recipe)
    again = np.asarray(Image.open(path).convert("RGB")).transpose(2, 0, 1)[None] / 255
    exact = suffix in (".png", ".tif", ".tiff")
    assert np.abs(again - smooth).max() <= (0.5 / 255 + 1e-6 if exact else 0.04)
    assert read_recipe(path) == recipe


@pytest.mark.parametrize("suffix", list(VIDEO_WRITERS))
def test_video_writers_have_their_recipe_beside_them(tmp_path, suffix):
    recipe = {"command": "dream"}
    frames = (torch.full((1, 3, 16, 16), k / 4) for k in range(3))
    path = write_video(tmp_path / f"film{suffix}", frames, recipe, fps=10)
    assert path.stat().st_size > 100 and read_recipe(path) == recipe


@pytest.mark.parametrize(
    ("family", "name"),
    [
        ("embedded", "efficientnet_lite0"),
        ("torchvision", "squeezenet1_1"),
        ("timm", "timm/resnet10t"),
        ("own", ""),
    ],
)
def test_models_list_layers_that_exist_and_are_left_as_they_were(tmp_path, family, name):
    if family == "own":
        (tmp_path / "net.py").write_text(
            "from torch import nn\ndef make():\n"
            "    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU(inplace=True), nn.AdaptiveAvgPool2d(1),"
            " nn.Flatten())\n"
        )
        name = f"{tmp_path / 'net.py'}:make"
    model = load(name, untrained=family != "own", device="cpu")
    table = layer_table(model)
    modules = dict(model.net.named_modules())
    before = model.digest, [module.training for module in modules.values()]
    addresses = [row.address for row in table if row.address]
    found = activations(model, unit_images(1, 3, *model.input_size), [addresses[0], addresses[-1], ""])
    for row in table:
        assert row.address.partition("#")[0] in modules
        if row.address in found:
            assert found[row.address].shape == row.shape
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in modules.values())
    assert (load(**model.source, device="cpu").digest, [m.training for m in modules.values()]) == before
    assert not any(parameter.requires_grad for parameter in model.net.parameters())


def test_all_families_of_models_are_tried_here():
    assert set(MODELS) == {"embedded", "torchvision", "timm", "own"}


def test_every_command_of_a_recipe_has_its_settings_and_its_runner():
    assert set(SETTINGS) == set(RUNNERS)


@pytest.mark.parametrize("settings", SETTINGS.values())
def test_settings_are_plain_explained_and_checked(settings):
    made = settings()
    assert isinstance(made, Settings) and made.changed() == {}
    assert settings.make(**json.loads(json.dumps(made.plain()))) == made
    for name, field in settings.__dataclass_fields__.items():
        about = field.metadata["about"]
        assert about and about[-1] != "." and "\n" not in about, name


def registries():
    """Every public dict of functions in featviz, by its full name."""
    found = {}
    for info in pkgutil.walk_packages(featviz.__path__, "featviz."):
        if info.name.endswith("__main__"):
            continue
        module = importlib.import_module(info.name)
        for name, value in vars(module).items():
            is_dict = name.isupper() and name[0] != "_" and isinstance(value, dict) and value
            if is_dict and all(inspect.isfunction(each) for each in value.values()):
                found[id(value)] = (f"{info.name}.{name}", value)
    return sorted(found.values(), key=lambda pair: pair[0])


def test_members_of_families_are_explained():
    """`list`, hints and help are made from names and docstrings."""
    families = registries()
    assert {name.rsplit(".", 1)[1] for name, _ in families} >= {"OBJECTIVES", "TRANSFORMS", "PROJECTIONS"}
    bare = [
        f"{family}[{name!r}]"
        for family, members in families
        for name, function in members.items()
        if not function.__doc__ and function.__name__ != "<lambda>" and function.__name__[0] != "_"
    ]
    assert not bare


def test_the_tiny_net_is_what_the_tests_say():
    assert [name for name, _ in seeded(TinyNet).named_children()][:3] == ["conv1", "bn1", "relu"]
