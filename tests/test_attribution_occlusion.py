"""Occlusion and RISE against captum, slow loops, and the formulas written out."""

import math

import numpy as np
import pytest
import torch
from captum.attr import Occlusion
from conftest import TinyNet, seeded, tiny_model
from torch import nn
from torch.nn import functional as F

import featviz
from featviz.attribution.coarse import coarse_to_fine
from featviz.attribution.fused import fused_graph
from featviz.attribution.incremental import Incremental
from featviz.attribution.occlusion import FILLS, Sweep, occlusion, sweep
from featviz.attribution.probes import Probe, Whole
from featviz.attribution.rise import rise
from featviz.attribution.sweeps import filling, grid, steps
from featviz.errors import InvalidValue, UnknownName
from featviz.objectives import channel, class_
from featviz.types import Model, derive_seed


@pytest.fixture
def image():
    return torch.rand(1, 3, 45, 61, generator=torch.Generator().manual_seed(3))


def relative(found, expected):
    return float((found - expected).abs().max() / expected.abs().max())


def windows_of(size, window, stride):
    """(top, left, bottom, right) of each window, the last ones cut off at the border."""
    for top in range(0, size[0] + stride, stride):
        for left in range(0, size[1] + stride, stride):
            if top - stride + window < size[0] and left - stride + window < size[1]:
                yield top, left, min(top + window, size[0]), min(left + window, size[1])


def slow_maps(score, image, filled, shapes):
    """The sum of drops and the number of windows at each pixel, one forward a window."""
    total, count = torch.zeros(image.shape[2:]).double(), torch.zeros(image.shape[2:]).double()
    before = score(image)
    for window, stride in shapes:
        for top, left, bottom, right in windows_of(image.shape[2:], window, stride):
            hidden = image.clone()
            hidden[..., top:bottom, left:right] = filled[..., top:bottom, left:right]
            total[top:bottom, left:right] += before - score(hidden)
            count[top:bottom, left:right] += 1
    return total, count


def by_captum(model, image, target, window, stride, baseline):
    found = Occlusion(model).attribute(
        image,
        target=target,
        sliding_window_shapes=(3, window, window),
        strides=(3, stride, stride),
        baselines=baseline,
    )
    return found[0, 0]


@pytest.mark.parametrize(("window", "stride"), [(16, 8), (10, 7), (45, 1), (13, 13)])
@pytest.mark.parametrize("fill", ["noise", "blur"])
def test_equals_captum(tiny, image, window, stride, fill):
    tiny.net.double()
    image = image.double()  # the drops are a hundredth of the logits, so float32 would round at 1e-5
    made = occlusion(tiny, image, [class_(1), class_(4)], windows=[window], stride=stride, fill=fill, seed=5)
    baseline = filling(image, fill, 5)
    for one, target in zip(made, (1, 4), strict=True):
        expected = by_captum(tiny, image, target, window, stride, baseline)
        assert relative(one.map.double(), expected) < 2e-7  # the map itself is float32
        assert one.map.shape == image.shape[2:]
        assert one.score == pytest.approx(float(tiny(image)[0, target]), rel=1e-9)


def test_equals_captum_in_float32_on_a_trained_network(embedded, small_photo):
    (made,) = occlusion(embedded, small_photo, [class_(282)], windows=[30], stride=20)
    expected = by_captum(embedded, small_photo, 282, 30, 20, filling(small_photo, "noise", 0))
    assert relative(made.map, expected) < 5e-6


NETWORKS = {
    "resnet18": {},  # shortcuts
    "googlenet": {"init_weights": False, "aux_logits": False},  # branches, pools that round up
    "squeezenet1_1": {},
    "densenet121": {},  # batch norms before convolutions, average pools
    "mobilenet_v2": {},  # ReLU6, depthwise
    "mobilenet_v3_small": {},  # squeeze and excitation: everything changes everywhere
}


