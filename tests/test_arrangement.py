"""A network arranged for speed gives what it gives as it stands."""

import copy
import warnings

import pytest
import timm
import torch
import torchvision
from conftest import seeded, unit_images
from torch import nn
from torch.nn import functional as F

import featviz
from featviz import objectives, trial
from featviz.arrangement import Arranged, Learning, done_to
from featviz.engines import arranged, eager, lean
from featviz.errors import InvalidValue
from featviz.layers import activations, frozen, score
from featviz.settings import EngineSettings
from featviz.statistics import NormStatistics
from featviz.types import Model

WAYS = [(True, False), (False, True), (True, True)]


def stirred(net):
    """Batch norms that remember, scale and shift at random, as after training."""
    draw = torch.Generator().manual_seed(3)
    for norm in net.modules():
        if isinstance(norm, nn.modules.batchnorm._BatchNorm):
            norm.running_mean.normal_(0, 0.1, generator=draw)
            norm.running_var.uniform_(0.5, 2, generator=draw)
            norm.weight.data.uniform_(0.5, 1.5, generator=draw)
            norm.bias.data.normal_(0, 0.1, generator=draw)
    return net.double().eval().requires_grad_(False)


NETS = {
    "resnet18": lambda: torchvision.models.resnet18(),
    "googlenet": lambda: torchvision.models.googlenet(init_weights=False, aux_logits=False),
    "densenet121": lambda: torchvision.models.densenet121(),
    "mobilenet_v2": lambda: torchvision.models.mobilenet_v2(),
    "tf_efficientnet_lite0": lambda: timm.create_model("tf_efficientnet_lite0"),
    "convnext_tiny": lambda: torchvision.models.convnext_tiny(),
}


def net(name):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        return stirred(seeded(NETS[name]))


def equal(found, wanted, close=1e-10):
    for one, other in zip(found, wanted, strict=True):
        assert float((one - other).norm() / other.norm()) <= close


@pytest.mark.parametrize("name", NETS)
def test_scores_and_gradients_are_those_of_the_network_as_it_stands(name):
    made, image = net(name), unit_images(2, 3, 64, 64).double()

    def measured(x):
        return made(x).square().sum(1)

    before = {key: value.clone() for key, value in made.state_dict().items()}
    wanted = eager(measured, image)
    for fold, last in WAYS:
        for engine in (arranged(fold, last), lean(arranged(fold, last), least=0)):
            for _ in range(2):  # as it stands, then arranged
                equal(engine(measured, image), wanted)
    assert all(torch.equal(value, before[key]) for key, value in made.state_dict().items())


def test_what_is_folded_is_no_longer_done():
    made, image = net("resnet18"), unit_images(1, 3, 64, 64).double()
    with Learning() as learning:
        made(image)
    ready = learning.weights(fold=True, channels_last=False)
    assert len(ready) == sum(each.norm is not None for _, each in ready) == 20  # all of ResNet-18's
    seen = []

    class Watching(torch.overrides.TorchFunctionMode):
        def __torch_function__(self, func, types, args=(), kwargs=None):
            seen.append(func.__name__)
            return func(*args, **(kwargs or {}))

    with Watching(), Arranged(ready) as mode:
        made(image)
    assert seen.count("conv2d") == 20 and "batch_norm" not in seen and not mode.waiting


def test_layers_lie_channels_last():
    made, image, lies = net("resnet18"), unit_images(1, 3, 64, 64).double(), []
    made.layer3.register_forward_hook(
        lambda m, i, out: lies.append(out.is_contiguous(memory_format=torch.channels_last))
    )
    engine = arranged(False, True)
    for _ in range(2):
        engine(lambda x: made(x).sum(1), image)
    assert lies == [True, True]


