"""The library's front door, and the recipes behind it."""

import json
import subprocess
import sys

import numpy as np
import PIL.Image
import pytest
import torch
from conftest import seeded, tiny_model
from torch import nn

import featviz
import featviz.runs  # it loads every module that a public name could be shadowed by
from featviz.api import as_photo
from featviz.errors import InvalidValue, MethodNotFound, ModelError, RecipeError
from featviz.output import read_recipe
from featviz.recipes import Recipe, load_model

QUICK = {"steps": 1, "octaves": 1}


def test_import_is_light():
    code = "import featviz, sys; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code]).returncode == 0


def test_every_public_name_is_there_and_functions_stay_functions():
    assert all(getattr(featviz, name) is not None for name in featviz.__all__)
    assert all(callable(getattr(featviz, name)) for name in ("dream", "explain", "render", "load"))
    with pytest.raises(AttributeError):
        _ = featviz.nothing


def test_one_picture_however_it_is_given(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (40, 50, 3), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "photo.png")
    tensor = torch.from_numpy(pixels).permute(2, 0, 1)[None].float() / 255
    given = [tmp_path / "photo.png", PIL.Image.fromarray(pixels), pixels, tensor]
    made = [featviz.dream(tiny_model(), image, "conv2", **QUICK).image for image in given]
    assert all(torch.equal(made[0], other) for other in made[1:])
    with pytest.raises(InvalidValue, match=r"\(1, 3, h, w\)"):
        as_photo(torch.zeros(3, 4, 4))


def test_a_bare_module_and_an_objective_in_memory(small_photo):
    net = seeded(
        lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, 2), nn.ReLU())
    ).train()
    objective = featviz.channel("1", 2) + 0.5 * featviz.layer("3")
    made = featviz.dream(net, small_photo, objective, **QUICK)
    assert net.training and made.recipe["target"] == "1:2 + 0.5*3"
    by_text = featviz.dream(net, small_photo, "1:2 + 0.5*3", **QUICK)
    assert torch.equal(made.image, by_text.image)


def test_a_watcher_ends_a_run_and_the_picture_says_so(small_photo):
    seen = []

    def watch(progress):
        seen.append(progress)
        return progress.step == 2

    made = featviz.dream(tiny_model(), small_photo, "conv2", steps=9, octaves=1, watch=watch)
    assert made.recipe["status"] == "interrupted" and [each.step for each in seen] == [1, 2]
    assert torch.equal(seen[-1].image(), made.image)
    assert abs(seen[-1].done - 2 / 9) < 1e-6


def test_progress_ends_at_one_also_for_films(small_photo):
    for more in ({}, {"zoom": 3}, {"animate": True}):
        done = []

        def watch(progress, done=done):
            done.append(progress.done)

        made = featviz.dream(
            tiny_model(),
            small_photo,
            "conv2",
            steps=3,
            octaves=2,
            watch=lambda p, done=done: done.append(p.done),
            **more,
        )
        frames = list(made.frames) if more else []
        assert len(frames) == {"zoom": 3, "animate": 7}.get(next(iter(more), ""), 0)
        assert done == sorted(done) and abs(done[-1] - 1) < 1e-6


def test_a_saved_picture_runs_again_from_its_recipe(tmp_path):
    model = featviz.load(device="cpu")
    made = featviz.dream(model, "gallery/photos/chelsea.png", "layer2", size=80, **QUICK)
    recipe = Recipe.of(read_recipe(made.save(tmp_path / "dream.png")))
    assert recipe.plain() == json.loads(json.dumps(made.recipe))
    again = featviz.run(recipe)
    assert torch.equal(again.image, made.image)
    assert made._repr_png_().startswith(b"\x89PNG") and made.to_pil().size == (80, 53)


def test_alpha_is_kept(tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (20, 30, 4), dtype=np.uint8)
    PIL.Image.fromarray(pixels).save(tmp_path / "photo.png")
    made = featviz.dream(tiny_model(), tmp_path / "photo.png", "conv2", **QUICK)
    assert np.array_equal(np.asarray(made.to_pil())[..., 3], pixels[..., 3])