@pytest.mark.parametrize("name", NETWORKS)
def test_computing_only_what_changed_is_exact(name):
    torchvision = pytest.importorskip("torchvision")
    net = seeded(lambda: getattr(torchvision.models, name)(weights=None, num_classes=7, **NETWORKS[name]))
    model = Model(net.double().requires_grad_(False), name, input_size=(96, 96))
    image = torch.rand(1, 3, 89, 101, generator=torch.Generator().manual_seed(0)).double()
    filled = 1 - image
    places = np.array([(0, 0, 24, 24), (31, 42, 24, 24), (65, 77, 24, 24), (64, 3, 24, 24), (80, 0, 9, 13)])
    probe = Probe(model, image, filled, batch=3)
    assert not isinstance(probe.runner, Whole)
    found = probe.measure(places)
    for numbers, (row, col, rows, cols) in zip(found, places, strict=True):
        hidden = image.clone()
        hidden[..., row : row + rows, col : col + cols] = filled[..., row : row + rows, col : col + cols]
        assert relative(numbers, model(hidden)[0]) < 1e-9
    assert relative(probe.baseline, model(image)[0]) < 1e-9


def test_the_embedded_model_with_its_padding_that_depends_on_the_size(embedded, small_photo):
    places = grid((64, 96), 24, 23)
    probe = Probe(embedded, small_photo, torch.zeros_like(small_photo))
    assert not isinstance(probe.runner, Whole)
    found = probe.measure(places)
    for numbers, (row, col, rows, cols) in zip(found[::3], places[::3], strict=True):
        hidden = small_photo.clone()
        hidden[..., row : row + rows, col : col + cols] = 0
        assert relative(numbers, embedded(hidden)[0]) < 2e-5


def test_less_is_computed(tiny):
    """A small patch on a large image: the convolutions see only its surroundings."""
    seen = []

    image = torch.rand(1, 3, 128, 128)
    graph = fused_graph(tiny.net)
    network = Incremental(graph, image)
    for module in graph.modules():
        module.register_forward_hook(lambda m, i, o: seen.append(type(m).__name__))
    with torch.inference_mode():
        network(torch.zeros(1, 3, 128, 128), np.array([[40, 40]]), (8, 8))
    assert "Conv2d" not in seen  # none ran whole


def test_several_windows_in_one_map(tiny, image):
    shapes = [(16, 8), (24, 12), (31, 15)]
    targets = [class_(2), channel("conv3", 5)]
    filled = filling(image, "noise", 0)
    means = occlusion(tiny, image, targets, windows=[16, 24, 31])
    sums = occlusion(tiny, image, targets, windows=[16, 24, 31], overlap="sum")
    for k in (0, 1):
        total, count = slow_maps(written_out(tiny, k), image, filled, shapes)
        assert relative(sums[k].map.double(), total) < 5e-6
        assert relative(means[k].map.double(), total / count) < 5e-6
    assert means[0].notes["windows"] == [16, 24, 31]
    assert means[0].notes["strides"] == [8, 12, 15]


def written_out(model, k):
    """The tiny network's class 2, or the mean of channel 5 of conv3 before its ReLU."""
    net = model.net

    def score(x):
        x = F.relu(net.bn1(net.conv1(model.normalise(x))))
        x = net.conv3(F.relu(net.conv2(net.pool(x))))
        return x[0, 5].mean().double() if k else net.head(F.relu(x).mean((2, 3)))[0, 2].double()

    return score


