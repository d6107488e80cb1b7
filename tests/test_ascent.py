import pytest
import torch
from conftest import unit_images

from featviz import objectives
from featviz.ascent import ascend
from featviz.errors import InvalidValue, NonFiniteScore
from featviz.layers import score
from featviz.params import PARAMETERIZATIONS, gaussian_noise, pixels
from featviz.regularizers import decay, l2
from featviz.transforms import jitter, noise, pad, rotate
from featviz.types import Step


def mean_red(image):
    return image[:, 0].mean((1, 2))


def climb(param, rate=0.05):
    return torch.optim.SGD(param.values, lr=rate, maximize=True)


def run(measured, param, optimizer=None, **more):
    """The last step; each one's image is copied, as a step's picture is the one that is worked on."""
    optimizer = optimizer or torch.optim.Adam(param.values, lr=0.05, maximize=True)
    return [Step(s.index, s.scores, s.image.clone()) for s in ascend(measured, param, optimizer, **more)]


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
@pytest.mark.parametrize("target", ["layer", "channel", "neuron", "class"])
def test_the_score_climbs(tiny, name, target):
    objective = {
        "layer": objectives.layer("conv2"),
        "channel": objectives.channel("conv2", 3),
        "neuron": objectives.neuron("conv3", 5),
        "class": objectives.class_(2),
    }[target]
    measured = score(tiny, objective)
    param = PARAMETERIZATIONS[name](gaussian_noise([0], (32, 32)))
    before = float(measured(param.decode().detach()))
    optimizer = torch.optim.Adam(param.values, lr=0.3 if name == "maco" else 0.05, maximize=True)  # radians
    steps = run(measured, param, optimizer, steps=12)
    assert float(measured(steps[-1].image)) > before + 0.1 * abs(before)
    assert float(steps[0].scores) == pytest.approx(before, rel=1e-4)
    scores = [float(step.scores) for step in steps]
    assert scores[-1] > scores[0]


def test_a_plain_step_by_hand():
    """Red's mean has the slope 1/n at each of its n pixels."""
    image = torch.full((1, 3, 2, 5), 0.5)
    param = pixels(image)
    (step,) = run(mean_red, param, climb(param, 2.0), steps=1)
    assert step.index == 1 and step.scores.tolist() == [0.5]
    torch.testing.assert_close(step.image[:, 0], torch.full((1, 2, 5), 0.7))
    assert torch.equal(step.image[:, 1:], image[:, 1:])


def test_it_is_a_generator_of_steps():
    param = pixels(torch.full((1, 3, 4, 4), 0.5))
    calls = []

    def counting(image):
        calls.append(1)
        return mean_red(image)

    steps = ascend(counting, param, climb(param), steps=1000)
    assert not calls, "nothing happens before the first step is asked for"
    assert [next(steps).index for _ in range(3)] == [1, 2, 3]
    assert len(calls) == 3
    steps.close()


@pytest.mark.parametrize("steps", [0, -3])
def test_no_steps_are_refused(steps):
    param = pixels(torch.rand(1, 3, 4, 4))
    with pytest.raises(InvalidValue, match=f"steps {steps}: at least 1"):
        next(ascend(mean_red, param, climb(param), steps=steps))


def test_a_penalty_is_subtracted_from_the_score():
    param = pixels(torch.full((1, 3, 2, 2), 0.6))
    # slope of red's mean: 1/4; of 3·mean((x - .5)²): 3·2·.1/12 = .05
    (step,) = run(mean_red, param, climb(param, 1.0), steps=1, penalties=[l2(3.0, 0.5)])
    torch.testing.assert_close(step.image[0, :, 0, 0], torch.tensor([0.6 + 0.25 - 0.05, 0.55, 0.55]))
    assert step.scores.tolist() == [pytest.approx(0.6)], "the score told is the score's alone"


def test_a_projection_acts_on_the_image_after_the_step():
    seen = []

    def watch(image, gradient, index):
        seen.append((index, gradient.clone()))
        return image

    param = pixels(torch.full((1, 3, 2, 2), 0.6))
    options = {"steps": 2, "projections": [decay(0.5, 0.5), watch]}
    steps = run(mean_red, param, climb(param, 1.0), **options)
    # .6 + .25 = .85 → .675; then .925 → .7125
    assert [float(step.image[0, 0, 0, 0]) for step in steps] == pytest.approx([0.675, 0.7125])
    assert [index for index, _ in seen] == [1, 2]
    torch.testing.assert_close(seen[0][1][:, 0], torch.full((1, 2, 2), 0.25))


