import functools

import captum.attr
import pytest
import torch
import torch.nn.functional as F
import torchcam.methods
import torchvision
from little import Little, little_image, little_model
from oracles import LAYERS, case, difference, from_torchcam, ours, quietly
from torch import nn

import featviz
from featviz.attribution import METHODS
from featviz.attribution.positions import position_layer
from featviz.errors import AmbiguousName, InvalidValue, LayerNotFound, NotApplicable
from featviz.types import Model

OF_A_LAYER = ["grad-cam", "grad-cam++", "layer-cam", "eigen-cam", "guided-grad-cam"]
WITH_LAYER = ["grad-cam", "percentile-cam", "guided-cam", "grad-cam++", "layer-cam", "score-cam", "eigen-cam"]


@functools.cache
def shared(name, late=True, dtype=torch.float64):
    return case(name, 96, dtype, late)


@pytest.fixture
def little():
    return little_model()


@pytest.fixture
def image():
    return little_image()


@pytest.mark.parametrize("late", [True, False])
@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", OF_A_LAYER)
def test_equals_its_oracle(method, name, late):
    # pytorch-grad-cam gives the map of eigen-cam in single precision
    assert difference(method, shared(name, late)) <= (1e-6 if method == "eigen-cam" else 1e-9)


@pytest.mark.parametrize("method", OF_A_LAYER)
def test_equals_its_oracle_in_single_precision(method):
    tolerance = 1e-4 if method == "eigen-cam" else 1e-5
    assert difference(method, shared("squeezenet1_1", True, torch.float32)) <= tolerance


def test_score_cam_equals_torchcam():
    given = case("squeezenet1_1", 48)
    assert difference("score-cam", given) <= 1e-9


# ---------------------------------------------------------------------------------- true CAM


@pytest.mark.parametrize(
    "name", ["resnet18", "squeezenet1_1", "googlenet", "densenet121", "mobilenet_v2", "efficientnet_lite0"]
)
def test_the_mean_of_cam_and_the_bias_are_the_logit(name):
    given = shared(name)
    logits = given.model(given.image)[0].detach()
    made = METHODS["cam"](given.model, given.image, [featviz.class_(given.target), featviz.class_(3)])
    for one, index in zip(made, (given.target, 3), strict=True):
        assert float(one.raw.mean()) + one.notes["bias"] == pytest.approx(
            float(logits[index]), rel=1e-9, abs=1e-12
        )
        assert one.score == pytest.approx(float(logits[index]), rel=1e-9, abs=1e-12)


@pytest.mark.parametrize(
    ("name", "layer"),
    [
        ("resnet18", "layer4"),
        ("googlenet", "inception5b"),
        ("mobilenet_v2", "auto"),
        ("efficientnet_lite0", "auto"),
        ("squeezenet1_1", "auto"),
    ],
)
def test_cam_is_the_number_of_positions_times_grad_cam(name, layer):
    given = shared(name)
    true, coarse = ours("cam", given), ours("grad-cam", given, layer=layer)
    assert true.layer == coarse.layer
    torch.testing.assert_close(true.raw, coarse.raw.numel() * coarse.raw, rtol=1e-9, atol=1e-12)


def test_cam_equals_torchcam():
    given = shared("resnet18")
    with quietly():
        wanted = from_torchcam(torchcam.methods.CAM, given, fc_layer="fc")
    made = ours("cam", given).raw.clamp(min=0)
    assert wanted.max() > 0
    assert (made - wanted).abs().max() <= 1e-9 * wanted.max()


def test_cam_of_densenet_is_taken_after_its_functional_relu():
    given = shared("densenet121")
    made = ours("cam", given)
    net = given.model.net
    after = F.relu(net.features(given.normalised))[0]
    wanted = torch.einsum("k,khw->hw", net.classifier.weight[given.target], after).detach()
    torch.testing.assert_close(made.raw, wanted, rtol=1e-9, atol=1e-12)


def test_cam_of_a_sum_of_classes(little, image):
    a, b = featviz.class_(0), featviz.class_(2)
    one, other, both = METHODS["cam"](little, image, [a, b, 2 * a - b])
    torch.testing.assert_close(both.raw, 2 * one.raw - other.raw)
    assert both.score == pytest.approx(2 * one.score - other.score)


