"""Scaling, colours, overlays, masks and boxes, against formulas written out and a flood fill."""

import warnings

import pytest
import torch

from featviz.errors import InvalidValue
from featviz.output.colour import colourise
from featviz.output.overlays import EmptyMap, heatmap, limits, overlay, region, scaled, signed


@pytest.fixture
def values():
    return torch.randn(20, 30, generator=torch.Generator().manual_seed(2))


def test_signs():
    values = torch.tensor([[-2.0, 0.0, 3.0]])
    parts = {"both": [-2, 0, 3], "pos": [0, 0, 3], "neg": [2, 0, 0], "abs": [2, 0, 3]}
    for sign, expected in parts.items():
        assert signed(values, sign).tolist() == [expected]
    assert values.tolist() == [[-2, 0, 3]]
    with pytest.raises(InvalidValue, match="nearest: pos"):
        signed(values, "poss")


def test_limits(values):
    positive = values.abs()
    assert limits([positive], "pos", "minmax") == [(float(positive.min()), float(positive.max()))]
    reach = float(values.abs().max())
    assert limits([values], "both", "minmax") == [(-reach, reach)]
    ordered = sorted(positive.flatten().tolist())
    low, high = limits([positive], "pos", "p99")[0]
    assert low == ordered[0] and high == pytest.approx(ordered[593], rel=1e-6)  # 594 of 600 are at most that
    assert limits([values, 2 * values], "both", "shared") == [(-2 * reach, 2 * reach)] * 2
    assert limits([values, 2 * values], "both", "minmax") == [(-reach, reach), (-2 * reach, 2 * reach)]
    assert limits([values], "both", "none") == [(-1.0, 1.0)]
    assert limits([values], "abs", "none") == [(0.0, 1.0)]
    with pytest.raises(InvalidValue, match="nearest: minmax"):
        limits([values], "both", "minmx")


def test_a_map_of_few_points_is_not_blank_at_the_99th_percentile():
    values = torch.zeros(40, 40)
    values[3, 5] = 2.0
    assert limits([values], "pos", "p99") == [(0.0, 2.0)]
    assert limits([-values], "both", "p99") == [(-2.0, 2.0)]


def test_scaled_is_min_max(values):
    low, high = limits([values.abs()], "abs", "minmax")[0]
    made = scaled(values.abs(), low, high)
    numbers = values.abs().flatten().tolist()
    span = max(numbers) - min(numbers)
    expected = [(number - min(numbers)) / span for number in numbers]
    assert made.flatten().tolist() == pytest.approx(expected, abs=1e-6)


@pytest.mark.parametrize("sign", ["both", "pos", "neg", "abs"])
@pytest.mark.parametrize("norm", ["minmax", "p99", "shared"])
@pytest.mark.parametrize("fault", [0.0, 0.7, float("nan"), float("inf")])
def test_a_blank_map_warns_and_is_never_nan(sign, norm, fault):
    values = signed(torch.full((6, 8), fault), sign)
    low, high = limits([values], sign, norm)[0]
    with pytest.warns(EmptyMap):
        made = heatmap(values, sign, low, high)
    assert made.isfinite().all()
    zero = "f7f7f7" if sign == "both" else "000004"  # white between blue and red, inferno's black
    colour = [int(zero[i : i + 2], 16) / 255 for i in (0, 2, 4)]
    assert made.flatten(2).mean(2)[0].tolist() == pytest.approx(colour, abs=1e-6)
    assert (made == made[..., :1, :1]).all()


def test_a_constant_map_on_a_shared_scale_warns():
    for low, high in ((-1.0, 1.0), (-4.0, 1.0)):
        with pytest.warns(EmptyMap, match="constant at 0.7"):
            made = scaled(torch.full((3, 3), 0.7), low, high)
        assert torch.allclose(made, torch.full((3, 3), -low / (high - low)))


def test_some_nan_among_numbers(values):
    values = values.abs()
    values[3, 4] = float("nan")
    low, high = limits([values], "abs", "minmax")[0]
    with pytest.warns(EmptyMap, match="1 of 600 values are not finite"):
        made = scaled(values, low, high)
    assert made.isfinite().all() and made[3, 4] == 0 and float(made.max()) == 1


def test_a_good_map_does_not_warn(values):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        low, high = limits([values], "both", "p99")[0]
        made = heatmap(values, "both", low, high)
    assert torch.equal(made, colourise(((values - low) / (high - low)).clamp(0, 1), "blue-red"))


def test_zero_of_a_signed_map_is_white():
    values = torch.tensor([[0.0, -1.0, 4.0]])
    made = heatmap(values, "both", *limits([values], "both", "minmax")[0])[0, :, 0]
    assert made[:, 0].min() > 0.95
    assert made[0, 2] > 1.5 * made[2, 2]  # red
    assert made[:, 1].min() > 0.7  # a quarter of the way to blue is pale


def test_overlay_is_a_plain_blend():
    photo, colours = torch.rand(1, 3, 5, 7), torch.rand(1, 3, 5, 7)
    made = overlay(photo, colours, 0.3)
    for c in range(3):
        grey = (photo[0, 0] + photo[0, 1] + photo[0, 2]) / 3
        assert torch.allclose(made[0, c], 0.7 * grey + 0.3 * colours[0, c], atol=1e-6)
    assert torch.allclose(overlay(photo, colours, 1.0), colours)
    with pytest.raises(InvalidValue, match="alpha"):
        overlay(photo, colours, 1.5)


def flood(strong):
    """The largest part of a mask whose pixels share sides, by walking."""
    left = {(r, c) for r in range(len(strong)) for c in range(len(strong[0])) if strong[r][c]}
    parts = []
    while left:
        edge, part = [left.pop()], set()
        while edge:
            r, c = edge.pop()
            part.add((r, c))
            near = {(r + 1, c), (r - 1, c), (r, c + 1), (r, c - 1)} & left
            left -= near
            edge += near
        parts.append(part)
    return parts


@pytest.mark.parametrize("seed", range(6))
def test_the_largest_part_and_its_box(seed):
    values = torch.rand(14, 19, generator=torch.Generator().manual_seed(seed))
    found = region(values, 0.45)
    parts = flood((values >= 0.45 * values.max()).tolist())
    largest = max(map(len, parts))
    pixels = {tuple(at) for at in found.mask.nonzero().tolist()}
    assert pixels in parts and len(pixels) == largest
    rows, cols = [r for r, _ in pixels], [c for _, c in pixels]
    assert found.box == (min(rows), min(cols), max(rows) + 1, max(cols) + 1)


def test_a_winding_part_hangs_together():
    values = torch.zeros(9, 9)
    values[::2] = 1
    for row, col in ((1, 8), (3, 0), (5, 8), (7, 0)):
        values[row, col] = 1
    found = region(values)
    assert torch.equal(found.mask, values.bool())
    values[1, 8], values[0, 8], values[1, 7] = 0, 1, 0  # now the top row stands alone
    assert region(values).box == (2, 0, 9, 9)
    corner = torch.eye(4)
    assert region(corner).mask.sum() == 1  # pixels that meet at a corner do not hang together


def test_a_map_without_positive_values_has_no_box():
    for values in (torch.zeros(4, 4), -torch.ones(4, 4)):
        found = region(values)
        assert found.box is None and not found.mask.any()
    with pytest.raises(InvalidValue, match="threshold"):
        region(torch.ones(2, 2), 0.0)
