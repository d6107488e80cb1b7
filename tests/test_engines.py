import shutil
import warnings

import pytest
import torch
from conftest import seeded, unit_images
from torch import nn
from torch.nn import functional as F

from featviz import objectives
from featviz.engines import ENGINES, WHOLE, autocast, compiled, eager, engine_for, out_of_memory, tiled
from featviz.errors import InvalidValue
from featviz.layers import score
from featviz.settings import EngineSettings
from featviz.types import Model

KERNEL = torch.tensor([[0.0, 1.0, 0.0], [1.0, -4.0, 1.0], [0.0, 1.0, 0.0]]).expand(3, 1, 3, 3)


def local_sum(image):
    """A score whose gradient at a pixel depends on pixels up to 2 away only."""
    return F.conv2d(image, KERNEL, padding=1, groups=3).square().sum((1, 2, 3))


@pytest.fixture
def measured(tiny):
    return score(tiny, objectives.layer("conv2") + objectives.class_(2))


# engine -> the relative tolerances of score and gradient that it states against eager
SAME = {
    "eager": (0, 0),
    "lean": (0, 1e-5),
    "arranged": (1e-4, 1e-4),
    "autocast": (1e-2, 1e-1),
    "tiled": (0, 0),
}


def test_all_are_tried_here():
    assert set(ENGINES) == {*SAME, "compiled"}


@pytest.mark.parametrize(("name", "tolerances"), SAME.items())
def test_engines_equal_eager(measured, name, tolerances):
    more = {"tiled": {"tile": 512}, "lean": {"least": 0}}
    engine = ENGINES[name](**more.get(name, {}))
    image = unit_images(2, 3, 32, 48)
    expected = eager(measured, image)
    engine(measured, image)  # the first may differ from those that follow
    found = engine(measured, image)
    assert found[0].dtype == found[1].dtype == torch.float32
    for value, wanted, tolerance in zip(found, expected, tolerances, strict=True):
        assert value.shape == wanted.shape
        assert float((value - wanted).norm() / wanted.norm()) <= tolerance


def test_eager_equals_a_derivative_by_differences(tiny):
    tiny.net.double()
    measured = score(tiny, objectives.layer("conv2"))
    image = unit_images(1, 3, 32, 32).double()
    scores, gradient = eager(measured, image)
    assert not scores.requires_grad and not gradient.requires_grad and not image.requires_grad
    for place in [(0, 0, 5, 7), (0, 2, 31, 0), (0, 1, 16, 16)]:
        moved = image.clone()
        moved[place] += 1e-6
        slope = float(measured(moved) - measured(image)) / 1e-6
        assert slope == pytest.approx(float(gradient[place]), rel=1e-3, abs=1e-6)


def test_autocast_runs_the_network_in_half_precision(tiny):
    seen = []
    handle = tiny.net.conv2.register_forward_hook(lambda m, i, out: seen.append(out.dtype))
    autocast()(score(tiny, objectives.layer("conv3")), unit_images(1, 3, 32, 32))
    handle.remove()
    assert seen[-1] == torch.bfloat16