def test_cam_refuses_where_it_has_no_meaning(little, image):
    vgg = featviz.load("vgg11", untrained=True, device="cpu", input_size=64)
    with pytest.raises(NotApplicable, match="which vgg11 does not; grad-cam explains it"):
        METHODS["cam"](vgg, torch.rand(1, 3, 64, 64), [featviz.class_(0)])
    with pytest.raises(NotApplicable, match="second:0 is no sum of them; grad-cam explains it"):
        METHODS["cam"](little, image, [featviz.channel("second", 0)])
    with pytest.raises(NotApplicable, match="is no sum"):
        METHODS["cam"](little, image, [featviz.objectives.layer("")])  # a mean square of logits


class Between(Little):
    """What stands between the pooling and the linear layer makes the logits no weighted averages."""

    def forward(self, x):
        x = self.relu(self.second(self.relu(self.first(x))))
        return self.fc(self.pool(x).flatten(1).tanh())


class ByHand(Little):
    """Global average pooling written out."""

    def forward(self, x):
        x = self.relu(self.second(self.relu(self.first(x))))
        return self.fc(x.mean((2, 3)))


class ChannelsLast(Little):
    """Maps kept as (b, h, w, c), as Swin has them."""

    def forward(self, x):
        x = self.relu(self.second(self.relu(self.first(x))))
        return self.fc(x.permute(0, 2, 3, 1).mean((1, 2)))


def test_cam_reads_what_the_network_computes_not_its_modules(little, image):
    wanted = METHODS["cam"](little, image, [featviz.class_(1)])[0].raw
    for kind in (ByHand, ChannelsLast):
        net = kind().double().eval()
        net.load_state_dict(little.net.state_dict())
        made = METHODS["cam"](Model(net, "other", input_size=(16, 12)), image, [featviz.class_(1)])[0].raw
        torch.testing.assert_close(made, wanted)
    net = Between().double().eval()
    with pytest.raises(NotApplicable, match="which other does not"):
        METHODS["cam"](Model(net, "other", input_size=(16, 12)), image, [featviz.class_(1)])


# ------------------------------------------------------------------------------ percentiles