def test_inverse_is_the_reports_formula(tiny, image):
    positive = Model(nn.Sequential(tiny.net, nn.Softplus()), "positive", input_size=(32, 32))
    filled = filling(image, "noise", 7)
    height, width = image.shape[2:]
    expected = [[0.0] * width for _ in range(height)]
    for window in (20, 32):
        for top, left, bottom, right in windows_of((height, width), window, window // 2):
            hidden = image.clone()
            hidden[..., top:bottom, left:right] = filled[..., top:bottom, left:right]
            s = float(positive(hidden)[0, 3])
            for row in range(top, bottom):
                for col in range(left, right):
                    expected[row][col] += 1 / s
    made = occlusion(positive, image, [class_(3)], windows=[20, 32], score="inverse", seed=7)
    assert relative(made[0].map, torch.tensor(expected)) < 5e-6


def test_inverse_of_scores_at_or_below_zero_warns(tiny, image):
    below = Model(nn.Sequential(tiny.net, nn.Threshold(1e9, -1.0)), "below", input_size=(32, 32))
    with pytest.warns(UserWarning, match="1/s changes sign at 0"):
        occlusion(below, image, [class_(0)], windows=[30], score="inverse")


@pytest.mark.parametrize("score", ["prob", "logprob", "margin"])
def test_scores(tiny, image, score):
    def of(x):
        z = tiny(x)[0].double()
        rest = torch.cat([z[:2], z[3:]])
        chance = math.exp(z[2]) / sum(math.exp(v) for v in z)
        return {"prob": chance, "logprob": math.log(chance), "margin": float(z[2] - rest.max())}[score]

    total, count = slow_maps(of, image, filling(image, "grey", 0), [(24, 12)])
    made = occlusion(tiny, image, [class_(2)], windows=[24], fill="grey", score=score)
    assert relative(made[0].map.double(), total / count) < 2e-5
    assert made[0].notes["value"] == pytest.approx(of(image), rel=1e-5)


def test_one_sweep_answers_for_every_class_without_a_forward(tiny, image, tmp_path):
    kept = Sweep.load(sweep(tiny, image, windows=[24, 16], seed=9).save(tmp_path / "a b.scores"))

    class Broken(nn.Module):
        def forward(self, x):
            raise AssertionError("a forward")

    blind = Model(Broken(), "blind")
    blind.__dict__["digest"] = tiny.digest  # it passes for the swept network
    for index in range(5):
        (again,) = occlusion(blind, image, [class_(index)], sweep=kept)
        (alone,) = occlusion(tiny, image, [class_(index)], windows=[24, 16], seed=9)
        assert relative(again.map, alone.map) < 5e-6
        assert again.notes["forwards"] == 0
    difference = occlusion(blind, image, [class_(0) - class_(1)], sweep=kept)[0]
    first, second = occlusion(blind, image, [class_(0), class_(1)], sweep=kept)
    assert relative(difference.map, first.map - second.map) < 1e-5


def test_a_sweep_and_a_channel(tiny, image):
    kept = sweep(tiny, image, windows=[24])
    both = occlusion(tiny, image, [channel("conv2", 1), class_(0)], sweep=kept)
    fresh = occlusion(tiny, image, [channel("conv2", 1), class_(0)], windows=[24])
    for one, other in zip(both, fresh, strict=True):
        assert relative(one.map, other.map) < 1e-5


def test_npz_round_trip(tiny, image, tmp_path):
    made = sweep(tiny, image, windows=[20, 32], stride=9, fill="mean", seed=4)
    again = Sweep.load(made.save(tmp_path / "s.npz"))
    assert (again.model, again.size, again.fill, again.seed) == (tiny.digest, (45, 61), "mean", 4)
    assert torch.equal(again.outputs, made.outputs)
    assert [h.window for h in again.hidden] == [20, 32]
    for one, other in zip(again.hidden, made.hidden, strict=True):
        assert one.stride == other.stride == 9
        assert np.array_equal(one.positions, other.positions)
        assert torch.equal(one.outputs, other.outputs)
    (tmp_path / "junk.npz").write_bytes(b"junk")
    for name in ("junk.npz", "missing.npz"):
        with pytest.raises(InvalidValue, match=name):
            Sweep.load(tmp_path / name)


def test_a_sweep_of_something_else_is_refused(tiny, image):
    kept = sweep(tiny, image, windows=[24, 16])
    with pytest.raises(InvalidValue, match="another picture"):
        occlusion(tiny, image.flip(3), [class_(0)], sweep=kept)
    other = tiny_model()
    other.net.head.bias.data[0] += 1
    with pytest.raises(InvalidValue, match="other weights"):
        occlusion(other, image, [class_(0)], sweep=kept)
    with pytest.raises(InvalidValue, match="window 20: the scores are of 24, 16"):
        occlusion(tiny, image, [class_(0)], windows=[20], sweep=kept)
    (some,) = occlusion(tiny, image, [class_(0)], windows=[16], sweep=kept)
    (alone,) = occlusion(tiny, image, [class_(0)], windows=[16])
    assert relative(some.map, alone.map) < 5e-6


@pytest.mark.parametrize(("side", "windows"), [(224, [32, 64, 96]), (35, [5, 10, 15]), (2, [1])])
def test_windows_go_with_the_picture(side, windows):
    assert [window for window, _ in steps((side, side + 9), None, None)] == windows


def test_batch_size_changes_nothing(tiny, image):
    maps = [occlusion(tiny, image, [class_(1)], windows=[12], batch=b)[0].map for b in (1, 3, 100, None)]
    for other in maps[1:]:
        assert relative(other, maps[0]) < 5e-6


class Greedy(nn.Module):
    """Runs out of memory above a number of pictures; asks for values, so no graph can be made of it."""

    def __init__(self, most):
        super().__init__()
        self.inner, self.most, self.batches = seeded(TinyNet), most, []

    def forward(self, x):
        if len(x) > self.most:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate everything")
        self.batches.append(len(x))
        return self.inner(x)


def test_batches_shrink_when_memory_runs_out(tiny, image):
    greedy = Greedy(3)
    made = occlusion(Model(greedy, "greedy", input_size=(32, 32)), image, [class_(1)], windows=[12])
    assert relative(made[0].map, occlusion(tiny, image, [class_(1)], windows=[12])[0].map) < 5e-6
    assert max(greedy.batches) > 1
    made = rise(Model(greedy, "greedy", input_size=(32, 32)), image, [class_(1)], masks=20)
    assert relative(made[0].map, rise(tiny, image, [class_(1)], masks=20)[0].map) < 5e-6
    with pytest.raises(torch.OutOfMemoryError):
        occlusion(Model(Greedy(0), "none", input_size=(32, 32)), image, [class_(1)], windows=[12])


def test_other_errors_are_not_hidden(image):
    class Faulty(nn.Module):
        def forward(self, x):
            if float(x.sum()) < 1e9:
                raise RuntimeError("a bug of its own")
            return x

    with pytest.raises(RuntimeError, match="a bug of its own"):
        sweep(Model(Faulty(), "faulty"), image, windows=[12])


class Overwriting(nn.Module):
    """Reads a map after an in-place ReLU has changed it, which a graph without in-place gets wrong."""

    def __init__(self):
        super().__init__()
        self.conv, self.relu, self.head = nn.Conv2d(3, 5, 3, 2), nn.ReLU(inplace=True), nn.Linear(5, 4)

    def forward(self, x):
        x = self.conv(x)
        y = self.relu(x)
        return self.head((x + 0.5 * y).mean((2, 3)))


def test_a_graph_that_disagrees_is_not_used(image):
    model = Model(seeded(Overwriting).requires_grad_(False), "overwriting", input_size=(32, 32))
    total, count = slow_maps(lambda x: model(x)[0, 1].double(), image, torch.zeros_like(image), [(20, 10)])
    made = occlusion(model, image, [class_(1)], windows=[20], fill="black")
    assert relative(made[0].map.double(), total / count) < 5e-6


def test_the_model_is_left_as_found(image):
    model = Model(seeded(TinyNet).train(), "tiny", input_size=(32, 32))
    state = {name: tensor.clone() for name, tensor in model.net.state_dict().items()}
    formats = {name: p.stride() for name, p in model.net.named_parameters()}
    before = image.clone()
    with torch.no_grad():
        occlusion(model, image, [class_(0), channel("conv2", 0)], windows=[24])
        sweep(model, image, windows=[24])
        rise(model, image, [class_(0)], masks=4)
    assert torch.equal(image, before)
    assert all(module.training for module in model.net.modules())
    assert all(p.requires_grad and p.grad is None for p in model.net.parameters())
    assert all(torch.equal(tensor, state[name]) for name, tensor in model.net.state_dict().items())
    assert {name: p.stride() for name, p in model.net.named_parameters()} == formats
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.net.modules())
    (made,) = occlusion(model, image, [class_(0)], windows=[24])
    (made.map * torch.ones(1, requires_grad=True)).sum().backward()  # no inference tensor