class Branching(nn.Module):
    """What its first convolution puts out goes into its norm and past it; its second's into two norms."""

    def __init__(self):
        super().__init__()
        self.first, self.second, self.third = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(3))
        self.norms = nn.ModuleList(nn.BatchNorm2d(3) for _ in range(4))

    def forward(self, x):
        one = self.first(x)
        one = self.norms[0](one) + one
        two = self.norms[1](self.second(one)) + self.norms[2](self.second(one))
        return self.norms[3](self.third(F.relu(two, inplace=True)))


def test_only_a_convolution_that_one_norm_alone_takes_is_folded():
    made, image = stirred(seeded(Branching)), unit_images(1, 3, 12, 12).double()
    with Learning() as learning:
        made(image)
    assert [own.weight is made.third.weight for own, _ in learning.weights(True, False)] == [True]
    engine = arranged()
    for _ in range(2):
        equal(engine(lambda x: made(x).sum((1, 2, 3)), image), eager(lambda x: made(x).sum((1, 2, 3)), image))


def test_a_convolution_is_its_weights_and_its_bias():
    first, second = (nn.Conv2d(3, 3, 3, padding=1) for _ in range(2))
    second.weight = first.weight
    made = stirred(seeded(lambda: nn.Sequential(first, nn.ReLU(), second, nn.BatchNorm2d(3))))
    for fold, last in WAYS:
        engine, image = arranged(fold, last), unit_images(1, 3, 12, 12).double()
        for _ in range(2):
            equal(
                engine(lambda x: made(x).sum((1, 2, 3)), image),
                eager(lambda x: made(x).sum((1, 2, 3)), image),
            )


def written(y, norm):
    y[:, :, 0] = 0
    return norm(y)


def conditional(y, norm):
    other = F.batch_norm(y, norm.running_mean, norm.running_var, 2 * norm.weight, norm.bias)
    return norm(y) + other


def by_image(y, norm):
    return F.batch_norm(y, norm.running_mean, norm.running_var, y.detach().mean((0, 2, 3)), norm.bias)


def by_torch(y, norm):
    return torch.batch_norm(
        y, norm.weight, norm.bias, norm.running_mean, norm.running_var, False, 0.1, norm.eps, False
    )


@pytest.mark.parametrize("use", [written, conditional, by_image, by_torch])
def test_what_cannot_be_folded_is_not(use):
    conv, norm = stirred(seeded(lambda: nn.ModuleList([nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)])))
    engine = arranged()

    def measured(x):
        return use(conv(x), norm).square().sum((1, 2, 3))

    for seed in range(3):
        image = unit_images(1, 3, 8, 8, seed=seed).double()
        equal(engine(measured, image), eager(measured, image))


def test_what_is_captured_is_as_the_layer_left_it(tiny):
    net = stirred(copy.deepcopy(tiny.net))
    model = Model(net, "stirred", input_size=tiny.input_size)
    norms = [n for n, m in net.named_modules() if isinstance(m, nn.BatchNorm2d)]
    convolutions = [n for n, m in net.named_modules() if isinstance(m, nn.Conv2d)]
    image = unit_images(1, 3, 32, 32).double()
    for layer in [*norms, *convolutions]:
        measured = score(model, objectives.channel(layer, 1))
        engine = arranged()
        with frozen(net):
            engine(measured, image)
            equal(engine(measured, image), eager(measured, image))


