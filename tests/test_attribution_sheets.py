"""Activation maps and kernels against plain hooks and the network's own weights."""

import numpy as np
import pytest
import torch
from conftest import TinyNet, seeded
from torch import nn
from torch.nn import functional as F

import featviz
from featviz.attribution.sheets import activation_layers, activation_maps, kernels
from featviz.errors import InvalidValue, LayerNotFound, ModelError
from featviz.output.sheets import contact_sheet, grid, kernel_sheet
from featviz.types import Model


@pytest.fixture
def image():
    return torch.rand(1, 3, 40, 56, generator=torch.Generator().manual_seed(0))


def test_every_call_of_a_reused_in_place_relu(tiny, image):
    net = tiny.net
    with torch.no_grad():
        first = F.relu(net.bn1(net.conv1(tiny.normalise(image))))
        second = F.relu(net.conv2(net.pool(first)))
        third = F.relu(net.conv3(second))
    made = activation_maps(tiny, image, channels=100, order="number")
    assert [one.layer for one in made] == ["relu#0", "relu#1", "relu#2"]
    for one, expected in zip(made, (first, second, third), strict=True):
        assert one.channels == tuple(range(expected.shape[1]))
        assert torch.allclose(one.maps, expected[0], atol=1e-6)
        assert torch.allclose(one.strength, expected[0].abs().mean((1, 2)), atol=1e-6)


def test_by_strength(tiny, image):
    net = tiny.net
    with torch.no_grad():
        signed = net.conv2(net.pool(F.relu(net.bn1(net.conv1(tiny.normalise(image))))))[0]
    (made,) = activation_maps(tiny, image, ["conv2"], channels=3)
    means = [float(signed[c].abs().mean()) for c in range(8)]
    expected = sorted(range(8), key=lambda c: -means[c])[:3]
    assert made.channels == tuple(expected)
    assert torch.allclose(made.maps, signed[expected], atol=1e-6)
    assert made.strength.tolist() == pytest.approx([means[c] for c in expected], rel=1e-5)
    assert [one.layer for one in activation_maps(tiny, image, ["conv3", "conv1"])] == ["conv3", "conv1"]


class Functional(nn.Module):
    """Activations as functions, in modules of its own, and none of them the last word of a module twice."""

    class Block(nn.Module):
        def __init__(self, act):
            super().__init__()
            self.conv, self.act = nn.Conv2d(3, 3, 3, padding=1), act

        def forward(self, x):
            return self.act(self.conv(x))

    def __init__(self):
        super().__init__()
        self.a = self.Block(lambda x: F.relu(x, inplace=True))
        self.b = nn.Sequential(self.Block(F.silu))
        self.c = self.Block(lambda x: F.relu(x) * 2)  # not what the module puts out
        self.d = self.Block(nn.Hardswish())
        self.head = nn.Linear(3, 2)

    def forward(self, x):
        return F.relu(self.head(self.d(self.c(self.b(self.a(x)))).mean((2, 3))))


def test_activations_called_as_functions():
    model = Model(seeded(Functional).requires_grad_(False), "functional", input_size=(16, 16))
    assert activation_layers(model) == ["a", "b.0", "d.act"]


def test_networks_of_the_zoo(embedded):
    googlenet = featviz.load("googlenet", untrained=True, device="cpu")
    assert len(activation_layers(googlenet)) == 57  # one a BasicConv2d, which calls F.relu itself
    assert len(activation_layers(embedded)) == 33  # stem, head, 15 depthwise and 16 blocks, one not expanding


def test_the_model_is_left_as_found(image):
    model = Model(seeded(TinyNet).train(), "tiny", input_size=(32, 32))
    activation_maps(model, image)
    assert model.net.training and all(p.requires_grad for p in model.net.parameters())
    assert not any(module._forward_hooks for module in model.net.modules())


def test_what_cannot_be_shown(tiny, image):
    with pytest.raises(InvalidValue, match="no map with positions"):
        activation_maps(tiny, image, ["head"])
    with pytest.raises(LayerNotFound, match="conv1"):
        activation_maps(tiny, image, ["conv9"])
    with pytest.raises(InvalidValue, match="nearest: strength"):
        activation_maps(tiny, image, order="strenght")
    with pytest.raises(InvalidValue, match="channels 0"):
        activation_maps(tiny, image, channels=0)
    linear = Model(nn.Sequential(nn.Flatten(), nn.Linear(192, 4), nn.ReLU()), "linear", input_size=(8, 8))
    with pytest.raises(ModelError, match="ReLU-like"):
        activation_maps(linear, torch.rand(1, 3, 8, 8))
    with pytest.raises(ModelError, match="no convolution"):
        kernels(linear)
    deep = Model(nn.Sequential(nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3)), "deep", input_size=(16, 16))
    with pytest.raises(ModelError, match="takes 12 channels"):
        kernels(deep)


