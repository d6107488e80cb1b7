import math

import pytest
import torch
import torchvision.transforms.functional as TF
from conftest import unit_images
from torchvision.transforms import InterpolationMode

from featviz.errors import InvalidValue
from featviz.transforms import TRANSFORMS, compose, crop, jitter, noise, pad, roll, rotate, scale, view
from featviz.types import Draws

EXAMPLES = {
    "jitter": jitter(4),
    "roll": roll(5),
    "scale": scale([0.9, 1.0, 1.1]),
    "rotate": rotate(10),
    "pad": pad(3),
    "crop": crop(0.4, 1.0),
    "noise": noise(0.01),
    "view": view(0.4, 1.1, 10.0, (0.9, 1.0, 1.1)),
}
GROWTH = {"jitter": -4, "pad": 6}


def draws(*seeds, step=1):
    return Draws(seeds, "step", step)


def test_all_are_tried_here():
    assert set(EXAMPLES) == set(TRANSFORMS)


@pytest.mark.parametrize("name", list(TRANSFORMS))
@pytest.mark.parametrize("size", [(16, 16), (15, 24), (31, 9)])
def test_shape_and_range(name, size):
    image = unit_images(2, 3, *size)
    out = EXAMPLES[name](image, draws(0, 1))
    assert out.shape == (2, 3, size[0] + GROWTH.get(name, 0), size[1] + GROWTH.get(name, 0))
    slack = 0.06 if name == "noise" else 1e-6
    assert out.min() >= -slack and out.max() <= 1 + slack


@pytest.mark.parametrize("name", [n for n in TRANSFORMS if n != "noise"])
def test_a_constant_grey_stays(name):
    out = EXAMPLES[name](torch.full((1, 3, 16, 20), 0.5), draws(3))
    torch.testing.assert_close(out, torch.full_like(out, 0.5))


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_the_same_seed_gives_the_same_draw(name):
    image = unit_images(1, 3, 16, 20)
    transform = EXAMPLES[name]
    first = transform(image, draws(7))
    torch.manual_seed(123)
    assert torch.equal(first, transform(image, draws(7)))
    if name != "pad":
        others = [transform(image, draws(7, step=k)) for k in range(2, 8)]
        assert any(not torch.equal(first, other) for other in others)


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_a_draw_does_not_depend_on_batch_mates(name):
    image = unit_images(3, 3, 16, 20)
    together = EXAMPLES[name](image, draws(5, 6, 7))
    for i, seed in enumerate((5, 6, 7)):
        alone = EXAMPLES[name](image[i : i + 1], draws(seed))
        torch.testing.assert_close(together[i : i + 1], alone, rtol=0, atol=1e-6)


@pytest.mark.parametrize("name", list(TRANSFORMS))
def test_a_gradient_passes_back(name):
    image = unit_images(1, 3, 16, 20).requires_grad_()
    (gradient,) = torch.autograd.grad(EXAMPLES[name](image, draws(2)).sum(), image)
    assert gradient.shape == image.shape and (gradient != 0).any()


def coordinates(h, w):
    """An image whose first plane holds the row and second the column of each pixel."""
    rows, columns = torch.meshgrid(torch.arange(float(h)), torch.arange(float(w)), indexing="ij")
    return torch.stack([rows, columns, rows * 0])[None]


def test_jitter_crops_every_offset_and_nothing_else():
    image = coordinates(9, 12)
    seen = set()
    for seed in range(200):
        out = jitter(3)(image, draws(seed))[0]
        top, left = int(out[0, 0, 0]), int(out[1, 0, 0])
        assert torch.equal(out, image[0, :, top : top + 6, left : left + 9])
        seen.add((top, left))
    assert seen == {(top, left) for top in range(4) for left in range(4)}


def test_jitter_that_leaves_nothing():
    with pytest.raises(InvalidValue, match="jitter 9 leaves nothing of an image of 9x20"):
        jitter(9)(coordinates(9, 20), draws(0))


def test_roll_goes_both_ways_around():
    image = coordinates(9, 12)
    seen = set()
    for seed in range(300):
        out = roll(2)(image, draws(seed))[0]
        down, right = (-int(out[0, 0, 0])) % 9, (-int(out[1, 0, 0])) % 12
        assert torch.equal(out, image[0].roll((down, right), (1, 2)))
        seen.add(((down + 4) % 9 - 4, (right + 6) % 12 - 6))
    assert seen == {(down, right) for down in range(-2, 3) for right in range(-2, 3)}


def test_pad_by_hand():
    image = coordinates(3, 4)
    grey = pad(2, 0.25)(image, draws(0))
    assert torch.equal(grey[..., 2:5, 2:6], image)
    assert (grey[..., :2, :] == 0.25).all() and (grey[..., -2:] == 0.25).all()
    mirrored = pad(2, None)(image, draws(0))
    assert mirrored[0, 0, :, 2].tolist() == [2, 1, 0, 1, 2, 1, 0]
    assert mirrored[0, 1, 2].tolist() == [2, 1, 0, 1, 2, 3, 2, 1]