@pytest.mark.parametrize("percentile", [0.0, 50.0, 90.0, 100.0])
def test_every_percentile_is_grad_cam_on_the_pooled_map(percentile):
    """There the gradient is the same at every position."""
    given = shared("resnet18")
    made, wanted = ours("percentile-cam", given, percentile=percentile), ours("grad-cam", given)
    torch.testing.assert_close(made.raw, wanted.raw, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("percentile", [50.0, 90.0])
@pytest.mark.parametrize("layer", ["layer1", "layer3"])
def test_percentiles_at_earlier_layers_are_numpys(layer, percentile):
    import numpy as np

    given = shared("resnet18", False)
    net, held = given.model.net, []
    x = given.normalised
    handle = net.get_submodule(layer).register_forward_hook(
        lambda m, i, o: held.append(o.requires_grad_(True))
    )
    logit = net(x)[0, given.target]
    handle.remove()
    g = torch.autograd.grad(logit, held[0])[0][0]
    weights = torch.from_numpy(np.percentile(g.flatten(1).numpy(), percentile, axis=1))
    wanted = torch.einsum("k,khw->hw", weights, held[0][0].detach())
    made = ours("percentile-cam", given, layer=layer, percentile=percentile)
    torch.testing.assert_close(made.raw, wanted, rtol=1e-9, atol=1e-15)
    assert made.notes == {"percentile": percentile}
    assert (made.raw - ours("grad-cam", given, layer=layer).raw).abs().max() > 0.01 * made.raw.abs().max()


def test_the_median_of_an_even_count_lies_between_two_values():
    """`torch.median` takes the lower one."""
    from featviz.attribution.cams import _by_percentile

    assert _by_percentile(50.0)(torch.tensor([[[1.0, 2.0], [4.0, 8.0]]])).tolist() == [3.0]


def test_percentiles_of_maps_larger_than_one_quantile_call_takes(monkeypatch):
    from featviz.attribution import cams

    g = torch.rand(7, 5, 4)
    wanted = cams._by_percentile(90.0)(g)
    monkeypatch.setattr(cams, "_MOST_IN_QUANTILE", 45)  # two channels a call
    assert torch.equal(cams._by_percentile(90.0)(g), wanted)


def test_guided_cam_by_the_reports_formula(little, image):
    """Weights are percentiles of (f > 0) · (R > 0) · R at the ReLU, and so is each ReLU on the way."""
    (made,) = METHODS["guided-cam"](little, image, [featviz.class_(1)], layer="relu#0", percentile=75.0)
    net = little.net
    a = F.relu(net.first(little.normalise(image))).detach().requires_grad_(True)
    b = net.second(a)
    upper = torch.autograd.grad(net.fc(F.relu(b).mean((2, 3)))[0, 1], b, retain_graph=True)[0]
    r = torch.autograd.grad(b, a, upper.clamp(min=0))[0]
    g = ((a > 0) * (r > 0) * r)[0]
    wanted = torch.einsum("k,khw->hw", torch.quantile(g.flatten(1), 0.75, dim=1), a[0].detach())
    assert wanted.abs().max() > 0
    torch.testing.assert_close(made.raw, wanted.detach())
    assert made.notes == {"percentile": 75.0, "rule": "guided", "rewritten_calls": 2}


def test_guided_cam_at_the_last_layer_counts_its_own_output(little, image):
    (made,) = METHODS["guided-cam"](little, image, [featviz.class_(1)])
    assert made.layer == "relu#1" and made.notes["rewritten_calls"] == 1


# -------------------------------------------------------------------------- layers and targets


AUTO = {
    "resnet18": "layer4",
    "vgg11": "features",
    "squeezenet1_1": "classifier.2",
    "googlenet": "inception5b",
    "densenet121": "features",
    "mobilenet_v2": "features",
    "efficientnet_lite0": "bn2",
}


@pytest.mark.parametrize("name", AUTO)
def test_auto_is_the_last_layer_with_positions(name):
    assert position_layer(shared(name).model).address == AUTO[name]


@pytest.mark.parametrize("method", [*WITH_LAYER, "guided-grad-cam"])
def test_layers_are_checked(little, image, method):
    run = functools.partial(METHODS[method], little, image, [featviz.class_(0)])
    with pytest.raises(LayerNotFound, match="nearest: second"):
        run(layer="secnd")
    with pytest.raises(AmbiguousName, match="relu#0, relu#1"):
        run(layer="relu")
    with pytest.raises(
        InvalidValue, match=r"layer fc has no positions \(it puts out 1x3\); the last that has is relu#1"
    ):
        run(layer="fc")


@pytest.mark.parametrize("method", ["grad-cam", "percentile-cam", "guided-cam", "grad-cam++", "layer-cam"])
@pytest.mark.parametrize("target", ["first:1", "second:0", "second:0 + first:1"])
def test_the_layer_must_lie_before_the_target(little, image, method, target):
    with pytest.raises(InvalidValue, match=r"layer second does not lie before .*: take an earlier layer"):
        METHODS[method](little, image, [featviz.objective_of(little, target)], layer="second")


def test_each_call_of_a_module_has_its_own_map(little, image):
    net = little.net
    first = F.relu(net.first(little.normalise(image)))
    second = F.relu(net.second(first))
    for layer, a in (("relu#0", first), ("relu#1", second)):
        (made,) = METHODS["grad-cam"](little, image, [featviz.class_(2)], layer=layer)
        leaf = a.detach().requires_grad_(True)
        after = F.relu(net.second(leaf)) if layer == "relu#0" else leaf
        g = torch.autograd.grad(net.fc(after.mean((2, 3)))[0, 2], leaf)[0][0]
        torch.testing.assert_close(made.raw, torch.einsum("k,khw->hw", g.mean((1, 2)), a[0].detach()))
        assert made.layer == layer


def test_a_neuron_of_a_later_layer_is_explained_at_an_earlier_one(little, image):
    (made,) = METHODS["layer-cam"](little, image, [featviz.neuron("second", 3, (4, 5))], layer="relu#0")
    a = F.relu(little.net.first(little.normalise(image))).detach().requires_grad_(True)
    g = torch.autograd.grad(little.net.second(a)[0, 3, 4, 5], a)[0][0]
    torch.testing.assert_close(made.raw, (g.clamp(min=0) * a[0]).sum(0).detach())


def test_all_targets_by_one_forward(little, image):
    objectives = [featviz.class_(i) for i in range(3)]
    for method in WITH_LAYER:
        together = METHODS[method](little, image, objectives, layer="second")
        alone = [METHODS[method](little, image, [one], layer="second")[0] for one in objectives]
        for one, other in zip(together, alone, strict=True):
            torch.testing.assert_close(one.raw, other.raw)
            assert (one.target, one.score) == (other.target, other.score)


# ------------------------------------------------------------------------- faults of others


def test_an_in_place_relu_after_the_layer_does_not_overwrite_it():
    """pytorch-grad-cam and torchcam keep the activation without a copy: its map is that of the ReLU."""
    given = case("resnet18", 64)
    given.layer = "layer3.1.bn1"
    assert isinstance(given.model.net.layer3[1].relu, nn.ReLU) and given.model.net.layer3[1].relu.inplace
    with quietly():
        wanted = captum.attr.LayerGradCam(given.pixels, given.module).attribute(
            given.image, target=given.target
        )
    made = ours("grad-cam", given).raw
    assert (made - wanted[0, 0].detach()).abs().max() <= 1e-9 * wanted.abs().max()
    with quietly():
        theirs = from_torchcam(torchcam.methods.GradCAM, given)
    assert (made.clamp(min=0) - theirs).abs().max() > 0.1 * made.abs().max()
    (eigen,) = METHODS["eigen-cam"](given.model, given.image, [featviz.class_(0)], layer=given.layer)
    net = given.model.net
    x = net.layer3[0](net.layer2(net.layer1(net.maxpool(net.relu(net.bn1(net.conv1(given.normalised)))))))
    a = net.layer3[1].bn1(net.layer3[1].conv1(x))[0].detach().flatten(1)
    values = torch.linalg.svdvals(a - a.mean(1, keepdim=True))
    assert float(eigen.raw.norm()) == pytest.approx(float(values[0]))


def test_maps_of_pictures_that_are_not_square_are_not_turned():
    """One pixel of a wide picture is bright, and only there the channel answers."""
    net = nn.Sequential(nn.Conv2d(3, 1, 1, bias=False), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten())
    nn.init.ones_(net[0].weight)
    model = Model(net.eval(), "sum", (0.0,) * 3, (1.0,) * 3, (4, 6))
    x = torch.zeros(1, 3, 4, 6)
    x[..., 0, 4] = 1
    for method in ("cam", "grad-cam", "layer-cam", "eigen-cam", "score-cam"):
        (made,) = METHODS[method](model, x, [featviz.class_(0)])
        assert made.raw.shape == (4, 6) and divmod(int(made.raw.argmax()), 6) == (0, 4)


def test_eigen_cam_is_the_same_for_every_class(little, image):
    one, other = METHODS["eigen-cam"](little, image, [featviz.class_(0), featviz.class_(1)], layer="relu#0")
    assert torch.equal(one.raw, other.raw) and one.score != other.score
    a = F.relu(little.net.first(little.normalise(image)))[0]
    assert (one.raw * a.mean(0)).sum().item() > 0


def test_score_cam_masks_towards_the_mean_colour(little, image):
    """By its definition, channel by channel."""
    (made,) = METHODS["score-cam"](little, image, [featviz.class_(2)], batch=2)
    net, x = little.net, little.normalise(image)
    a = F.relu(net.second(F.relu(net.first(x))))[0].detach()
    scores = []
    for channel in a:
        spread = (channel - channel.min()) / (channel.max() - channel.min() + 1e-8)
        mask = F.interpolate(spread[None, None], (16, 12), mode="bilinear", align_corners=False)
        scores.append(net(x * mask)[0, 2].detach())
    wanted = torch.einsum("k,khw->hw", torch.stack(scores).softmax(0), a)
    torch.testing.assert_close(made.raw, wanted)


def test_percentile_is_checked(little, image):
    for method in ("percentile-cam", "guided-cam"):
        with pytest.raises(InvalidValue, match="percentile 101: from 0 to 100"):
            METHODS[method](little, image, [featviz.class_(0)], percentile=101.0)


# -------------------------------------------------------------------------------- transformers


@functools.cache
def vit(name):
    if name == "torchvision":
        with torch.random.fork_rng():
            torch.manual_seed(0)
            net = torchvision.models.VisionTransformer(64, 16, 3, 2, 32, 64, num_classes=10).eval()
            nn.init.normal_(net.heads.head.weight)  # torchvision starts it at 0
    else:
        net = featviz.load(name, untrained=True, device="cpu", input_size=64).net
    return Model(net.double(), name.removeprefix("timm/"), input_size=(64, 64))


@functools.cache
def square():
    return torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1), dtype=torch.float64)