def test_fills(image):
    assert torch.equal(filling(image, "noise", 1), filling(image, "noise", 1))
    assert not torch.equal(filling(image, "noise", 1), filling(image, "noise", 2))
    noise = filling(torch.zeros(1, 3, 300, 300), "noise", 0)
    assert float(noise.mean()) == pytest.approx(0.5, abs=0.002)
    assert float(noise.std()) == pytest.approx(0.1, abs=0.002)
    assert noise.min() >= 0 and noise.max() <= 1
    assert torch.allclose(filling(image, "mean", 0)[0, :, 4, 9], image[0].flatten(1).mean(1))
    flat = torch.full((1, 3, 40, 50), 0.3)
    assert torch.allclose(filling(flat, "blur", 0), flat, atol=1e-6)
    assert float(filling(image, "blur", 0).std()) < 0.3 * float(image.std())
    assert set(FILLS) == {"noise", "mean", "black", "grey", "blur"}


def test_bad_settings(tiny, image):
    for settings, says in [
        ({"windows": [64]}, "window 64 on an image of 45x61: at most 45"),
        ({"windows": [16], "stride": 17}, "stride 17 with a window of 16: from 1 to 16"),
        ({"windows": []}, "windows"),
        ({"windows": [16], "batch": 0}, "batch 0"),
        ({"windows": [16], "overlap": "men"}, "nearest: mean"),
    ]:
        with pytest.raises(InvalidValue, match=says):
            occlusion(tiny, image, [class_(0)], **settings)
    with pytest.raises(UnknownName, match="nearest: noise"):
        occlusion(tiny, image, [class_(0)], windows=[16], fill="nois")
    with pytest.raises(UnknownName, match="nearest: logprob"):
        occlusion(tiny, image, [class_(0)], windows=[16], score="logprop")
    with pytest.raises(InvalidValue, match="only classes have one"):
        occlusion(tiny, image, [channel("conv2", 0)], windows=[16], score="prob")
    with pytest.raises(InvalidValue, match="45x61 for an image of 64x64"):
        occlusion(tiny, torch.rand(1, 3, 64, 64), [class_(0)], sweep=sweep(tiny, image, windows=[24]))


