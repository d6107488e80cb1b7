"""Recipes of visualizations: faces, states, films, and pictures held against a photo."""

import pytest
import torch
from conftest import tiny_model

import featviz
from featviz.errors import InvalidValue
from featviz.layers import activations
from featviz.output import read_photo
from featviz.presets import PRESETS, resolved
from featviz.recipes import recipe_for
from featviz.render_settings import RenderSettings
from featviz.rendering import Rendering, ascended
from featviz.runs import run
from featviz.types import Model

SMALL = {"size": 32, "steps": 6}


def job(model, target, **settings):
    recipe = recipe_for("render", model, target, resolved(RenderSettings(**{**SMALL, **settings})))
    return Rendering.of(recipe, model, target, {})


def test_pictures_made_one_at_a_time_are_what_they_are_alone():
    """To the bit: an ascent magnifies any rounding."""
    model = tiny_model()
    both, status = ascended(job(model, "class:1 | conv2:3"), lambda _: False)
    alone, _ = ascended(job(model, "conv2:3"), lambda _: False)
    assert status == "complete" and both.shape == (1, 2, 1, 3, 32, 32)
    assert torch.equal(both[:, 1], alone[:, 0])


def test_faces_differ_more_than_without_their_objective(embedded):
    def alike(weight):
        made, _ = ascended(
            job(embedded, "layer2:5", size=64, steps=40, diversity=3, diversity_weight=weight),
            lambda _: False,
        )
        maps = activations(embedded, made[0, 0], [featviz.objective_of(embedded, "layer2").layers[0]])
        flat = next(iter(maps.values())).flatten(2)
        gram = torch.nn.functional.normalize((flat @ flat.transpose(1, 2)).flatten(1), dim=1)
        return float((gram @ gram.T).sum() - 3)

    with torch.no_grad():
        assert alike(3.0) < alike(0.0) - 0.05


def test_one_face_is_that_of_the_sheet():
    model = tiny_model()
    sheet, _ = ascended(job(model, "conv2:3", diversity=3), lambda _: False)
    second, _ = ascended(job(model, "conv2:3", diversity=3, face=2), lambda _: False)
    assert sheet.shape[2] == 3 and torch.equal(second[0, 0, 0], sheet[0, 0, 1])
    with pytest.raises(InvalidValue, match="face 4: of 3"):
        job(model, "conv2:3", diversity=3, face=4)


def test_snapshots_are_states_on_the_way():
    model = tiny_model()
    made, _ = ascended(job(model, "conv2:3", steps=27, snapshots=4), lambda _: False)
    short, _ = ascended(job(model, "conv2:3", steps=27), lambda _: False)
    assert job(model, "conv2:3", steps=27, snapshots=4).states() == [1, 3, 9, 27]
    assert made.shape[0] == 4 and torch.equal(made[-1], short[-1])
    assert not torch.equal(made[0], made[1])


def test_a_film_has_a_frame_for_each_step_and_leaves_the_network_as_it_was(tmp_path):
    model = tiny_model()
    model.net.train().requires_grad_(True)
    film = featviz.render(model, "conv2:3", animate=True, **SMALL)
    still = featviz.render(model, "conv2:3", **SMALL)
    frames = list(film.frames)
    assert len(frames) == 6 and film.recipe["status"] == "complete"
    assert torch.equal(frames[-1], still.image)
    settings = resolved(RenderSettings(animate=True, **SMALL))
    two = run(recipe_for("render", model, "conv2:3 | class:1", settings), model=model)
    frames = iter(two.frames)
    assert next(frames).shape[3] > 64
    frames.close()
    assert all(p.requires_grad for p in model.net.parameters())
    assert all(module.training for module in model.net.modules())


def test_an_inversion_comes_nearer_to_the_photo_than_noise(embedded, small_photo):
    made = featviz.invert(embedded, small_photo, "layer1", steps=60, size=64)
    address = featviz.objective_of(embedded, "layer1").layers[0]
    with torch.no_grad():
        own, photo = (activations(embedded, each, [address])[address] for each in (made.image, small_photo))
    assert float((own - photo).norm() / photo.norm()) < 0.6
    assert made.recipe["command"] == "inversion" and made.recipe["inputs"]["photo"]["digest"]
    card = made.recipe["cards"][0]
    assert card["activation"] > -0.4 and card["noise"] < -0.8


def test_an_accentuated_photo_is_more_of_it_and_still_the_photo(embedded, small_photo):
    made = featviz.accentuate(embedded, small_photo, "class:lynx", steps=30, size=64)
    card = made.recipe["cards"][0]
    assert card["activation"] > card["photos"] + 1  # `photos` is what the photo itself gives
    pair = torch.stack([made.image.flatten(), small_photo.flatten()])
    assert float(torch.corrcoef(pair)[0, 1]) > 0.5


def test_a_caricature_runs_along_the_photos_features(embedded, small_photo):
    made = featviz.caricature(embedded, small_photo, "layer2", steps=30, size=64)
    card = made.recipe["cards"][0]
    assert card["activation"] > 5 * card["noise"] > 0 and card["flag"] == ""


def test_a_picture_below_the_best_photo_is_flagged(embedded, small_photo):
    settings = resolved(RenderSettings(size=64, steps=1))
    recipe = recipe_for("render", embedded, "class:tabby", settings)
    made = run(recipe, model=embedded, against=[read_photo("gallery/photos/chelsea.png").image])
    assert made.recipe["cards"][0]["flag"] in ("below photos", "dead")
    assert made.recipe["cards"][0]["photos"] > made.recipe["cards"][0]["activation"]


@pytest.mark.parametrize("aspect", [2.0, 0.5])
def test_a_picture_of_another_shape(aspect):
    made = featviz.render(tiny_model(), "conv2:3", aspect=aspect, **SMALL)
    assert made.image.shape[2:] == ((32, 64) if aspect == 2 else (64, 32))


def test_one_unit_by_every_preset():
    model = tiny_model()
    settings = RenderSettings(preset="all", size=48, steps=2)
    made = run(recipe_for("render", model, "conv2:3", settings), model=model)
    assert len(made.recipe["cards"]) == len(PRESETS) and made.recipe["settings"]["preset"] == "all"
    assert made.image.shape[3] == 5 * 56 + 8
    with pytest.raises(InvalidValue, match="one still picture"):
        run(recipe_for("render", model, "conv2:3 | conv2:4", settings), model=model)


def test_a_network_of_one_size_gets_its_score_card():
    """The default's views are smaller than the picture, which such a network cannot take."""

    class OneSize(torch.nn.Module):
        def __init__(self, inner):
            super().__init__()
            self.inner = inner

        def forward(self, image):
            assert tuple(image.shape[2:]) == (32, 32), "another size"
            return self.inner(image)

    inner = tiny_model()
    model = Model(OneSize(inner.net), "one size", input_size=(32, 32))
    made = featviz.render(model, "class:2", steps=2)
    assert made.recipe["cards"][0]["augmented"]