VITS = {
    "timm/vit_tiny_patch16_224": ("blocks.11.norm1", 1),
    "timm/deit_tiny_distilled_patch16_224": ("blocks.11.norm1", 2),
    "torchvision": ("encoder.layers.encoder_layer_2.ln_1", 1),
}


@pytest.mark.parametrize("name", VITS)
def test_token_grids(name):
    """Grad-CAM on the patches of a captured layer, without the tokens before them."""
    model, (layer, before) = vit(name), VITS[name]
    assert position_layer(model).address == layer
    held = []
    handle = model.net.get_submodule(layer).register_forward_hook(lambda m, i, o: held.append(o))
    x = square().clone().requires_grad_(True)
    logit = model(x)[0, 7]
    handle.remove()
    g = torch.autograd.grad(logit, held[0])[0][0, before:]
    a = held[0][0, before:].detach()
    wanted = (a @ g.mean(0)).view(4, 4)
    (made,) = METHODS["grad-cam"](model, square(), [featviz.class_(7)])
    assert wanted.abs().max() > 0
    torch.testing.assert_close(made.raw, wanted, rtol=1e-9, atol=1e-15)
    assert made.map.shape == (64, 64)


@pytest.mark.parametrize("method", [*WITH_LAYER, "guided-grad-cam"])
def test_every_layer_method_takes_tokens(method):
    settings = {"batch": 64} if method == "score-cam" else {}
    (made,) = METHODS[method](vit("timm/vit_tiny_patch16_224"), square(), [featviz.class_(7)], **settings)
    assert made.raw.shape == ((3, 64, 64) if method == "guided-grad-cam" else (4, 4))
    assert made.raw.isfinite().all() and made.raw.any()