def test_interpolation_is_exact_on_what_is_bilinear_and_peaks_are_measured():
    positions = grid((100, 140), 10, 4)
    row, col = positions[:, 0].astype(float), positions[:, 1].astype(float)
    smooth = 3 + 0.2 * row - 0.1 * col + 0.01 * row * col
    asked = []

    def measure(wanted):
        asked.append(len(wanted))
        at = [int(np.flatnonzero((positions == one).all(1))[0]) for one in wanted]
        return torch.from_numpy(np.stack([smooth[at], -smooth[at]], 1))

    values, measured = coarse_to_fine(measure, positions)
    assert np.allclose(values[:, 0].numpy(), smooth, atol=1e-9)
    assert np.allclose(values[:, 1].numpy(), -smooth, atol=1e-9)
    assert measured == sum(asked) < 0.5 * len(positions)


def test_coarse_to_fine_says_that_it_is_approximate(tiny, image):
    class Spot(nn.Module):
        def forward(self, x):
            return torch.stack([x[:, :, 20:30, 32:44].mean((1, 2, 3)), x.mean((1, 2, 3))], 1)

    model = Model(Spot(), "spot", mean=(0.0,) * 3, std=(1.0,) * 3, input_size=(32, 32))
    bright = torch.ones_like(image)
    settings = {"windows": [8], "stride": 2, "fill": "black"}
    (full,) = occlusion(model, bright, [class_(0)], **settings)
    (fast,) = occlusion(model, bright, [class_(0)], coarse_to_fine=True, **settings)
    assert fast.notes["approximate"] is True
    assert "approximate" not in full.notes
    share = 1 - fast.notes["forwards"] / full.notes["forwards"]
    assert fast.notes["saved"] == pytest.approx(share) and share > 0.4
    assert torch.corrcoef(torch.stack([full.map.flatten(), fast.map.flatten()]))[0, 1] > 0.98
    inside = torch.zeros(45, 61, dtype=torch.bool)
    inside[20:30, 32:44] = True
    assert inside.flatten()[fast.map.argmax()]