def test_projections_see_the_gradient_and_not_what_was_made_of_it():
    seen = []

    def watch(image, gradient, index):
        seen.append(gradient.clone())
        return image

    param = pixels(torch.full((1, 3, 2, 2), 0.5))
    change = {"precondition": lambda gradient, step: gradient.mul_(0.4), "projections": [watch]}
    (step,) = run(mean_red, param, climb(param, 1.0), steps=1, **change)
    assert float(step.image[0, 0, 0, 0]) == pytest.approx(0.6)
    torch.testing.assert_close(seen[0][:, 0], torch.full((1, 2, 2), 0.25))


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_projections_hold_for_every_parameterization(name):
    param = PARAMETERIZATIONS[name](unit_images(1, 3, 6, 7))
    (step,) = run(mean_red, param, steps=1, projections=[lambda image, gradient, i: image * 0 + 0.25])
    torch.testing.assert_close(step.image, torch.full((1, 3, 6, 7), 0.25))


def test_transforms_move_the_image_and_the_gradient_comes_back_through_them():
    def first_pixel(image):
        return image[:, 0, 0, 0]

    param = pixels(torch.full((1, 3, 6, 6), 0.5))
    (step,) = run(first_pixel, param, climb(param, 1.0), steps=1, seeds=[3], transforms=[jitter(4)])
    changed = (step.image != 0.5).nonzero().tolist()
    assert len(changed) == 1 and changed[0][:2] == [0, 0]
    assert changed[0][2] <= 4 and changed[0][3] <= 4


def options():
    return {"steps": 4, "transforms": [pad(3), jitter(3), rotate(10), noise(0.02)], "penalties": [l2(0.5)]}


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_the_same_seeds_give_the_same_picture_and_others_another(tiny, name):
    measured = score(tiny, objectives.layer("conv2"))

    def last(seed):
        return run(measured, PARAMETERIZATIONS[name](unit_images(1, 3, 32, 32)), seeds=[seed], **options())[
            -1
        ].image

    torch.manual_seed(0)
    first = last(1)
    torch.manual_seed(99)
    assert torch.equal(first, last(1))
    assert not torch.equal(first, last(2))


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_a_picture_does_not_depend_on_its_batch(tiny, name):
    measured = score(tiny, objectives.layer("conv2"))
    batch = unit_images(3, 3, 32, 32) * 0.9

    def last(images, seeds):
        param = PARAMETERIZATIONS[name](images)  # plain steps: Adam blows rounding up where slopes vanish
        return run(measured, param, climb(param, 0.05 if name == "cppn" else 5.0), seeds=seeds, **options())[
            -1
        ].image

    together = last(batch, [4, 5, 6])
    assert float((together - batch).abs().max()) > 0.01
    for i, seed in enumerate((4, 5, 6)):
        torch.testing.assert_close(together[i : i + 1], last(batch[i : i + 1], [seed]), rtol=0, atol=1e-4)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), float("-inf")])
@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_a_score_that_is_not_finite_stops_with_the_last_good_picture(name, bad):
    calls = []

    def breaking(image):
        calls.append(1)
        return mean_red(image) * (bad if len(calls) == 3 else 1.0)

    param = PARAMETERIZATIONS[name](torch.full((1, 3, 4, 4), 0.5))
    good = []
    with pytest.raises(NonFiniteScore) as caught:
        for step in ascend(breaking, param, climb(param), steps=9):
            good.append(step.image.clone())
    assert len(good) == 2 and caught.value.step == 3
    assert torch.equal(caught.value.image, good[-1])
    assert torch.isfinite(caught.value.image).all()
    assert "step 3" in str(caught.value)


def test_a_gradient_that_is_not_finite_counts_too():
    param = pixels(torch.zeros(1, 3, 4, 4))
    with pytest.raises(NonFiniteScore) as caught:  # the slope of sqrt at 0
        next(ascend(lambda image: image.sqrt().sum((1, 2, 3)), param, climb(param), steps=2))
    assert torch.equal(caught.value.image, torch.zeros(1, 3, 4, 4))


def test_no_grad_is_left_on_values_or_weights(tiny):
    net = tiny.net
    net.requires_grad_(True)
    param = pixels(unit_images(1, 3, 32, 32))
    run(score(tiny, objectives.layer("conv2")), param, steps=2)
    assert all(value.grad is None for value in param.values)
    assert all(parameter.grad is None for parameter in net.parameters())


def test_under_no_grad_it_climbs_all_the_same(tiny):
    measured = score(tiny, objectives.layer("conv2"))
    plain = run(measured, pixels(unit_images(1, 3, 32, 32)), **options())[-1].image
    with torch.no_grad():
        again = run(measured, pixels(unit_images(1, 3, 32, 32)), **options())[-1].image
    assert torch.equal(plain, again)