def test_what_is_no_recipe_or_no_model_is_refused(small_photo):
    with pytest.raises(RecipeError):
        Recipe.of({"command": "cook", "model": {}, "target": "", "settings": {}})
    made = featviz.dream(tiny_model(), small_photo, "conv2", **QUICK)
    with pytest.raises(ModelError, match="in memory"):
        load_model(Recipe.of(made.recipe))
    with pytest.raises(InvalidValue, match="step_sise"):
        featviz.dream(tiny_model(), small_photo, "conv2", step_sise=1)


def test_render_raises_a_channel_far_above_noise(embedded):
    made = featviz.render(embedded, "layer2:7", preset="fourier", size=96, steps=40)
    objective = featviz.objective_of(embedded, "layer2:7")
    from featviz.layers import score
    from featviz.params import gaussian_noise

    measured = score(embedded, objective)
    with torch.no_grad():
        noise = measured(gaussian_noise(list(range(8)), (96, 96)))
        reached = float(measured(made.image))
    assert reached > float(noise.mean()) + 10 * float(noise.std())


def test_explain_gives_raw_map_and_overlay(embedded):
    made = featviz.explain(embedded, "gallery/photos/chelsea.png", "grad-cam", target="class:tabby")
    assert made.raw.shape == (7, 11) and made.map.shape == made.size == (224, 337)
    assert made.overlay().size == (337, 224) and made._repr_png_().startswith(b"\x89PNG")
    likeliest = featviz.explain(embedded, "gallery/photos/chelsea.png", "gradient")
    assert likeliest.raw.shape == (3, 224, 337) and "cat" in likeliest.target
    with pytest.raises(MethodNotFound, match="grad-cam"):
        featviz.explain(embedded, "gallery/photos/chelsea.png", "gradcam")


def test_arrays_of_floats_grey_and_with_alpha():
    generator = np.random.default_rng(0)
    floats = generator.random((6, 8, 4), dtype=np.float32)
    photo = as_photo(floats)
    assert torch.equal(photo.image, torch.from_numpy(floats[..., :3]).permute(2, 0, 1)[None])
    assert torch.equal(photo.alpha[0, 0], torch.from_numpy(floats[..., 3]))
    grey = as_photo(floats[..., 0].astype(np.float64))
    assert grey.image.shape == (1, 3, 6, 8) and torch.equal(grey.image[:, 0], grey.image[:, 2])
    assert grey.alpha is None
    levels = (floats[..., :1] * 255).astype(np.uint8)
    assert torch.equal(
        as_photo(levels).image * 255, torch.from_numpy(levels[..., 0]).expand(1, 3, 6, 8).float()
    )
    slightly_over = as_photo(np.full((2, 2, 3), 1.1))
    assert slightly_over.image.max() == 1


@pytest.mark.parametrize(
    ("image", "told"),
    [
        (np.full((4, 4, 3), 200.0), r"values in \[0, 1\], not 200 to 200"),
        (torch.full((1, 3, 4, 4), 255.0), r"values in \[0, 1\], not 255 to 255"),
        (torch.full((1, 3, 4, 4), float("nan")), "not nan"),
        (np.zeros((3, 9, 9)), r"\(h, w, 3\)"),
        (np.zeros((4, 4, 3), np.uint16), "not uint16"),
        (np.zeros((4, 4, 3), np.int64), "not int64"),
        (np.zeros((0, 4, 3)), "no pixels"),
        (torch.zeros(2, 3, 4, 4), r"\(1, 3, h, w\)"),
        ([1, 2], "list"),
    ],
)
def test_what_is_no_image_is_refused(image, told):
    with pytest.raises(InvalidValue, match=told):
        as_photo(image)


def test_a_film_interrupted_before_its_first_frame_is_one_picture(small_photo):
    made = featviz.dream(tiny_model(), small_photo, "conv2", steps=5, octaves=1, zoom=3, watch=lambda p: True)
    frames = list(made.frames)
    assert len(frames) == 1 and frames[0].shape == small_photo.shape
    assert made.recipe["status"] == "interrupted"


def test_a_film_interrupted_later_keeps_the_frames_so_far(small_photo):
    seen = []

    def watch(progress):
        seen.append(progress.frame)
        return len(seen) == 5  # four steps of the first frame, one of the second

    made = featviz.dream(tiny_model(), small_photo, "conv2", steps=4, octaves=1, zoom=4, watch=watch)
    assert len(list(made.frames)) == 2 and seen[-1] == 2
    assert made.recipe["status"] == "interrupted"