def test_kernels(tiny):
    made = kernels(tiny)
    assert torch.equal(made, tiny.net.conv1.weight)
    made.zero_()
    assert tiny.net.conv1.weight.abs().sum() > 0
    grey = seeded(lambda: TinyNet(1))
    made = kernels(Model(grey, "grey", mean=(0.5,), std=(0.2,), input_size=(32, 32)))
    assert made.shape == (6, 3, 3, 3)
    assert all(torch.equal(made[:, c], grey.conv1.weight[:, 0]) for c in range(3))


def cell_of(sheet, row, col, width, height, head=0):
    """The pixels of one picture of a sheet, as Pillow gives them."""
    left, top = 8 + col * (width + 8), 8 + head + row * (height + 26)
    return sheet.crop((left, top, left + width, top + height))


def test_a_grid_places_pictures_row_by_row():
    images = [torch.full((1, 3, 2, 4), i / 5) for i in range(5)]
    sheet = grid(images, list("abcde"), columns=3, cell=40)
    assert sheet.size == (3 * 48 + 8, 8 + 2 * (20 + 26))
    for i in range(5):
        level = round(i / 5 * 255)
        assert cell_of(sheet, i // 3, i % 3, 40, 20).getcolors() == [(800, (level,) * 3)]
    below = sheet.crop((8, 28, 48, 46))  # a caption stands there
    assert min(below.convert("L").tobytes()) < 100
    with pytest.raises(InvalidValue, match="4 captions for 5"):
        grid(images, list("abcd"))


def test_shared_and_own_scales():
    maps = torch.stack([torch.linspace(0, 1, 16).view(4, 4), torch.linspace(0, 4, 16).view(4, 4)])
    shared = contact_sheet(maps, ["0", "1"], columns=2, cell=4, cmap="grey", title="t")
    own = contact_sheet(maps, ["0", "1"], columns=2, cell=4, cmap="grey", scale="own")
    head = 26
    assert max(cell_of(shared, 0, 0, 4, 4, head).convert("L").tobytes()) == pytest.approx(255 / 4, abs=2)
    assert max(cell_of(shared, 0, 1, 4, 4, head).convert("L").tobytes()) == 255
    assert [max(cell_of(own, 0, c, 4, 4).convert("L").tobytes()) for c in (0, 1)] == [255, 255]
    with pytest.raises(InvalidValue, match="nearest: shared"):
        contact_sheet(maps, ["0", "1"], scale="share")
    with pytest.raises(InvalidValue, match="finite"):
        contact_sheet(maps * float("nan"), ["0", "1"])


def test_a_dead_channel_is_no_bright_picture():
    maps = torch.stack([torch.zeros(4, 4), torch.linspace(0, 1, 16).view(4, 4)])
    own = contact_sheet(maps, ["0", "1"], columns=2, cell=4, cmap="grey", scale="own")
    assert cell_of(own, 0, 0, 4, 4).getcolors() == [(16, (0, 0, 0))]


def test_signed_maps_share_a_scale_about_zero():
    maps = torch.tensor([[[-1.0, 0.0, 0.5]]])
    sheet = contact_sheet(maps, ["0"], cell=3, cmap="grey")
    levels = cell_of(sheet, 0, 0, 3, 1, 26).convert("L").tobytes()
    assert list(levels) == pytest.approx([0, 128, 191], abs=2)


def test_kernel_sheet_has_zero_in_mid_grey():
    weights = torch.zeros(3, 3, 2, 2)
    weights[0, 0, 0, 0], weights[0, 1, 1, 1] = 2.0, -1.0
    weights[1, 2, 0, 1] = -0.1
    weights[2, 0, 0, 0] = 1e-9  # dead: rounding errors must not light up
    sheet = kernel_sheet(weights, columns=3, cell=2)
    cells = [np.asarray(cell_of(sheet, 0, c, 2, 2)).reshape(4, 3).tolist() for c in range(3)]
    first, second, dead = ([tuple(pixel) for pixel in each] for each in cells)
    assert first == [(255, 128, 128), (128, 128, 128), (128, 128, 128), (128, 64, 128)]
    assert second == [(128, 128, 128), (128, 128, 0), (128, 128, 128), (128, 128, 128)]
    assert dead == [(128, 128, 128)] * 4
