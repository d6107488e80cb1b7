import pytest
import torch
from conftest import seeded, tiny_model, unit_images
from torch import nn
from torch.nn import functional as F

from featviz.batch_score import BatchScore
from featviz.engines import eager
from featviz.presets import resolved
from featviz.render_settings import RenderSettings
from featviz.statistics import NormStatistics, remembering
from featviz.targets import objective_of
from featviz.types import Model
from featviz.visualize import render


def norm_net():
    layers = [nn.Conv2d(3, 5, 3, bias=False), nn.BatchNorm2d(5), nn.ReLU(inplace=True), nn.Conv2d(5, 4, 3)]
    return seeded(lambda: nn.Sequential(*layers, nn.BatchNorm2d(4))).double().requires_grad_(False)


def by_hand(net, image, slack=0.0):
    """The mean over both norms, written out."""

    def far(away, least, most):
        above, below = away - slack * most, slack * least - away
        return torch.where(above > 0, above, torch.where(below > 0, below, torch.zeros_like(away)))

    first = F.conv2d(image, net[0].weight)
    second = net[3](net[2](net[1](first.clone())))
    away = []
    for given, norm in ((first, net[1]), (second, net[4])):
        sd = (norm.running_var + norm.eps).sqrt()
        mean = given.mean((2, 3))
        spread = ((given - mean[..., None, None]).square().mean((2, 3)) + norm.eps).sqrt()
        away.append((far((mean - norm.running_mean) / sd, -0.6, 0.1) + far(spread / sd - 1, -0.4, 0)).mean(1))
    return (away[0] + away[1]) / 2


def measured(net, image, slack=0.0):
    with NormStatistics(slack=slack) as statistics:
        net(image)
    return statistics.away()


@pytest.mark.parametrize("slack", [0.0, 0.3, 1.0])
def test_the_distance_is_the_formula(slack):
    net, image = norm_net(), unit_images(3, 3, 12, 9).double().requires_grad_(True)
    found, wanted = measured(net, image, slack), by_hand(net, image, slack)
    torch.testing.assert_close(found, wanted, rtol=1e-12, atol=1e-12)
    slopes = [torch.autograd.grad(each.sum(), image)[0] for each in (found, wanted)]
    torch.testing.assert_close(*slopes, rtol=1e-9, atol=1e-12)


def test_what_an_image_lacks_counts_less_than_what_it_has_too_much_of():
    norm = nn.BatchNorm2d(1, eps=0.0).double()  # remembers mean 0, and a variance that is told from 1
    norm.running_var += 3.0
    square = 2 * torch.tensor([1.0, -1.0]).double().view(1, 1, 1, 2)  # its deviation is the one remembered
    far = [
        float(
            measured(norm.eval().requires_grad_(False), (square + shift).requires_grad_(True), 1.0).detach()
        )
        for shift in (-2.0, -0.8, 0.0, 0.8, 2.0)
    ]
    assert far == pytest.approx([0.4, 0.0, 0.0, 0.3, 0.9])


def test_norms_that_take_turns_count_as_much_over_a_round():
    net, image = norm_net(), unit_images(2, 3, 12, 9).double().requires_grad_(True)
    statistics, found = NormStatistics(2, turns=2), []
    for _ in range(4):
        with statistics:
            net(image)
        found.append(statistics.away())
    assert not torch.allclose(found[0], found[1])
    torch.testing.assert_close(found[:2], found[2:])
    torch.testing.assert_close((found[0] + found[1]) / 2, by_hand(net, image), rtol=1e-12, atol=1e-12)


def test_norms_that_a_forward_ends_before_are_at_no_distance():
    net, image = norm_net(), unit_images(2, 3, 12, 9).double().requires_grad_(True)
    statistics = NormStatistics(2)
    with statistics:
        net[:3](image)
    first = statistics.away()
    with statistics:
        net(image)
    away = statistics.away()
    torch.testing.assert_close(2 * away - 2 * first, 2 * by_hand(net, image) - measured(net[:3], image))


def test_what_a_norm_remembers_is_at_no_distance():
    norm = nn.BatchNorm2d(4, eps=0.0).double()
    image = unit_images(1, 4, 8, 8).double().requires_grad_(True)
    norm.running_mean = image.detach().mean((0, 2, 3))
    norm.running_var = image.detach().var((0, 2, 3), correction=0)
    assert float(measured(norm.eval().requires_grad_(False), image).detach()) == pytest.approx(0, abs=1e-12)


def test_each_image_has_its_own(tiny):
    images = unit_images(3, 3, 32, 32).requires_grad_(True)
    whole = measured(tiny.net, images)
    alone = torch.cat([measured(tiny.net, images[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(whole, alone)
    assert len(set(whole.tolist())) == 3


def test_norms_that_remember_nothing_have_nothing_to_say():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)).eval().requires_grad_(False)
    assert remembering(net) == 0 and remembering(norm_net()) == 2
    assert float(measured(net, unit_images(1, 3, 8, 8).requires_grad_(True)).detach()) == 0
    assert measured(net[:1], unit_images(1, 3, 8, 8).requires_grad_(True)) is None


def test_a_picture_held_to_the_statistics_comes_nearer_to_them(tiny):
    settings = {"preset": "fourier", "steps": 30, "size": 48}
    away = []
    for weight in (0.0, 300.0):
        for step in render(tiny, "conv3:1", RenderSettings(**settings, statistics=weight)):
            last = step
        away.append(float(measured(tiny.net, last.image.clone().requires_grad_(True)).detach()))
    assert away[1] < 0.97 * away[0]


def test_a_network_without_norms_is_as_before():
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 4, 3, 2)))
    model = Model(net.requires_grad_(False), "plain", input_size=(32, 32))
    pictures = []
    for weight in (0.0, 20.0):
        for step in render(model, "2:1", RenderSettings(steps=3, statistics=weight)):
            last = step
        pictures.append(last.image)
    assert torch.equal(*pictures)


def test_several_views_of_a_picture_count_by_their_mean():
    model, settings = tiny_model(), {"steps": 2, "size": 40, "statistics": 3.0, "view_low": 0.6}
    for step in render(model, ["conv3:1", "conv3:2"], RenderSettings(**settings, views=3)):
        assert step.scores.shape == (2,)


def test_the_statistics_are_in_the_gradient_and_not_in_the_score(tiny):
    """So that progress and records tell the unit's own activation."""
    image = unit_images(1, 3, 48, 48)
    found = {}
    for weight in (0.0, 7.0):
        settings = resolved(RenderSettings(preset="fourier", statistics=weight))
        score = BatchScore.of(tiny, [objective_of(tiny, "conv3:1")], settings, False)
        found[weight] = eager(score, image)
    torch.testing.assert_close(found[0.0][0], found[7.0][0])

    leaf = image.clone().requires_grad_(True)
    (distance,) = torch.autograd.grad(measured(tiny.net, tiny.normalise(leaf)).sum(), leaf)
    wanted = found[0.0][1] - 7 * found[0.0][0].abs() * distance
    torch.testing.assert_close(found[7.0][1], wanted, rtol=1e-4, atol=1e-7)


def test_norms_without_positions_have_nothing_to_say():
    net = seeded(lambda: nn.Sequential(nn.Flatten(), nn.Linear(12, 4), nn.BatchNorm1d(4))).requires_grad_(
        False
    )
    assert measured(net, unit_images(2, 3, 2, 2).requires_grad_(True)) is None
