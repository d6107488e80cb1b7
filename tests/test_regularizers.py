import numpy as np
import pytest
import torch
from conftest import unit_images

from featviz.errors import InvalidValue
from featviz.regularizers import (
    CENTER,
    PENALTIES,
    PROJECTIONS,
    blur,
    contribution_clip,
    decay,
    gaussian_blur,
    l1,
    l2,
    norm_clip,
    tv,
)

NOTHING = torch.zeros(1)


def test_tv_by_hand():
    # one plane counts, of three: rows 0 1 3 / 2 2 2; down: 2 1 1, across: 1 2 0 0
    image = torch.zeros(1, 3, 2, 3)
    image[0, 0] = torch.tensor([[0.0, 1.0, 3.0], [2.0, 2.0, 2.0]])
    assert tv(2.0)(image).tolist() == [pytest.approx(2 * (4 / 9 + 3 / 12))]


def test_l1_and_l2_by_hand():
    image = torch.tensor([[0.5, 0.7, 0.1], [0.45, 0.45, 0.45]]).view(2, 3, 1, 1)
    assert l1(3.0)(image).tolist() == pytest.approx([3 * (0.05 + 0.25 + 0.35) / 3, 0], abs=1e-7)
    assert l2(3.0)(image).tolist() == pytest.approx([0.05**2 + 0.25**2 + 0.35**2, 0], abs=1e-7)
    assert l1(1.0, 0.5)(image)[1].item() == pytest.approx(0.05)


def test_the_centre_is_imagenets_mean():
    assert pytest.approx((0.485 + 0.456 + 0.406) / 3, abs=2e-3) == CENTER


@pytest.mark.parametrize("name", list(PENALTIES))
def test_penalties_are_one_number_an_image_and_nothing_on_the_centre(name):
    batch = unit_images(3, 3, 7, 9)
    values = PENALTIES[name](1.0)(batch)
    assert values.shape == (3,) and (values > 0).all()
    for i in range(3):
        torch.testing.assert_close(PENALTIES[name](1.0)(batch[i : i + 1])[0], values[i])
    assert PENALTIES[name](1.0)(torch.full((1, 3, 7, 9), CENTER)).item() == pytest.approx(0, abs=1e-7)


EXAMPLES = {
    "blur": blur(1.0),
    "decay": decay(0.1),
    "norm_clip": norm_clip(50),
    "contribution_clip": contribution_clip(50),
}


def test_all_are_tried_here():
    assert set(EXAMPLES) == set(PROJECTIONS)
    assert set(PENALTIES) == {"tv", "l1", "l2"}


@pytest.mark.parametrize("name", list(PROJECTIONS))
@pytest.mark.parametrize("size", [(8, 8), (5, 9), (1, 1)])
def test_projections_keep_shape_and_leave_the_centre_alone(name, size):
    flat = torch.full((2, 3, *size), CENTER)
    out = EXAMPLES[name](flat, unit_images(2, 3, *size), 1)
    torch.testing.assert_close(out, flat)


@pytest.mark.parametrize("name", list(PROJECTIONS))
def test_projections_do_not_mix_a_batch(name):
    image, gradient = unit_images(3, 3, 8, 9), unit_images(3, 3, 8, 9, seed=1)
    together = EXAMPLES[name](image, gradient, 1)
    for i in range(3):
        torch.testing.assert_close(
            together[i : i + 1], EXAMPLES[name](image[i : i + 1], gradient[i : i + 1], 1)
        )


def test_decay_by_hand():
    image = torch.tensor([0.45, 0.95, 0.0]).view(1, 3, 1, 1)
    out = decay(0.2)(image, NOTHING, 1)
    assert out.flatten().tolist() == pytest.approx([0.45, 0.85, 0.09])
    assert torch.equal(decay(0.0)(image, NOTHING, 1), image)


