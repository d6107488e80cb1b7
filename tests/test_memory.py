import pytest
import torch
from conftest import seeded, tiny_model
from torch import nn

import featviz
from featviz import memory
from featviz.deepdream import dream
from featviz.memory import Kept, available, batch_for, kept, settled
from featviz.settings import DreamSettings
from featviz.types import OUTPUT, Model

MB = 1 << 20


def one_conv(**more):
    """A convolution of 3 to 8 channels, a batch norm, a ReLU, a pool and another convolution."""
    layers = [
        nn.Conv2d(3, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.MaxPool2d(2),
        nn.Conv2d(8, 4, 1),
    ]
    return Model(seeded(lambda: nn.Sequential(*layers)).requires_grad_(False), "one", input_size=(256, 256))


def test_plain_autograd_keeps_what_can_be_counted_by_hand():
    pixels = 256 * 256
    found = kept(one_conv(), ["4"], (256, 256), lean=False).functions
    assert found["conv2d"] == (3 * pixels + 8 * pixels // 4) * 4  # the picture, and the pooled maps
    assert found["batch_norm"] == pytest.approx(8 * pixels * 4, rel=1e-3)
    assert found["relu"] == 8 * pixels * 4  # also the pool's input
    assert found["max_pool2d"] == 8 * pixels // 4 * 8  # places as whole numbers of eight bytes


def test_the_lean_backward_keeps_bits_and_bytes():
    pixels = 256 * 256
    found = kept(one_conv(), ["4"], (256, 256)).functions
    assert found["relu"] == 8 * pixels // 8
    assert found["max_pool2d"] == 8 * pixels // 4
    assert found["batch_norm"] == 8 * 4
    assert found["conv2d"] == 0


def test_no_further_than_the_layer_and_by_the_batch():
    model = one_conv()
    assert kept(model, ["2"], (256, 256)).functions["max_pool2d"] == 0
    once, thrice = (kept(model, [OUTPUT], (256, 256), batch=n).total for n in (1, 3))
    assert thrice == pytest.approx(3 * once, rel=1e-3)


def test_the_network_is_left_as_it_was(tiny):
    before = {name: each.clone() for name, each in tiny.net.state_dict().items()}
    kept(tiny, ["conv3"], (64, 64))
    assert all(torch.equal(before[name], each) for name, each in tiny.net.state_dict().items())
    assert not any(module._forward_hooks for module in tiny.net.modules())


def test_what_is_free_is_what_the_system_says(monkeypatch, tmp_path):
    monkeypatch.setattr(memory, "_CONTAINERS", [])
    whole = available(torch.device("cpu"))
    assert 50 * MB < whole < 1 << 45
    limit, used = tmp_path / "max", tmp_path / "current"
    limit.write_text("70000000\n"), used.write_text("20000000\n")
    monkeypatch.setattr(memory, "_CONTAINERS", [(limit, used), (tmp_path / "none", used)])
    assert available(torch.device("cpu")) == 50_000_000
    limit.write_text("max\n")
    assert available(torch.device("cpu")) > 50_000_000


@pytest.mark.parametrize(
    ("free", "size", "tile"),
    [
        (1 << 40, (3000, 4000), "none"),
        (300 * MB, (3000, 4000), "1024"),
        (0, (3000, 4000), "512"),
        (0, (60, 60), "auto"),
    ],
)
def test_tiles_are_the_largest_that_fit(monkeypatch, free, size, tile):
    monkeypatch.setattr(memory, "available", lambda device: free)
    assert settled(one_conv(), ["4"], size, DreamSettings()).tile == tile


def test_what_the_user_says_stays(monkeypatch):
    monkeypatch.setattr(memory, "kept", lambda *a, **k: Kept(None, 0))
    for tile in ("none", "700"):
        assert settled(one_conv(), ["4"], (3000, 4000), DreamSettings(tile=tile)).tile == tile


def test_a_network_that_asks_for_values_keeps_the_rule_of_thumb():
    class Asking(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3)

        def forward(self, x):
            return self.conv(x if x.sum().item() > -1e9 else -x)

    model = Model(Asking().requires_grad_(False), "asking", input_size=(32, 32))
    assert settled(model, ["conv"], (2000, 2000), DreamSettings()).tile == "auto"


def test_a_dream_says_in_its_recipe_whether_it_was_whole(tiny, small_photo, monkeypatch):
    assert featviz.dream(tiny, small_photo, "conv2", steps=1).recipe["settings"]["tile"] == "none"


def test_a_dream_goes_by_tiles_where_memory_is_short(monkeypatch):
    """The steps see no more of the picture at once than a tile."""
    monkeypatch.setattr(memory, "available", lambda device: 0)
    monkeypatch.setattr(memory, "TILES", (200, 150))
    model, seen = tiny_model(), []
    model.net.conv1.register_forward_hook(lambda module, inputs, out: seen.append(inputs[0]))
    photo = torch.rand(1, 3, 256, 300, generator=torch.Generator().manual_seed(0))
    for _ in dream(model, photo, "conv2", DreamSettings(steps=1, octaves=1)):
        pass
    assert {max(each.shape[2:]) for each in seen if not each.is_meta} == {150}


def test_a_batch_is_as_large_as_fits(monkeypatch):
    model = one_conv()
    each = kept(model, ["4"], (64, 64)).peak
    for images, fitting in ((0.5, 1), (5.5, 5), (99, 16)):
        monkeypatch.setattr(memory, "available", lambda device, n=images: n * each / memory.SHARE)
        assert batch_for(model, ["4"], (64, 64), 16) == fitting
