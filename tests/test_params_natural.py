"""MACO's phases, the natural spectrum that it holds, and the pattern-producing network."""

import math

import pytest
import torch
from conftest import unit_images

from featviz.errors import InvalidValue, PhotoError
from featviz.output import find_photos, read_photo
from featviz.params import cppn, maco
from featviz.params.colour import decorrelate
from featviz.params.spectrum import SIDE, load_spectrum, magnitude, measure_spectrum, natural_spectrum


def spectrum_of(image):
    logits = torch.log(image / (1 - image))
    return torch.fft.rfft2(decorrelate(logits), norm="ortho")


def test_no_step_of_maco_leaves_its_magnitudes():
    start = unit_images(2, 3, 24, 31) * 0.2 + 0.4
    held = magnitude((24, 31))
    param = maco(start, held)
    optimizer = torch.optim.Adam(param.values, lr=0.5)
    for _ in range(3):
        optimizer.zero_grad()
        param.decode()[:, 0].square().sum().backward()
        optimizer.step()
    found = spectrum_of(param.decode().detach()).abs()
    inner = found[:, :, 1:, 1:-1]  # where both halves of a real image's spectrum are free
    torch.testing.assert_close(inner, held[:, 1:, 1:-1].expand_as(inner), rtol=1e-3, atol=1e-3)


def test_maco_takes_the_phases_of_its_image():
    start = unit_images(1, 3, 20, 20) * 0.2 + 0.4
    made = spectrum_of(maco(start, magnitude((20, 20))).decode().detach())
    wanted = spectrum_of(start)
    turned = (made * wanted.conj())[:, :, 1:10, 1:10]
    assert float(turned.angle().abs().max()) < 1e-3


def test_a_spectrum_that_falls_as_one_over_f_is_measured_flat():
    """Grey noise shaped to 1 / f: what is kept, f times the spectrum, must not depend on f."""
    torch.manual_seed(0)
    rows, columns = torch.fft.fftfreq(512).view(-1, 1), torch.fft.rfftfreq(512).view(1, -1)
    f = (rows.square() + columns.square()).sqrt().clamp(min=1 / 512)
    noise = torch.polar(1 / f, 2 * math.pi * torch.rand(f.shape))
    grey = torch.fft.irfft2(noise, norm="ortho")
    photo = torch.sigmoid(0.3 * grey / grey.std()).expand(1, 3, -1, -1)
    kept = measure_spectrum([photo])[0]  # the grey plane
    slow, fast = kept[3:8, 3:8].mean(), kept[20:28, 20:28].mean()
    assert 0.6 < float(slow / fast) < 1.7


def test_the_stored_spectrum_is_that_of_the_gallerys_photos():
    measured = measure_spectrum(read_photo(each).image for each in find_photos(["gallery/photos"]))
    torch.testing.assert_close(natural_spectrum(), measured, rtol=2e-3, atol=1e-3)


@pytest.mark.parametrize("size", [(32, 32), (45, 70), (64, 20)])
def test_natural_images_deviate_by_one_about_grey(size):
    held = magnitude(size)
    assert held.shape == (3, size[0], size[1] // 2 + 1) and float(held[:, 0, 0].abs().max()) == 0
    image = maco(torch.rand(1, 3, *size, generator=torch.Generator().manual_seed(3)), held).decode().detach()
    spread = float(torch.log(image / (1 - image)).std())
    assert 0.8 < spread < 1.25 and abs(float(image.mean()) - 0.5) < 0.1


def test_photos_too_small_and_files_that_are_no_spectrum(tmp_path):
    with pytest.raises(PhotoError, match="at least 64x64"):
        measure_spectrum([torch.rand(1, 3, SIDE - 1, 200)])
    (tmp_path / "x.safetensors").write_bytes(b"nothing")
    with pytest.raises(InvalidValue, match=r"x\.safetensors"):
        load_spectrum(tmp_path / "x.safetensors")


def test_a_pattern_producing_network_paints_smoothly():
    start = torch.full((2, 3, 40, 56), 0.5)
    param = cppn(start, [1, 2])
    torch.testing.assert_close(param.decode().detach(), start)
    with torch.no_grad():
        for value in param.values:
            value.add_(0.1 * torch.randn(value.shape, generator=torch.Generator().manual_seed(4)))
    made = param.decode().detach()
    assert float(made.std()) > 0.02 and not torch.equal(made[0], made[1])
    assert float((made[..., 1:] - made[..., :-1]).abs().mean()) < 0.1 * float(made.std())