def test_scale_of_two_by_hand():
    """Magnified twice, the middle fills the picture, each pixel between its neighbours at quarters."""
    ramp = torch.arange(8.0).view(1, 1, 1, 8).expand(1, 3, 8, 8)
    out = scale([2.0])(ramp, draws(0))
    assert out[0, 0, 0].tolist() == pytest.approx([1.75, 2.25, 2.75, 3.25, 3.75, 4.25, 4.75, 5.25])


@pytest.mark.parametrize("factor", [0.8, 1.0, 1.25])
@pytest.mark.parametrize("size", [(20, 20), (17, 28)])
def test_scale_equals_torchvision_inside(factor, size):
    image = unit_images(1, 3, *size)
    expected = TF.affine(image, 0.0, [0, 0], factor, [0.0, 0.0], interpolation=InterpolationMode.BILINEAR)
    inside = TF.affine(torch.ones(1, 1, *size), 0.0, [0, 0], factor, [0.0, 0.0])[0, 0] > 0
    inside[0], inside[-1], inside[:, 0], inside[:, -1] = False, False, False, False
    if factor < 1:  # torchvision fills with black around
        inside = torch.nn.functional.max_pool2d(-inside[None].float(), 3, 1, 1)[0] < -0.5
    out = scale([factor])(image, draws(0))
    torch.testing.assert_close(out[..., inside], expected[..., inside], rtol=0, atol=1e-5)
    assert inside.float().mean() > 0.4


def angle_of(seed, degrees):
    """The angle that the transform draws."""
    return float(draws(seed).uniform(-degrees, degrees, 1))


@pytest.mark.parametrize("size", [(24, 24), (17, 30)])
@pytest.mark.parametrize("seed", [0, 1, 2])
def test_rotate_turns_rigidly_like_torchvision(size, seed):
    image = unit_images(1, 3, *size)
    out = rotate(40)(image, draws(seed))
    angle = angle_of(seed, 40)
    assert abs(angle) > 1
    matches = []
    for sign in (1, -1):  # which way is positive does not matter, as both are drawn
        expected = TF.rotate(image, sign * angle, interpolation=InterpolationMode.BILINEAR)
        inside = TF.rotate(torch.ones(1, 1, *size), sign * angle)[0, 0] > 0
        inside = torch.nn.functional.max_pool2d(-inside[None].float(), 5, 1, 2)[0] < -0.5
        inside[:3], inside[-3:], inside[:, :3], inside[:, -3:] = False, False, False, False
        assert inside.float().mean() > 0.15
        matches.append(float((out - expected)[..., inside].abs().max()) < 1e-4)
    assert any(matches)


def test_a_quarter_turn_of_a_square_is_exact():
    class Quarter:
        def uniform(self, low, high, *shape):
            assert (low, high) == (-90, 90)
            return torch.full((1, *shape), 90.0)

    image = unit_images(1, 3, 6, 6)
    out = rotate(90)(image, Quarter())
    turned = [image.rot90(1, (2, 3)), image.rot90(-1, (2, 3))]
    assert min(float((out - expected).abs().max()) for expected in turned) < 1e-5


def test_angles_and_factors_cover_their_range():
    angles = torch.tensor([angle_of(seed, 10) for seed in range(300)])
    assert angles.min() < -9 and angles.max() > 9 and abs(float(angles.mean())) < 1.5
    assert angles.abs().max() <= 10
    centre = torch.zeros(1, 3, 9, 9)
    ramp = torch.arange(9.0).view(1, 1, 1, 9).expand(1, 3, 9, 9) + centre
    slopes = {
        round(float((lambda o: o[0, 0, 4, 5] - o[0, 0, 4, 4])(scale([0.5, 1.0, 2.0])(ramp, draws(s)))), 3)
        for s in range(40)
    }
    assert slopes == {0.5, 1.0, 2.0}


def window_of(out):
    """(top, bottom, left, right) of the window in pixels, from what a crop makes of `coordinates`."""
    rows, columns = out[0, 0], out[0, 1]
    step_down, step_right = float(rows[6, 5] - rows[5, 5]), float(columns[5, 6] - columns[5, 5])
    h, w = rows.shape
    # pixel k of the output is centred (k + ½)·step into the window
    top = float(rows[5, 5]) + 0.5 - 5.5 * step_down
    left = float(columns[5, 5]) + 0.5 - 5.5 * step_right
    return top, top + h * step_down, left, left + w * step_right


