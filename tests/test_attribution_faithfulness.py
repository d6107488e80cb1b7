"""Deletion and insertion on networks whose answer is known, shuffled weights, and what is said of them."""

import numpy as np
import pytest
import torch
from conftest import tiny_model, unit_images
from torch import nn

from featviz.attribution import METHODS
from featviz.attribution.faithfulness import Curves, curves, random_curves
from featviz.attribution.randomisation import Stage, cascade, randomised, rank_correlation, ssim
from featviz.attribution.verdicts import verdict
from featviz.checking import checked
from featviz.objectives import class_
from featviz.types import Model, Objective

SIZE = (16, 20)


class Patch(nn.Module):
    """Its one output is the mean of the red of rows 4 to 7, columns 5 to 9, which hold 20 pixels."""

    def forward(self, x):
        return x[:, :1, 4:8, 5:10].mean((2, 3))


@pytest.fixture
def patch():
    return Model(Patch(), "patch", mean=(0.0, 0.0, 0.0), std=(1.0, 1.0, 1.0), input_size=SIZE)


def raw_score():
    """The output itself; the network's only class would always have probability 1."""
    return Objective(("", ""), lambda acts: acts[""][:, 0], "patch")


def true_map():
    values = torch.zeros(SIZE)
    values[4:8, 5:10] = 1.0
    return values


def test_curves_worked_out_by_hand(patch):
    """320 pixels in 16 shares of 20: the first share is the patch, mean 0 hides it, blur cannot reach 1."""
    image = torch.ones(1, 3, *SIZE)
    found = curves(patch, image, raw_score(), true_map(), steps=16)
    assert found.shares == tuple(i / 16 for i in range(17))
    assert found.deletion == pytest.approx([1.0] + [0.0] * 16)
    assert found.deletion_area == pytest.approx(1 / 32)
    against = curves(patch, image, raw_score(), -true_map(), steps=16)
    assert against.deletion == pytest.approx([1.0] * 16 + [0.0])
    assert against.deletion_area == pytest.approx(31 / 32)


def test_insertion_comes_from_the_blurred_picture_to_the_picture(patch):
    image = torch.zeros(1, 3, *SIZE)
    image[..., 4:8, 5:10] = 1.0
    found = curves(patch, image, raw_score(), true_map(), steps=16)
    assert 0 < found.insertion[0] < 1 and found.insertion[1:] == pytest.approx([1.0] * 16)
    late = curves(patch, image, raw_score(), -true_map(), steps=16)
    assert late.insertion[:16] == pytest.approx([found.insertion[0]] * 16)
    assert late.insertion_area < found.insertion_area


def test_the_true_map_beats_chance_and_its_opposite_does_not(patch):
    image = torch.ones(1, 3, *SIZE)
    chance = random_curves(patch, image, raw_score(), (4, 5), maps=6, seed=2)
    good, bad = (curves(patch, image, raw_score(), sign * true_map()) for sign in (1, -1))
    assert all(good.deletion_area < each.deletion_area < bad.deletion_area for each in chance)
    again = random_curves(patch, image, raw_score(), (4, 5), maps=2, seed=2)
    assert [each.deletion for each in again] == [each.deletion for each in chance[:2]]


def test_a_class_is_scored_by_its_probability(tiny, small_photo):
    found = curves(tiny, small_photo, class_(3), torch.zeros(small_photo.shape[2:]), steps=2)
    with torch.no_grad():
        chance = tiny(small_photo).softmax(1)[0, 3]
    assert found.deletion[0] == pytest.approx(float(chance), rel=1e-5)
    assert found.insertion[-1] == pytest.approx(float(chance), rel=1e-5)


def test_ranks_correlate_as_numpy_says():
    """Spearman's by its definition: the correlation of mean ranks, found by counting pairs."""
    values = np.random.default_rng(1).integers(0, 6, (2, 7, 9)).astype(float)
    ranks = [[(v < x).sum() + ((v == x).sum() + 1) / 2 for x in v.ravel()] for v in values]
    wanted = np.corrcoef(ranks)[0, 1]
    a, b = torch.from_numpy(values)
    assert rank_correlation(a, b) == pytest.approx(wanted)
    assert rank_correlation(a, 3 * a + 1) == pytest.approx(1) and rank_correlation(a, -a) == pytest.approx(-1)
    assert rank_correlation(a, torch.ones(7, 9)) == 0
    assert ssim(a, 2 * a + 3) == pytest.approx(1) and ssim(a, -a) < 0.5


