import math

import pytest
import torch
from conftest import unit_images

from featviz import objectives
from featviz.engines import eager
from featviz.errors import InvalidValue, PositionOutOfRange
from featviz.layers import score
from featviz.types import Objective

MAP = torch.arange(24.0).view(1, 2, 3, 4)  # 2 channels, 3 rows, 4 columns: [c, r, k] = 12 c + 4 r + k


def measure(objective, activation=MAP):
    return objective.measure(dict.fromkeys(objective.layers, activation))


def test_values_worked_out_by_hand():
    # the mean of the squares of 0..23 is 23·24·47 / 6 / 24
    assert measure(objectives.layer("a")).tolist() == [pytest.approx(23 * 47 / 6)]
    assert measure(objectives.channel("a", 1)).tolist() == [17.5]
    assert measure(objectives.neuron("a", 1, (2, 3))).tolist() == [23]
    assert measure(objectives.neuron("a", 0, (0, 0))).tolist() == [0]
    assert measure(objectives.class_(1), torch.tensor([[3.0, 7.0], [1.0, 2.0]])).tolist() == [7, 2]
    assert measure(objectives.direction("a", torch.tensor([1.0, -1.0]))).tolist() == [-12]


def test_rows_come_before_columns():
    assert measure(objectives.neuron("a", 0, (2, 1))).tolist() == [9]
    assert measure(objectives.neuron("a", 0, (1, 2))).tolist() == [6]
    measure(objectives.neuron("a", 0, (0, 3)))
    with pytest.raises(PositionOutOfRange, match="@3,0 of a: its map is 3 rows by 4 columns"):
        measure(objectives.neuron("a", 0, (3, 0)))


@pytest.mark.parametrize("position", [(-1, 0), (0, -1), (0, 4)])
def test_positions_outside_are_refused(position):
    with pytest.raises(PositionOutOfRange):
        measure(objectives.neuron("a", 0, position))


@pytest.mark.parametrize(
    ("size", "middle"), [((3, 4), (1, 2)), ((5, 1), (2, 0)), ((2, 7), (1, 3)), ((1, 1), (0, 0))]
)
def test_the_middle_of_non_square_maps(size, middle):
    marked = torch.zeros(1, 1, *size)
    marked[0, 0, middle[0], middle[1]] = 5
    assert measure(objectives.neuron("a", 0), marked).tolist() == [5]


def test_tokens_and_vectors_are_taken():
    tokens = torch.arange(12.0).view(1, 4, 3)  # 4 tokens of 3 channels
    assert measure(objectives.channel("a", 2), tokens).tolist() == [(2 + 5 + 8 + 11) / 4]
    assert measure(objectives.neuron("a", 1, (3, 0)), tokens).tolist() == [10]
    assert measure(objectives.neuron("a", 1), tokens).tolist() == [7]
    assert measure(objectives.layer("a"), tokens).tolist() == [pytest.approx(506 / 12)]
    vector = torch.tensor([[3.0, 4.0]])
    assert measure(objectives.layer("a"), vector).tolist() == [12.5]
    assert measure(objectives.neuron("a", 1), vector).tolist() == [4]


def test_direction_with_cosine_power():
    # one position: v = (1, 0), a = (3, 4): dot 3, cosine 0.6, so 3·0.6² = 1.08
    activation = torch.tensor([3.0, 4.0]).view(1, 2, 1, 1)
    v = torch.tensor([1.0, 0.0])
    assert measure(objectives.direction("a", v), activation).tolist() == [3]
    assert measure(objectives.direction("a", v, 2), activation).tolist() == [pytest.approx(1.08, rel=1e-5)]
    against = objectives.direction("a", -v, 2)  # the cosine is held at .1
    assert measure(against, activation).tolist() == [pytest.approx(-0.03, rel=1e-5)]
    with pytest.raises(InvalidValue, match="vector"):
        objectives.direction("a", torch.ones(2, 2))


