"""Several starts, of which the surest is gone on with."""

import pytest
import torch
from conftest import tiny_model

from featviz import starts
from featviz.errors import InvalidValue
from featviz.ingredients import robustness
from featviz.presets import resolved
from featviz.render_settings import RenderSettings
from featviz.starts import share_done, sureness, surest, work
from featviz.targets import objective_of
from featviz.types import Step
from featviz.visualize import render, seeds_of


def climbs_begun(numbers, sure, monkeypatch, **settings):
    """What is begun, and the steps, where start k of two objectives is as sure as `sure[k]` says."""
    model, begun = tiny_model(), []
    objectives = [objective_of(model, "conv2:1"), objective_of(model, "conv2:2")]

    def begin(of):
        begun.append(list(of))
        image = torch.tensor(of).float().view(-1, 1, 1, 1).expand(-1, 3, 4, 4)
        return (Step(index, torch.zeros(2), image) for index in range(1, 9))

    monkeypatch.setattr(
        starts, "sureness", lambda _model, _objectives, _moves, image: torch.tensor(sure[int(image.max())])
    )
    settings = RenderSettings(steps=8, starts=numbers, **settings)
    return begun, list(surest(model, objectives, settings, [], begin))


def test_the_surest_goes_on_where_it_was(monkeypatch):
    begun, steps = climbs_begun(3, [[1.0, 2.0], [4.0, 3.0], [2.0, 1.0]], monkeypatch)
    assert begun == [[0, 0], [1, 1], [2, 2]]
    assert [step.index for step in steps] == [
        -5,
        -4,
        -3,
        -2,
        -1,
        0,
        3,
        4,
        5,
        6,
        7,
        8,
    ]  # a quarter of eight steps is two
    assert all(float(step.image.mean()) == 1 for step in steps[6:])


def test_where_several_climb_together_each_has_its_surest(monkeypatch):
    begun, steps = climbs_begun(2, [[1.0, 2.0], [4.0, 0.0]], monkeypatch)
    assert begun == [[0, 0], [1, 1], [1, 0]]
    assert [step.index for step in steps] == [*range(-3, 1), *range(1, 9)]
    assert steps[-1].image[:, 0, 0, 0].tolist() == [1, 0]


def test_the_work_is_counted_in_steps_at_full_size():
    """Three starts of two steps, of which one goes on for six; half the size is a quarter of the work."""
    settings = RenderSettings(steps=8, starts=3, view_scale=1.0, view_from=0.5)
    sides = [0.5 + 0.5 * min(8, int(8 * step / 4.8)) / 8 for step in range(8)]
    costs = [side**2 for side in sides]
    order = [*costs[:2] * 3, *costs[2:]]
    assert work(settings) == pytest.approx([sum(order[: n + 1]) for n in range(12)])
    numbers = [*range(-5, 1), *range(3, 9)]
    assert [share_done(settings, n) for n in numbers] == pytest.approx(
        [w / sum(order) for w in work(settings)]
    )
    alone = RenderSettings(steps=4, view_scale=1.0)
    assert [share_done(alone, n) for n in range(1, 5)] == [0.25, 0.5, 0.75, 1.0]


def test_what_shows_every_step_begins_anew(monkeypatch):
    begun, steps = climbs_begun(2, [[1.0, 1.0], [4.0, 3.0]], monkeypatch, snapshots=3)
    assert begun == [[0, 0], [1, 1], [1, 1]] and [step.index for step in steps][4:] == list(range(1, 9))


def test_a_target_is_as_sure_whatever_its_place_in_the_batch():
    model, images = tiny_model(), torch.rand(2, 3, 40, 40, generator=torch.Generator().manual_seed(0))
    objectives = [objective_of(model, target) for target in ("class:2", "conv2:1")]
    moves = robustness(resolved(RenderSettings()))
    both = sureness(model, objectives, moves, images)
    alone = [sureness(model, [objectives[i]], moves, images[i : i + 1]) for i in range(2)]
    torch.testing.assert_close(both, torch.cat(alone))


def test_what_makes_an_objective_sure():
    """Of an even grey all looks are the same, up to their size."""
    model, grey = tiny_model(), torch.full((2, 3, 40, 40), 0.3)
    objectives = [objective_of(model, "class:2"), objective_of(model, "conv1:1")]
    found = sureness(model, objectives, robustness(resolved(RenderSettings(noise=0.0))), grey)
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
    few = [step.index for step in render(model, "conv2:1", RenderSettings(steps=3, size=32, starts=5))]
    some = [step.index for step in render(model, "conv2:1", RenderSettings(steps=4, size=32, starts=2))]
    assert (few, some) == ([1, 2, 3], [-1, 0, 2, 3, 4])


def test_several_starts_are_from_noise():
    model = tiny_model()
    with pytest.raises(InvalidValue, match="starts 2: only from noise"):
        render(model, "conv2:1", RenderSettings(starts=2, size=32), photo=torch.rand(1, 3, 32, 32))