def bilinear(grid_, height, width):
    """Resampling with the corners of cells, not their centres, at the corners of the picture."""
    rows, cols = grid_.shape
    made = np.zeros((height, width))
    for i in range(height):
        y = min(max((i + 0.5) * rows / height - 0.5, 0), rows - 1)
        for j in range(width):
            x = min(max((j + 0.5) * cols / width - 0.5, 0), cols - 1)
            t, s = int(y), int(x)
            b, r = min(t + 1, rows - 1), min(s + 1, cols - 1)
            top = grid_[t, s] * (1 - (x - s)) + grid_[t, r] * (x - s)
            low = grid_[b, s] * (1 - (x - s)) + grid_[b, r] * (x - s)
            made[i, j] = top * (1 - (y - t)) + low * (y - t)
    return made


def test_rise_equals_a_slow_loop(tiny):
    image = torch.rand(1, 3, 33, 40, generator=torch.Generator().manual_seed(1))
    masks, cells, keep = 6, 4, 0.3
    generator = torch.Generator().manual_seed(derive_seed(11, "rise"))
    grids = (torch.rand(masks, 1, cells, cells, generator=generator) < keep).numpy()
    side = (math.ceil(33 / cells), math.ceil(40 / cells))
    shifts = [torch.randint(0, s, (masks,), generator=generator).tolist() for s in side]
    expected = np.zeros((2, 33, 40))
    mean = torch.tensor(tiny.mean).view(1, 3, 1, 1)
    kept = {}
    tiny.net.conv3.register_forward_hook(lambda m, i, o: kept.update(mean=float(o[0, 2].mean())))
    for n in range(masks):
        large = bilinear(grids[n, 0].astype(float), (cells + 1) * side[0], (cells + 1) * side[1])
        mask = large[shifts[0][n] : shifts[0][n] + 33, shifts[1][n] : shifts[1][n] + 40]
        shown = torch.from_numpy(mask).float()
        logits = tiny(image * shown + mean * (1 - shown))[0].double()
        expected[0] += mask * float(logits.softmax(0)[4]) / (masks * keep)
        expected[1] += mask * kept["mean"] / (masks * keep)
    made = rise(
        tiny,
        image,
        [class_(4), channel("conv3", 2)],
        masks=masks, cells=cells, keep=keep, seed=11, batch=4,
    )  # fmt: skip
    assert relative(made[0].map.double(), torch.from_numpy(expected[0])) < 5e-6
    assert relative(made[1].map.double(), torch.from_numpy(expected[1])) < 5e-6
    again = rise(tiny, image, [class_(4)], masks=masks, cells=cells, keep=keep, seed=11, batch=1)
    assert relative(again[0].map, made[0].map) < 5e-6


def test_rise_refuses_bad_settings(tiny, image):
    for settings in (
        {"masks": 0},
        {"cells": 0},
        {"keep": 1.0},
        {"keep": 0.0},
        {"batch": 0},
        {"score": "inverse"},
    ):
        with pytest.raises(InvalidValue):
            rise(tiny, image, [class_(0)], **settings)


def test_one_channel_networks_and_tokens():
    grey = Model(seeded(lambda: TinyNet(1)), "grey", mean=(0.4,), std=(0.3,), input_size=(32, 32))
    image = torch.rand(1, 3, 40, 40)
    total, count = slow_maps(lambda x: grey(x)[0, 0].double(), image, torch.zeros_like(image), [(20, 10)])
    with torch.no_grad():
        made = occlusion(grey, image, [class_(0)], windows=[20], fill="black")
    assert relative(made[0].map.double(), (total / count).detach()) < 5e-6
    vit = featviz.load("timm/vit_tiny_patch16_224", untrained=True, input_size=(48, 48), device="cpu")
    image = torch.rand(1, 3, 48, 48)
    total, count = slow_maps(lambda x: vit(x)[0, 3].double(), image, torch.zeros_like(image), [(24, 24)])
    made = occlusion(vit, image, [class_(3)], windows=[24], stride=24, fill="black")
    assert float((made[0].map.double() - total / count).abs().max()) < 1e-5


def test_labels_are_kept():
    (made,) = occlusion(tiny_model(), torch.rand(1, 3, 32, 32), [class_(2, "dog")], windows=[16])
    assert (made.method, made.target, made.size) == ("occlusion", "class:dog", (32, 32))
