"""Several starts, of which the surest is gone on with."""

import pytest
import torch
from conftest import seeded, tiny_model
from torch import nn

import featviz
from featviz import starts
from featviz.output.photos import Photo
from featviz.presets import resolved
from featviz.recipes import recipe_for
from featviz.render_settings import InversionSettings, RenderSettings
from featviz.runs import run
from featviz.starts import share_done, sureness, surest, work
from featviz.targets import objective_of
from featviz.transforms import view
from featviz.types import Model, Step
from featviz.visualize import render, seeds_of


def climbs_begun(numbers, sure, monkeypatch, **settings):
    """What is begun, and the steps, where start k of two objectives is as sure as `sure[k]` says."""
    model, begun = tiny_model(), []
    objectives = [objective_of(model, "conv2:1"), objective_of(model, "conv2:2")]

    def begin(of):
        begun.append(list(of))
        image = torch.tensor(of).float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
        return (Step(index, torch.zeros(2), image) for index in range(1, 17))

    monkeypatch.setattr(
        starts, "sureness", lambda _model, _objectives, _look, image: torch.tensor(sure[int(image.max())])
    )
    settings = RenderSettings(steps=16, starts=numbers, **settings)
    return begun, list(surest(model, objectives, settings, begin))


def test_the_surest_goes_on_where_it_was(monkeypatch):
    begun, steps = climbs_begun(3, [[1.0, 2.0], [4.0, 3.0], [2.0, 1.0]], monkeypatch)
    assert begun == [[0, 0], [1, 1], [2, 2]]
    assert [step.index for step in steps] == [*range(-5, 1), *range(3, 17)]  # of 16 steps an eighth
    assert all(float(step.image.mean()) == 1 for step in steps[6:])


def test_where_several_climb_together_each_has_its_surest(monkeypatch):
    begun, steps = climbs_begun(2, [[1.0, 2.0], [4.0, 0.0]], monkeypatch)
    assert begun == [[0, 0], [1, 1], [1, 0]]
    assert [step.index for step in steps] == [*range(-3, 1), *range(1, 17)]
    assert steps[-1].image[:, 0, 0, 0].tolist() == [1, 0]


def test_the_work_is_counted_in_steps_at_full_size():
    """Three starts of two steps, of which one goes on for fourteen; half the size is a quarter of the work."""
    settings = RenderSettings(steps=16, starts=3, view_scale=1.0, view_from=0.5)
    sides = [0.5 + 0.5 * min(8, int(8 * step / 9.6)) / 8 for step in range(16)]
    costs = [side**2 for side in sides]
    order = [*costs[:2] * 3, *costs[2:]]
    assert work(settings) == pytest.approx([sum(order[: n + 1]) for n in range(20)])
    numbers = [*range(-5, 1), *range(3, 17)]
    assert [share_done(settings, n) for n in numbers] == pytest.approx(
        [w / sum(order) for w in work(settings)]
    )
    alone = RenderSettings(steps=4, view_scale=1.0)
    assert [share_done(alone, n) for n in range(1, 5)] == [0.25, 0.5, 0.75, 1.0]


def test_what_shows_every_step_begins_anew(monkeypatch):
    begun, steps = climbs_begun(2, [[1.0, 1.0], [4.0, 3.0]], monkeypatch, snapshots=3)
    assert begun == [[0, 0], [1, 1], [1, 1]] and [step.index for step in steps][4:] == list(range(1, 17))