class Wandering(nn.Module):
    """Goes past its norm at every other forward."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.calls = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), 0

    def forward(self, x):
        self.calls += 1
        made = self.conv(x)
        return self.norm(made) if self.calls % 2 else made


def test_a_network_that_goes_another_way_is_taken_as_it_stands():
    made, image = stirred(seeded(Wandering)), unit_images(1, 3, 8, 8).double()

    def measured(x):
        return made(x).sum((1, 2, 3))

    engine = arranged(True, False)
    engine(measured, image)  # learned with the norm
    found = engine(measured, image)  # the second forward has none; the third, in its place, has it
    assert made.calls == 3
    made.calls = 0
    equal(found, eager(measured, image))


def test_statistics_are_those_of_the_norms_input():
    made, image = net("tf_efficientnet_lite0"), unit_images(2, 3, 64, 64).double()
    statistics = NormStatistics()

    def away(x):
        with statistics:
            made(x)
        return statistics.away()

    wanted = eager(away, image)
    for fold, last in WAYS:
        engine = arranged(fold, last)
        for _ in range(2):
            equal(engine(away, image), wanted, 1e-9)


def test_a_norm_of_scale_zero_is_no_trouble():
    made = stirred(
        seeded(lambda: nn.Sequential(nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.ReLU(inplace=True)))
    )
    made[1].weight.data[:2] = torch.tensor([0.0, 1e-30])
    statistics, image = NormStatistics(), unit_images(1, 3, 8, 8).double()

    def away(x):
        with statistics:
            made(x)
        return statistics.away()

    engine = arranged()
    for _ in range(2):
        equal(engine(away, image), eager(away, image), 1e-9)


def test_weights_made_anew_and_weights_that_learn_are_left_alone():
    normed = nn.utils.parametrizations.weight_norm(nn.Conv2d(3, 4, 3))
    for first in (normed, nn.Conv2d(3, 4, 3)):
        made = nn.Sequential(first, nn.BatchNorm2d(4)).eval()
        with Learning() as learning:
            made(unit_images(1, 3, 8, 8))
        assert learning.weights(True, True) == []


def test_nothing_of_a_picture_is_held_by_what_was_learned():
    made, image = net("resnet18"), unit_images(1, 3, 32, 32).double()
    with Learning() as learning:
        captured = activations(Model(made, "r", input_size=(32, 32)), image, ["layer1.0.conv1"])
    ready = learning.weights(True, True)
    held = [getattr(each.norm, name) for _, each in ready if each.norm for name in vars(each.norm)]
    assert not any(isinstance(each, torch.Tensor) and each.dim() == 4 for each in held)
    assert done_to(captured["layer1.0.conv1"]) is None


class _Slow(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv, self.norm = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4)

    def forward(self, x):
        return self.norm(self.conv(x))


@pytest.mark.parametrize("fastest", [(False, False), (True, False), (False, True), (True, True)])
def test_the_fastest_way_is_chosen(monkeypatch, fastest):
    clock, lasting = [0.0], {}

    def engine(settings, size):
        lasting[id(settings)] = settings

        def run(score, image):
            ways = (settings.fold, settings.channels_last)
            clock[0] += 1.0 if ways == fastest else 1.5
            return eager(score, image)

        return run, True

    monkeypatch.setattr(trial, "engine_for", engine)
    monkeypatch.setattr(trial.time, "perf_counter", lambda: clock[0])
    net, image = _Slow().eval(), unit_images(1, 3, 8, 8)
    measured = score(Model(net, "slow", input_size=(8, 8)), objectives.layer("norm"))
    found = trial.arrangement(net, measured, image, EngineSettings(), 1000, "norm")
    assert (found.fold, found.channels_last) == fastest
    monkeypatch.setattr(trial, "engine_for", None)  # known from now on
    assert trial.arrangement(net, measured, image, EngineSettings(), 1000, "norm") == found


def test_a_gain_within_chance_leaves_the_network_as_it_is(monkeypatch):
    clock = [0.0]

    def engine(settings, size):
        def run(score, image):
            clock[0] += 0.98 if settings.fold else 1.0
            return eager(score, image)

        return run, True

    monkeypatch.setattr(trial, "engine_for", engine)
    monkeypatch.setattr(trial.time, "perf_counter", lambda: clock[0])
    net, image = _Slow().eval(), unit_images(1, 3, 8, 8)
    found = trial.arrangement(net, lambda x: net(x).sum((1, 2, 3)), image, EngineSettings(), 1000, "x")
    assert (found.fold, found.channels_last) == (False, False)


class Viewing(nn.Module):
    """Flattens by a view, which rows of channels laid last do not allow."""

    def __init__(self):
        super().__init__()
        self.conv, self.norm, self.out = nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.Linear(4 * 36, 2)

    def forward(self, x):
        y = self.norm(self.conv(x))
        return self.out(y.view(len(y), -1))


def test_a_way_that_fails_is_not_chosen(monkeypatch):
    monkeypatch.setattr(trial, "GAIN", 1e9)
    net, image = Viewing().eval().requires_grad_(False), unit_images(1, 3, 8, 8)
    found = trial.arrangement(net, lambda x: net(x).sum(1), image, EngineSettings(), 1000, "x")
    assert found.channels_last is False


def test_the_trial_is_of_what_the_run_sees(monkeypatch, tiny):
    seen = []
    monkeypatch.setattr(
        trial,
        "_fastest",
        lambda score, image, settings: seen.append(tuple(image.shape[2:])) or (False, False),
    )
    monkeypatch.setattr(trial, "WORTH", 0)
    featviz.render(tiny, "conv3:1", steps=1, size=400, tile="256", preset="yosinski1")
    featviz.dream(tiny, unit_images(1, 3, 300, 300), "conv3", steps=1, octaves=1, tile="150")
    assert seen == [(256, 256), (150, 150)]


def test_the_trial_has_the_runs_precision(monkeypatch):
    kinds = []
    net = _Slow().eval().requires_grad_(False)
    net.conv.register_forward_hook(lambda m, i, out: kinds.append(out.dtype))
    settings = EngineSettings(precision="bfloat16")
    trial.arrangement(net, lambda x: net(x).sum((1, 2, 3)), unit_images(1, 3, 8, 8), settings, 1000, "x")
    assert set(kinds) == {torch.bfloat16}


@pytest.mark.parametrize(
    ("settings", "gradients"),
    [
        (EngineSettings(), trial.WORTH - 1),
        (EngineSettings(compile=True), 1000),
        (EngineSettings(fold=False, channels_last=False), 1000),
    ],
)
def test_no_trial_where_it_does_not_pay(monkeypatch, settings, gradients):
    monkeypatch.setattr(trial, "engine_for", None)
    found = trial.arrangement(_Slow(), None, unit_images(1, 3, 8, 8), settings, gradients, "x")
    assert (found.fold, found.channels_last) == (False, False)


@pytest.mark.parametrize("name", ["fold", "channels_last"])
def test_a_compiled_network_is_not_arranged(tiny, name):
    with pytest.raises(InvalidValue, match=f"compile with {name}"):
        featviz.render(tiny, "conv3:1", steps=1, size=32, compile=True, **{name: True})


def test_what_is_asked_for_is_not_tried(monkeypatch):
    tried = []
    monkeypatch.setattr(trial, "engine_for", lambda settings, size: (tried.append(settings) or eager, True))
    net, image = _Slow().eval(), unit_images(1, 3, 8, 8)
    trial.arrangement(net, lambda x: net(x).sum((1, 2, 3)), image, EngineSettings(fold=True), 1000, "x")
    assert {each.fold for each in tried} == {True} and len(tried) == 2


def test_a_recipe_tells_what_was_decided(monkeypatch, tiny):
    monkeypatch.setattr(trial, "WORTH", 2)
    monkeypatch.setattr(trial, "GAIN", 1e9)  # anything is a gain
    made = featviz.render(tiny, "conv3:1", steps=3, size=32)
    kept = made.recipe["settings"]
    assert isinstance(kept["fold"], bool) and isinstance(kept["channels_last"], bool)
    dreamed = featviz.dream(tiny, unit_images(1, 3, 48, 48), "conv3", steps=3).recipe["settings"]
    assert isinstance(dreamed["fold"], bool) and isinstance(dreamed["channels_last"], bool)
