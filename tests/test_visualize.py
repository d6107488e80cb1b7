"""Visualizations from noise: what they excite, how they start, what they refuse."""

from dataclasses import fields

import pytest
import torch
from conftest import tiny_model
from torch import nn

import featviz
from featviz.errors import ImageTooSmall, InvalidValue
from featviz.ingredients import robustness, stretched, warmth
from featviz.layers import score
from featviz.params import PARAMETERIZATIONS, gaussian_noise
from featviz.presets import DEFAULT, OFF, PRESETS, PresetNotFound, resolved
from featviz.recipes import recipe_for
from featviz.render_settings import RenderSettings
from featviz.runs import run
from featviz.targets import objective_of
from featviz.types import Draws, Model, derive_seed
from featviz.visualize import render


def rendered(model, target, **settings):
    for step in render(model, target, RenderSettings(**settings)):
        last = step
    return last.image


@pytest.mark.parametrize(
    ("target", "preset"),
    [
        ("layer1:3", "views"),
        ("layer3:20@middle", "fourier"),
        ("class:tabby", "views"),
        ("layer2:1 + layer2:2", "gaussian"),
    ],
)
def test_thirty_steps_excite_the_target_well_above_noise(embedded, target, preset):
    """Seen clean, without the transforms that it was made under."""
    measured = score(embedded, objective_of(embedded, target))
    made = rendered(embedded, target, preset=preset, size=96, steps=30)
    with torch.no_grad():
        noise = measured(gaussian_noise(list(range(1, 9)), (96, 96)))
        reached = float(measured(made))
    assert reached > float(noise.mean()) + 6 * float(noise.std())
    assert made.shape == (1, 3, 96, 96) and made.min() >= 0 and made.max() <= 1


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_every_parameterization_climbs(name):
    model = tiny_model()
    measured = score(model, objective_of(model, "conv3:3"))
    made = rendered(model, "conv3:3", preset="fourier", size=32, steps=20, param=name, rate=0.3)
    noise = measured(gaussian_noise(list(range(8)), (32, 32)))
    assert float(measured(made)) > float(noise.mean()) + 4 * float(noise.std())


def test_the_size_is_the_networks_or_ones_own():
    model = tiny_model()
    assert rendered(model, "conv2:1", preset="fourier", steps=1).shape[2:] == model.input_size
    assert rendered(model, "conv2:1", steps=1, size=50).shape[2:] == (50, 50)