def test_a_target_is_as_sure_whatever_its_place_in_the_batch():
    model, images = tiny_model(), torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    objectives = [objective_of(model, target) for target in ("class:2", "conv2:1")]
    look = view(0.9, 1.05, 10.0)
    both = sureness(model, objectives, look, images)
    alone = [sureness(model, [objectives[i]], look, images[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(alone))


def test_what_makes_an_objective_sure():
    """Of an even grey all looks are the same, up to their size."""
    model, grey = tiny_model(), torch.full((2, 3, 40, 40), 0.3)
    objectives = [objective_of(model, "class:2"), objective_of(model, "conv1:1")]
    found = sureness(model, objectives, view(0.3, 1.05, 10.0, size=0.715), grey)
    with torch.no_grad():
        seen = grey[:1, :, :29, :29]  # .715 of 40 pixels
        logits = model(seen)[0].double()
        channel = model.net.conv1(model.normalise(seen))[:, 1].mean()
    assert float(found[0]) == pytest.approx(float(logits[2] - logits.exp().sum().log()), abs=1e-5)
    assert float(found[1]) == pytest.approx(float(channel), abs=1e-5)


def last(model, target, **settings):
    *_, step = render(model, target, RenderSettings(steps=8, size=32, **settings))
    return step.image


@pytest.mark.parametrize("chosen", [0, 1])
def test_the_picture_is_the_one_of_its_start_alone(chosen, monkeypatch):
    model = tiny_model()
    told = iter([torch.tensor([float(number == chosen)]) for number in range(2)])
    monkeypatch.setattr(starts, "sureness", lambda *_: next(told))
    made = last(model, "conv2:1", starts=2)
    monkeypatch.setattr(
        "featviz.visualize.seeds_of",
        lambda objective, settings, start=0: seeds_of(objective, settings, chosen),
    )
    assert torch.equal(made, last(model, "conv2:1", starts=1))


def test_starts_differ_and_the_first_is_as_without():
    objective, settings = objective_of(tiny_model(), "conv2:1"), RenderSettings(diversity=2)
    found = [seeds_of(objective, settings, start) for start in range(3)]
    assert found[0] == seeds_of(objective, settings) and len({seed for each in found for seed in each}) == 6


def test_what_starts_alike_has_one_start():
    model = tiny_model()
    many = last(model, ["conv2:1", "conv2:2"], starts=3, same_start=True)
    assert torch.equal(many, last(model, ["conv2:1", "conv2:2"], starts=1, same_start=True))


def test_a_run_too_short_to_try_starts_has_one():
    model = tiny_model()
    few = [step.index for step in render(model, "conv2:1", RenderSettings(steps=7, size=32, starts=5))]
    some = [step.index for step in render(model, "conv2:1", RenderSettings(steps=8, size=32, starts=2))]
    assert (few, some) == ([*range(1, 8)], [-1, 0, *range(2, 9)])


def many_norms():
    """A network of forty norms that remember something: they take turns, three of them."""
    blocks = [layer for _ in range(40) for layer in (nn.Conv2d(4, 4, 3, padding=1), nn.BatchNorm2d(4))]
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), *blocks))
    return Model(net.requires_grad_(False), "norms", input_size=(32, 32))


MANY = {"steps": 40, "starts": 2, "seed": 3, "fold": False, "channels_last": False}


@pytest.mark.parametrize("chosen", [0, 1])
def test_norms_take_their_turns_in_each_climb_by_itself(chosen, monkeypatch):
    """Begun anew, as for a film, a climb is the one that went on; twice five steps are no three turns."""
    model = many_norms()
    sure = [1.0, 2.0] if chosen else [2.0, 1.0]
    told = iter(sure * 2)
    monkeypatch.setattr(starts, "sureness", lambda *_: torch.tensor([next(told)]))
    still = featviz.render(model, "80:1", **MANY).image
    *_, frame = featviz.render(model, "80:1", animate=True, **MANY).frames
    assert torch.equal(still, frame)


@pytest.mark.parametrize("animate", [False, True])
def test_ended_while_starts_are_tried_it_stands_as_it_is(animate):
    model, told = tiny_model(), []
    settings = resolved(RenderSettings(steps=16, size=32, animate=animate))  # four starts of two steps

    def watch(progress):
        told.append((progress.step, progress.done))
        return len(told) == 5

    made = run(recipe_for("render", model, "conv2:1", settings), model=model, watch=watch)
    images = list(made.frames) if animate else [made.image]
    assert len(images) == 1 and images[0].shape == (1, 3, 32, 32) and made.recipe["status"] == "interrupted"
    assert [step for step, _ in told] == [0] * 5 and 0 < told[0][1] < told[-1][1] < 1


def test_a_start_that_is_not_a_number_is_not_the_surest(monkeypatch):
    _, steps = climbs_begun(3, [[1.0, 1.0], [float("nan")] * 2, [2.0, 2.0]], monkeypatch)
    assert float(steps[-1].image.mean()) == 2


def test_the_work_of_what_begins_anew_is_counted():
    settings = RenderSettings(steps=16, starts=2, snapshots=3, view_scale=1.0)
    shares = [share_done(settings, index) for index in [*range(-3, 1), *range(1, 17)]]
    assert shares == pytest.approx([step / 20 for step in range(1, 21)])


@pytest.mark.parametrize("make", [featviz.accentuate, featviz.invert, featviz.caricature])
def test_from_a_photo_there_is_one_start(make, small_photo):
    target = "class:1" if make is featviz.accentuate else "conv2"
    more = {"likeness_layer": "conv1"} if make is featviz.accentuate else {}
    made = make(tiny_model(), small_photo, target, preset="views", steps=8, size=32, **more)
    assert made.recipe["status"] == "complete"


def test_the_progress_from_a_photo_counts_no_starts(small_photo):
    model, shares = tiny_model(), []
    settings = resolved(InversionSettings(preset="views", steps=8, size=32, view_from=0.0))
    photo = Photo(small_photo, None, "", "")
    recipe = recipe_for("inversion", model, "conv2", settings, {"photo": photo})
    run(recipe, model=model, inputs={"photo": photo}, watch=lambda progress: shares.append(progress.done))
    assert shares == pytest.approx([step / 8 for step in range(1, 9)])