def test_guide_matches_each_position_with_its_best():
    guide = torch.tensor([[1.0, 0.0], [0.0, 2.0]]).t().reshape(1, 2, 1, 2)  # features (1, 0) and (0, 2)
    dreamed = torch.tensor([[5.0, 1.0], [1.0, 3.0], [-1.0, -1.0]]).t().reshape(1, 2, 3, 1)
    # best: (5,1)·(1,0)=5; (1,3)·(0,2)=6; (-1,-1)·(1,0)=-1
    assert measure(objectives.guide("a", guide), dreamed).tolist() == [pytest.approx(10 / 3)]
    leaf = dreamed.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(measure(objectives.guide("a", guide), leaf).sum(), leaf)
    assert torch.equal(
        gradient * 3, torch.tensor([[1.0, 0.0], [0.0, 2.0], [1.0, 0.0]]).t().reshape(1, 2, 3, 1)
    )


def constant(value, name="c"):
    return Objective((name,), lambda acts: acts[name] * value, name)


def test_arithmetic_by_hand():
    a, b = constant(2.0, "a"), constant(3.0, "b")
    acts = {"a": torch.tensor([1.0, 10.0]), "b": torch.tensor([1.0, 100.0])}
    for made, expected in [
        (a + b, [5, 320]),
        (a - b, [-1, -280]),
        (-a, [-2, -20]),
        (0.5 * a, [1, 10]),
        (a * 0.5, [1, 10]),
        (2 * (a + b) - b, [7, 340]),
        (sum([a, b, b]), [8, 620]),
        (a + 0 * b, [2, 20]),
    ]:
        assert made.measure(acts).tolist() == expected, made.name
    assert (a + b).layers == ("a", "b")
    assert (a + a + b + a).layers == ("a", "b")


def test_arithmetic_changes_no_operand_and_compounds_nothing():
    acts = {"c": torch.tensor([1.0])}
    one = constant(1.0)
    twice = 2 * one
    four = 2 * twice
    again = 2 * one
    total = twice + one
    for _ in range(3):  # measuring again gives the same
        assert [o.measure(acts).item() for o in (one, twice, four, again, total)] == [1, 2, 4, 2, 3]
    assert (one.name, twice.name, one.layers) == ("c", "2*c", ("c",))


def test_names_tell_the_sum():
    a, b = constant(1.0, "a"), constant(1.0, "b")
    assert (a + 0.5 * b).name == "a + 0.5*b"
    assert (2 * (a + b)).name == "2*(a + b)"
    assert objectives.channel("layer3", 7).name == "layer3:7"
    assert objectives.neuron("layer3", 7, (1, 2)).name == "layer3:7@1,2"
    assert objectives.class_(3, "tabby").name == "class:tabby"


@pytest.mark.parametrize("bad", [1, "layer3", None])
def test_only_objectives_add_up(bad):
    with pytest.raises(TypeError):
        constant(1.0) + bad


def every_objective():
    return {
        "layer": objectives.layer("conv2"),
        "channel": objectives.channel("conv2", 3),
        "neuron": objectives.neuron("conv2", 3, (1, 2)),
        "class": objectives.class_(1),
        "direction": objectives.direction("conv2", torch.linspace(-1, 1, 8), 2),
        "guide": objectives.guide("conv2", torch.linspace(-1, 1, 48).view(1, 8, 2, 3)),
    }


def test_all_are_tried_here():
    assert set(every_objective()) == set(objectives.OBJECTIVES)


@pytest.mark.parametrize("name", list(objectives.OBJECTIVES))
def test_an_images_score_and_gradient_do_not_depend_on_its_batch(tiny, name):
    measured = score(tiny, every_objective()[name])
    batch = unit_images(3, 3, 32, 48)
    batch[2] *= 7  # a loud neighbour
    scores, gradients = eager(measured, batch)
    assert scores.shape == (3,) and gradients.shape == batch.shape
    for i in range(3):
        alone, gradient = eager(measured, batch[i : i + 1])
        torch.testing.assert_close(scores[i : i + 1], alone, rtol=1e-4, atol=1e-6)
        torch.testing.assert_close(gradients[i : i + 1], gradient, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", list(objectives.OBJECTIVES))
def test_a_small_step_along_the_gradient_raises_the_score_by_its_square(tiny, name):
    """First order: f(x + εg) - f(x) = ε|g|²."""
    tiny.net.double()
    measured = score(tiny, every_objective()[name])
    image = unit_images(1, 3, 32, 48).double()
    before, gradient = eager(measured, image)
    after, _ = eager(measured, image + 1e-6 * gradient)
    assert math.isclose(float(after - before), 1e-6 * float(gradient.square().sum()), rel_tol=1e-3)