def test_the_seed_makes_the_picture():
    model = tiny_model()
    first, again, other = (rendered(model, "conv2:1", steps=3, size=32, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)


def test_the_shifts_keep_the_whole_picture_in_view():
    """Padded by as much as both shifts can take, of which the crops leave half (lucid's 12, 8 and 4)."""
    for wide, both in ((8, 12), (16, 24), (5, 7), (1, 1)):
        for seed in range(5):
            image = torch.ones(1, 3, 40, 48)
            for transform in robustness(resolved(RenderSettings(preset="yosinski1", jitter=wide))):
                image = transform(image, Draws([seed], "step", 1))
            assert image.shape == (1, 3, 40 + both, 48 + both)
            assert int((image == 1).sum()) == 3 * 40 * 48
    assert robustness(resolved(RenderSettings(preset="yosinski1"))) == []


def test_a_blurred_picture_is_smoother():
    model = tiny_model()

    def roughness(**settings):
        made = rendered(model, "conv2:1", preset="fourier", size=32, steps=8, param="pixels", **settings)
        return float((made[..., 1:] - made[..., :-1]).abs().mean())

    assert roughness(blur=1.5, blur_every=2) < 0.6 * roughness()


@pytest.mark.parametrize("name", ["furier", "cpppn"])
def test_an_unknown_parameterization(name):
    with pytest.raises(InvalidValue, match=f"param '{name}'.*one of pixels, fourier, maco, cppn"):
        render(tiny_model(), "conv2:1", RenderSettings(param=name))


def test_a_picture_that_the_layer_cannot_take():
    net = nn.Sequential(nn.Conv2d(3, 4, 5), nn.Conv2d(4, 4, 5)).eval()
    model = Model(net, "two", input_size=(32, 32))
    with pytest.raises(ImageTooSmall, match="at least 9"):
        render(model, "1:2", RenderSettings(preset="yosinski1", size=8))


def test_the_network_is_left_as_found_after_half_a_run():
    model = tiny_model()
    model.net.train()
    steps = render(model, "conv2:1", RenderSettings(steps=5, size=32))
    next(steps)
    steps.close()
    assert all(module.training for module in model.net.modules())


@pytest.mark.parametrize("preset", list(PRESETS))
def test_every_preset_runs(preset):
    made = rendered(tiny_model(), "class:1", preset=preset, size=48, steps=5)
    assert made.shape == (1, 3, 48, 48) and bool(made.isfinite().all()) and float(made.std()) > 0.001
    assert made.min() >= -1e-6 and made.max() <= 1 + 1e-6


def test_presets_name_settings_and_what_a_user_says_counts():
    names = {field.name for field in fields(RenderSettings)}
    for preset in PRESETS.values():
        assert set(preset.values) <= names and preset.source and preset.about
    own = resolved(RenderSettings(preset="yosinski3", blur=0.7, seed=4))
    assert (own.blur, own.shrink, own.steps, own.seed) == (0.7, 0.0001, 1000, 4)
    assert own.norm_percentile == OFF["norm_percentile"]
    assert resolved(own) == own and resolved(RenderSettings()).preset == DEFAULT
    with pytest.raises(PresetNotFound, match="nearest: fourier"):
        resolved(RenderSettings(preset="furier"))


def test_yosinskis_settings_are_the_papers():
    """In order: decay, blur radius and interval, norm percentile, contribution percentile, steps."""
    wanted = {
        "yosinski1": (0.0, 0.5, 4, 50.0, 0.0, 500),
        "yosinski2": (0.3, 0.0, 4, 20.0, 0.0, 750),
        "yosinski3": (0.0001, 1.0, 4, 0.0, 0.0, 1000),
        "yosinski4": (0.0, 0.5, 4, 0.0, 90.0, 1000),
    }
    for name, row in wanted.items():
        s = resolved(RenderSettings(preset=name))
        assert row == (s.shrink, s.blur, s.blur_every, s.norm_percentile, s.contribution_percentile, s.steps)


def test_a_plain_gradient_step_is_the_papers():
    """x ← x + 100 · ∂s/∂x with x from 0 to 255."""
    model = tiny_model()
    settings = {"preset": "yosinski3", "size": 32, "steps": 1, "shrink": 0.0, "blur": 0.0, "stretch": False}
    seed = derive_seed(0, "class:tabby")
    start = gaussian_noise([seed], (32, 32))
    large = (255 * start).requires_grad_(True)
    score(model, objective_of(model, "class:0"))(large / 255).sum().backward()
    wanted = ((large + 100 * large.grad) / 255).clamp(0, 1)
    torch.testing.assert_close(rendered(model, "class:0", **settings), wanted.detach(), atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("preset", ["views", "fourier", "yosinski3"])
def test_batch_mates_do_not_matter(preset):
    model = tiny_model()
    settings = {"preset": preset, "size": 40, "steps": 4}
    alone = [rendered(model, target, **settings) for target in ("class:1", "conv2:3")]
    both = rendered(model, ["class:1", "conv2:3"], **settings)
    other = rendered(model, ["conv2:3", "class:4", "class:1"], **settings)
    torch.testing.assert_close(both, torch.cat(alone), atol=1e-4, rtol=1e-3)
    torch.testing.assert_close(other[[2, 0]], both, atol=1e-4, rtol=1e-3)


def test_the_rate_falls_over_the_last_part():
    assert [warmth(done, 0.5) for done in (0.0, 0.25, 0.5)] == [1.0, 1.0, 1.0]
    assert warmth(0.75, 0.5) == pytest.approx(0.05 + 0.95 / 2) and warmth(1.0, 0.5) == pytest.approx(0.05)
    assert warmth(1.0, 0.0) == 1.0


def test_several_views_of_one_image_are_its_mean():
    model = tiny_model()
    made = [
        next(render(model, "class:1", RenderSettings(size=32, views=views, noise=0.0))) for views in (1, 3)
    ]
    assert made[0].scores.shape == made[1].scores.shape == (1,)
    assert float(made[0].scores) != float(made[1].scores)


def test_a_unit_that_noise_does_not_wake_is_woken(monkeypatch):
    """It answers where the red of 3 by 3 pixels is above .8, which noise is nowhere; its gradient is 0."""
    conv = nn.Conv2d(3, 1, 3).requires_grad_(False)
    conv.weight.zero_()[:, 0] = 1 / 9
    conv.bias.fill_(-0.8)
    model = Model(nn.Sequential(conv, nn.ReLU()).eval(), "red", (0.0,) * 3, (1.0,) * 3, (16, 16))
    measured = score(model, objective_of(model, "1:0"))
    assert float(measured(gaussian_noise(list(range(8)), (16, 16))).max()) == 0
    settings = {"preset": "fourier", "size": 16, "jitter": 0, "steps": 40, "rate": 0.2}
    assert float(measured(rendered(model, "1:0", **settings))) > 0.05
    monkeypatch.setattr("featviz.ingredients.WAKING", 0)
    assert float(measured(rendered(model, "1:0", **settings))) == 0


def test_a_stretched_picture_fills_the_range_about_grey():
    """Of 1000 deviations .001 to 1.000 the 995th becomes .5, so that five are cut off."""
    away = torch.arange(1, 1001).view(1, 1, 20, 50) / 1000
    made = stretched(0.45 + 0.01 * torch.cat([away, -away, away], 1))
    assert made.min() == 0 and made.max() == 1
    torch.testing.assert_close(made[0, 0, 0, :2], 0.5 + torch.tensor([0.001, 0.002]) / (2 * 0.995))
    assert int((made == 1).sum()) == 2 * 6 and int((made == 0).sum()) == 6


def test_a_large_sheet_is_made_part_by_part(monkeypatch):
    """And Ctrl-C in the second part keeps the first."""
    model = tiny_model()
    settings = resolved(RenderSettings(preset="fourier", size=32, steps=3, batch=2))
    recipe = recipe_for("render", model, "conv2:0 | conv2:1 | conv2:2", settings)
    done = []

    def watch(progress):
        done.append(progress.done)

    whole = run(recipe, model=model, watch=watch)
    assert done == pytest.approx([2 / 9, 4 / 9, 6 / 9, 7 / 9, 8 / 9, 1])
    assert len(whole.recipe["cards"]) == 3 and whole.image.shape[3] == 3 * 40 + 8
    calls = iter([False] * 4 + [True])
    broken = run(recipe, model=model, watch=lambda _: next(calls))
    assert broken.recipe["status"] == "interrupted" and len(broken.recipe["cards"]) == 3
    calls = iter([False, True])
    early = run(recipe, model=model, watch=lambda _: next(calls))
    assert early.recipe["status"] == "interrupted" and len(early.recipe["cards"]) == 2


def sizes_seen(model, target, **settings):
    """The shorter side of what the network is shown, step by step."""
    climb = render(model, target, RenderSettings(fold=False, channels_last=False, starts=1, **settings))
    return shown_to(model, lambda: list(climb))


def shown_to(model, run):
    seen = []

    def see(_net, given):
        if not given[0].is_meta:  # what is only tried has no data
            seen.append(min(given[0].shape[2:]))

    handle = model.net.register_forward_pre_hook(see)
    try:
        run()
    finally:
        handle.remove()
    return seen


def test_what_is_seen_grows_over_three_fifths_of_the_steps():
    grown = sizes_seen(tiny_model(), "conv3:1", size=160, steps=20, view_scale=0.8, view_from=0.4)
    stages = [min(8, int(8 * step / (0.6 * 20))) for step in range(20)]
    assert grown == [round(160 * (0.4 + 0.4 * stage / 8)) for stage in stages]
    assert grown[0] == 64 and grown[12:] == [128] * 8


@pytest.mark.parametrize(
    ("target", "settings"),
    [
        ("conv3:1@3,3", {}),  # a position is one of maps of one size
        ("conv3:1 + conv3:1@3,3", {}),
        ("conv3:1", {"view_from": 0.0}),
        ("conv3:1", {"view_from": 0.9}),
        ("conv3:1", {"size": 70}),  # nothing begins below 64 pixels, which is more than .8 of these
    ],
)
def test_what_is_seen_does_not_grow(target, settings):
    settings = {"size": 160, "steps": 5, "view_scale": 0.8, "view_from": 0.4, **settings}
    assert set(sizes_seen(tiny_model(), target, **settings)) == {round(0.8 * settings["size"])}


def test_a_layer_out_of_reach_at_first_is_seen_at_full_size():
    deep = nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 40))
    model = Model(deep.eval().requires_grad_(False), "deep", input_size=(160, 160))
    assert set(sizes_seen(model, "2:1", steps=4)) == {round(0.715 * 160)}