def separable_gaussian(image, sigma):
    """In numpy: mirrored borders (the edge pixel not repeated), a kernel out to 4 σ, rows then columns."""
    reach = min(int(4 * sigma + 0.5), min(image.shape[2:]) - 1)
    kernel = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    kernel /= kernel.sum()
    padded = np.pad(image, ((0, 0), (0, 0), (reach, reach), (reach, reach)), mode="reflect")
    for axis in (2, 3):
        padded = np.apply_along_axis(np.convolve, axis, padded, kernel, "valid")
    return padded


@pytest.mark.parametrize("sigma", [0.3, 0.5, 1.0, 2.7])
@pytest.mark.parametrize("size", [(24, 24), (13, 30), (5, 40)])
def test_blur_equals_a_separable_gaussian_in_numpy(sigma, size):
    image = unit_images(2, 3, *size)
    expected = separable_gaussian(image.double().numpy(), sigma)
    np.testing.assert_allclose(gaussian_blur(image, sigma).numpy(), expected, atol=2e-6)


def test_blur_every_so_many_steps():
    image = unit_images(1, 3, 9, 9)
    projection = blur(1.0, every=4)
    changed = [not torch.equal(projection(image, NOTHING, step), image) for step in range(1, 13)]
    assert [step for step, was in enumerate(changed, 1) if was] == [4, 8, 12]


def test_blur_of_nothing_and_below():
    image = unit_images(1, 3, 9, 9)
    assert torch.equal(gaussian_blur(image, 0), image)
    with pytest.raises(InvalidValue, match="blur radius -1 is below 0"):
        gaussian_blur(image, -1)


@pytest.mark.parametrize("size", [(1, 9), (2, 3), (1, 1)])
def test_blur_of_pictures_smaller_than_its_kernel(size):
    out = gaussian_blur(unit_images(1, 3, *size), 3.0)
    assert out.shape == (1, 3, *size) and torch.isfinite(out).all()


def clipped_by_hand(values, percentile):
    """Which pixels lie below numpy's percentile, taken as one of the values: the next one up."""
    return values < np.percentile(values, percentile, method="higher")


@pytest.mark.parametrize("percentile", [10, 50, 90])
@pytest.mark.parametrize("size", [(10, 10), (7, 13)])
def test_norm_clip_against_numpy(percentile, size):
    image = unit_images(1, 3, *size)
    norm = np.sqrt(((image[0].double().numpy() - CENTER) ** 2).sum(0))
    out = norm_clip(percentile)(image, NOTHING, 1)
    gone = (out == CENTER).all(1)[0].numpy()
    # the definition of the rank may differ by one pixel
    assert abs(gone.sum() - norm.size * percentile / 100) <= 1
    assert norm[gone].max() < norm[~gone].min()
    assert (gone != clipped_by_hand(norm, percentile)).sum() <= 1
    assert torch.equal(out[:, :, ~torch.from_numpy(gone)], image[:, :, ~torch.from_numpy(gone)])


@pytest.mark.parametrize("percentile", [10, 50, 90])
def test_contribution_clip_against_numpy(percentile):
    image, gradient = unit_images(1, 3, 9, 11), unit_images(1, 3, 9, 11, seed=1) - 0.5
    product = (image[0].double().numpy() - CENTER) * gradient[0].double().numpy()
    contribution = np.abs(product.sum(0))
    out = contribution_clip(percentile)(image, gradient, 1)
    gone = (out == CENTER).all(1)[0].numpy()
    assert abs(gone.sum() - contribution.size * percentile / 100) <= 1
    assert contribution[gone].max() < contribution[~gone].min()
    assert (gone != clipped_by_hand(contribution, percentile)).sum() <= 1


def test_clips_at_the_ends():
    image = unit_images(1, 3, 8, 8)
    assert torch.equal(norm_clip(0)(image, NOTHING, 1), image)
    kept = (norm_clip(100)(image, NOTHING, 1) != CENTER).any(1)
    assert int(kept.sum()) == 1  # what is largest lies below nothing


@pytest.mark.parametrize("percentile", [-1, 101, float("nan")])
@pytest.mark.parametrize("make", [norm_clip, contribution_clip])
def test_percentiles_outside_are_refused(make, percentile):
    with pytest.raises(InvalidValue, match="percentile"):
        make(percentile)