@pytest.mark.skipif(shutil.which("c++") is None and shutil.which("g++") is None, reason="no C++ compiler")
def test_compiled_equals_eager_and_compiles_once():
    net = seeded(lambda: nn.Sequential(nn.Conv2d(3, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(72, 2)))
    model = Model(net.requires_grad_(False), "flat", input_size=(8, 8))
    plain = score(model, objectives.layer("1"))
    engine, image = compiled(), unit_images(1, 3, 8, 8)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch warns about itself while compiling
        first, again = engine(plain, image), engine(plain, image)
    for found in (first, again):
        torch.testing.assert_close(found[0], eager(plain, image)[0], rtol=1e-5, atol=1e-6)
        torch.testing.assert_close(found[1], eager(plain, image)[1], rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("size", [(70, 90), (40, 100), (100, 20), (41, 41)])
def test_tiles_give_the_gradient_of_the_whole(size):
    """Inside a margin wider than the score sees, no tile's gradient differs from the whole image's."""
    image = unit_images(2, 3, *size)
    _, whole = eager(local_sum, image)
    engine = tiled(40, margin=4)
    for _ in range(3):  # another shift each time
        scores, gradient = engine(local_sum, image)
        assert scores.shape == (2,)
        torch.testing.assert_close(gradient, whole, rtol=1e-5, atol=1e-5)


def test_a_mean_is_taken_per_tile():
    """The gradient of a mean over a tile is larger by the share of the picture that the tile is."""

    def mean(image):
        return F.conv2d(image, KERNEL, padding=1, groups=3).square().mean((1, 2, 3))

    image = unit_images(1, 3, 80, 120)
    _, whole = eager(mean, image)
    scores, gradient = tiled(40, margin=4)(mean, image)
    torch.testing.assert_close(gradient, whole * (80 * 120) / (40 * 40), rtol=1e-4, atol=1e-7)
    assert float(scores) == pytest.approx(float(mean(image)), rel=0.1)


class Recording:
    """An engine that notes what it is given and gives back which pixels it saw."""

    def __init__(self):
        self.tiles = []

    def __call__(self, score, image):
        self.tiles.append(image.clone())
        return torch.zeros(len(image)), image.clone()


def test_every_pixel_comes_from_its_own_place_once_and_far_from_the_tiles_border():
    h, w, tile, margin = 61, 97, 30, 5
    rows, columns = torch.meshgrid(torch.arange(float(h)), torch.arange(float(w)), indexing="ij")
    image = torch.stack([rows, columns, rows * 0])[None]
    inner = Recording()
    engine = tiled(tile, margin=margin, inner=inner)
    cuts = set()
    for _ in range(6):
        inner.tiles.clear()
        _, gradient = engine(local_sum, image)
        assert torch.equal(gradient, image)  # every pixel once, at its place
        assert all(part.shape[2:] == (tile, tile) for part in inner.tiles)
        corners = [(int(part[0, 0, 0, 0]), int(part[0, 1, 0, 0])) for part in inner.tiles]
        cuts.add(tuple(corners))
        inside = torch.zeros(h, w, dtype=torch.bool)
        for y, x in corners:
            top, left = (0 if y == 0 else y + margin), (0 if x == 0 else x + margin)
            bottom = h if y + tile == h else y + tile - margin
            right = w if x + tile == w else x + tile - margin
            inside[top:bottom, left:right] = True
        assert inside.all()
    assert len(cuts) == 6, "the grid shifts from step to step"


def test_the_shifts_come_from_the_seed():
    def corners(seed):
        inner = Recording()
        tiled(30, margin=5, inner=inner, seed=seed)(local_sum, unit_images(1, 3, 61, 97))
        return torch.stack([part[0, 0, 0, 0] for part in inner.tiles[:3]])

    assert torch.equal(corners(1), corners(1)) and not torch.equal(corners(1), corners(2))


def test_no_seams(tiny):
    """A network that sees 31 pixels, tiles with a margin of 64: nothing shows where the cuts were."""
    measured = score(tiny, objectives.layer("conv3"))
    image = unit_images(1, 3, 200, 328)
    _, whole = eager(measured, image)
    _, gradient = tiled(168, margin=64)(measured, image)
    inner = Recording()
    tiled(168, margin=64, inner=inner)(measured, image)  # the same first shift
    assert len(inner.tiles) > 3
    # strides put the tiles' grids out of step, so values differ; their size must not change at a cut
    size = F.avg_pool2d(gradient.abs().mean(1, keepdim=True), 9, 1)
    expected = F.avg_pool2d(whole.abs().mean(1, keepdim=True), 9, 1) * (200 * 328) / (168 * 168)
    ratio = (size / expected).flatten()
    assert float(ratio.median()) == pytest.approx(1, abs=0.1)
    assert float(ratio.quantile(0.999)) < 3 and float(ratio.quantile(0.001)) > 1 / 3


def short_of_memory(limit, seen):
    def engine(score, image):
        seen.append(tuple(image.shape[2:]))
        if image.shape[2] * image.shape[3] > limit:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB")
        return eager(score, image)

    return engine


@pytest.mark.parametrize("tile", [None, 400])
def test_when_memory_runs_out_the_tile_is_halved_with_a_warning(tile):
    image, seen = unit_images(1, 3, 300, 500), []
    _, whole = eager(local_sum, image)
    engine = tiled(tile, margin=20, inner=short_of_memory(130 * 130, seen))
    with pytest.warns(UserWarning, match="memory ran out: going on with tiles of") as told:
        _, gradient = engine(local_sum, image)
    torch.testing.assert_close(gradient, whole, rtol=1e-5, atol=1e-5)
    sides = [int(str(each.message).split(" of ")[1].split()[0]) for each in told]
    assert sides == ([250, 125] if tile is None else [200, 100])
    with warnings.catch_warnings():  # it stays at what worked
        warnings.simplefilter("error")
        seen.clear()
        engine(local_sum, image)
    assert set(seen) == {(sides[-1], sides[-1])}


def test_memory_that_never_suffices_is_an_error():
    engine = tiled(None, margin=20, inner=short_of_memory(1, []))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with pytest.raises(torch.OutOfMemoryError):
            engine(local_sum, unit_images(1, 3, 100, 100))


def test_other_errors_pass():
    def broken(score, image):
        raise RuntimeError("a shape that does not fit")

    with pytest.raises(RuntimeError, match="does not fit"):
        tiled(None, inner=broken)(local_sum, unit_images(1, 3, 200, 200))
    assert not out_of_memory(RuntimeError("x"))
    assert out_of_memory(RuntimeError("DefaultCPUAllocator: can't allocate memory: you tried to allocate"))


def test_a_tile_needs_more_than_its_margins():
    with pytest.raises(InvalidValue, match="tile 128 leaves nothing inside its margin of 64; at least 129"):
        tiled(128)


@pytest.mark.parametrize(
    ("tile", "size", "whole"),
    [
        ("auto", (200, 300), True),
        ("auto", (1, WHOLE), True),
        ("auto", (2, WHOLE // 2 + 1), False),
        ("none", (5000, 5000), True),
        ("300", (299, 300), True),
        ("300", (200, 301), False),
    ],
)
def test_when_pictures_are_tiled(tile, size, whole):
    assert engine_for(EngineSettings(tile=tile), size)[1] is whole


@pytest.mark.parametrize(
    ("settings", "told"),
    [
        ({"tile": "big"}, "tile 'big': auto, none, or a number"),
        ({"tile": "²"}, "tile '²'"),
        ({"tile": "-5"}, "tile '-5'"),
        ({"tile": "0"}, "tile 0"),
        ({"precision": "float61"}, "precision 'float61'; nearest: float16"),
    ],
)
def test_bad_settings(settings, told):
    with pytest.raises(InvalidValue, match=told):
        engine_for(EngineSettings(**settings), (300, 300))


def test_engines_nest(measured):
    engine = tiled(100, margin=10, inner=autocast(torch.bfloat16, eager))
    _, gradient = engine(local_sum, unit_images(1, 3, 120, 150))
    assert gradient.dtype == torch.float32 and torch.isfinite(gradient).all()