@pytest.mark.parametrize("objective", [False, True])
def test_a_neuron_at_a_position_is_seen_at_one_size(objective):
    model, settings = tiny_model(), {"size": 128, "steps": 5, "starts": 1}
    target = featviz.neuron("conv2", 1, (2, 2)) if objective else "conv2:1@2,2"
    final = round(0.715 * 128)
    assert set(shown_to(model, lambda: featviz.render(model, target, **settings))) <= {final, 128}
    assert objective_of(model, objective_of(model, "2*conv2:1@2,2 + conv2:1")).placed


def test_what_has_no_position_grows_beside_what_has(tiny):
    settings = {"size": 128, "steps": 8, "starts": 1, "batch": "2", "seed": 4}
    recipe = [
        recipe_for("render", tiny, each, resolved(RenderSettings(**settings)))
        for each in ("conv2:1 | conv2:1@2,2", "conv2:1")
    ]
    both, alone = (run(each, model=tiny) for each in recipe)
    assert both.recipe["cards"][0]["activation"] == pytest.approx(alone.recipe["cards"][0]["activation"])


def test_sizes_on_the_way_that_the_network_cannot_take():
    net = nn.Sequential(nn.PixelUnshuffle(16), nn.Conv2d(768, 4, 1)).eval().requires_grad_(False)
    model = Model(net, "sixteens", input_size=(64, 64))
    assert set(sizes_seen(model, "1:2", size=128, steps=9)) == {128}
