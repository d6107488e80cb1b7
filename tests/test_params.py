import numpy as np
import pytest
import torch
from conftest import unit_images

from featviz.params import PARAMETERIZATIONS, fourier, gaussian_noise, pixels
from featviz.params.colour import correlate, decorrelate

SIZES = [(1, 1), (1, 5), (7, 1), (2, 2), (8, 8), (9, 9), (7, 12), (12, 7), (33, 20)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_decode_returns_the_image_it_started_from(name, size):
    image = unit_images(2, 3, *size) * 0.98 + 0.01
    param = PARAMETERIZATIONS[name](image)
    assert param.decode().shape == image.shape
    torch.testing.assert_close(param.decode(), image, rtol=0, atol=2e-6)


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_black_and_white_come_back_too(name):
    image = torch.cat([torch.zeros(1, 3, 6, 5), torch.ones(1, 3, 6, 5)], 3)
    torch.testing.assert_close(PARAMETERIZATIONS[name](image).decode(), image, rtol=0, atol=1.1e-4)


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_assign_sets_another_image_and_clips_it(name):
    param = PARAMETERIZATIONS[name](unit_images(1, 3, 9, 7))
    other = unit_images(1, 3, 9, 7, seed=1) * 1.6 - 0.3
    param.assign(other)
    torch.testing.assert_close(param.decode(), other.clamp(0, 1), rtol=0, atol=1.1e-4)
    assert all(value.requires_grad and value.is_leaf for value in param.values)


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_the_start_image_is_neither_kept_nor_changed(name):
    image = unit_images(1, 3, 6, 6)
    before = image.clone()
    param = PARAMETERIZATIONS[name](image)
    with torch.no_grad():
        for value in param.values:
            value.add_(1)
    assert torch.equal(image, before) and not image.requires_grad


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
@pytest.mark.parametrize("size", [(6, 6), (5, 8)])
def test_a_gradient_reaches_every_value(name, size):
    param = PARAMETERIZATIONS[name](unit_images(1, 3, *size) * 0.8 + 0.1)
    if name == "cppn":  # its last layer starts at 0, and lets nothing back
        with torch.no_grad():
            param.values[-2].add_(0.1)
    weights = unit_images(1, 3, *size, seed=3)
    slopes = torch.autograd.grad((param.decode() * weights).sum(), param.values)
    for value, slope in zip(param.values, slopes, strict=True):
        assert slope.shape == value.shape and torch.isfinite(slope).all()
        # the imaginary parts at frequencies that are their own mirror count for nothing
        assert (slope != 0).float().mean() > 0.8


@pytest.mark.parametrize("name", list(PARAMETERIZATIONS))
def test_images_of_a_batch_do_not_mix(name):
    batch = unit_images(2, 3, 6, 7)
    whole = PARAMETERIZATIONS[name](batch)
    slopes = torch.autograd.grad(whole.decode()[0].sum(), whole.values)
    assert all((slope[1] == 0).all() for slope in slopes) and any((slope[0] != 0).any() for slope in slopes)


@pytest.mark.parametrize("decay", [0.0, 1.0, 1.2])
@pytest.mark.parametrize("size", [(6, 8), (7, 5)])
def test_fourier_equals_its_formula_in_numpy(size, decay):
    h, w = size
    param = fourier(unit_images(1, 3, h, w) * 0.8 + 0.1, decay=decay)
    rng = np.random.default_rng(0)
    values = rng.normal(size=(1, 3, h, w // 2 + 1, 2))
    with torch.no_grad():
        param.values[0].copy_(torch.from_numpy(values))
    # 1/max(f, 1/max(h, w))^decay in cycles per pixel
    fy, fx = np.meshgrid(np.fft.fftfreq(h), np.fft.rfftfreq(w), indexing="ij")
    scale = 1 / np.maximum(np.hypot(fy, fx), 1 / max(h, w)) ** decay
    # lucid: an inverse transform over h·w, times sqrt(h·w), over 4
    planes = np.fft.irfft2((values[..., 0] + 1j * values[..., 1]) * scale, s=size) * np.sqrt(h * w) / 4
    matrix = np.array([[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]]) / 0.46195
    expected = 1 / (1 + np.exp(-np.einsum("rc,bchw->brhw", matrix, planes)))
    np.testing.assert_allclose(param.decode().detach().numpy(), expected, atol=3e-5)


def test_colour_matrix_by_hand():
    """First plane: .26, .27, .27 over the largest column norm, sqrt(.26² + .27² + .27²) = .46195."""
    planes = torch.zeros(1, 3, 1, 3)
    for k in range(3):
        planes[0, k, 0, k] = 0.46195
    expected = [[0.26, 0.09, 0.02], [0.27, 0.0, -0.05], [0.27, -0.09, 0.03]]
    torch.testing.assert_close(correlate(planes)[0, :, 0], torch.tensor(expected), rtol=1e-4, atol=1e-6)


def test_decorrelate_undoes_correlate():
    planes = unit_images(2, 3, 4, 5) * 4 - 2
    torch.testing.assert_close(decorrelate(correlate(planes)), planes, rtol=1e-4, atol=1e-4)


def test_pixels_are_the_image():
    image = unit_images(1, 3, 4, 4)
    param = pixels(image)
    assert torch.equal(param.values[0], image)


def test_noise_has_its_mean_and_spread():
    image = gaussian_noise([0, 1], (64, 65))
    assert image.shape == (2, 3, 64, 65)
    # sd / sqrt(n) = .039 / sqrt(24960)
    assert abs(float(image.mean()) - 0.5) < 5 * 0.00025
    assert abs(float(image.std()) - 10 / 255) < 5 * 0.0002
    wide = gaussian_noise([0], (64, 64), sd=3.0)
    assert wide.min() == 0 and wide.max() == 1


def test_noise_depends_on_its_own_seed_alone():
    both = gaussian_noise([3, 4], (5, 6))
    assert torch.equal(both[1:], gaussian_noise([4], (5, 6)))
    assert not torch.equal(both[0], both[1])
    torch.manual_seed(1)
    assert torch.equal(both, gaussian_noise([3, 4], (5, 6)))


def test_contrast_is_held_and_weaker_pictures_are_left_alone():
    """The deviation of logit(image) never exceeds what is asked; below it nothing changes."""
    faint = 0.5 + 0.1 * (unit_images(2, 3, 12, 17) - 0.5)
    torch.testing.assert_close(fourier(faint, contrast=1.0).decode(), faint, atol=1e-4, rtol=0)
    strong = fourier(unit_images(2, 3, 12, 17).round() * 0.98 + 0.01, contrast=0.7).decode()
    torch.testing.assert_close(torch.logit(strong).std((1, 2, 3)), torch.full((2,), 0.7), atol=1e-3, rtol=0)