def test_shuffling_goes_down_from_the_output_and_leaves_the_model_alone(tiny):
    before = {name: each.clone() for name, each in tiny.net.state_dict().items()}
    touched = []
    for name, other in randomised(tiny, seed=4, stages=3):
        state = other.net.state_dict()
        moved = {key for key, value in before.items() if not torch.equal(state[key], value)}
        for key in moved:
            torch.testing.assert_close(
                state[key].flatten().sort().values, before[key].flatten().sort().values
            )
        touched.append((name, moved))
        assert other.digest != tiny.digest
    assert [name for name, _ in touched] == ["head", "conv2", "conv1"]
    assert touched[0][1] == {"head.weight", "head.bias"}
    assert touched[1][1] > touched[0][1] and touched[2][1] > touched[1][1]
    assert touched[2][1] == {name for name, _ in tiny.net.named_parameters()}
    for name, each in tiny.net.state_dict().items():
        assert torch.equal(each, before[name])


def test_a_map_that_ignores_the_network_stays_the_same(tiny, small_photo):
    edges = (small_photo[0, 0, :, 1:] - small_photo[0, 0, :, :-1]).abs()
    (stages,) = cascade(tiny, lambda model: [edges], draws=2, stages=3)
    assert [(each.rank_correlation, each.ssim) for each in stages] == [
        (pytest.approx(1), pytest.approx(1))
    ] * 3

    def gradient(model):
        return [METHODS["gradient"](model, small_photo, [class_(1)])[0].map.abs()]

    one, two = (cascade(tiny, gradient, draws=2, seed=3, stages=3)[0] for _ in range(2))
    assert one == two
    assert one[-1].rank_correlation < 0.9


@pytest.mark.parametrize(("first", "last", "said"), [
    (0.9, 0.8, "tells more of the photo"),
    (0.9, 0.1, "hardly depends on what the output layer"),
    (0.1, -0.2, "depends on what the network learned"),
])  # fmt: skip
def test_what_is_said_of_the_weights(first, last, said):
    flat = Curves((0.0, 1.0), (0.5, 0.5), (0.5, 0.5))
    stages = [Stage("fc", first, 0.5), Stage("conv1", last, 0.5)]
    spoken = verdict("gradient", flat, [flat] * 4, stages)
    assert said in spoken[2] and len(spoken) == 3
    assert "no better than chance" in spoken[0] and "under 0 of 4" in spoken[1]


def test_good_news_is_told_as_such_and_guided_backpropagation_is_warned_of():
    good = Curves((0.0, 1.0), (0.1, 0.1), (0.9, 0.9))
    flat = Curves((0.0, 1.0), (0.5, 0.5), (0.5, 0.5))
    stages = [Stage("fc", 0.0, 0.0)]
    spoken = verdict("guided-backprop", good, [flat] * 4, stages, completeness=0.2)
    assert "no better" not in spoken[0] and "under 4 of 4" in spoken[0] and "area 0.1" in spoken[0]
    assert "20.0%" in spoken[3] and "--steps" in spoken[3]
    assert "insensitive to the weights" in spoken[4]
    assert "--steps" not in verdict("integrated-gradients", good, [flat], stages, completeness=0.01)[3]


def test_checked_maps_carry_what_was_found(small_photo):
    model, image = tiny_model(), unit_images(1, 3, 32, 32)
    targets = [class_(0), class_(2)]
    settings = {"steps": 3}
    made = METHODS["integrated-gradients"](model, image, targets, **settings)

    def again(other):
        return METHODS["integrated-gradients"](other, image, targets, **settings)

    for each in checked(model, image, targets, made, again, "auto"):
        check = each.notes["check"]
        assert len(check["random_deletion"]) == 8 and len(check["shares"]) == len(check["insertion"])
        assert check["randomised"][0]["module"] == "head"
        error = abs(each.notes["completeness_error"] / each.notes["difference"])
        assert f"{error:.1%}" in check["verdict"][3]