def test_after_the_last_attention_no_patch_is_read():
    with pytest.raises(
        InvalidValue, match=r"after layer blocks\.11 .* the class token alone; .* blocks\.11\.norm1"
    ):
        METHODS["grad-cam"](
            vit("timm/vit_tiny_patch16_224"), square(), [featviz.class_(7)], layer="blocks.11"
        )


def test_cam_has_no_meaning_on_a_transformer():
    with pytest.raises(NotApplicable, match="vit_tiny_patch16_224 does not; grad-cam explains it"):
        METHODS["cam"](vit("timm/vit_tiny_patch16_224"), square(), [featviz.class_(7)])


def test_maps_kept_with_channels_last():
    model = featviz.load("swin_t", untrained=True, device="cpu", input_size=64)
    layer = "features.5"
    held = []
    handle = model.net.features[5].register_forward_hook(lambda m, i, o: held.append(o))
    x = square().float().requires_grad_(True)
    logit = model(x)[0, 7]
    handle.remove()
    g = torch.autograd.grad(logit, held[0])[0][0]  # (h, w, c)
    wanted = (held[0][0].detach() * g.mean((0, 1))).sum(2)
    (made,) = METHODS["grad-cam"](model, x.detach(), [featviz.class_(7)], layer=layer)
    torch.testing.assert_close(made.raw, wanted, rtol=1e-4, atol=1e-7)


def test_a_network_without_positions_is_told_what_to_take():
    net = nn.Sequential(nn.Flatten(), nn.Linear(3 * 64, 5), nn.ReLU(), nn.Linear(5, 2)).eval()
    model = Model(net, "flat", input_size=(8, 8))
    with pytest.raises(
        NotApplicable, match="flat has no layer with positions: take a gradient method or occlusion"
    ):
        METHODS["grad-cam"](model, torch.rand(1, 3, 8, 8), [featviz.class_(0)])


def test_one_position_is_no_map():
    given = case("resnet18", 32)
    with pytest.raises(InvalidValue, match="layer layer4 has one position on an image of 32x32"):
        METHODS["grad-cam"](given.model, given.image, [featviz.class_(0)])