@pytest.mark.parametrize("size", [(40, 40), (30, 50)])
def test_crops_are_windows_of_the_picture_over_the_whole_range(size):
    h, w = size
    image = coordinates(h, w)
    windows = [window_of(crop(0.45, 0.9)(image, draws(seed))) for seed in range(400)]
    heights = [bottom - top for top, bottom, _, _ in windows]
    widths = [right - left for _, _, left, right in windows]
    assert 0.45 * h - 0.01 <= min(heights) < 0.48 * h and 0.87 * h < max(heights) <= 0.9 * h + 0.01
    for height, width in zip(heights, widths, strict=True):  # the picture's own proportions
        assert math.isclose(height / h, width / w, rel_tol=1e-3)
    for top, bottom, left, right in windows:
        assert top >= -0.01 and bottom <= h + 0.01 and left >= -0.01 and right <= w + 0.01
    # places are spread evenly from one border to the other
    places = torch.tensor([top / (h - (bottom - top)) for top, bottom, _, _ in windows])
    across = torch.tensor([left / (w - (right - left)) for _, _, left, right in windows])
    for share in (places, across):
        assert share.min() < 0.03 and share.max() > 0.97 and abs(float(share.mean()) - 0.5) < 0.08
    assert abs(float(torch.corrcoef(torch.stack([places, across]))[0, 1])) < 0.2


def test_noise_has_its_spread_and_adds():
    image = torch.full((1, 3, 64, 64), 0.5)
    added = noise(0.04)(image, draws(0)) - image
    assert float(added.std()) == pytest.approx(0.04, rel=0.05)
    assert abs(float(added.mean())) < 0.002


def test_compose_goes_in_order():
    image = unit_images(1, 3, 12, 12)
    both = compose([pad(2), jitter(4)])(image, draws(1))
    assert torch.equal(both, jitter(4)(pad(2)(image, draws(9)), draws(1)))
    assert compose([])(image, draws(1)) is image


@pytest.mark.parametrize("part", [0.3, 0.8])
def test_a_view_is_a_part_of_that_size_within_the_picture(part):
    """On a ramp the values seen tell where a view lies, and their span how much of the side it takes."""
    ramp = torch.linspace(0, 1, 200).view(1, 1, 1, -1).expand(1, 3, 100, 200)
    for seed in range(12):
        seen = view(part, part, size=0.5)(ramp, draws(seed))
        assert seen.shape == (1, 3, 50, 100)
        low, high = float(seen.min()), float(seen.max())
        assert high - low == pytest.approx(part, abs=0.02) and low >= 0 and high <= 1
        assert bool((seen.diff(dim=3) > 0).all())


def test_views_of_one_image_stand_together_and_differ():
    images = torch.stack([torch.zeros(3, 16, 16), torch.ones(3, 16, 16)])
    seen = view(0.5, 1.0, 10.0, count=3)(images, draws(1, 2))
    assert [float(each.mean()) for each in seen] == pytest.approx([0, 0, 0, 1, 1, 1])
    ramp = torch.linspace(0, 1, 64).expand(1, 3, 64, 64)
    several = view(0.3, 0.9, count=3)(ramp, draws(5))
    assert len({round(float(each.mean()), 4) for each in several}) == 3
    alone = view(0.3, 0.9, count=3)(torch.cat([ramp, ramp]), draws(9, 5))
    torch.testing.assert_close(alone[3:], several)


def test_shifts_in_one_resampling_are_pad_jitter_turn_and_jitter_in_a_row():
    """By the chain itself, its draws read off the view's: on a smooth picture the two agree."""
    h, w, wide, narrow, size = 60, 80, 8, 4, (60 + 12, 80 + 12)
    rows, columns = torch.meshgrid(torch.arange(h) / h, torch.arange(w) / w, indexing="ij")
    smooth = 0.5 + 0.3 * torch.stack([(6 * rows).sin(), (5 * columns).cos(), (4 * rows + 3 * columns).sin()])
    seen = view(1.0, 1.0, 20.0, (0.8, 1.25), shifts=(wide, narrow))(smooth[None], draws(3))
    assert seen.shape == (1, 3, *size)

    again = draws(3)  # part, magnification, angle and place come first
    again.uniform(1.0, 1.0, 1)
    zoom = (0.8, 1.25)[int(again.integers(0, 1, 1))]
    angle = math.radians(float(again.uniform(-20.0, 20.0, 1)))
    again.uniform(-1.0, 1.0, 1, 2)
    before, after = (again.uniform(-each / 2, each / 2, 1, 2)[0, 0] for each in (wide, narrow))
    y, x = torch.meshgrid(torch.arange(size[0]) - 35.5, torch.arange(size[1]) - 45.5, indexing="ij")
    y, x = y + after[0], x + after[1]
    y, x = (
        (x * math.sin(angle) + y * math.cos(angle)) / zoom + before[0] + 29.5,
        (x * math.cos(angle) - y * math.sin(angle)) / zoom + before[1] + 39.5,
    )
    inside = (y > 1) & (y < h - 2) & (x > 1) & (x < w - 2)
    y, x = y / h, x / w
    wanted = 0.5 + 0.3 * torch.stack([(6 * y).sin(), (5 * x).cos(), (4 * y + 3 * x).sin()])
    assert inside.float().mean() > 0.3
    torch.testing.assert_close(seen[0][:, inside], wanted[:, inside], rtol=0, atol=2e-3)
    beyond = (y * h < -1) | (y * h > h) | (x * w < -1) | (x * w > w)
    assert beyond.any() and float((seen[0][:, beyond] - 0.5).abs().max()) < 1e-6
