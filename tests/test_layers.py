import pytest
import torch
import torchvision
from conftest import TinyNet, seeded, tiny_model, unit_images
from torch import nn

from featviz import objectives
from featviz.engines import eager
from featviz.errors import AmbiguousName, ImageTooSmall, LayerNotFound, ModelError
from featviz.layers import activations, check_size, find_layer, fits, frozen, score
from featviz.types import Model


def by_hand(net, image):
    """Every output of the tiny net without hooks and without working in place."""
    x = (image - torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)) / torch.tensor(
        [0.229, 0.224, 0.225]
    ).view(1, 3, 1, 1)
    found = {"conv1": net.conv1(x)}
    found["bn1"] = net.bn1(found["conv1"])
    found["relu#0"] = found["bn1"].clamp(min=0)
    found["pool"] = net.pool(found["relu#0"])
    found["conv2"] = net.conv2(found["pool"])
    found["relu#1"] = found["conv2"].clamp(min=0)
    found["conv3"] = net.conv3(found["relu#1"])
    found["relu#2"] = found["conv3"].clamp(min=0)
    found[""] = net.head(found["relu#2"].mean((2, 3)))
    return found


def test_activations_are_those_of_a_forward_without_hooks(tiny):
    image = unit_images(2, 3, 32, 32)
    expected = by_hand(tiny.net, image)
    found = activations(tiny, image, list(expected))
    for address, value in expected.items():
        torch.testing.assert_close(found[address], value, msg=address)
    for address, value in expected.items():  # and each by itself
        torch.testing.assert_close(activations(tiny, image, [address])[address], value, msg=address)


def test_maps_before_an_inplace_relu_keep_their_negative_values():
    """Other tools give the overwritten map: resnet's bn1 is followed by a ReLU in place."""
    model = Model(seeded(lambda: torchvision.models.resnet18()), "resnet18", input_size=(64, 64))
    image = unit_images(1, 3, 64, 64)
    with torch.no_grad():
        net = model.net
        x = net.conv1(model.normalise(image))
        stem = net.bn1(x)
        x = net.maxpool(stem.clamp(min=0))
        x = net.layer1(x)
        inner = net.layer2[0].bn1(net.layer2[0].conv1(x))
        found = activations(model, image, ["bn1", "layer2.0.bn1", "layer2.1.bn1"])
    assert (stem < 0).float().mean() > 0.2
    torch.testing.assert_close(found["bn1"], stem)
    torch.testing.assert_close(found["layer2.0.bn1"], inner)
    assert (found["layer2.1.bn1"] < 0).any()


def test_the_gradient_through_a_captured_map_is_that_of_the_plain_forward(tiny):
    image = unit_images(1, 3, 32, 32)
    leaf = image.clone().requires_grad_()
    expected = by_hand(tiny.net, leaf)
    wanted = expected["bn1"].square().mean() + expected["conv3"][:, 2].mean()
    (wanted_gradient,) = torch.autograd.grad(wanted, leaf)
    objective = objectives.layer("bn1") + objectives.channel("conv3", 2)
    value, gradient = eager(score(tiny, objective), image)
    torch.testing.assert_close(value, wanted.detach()[None])
    torch.testing.assert_close(gradient, wanted_gradient)


class InTuple(nn.Module):
    def __init__(self):
        super().__init__()
        self.pair = Pair()
        self.relu = nn.ReLU(inplace=True)

    def forward(self, x):
        return self.relu(self.pair(x)[0]).mean((2, 3))


class Pair(nn.Module):
    def __init__(self):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 3)

    def forward(self, x):
        return self.conv(x), x


def test_the_first_tensor_of_a_tuple_is_safe_too():
    model = Model(seeded(InTuple), "pairs", input_size=(16, 16))
    image = unit_images(1, 3, 16, 16)
    expected = model.net.pair.conv(model.normalise(image))
    assert (expected < 0).any()
    found = activations(model, image, ["pair", ""])
    torch.testing.assert_close(found["pair"], expected)
    torch.testing.assert_close(found[""], expected.clamp(min=0).mean((2, 3)))


def counted(net):
    calls = []
    handles = [
        module.register_forward_pre_hook(lambda m, i, path=path: calls.append(path))
        for path, module in net.named_modules()
        if path
    ]
    return calls, handles


@pytest.mark.parametrize(
    ("wanted", "run"),
    [
        (["bn1"], ["conv1", "bn1"]),
        (["relu#1"], ["conv1", "bn1", "relu", "pool", "conv2", "relu"]),
        (["conv2", "conv1"], ["conv1", "bn1", "relu", "pool", "conv2"]),
        (["relu#0", "relu#1"], ["conv1", "bn1", "relu", "pool", "conv2", "relu"]),
        (["conv1", ""], ["conv1", "bn1", "relu", "pool", "conv2", "relu", "conv3", "relu", "head"]),
    ],
)
def test_the_forward_stops_after_the_last_needed_layer(tiny, wanted, run):
    find_layer(tiny, wanted[0])  # the table runs the net once, and is kept
    calls, handles = counted(tiny.net)
    activations(tiny, unit_images(1, 3, 32, 32), wanted)
    for handle in handles:
        handle.remove()
    assert calls == run


def test_no_swallowing_except_keeps_the_forward_going():
    class Swallowing(TinyNet):
        def forward(self, x):
            try:
                return super().forward(x)
            except Exception:
                return torch.zeros(len(x), 5)

    model = Model(seeded(Swallowing), "s", input_size=(32, 32))
    assert activations(model, unit_images(1, 3, 32, 32), ["conv2"])["conv2"].shape == (1, 8, 4, 4)


def state_of(net):
    return {
        "hooks": [
            len(m._forward_hooks) + len(m._forward_pre_hooks) + len(m._backward_hooks) for m in net.modules()
        ],
        "training": [m.training for m in net.modules()],
        "requires_grad": [p.requires_grad for p in net.parameters()],
        "grad": [p.grad is None for p in net.parameters()],
        "values": {name: tensor.clone() for name, tensor in net.state_dict().items()},
    }


def assert_same(before, after):
    assert {k: v for k, v in before.items() if k != "values"} == {
        k: v for k, v in after.items() if k != "values"
    }
    assert all(torch.equal(before["values"][name], after["values"][name]) for name in before["values"])


class Bomb(TinyNet):
    """Raises what it is told to, in the middle of a forward on real data."""

    fuse = None

    def forward(self, x):
        x = self.relu(self.bn1(self.conv1(x)))
        if self.fuse is not None and x.device.type != "meta":
            raise self.fuse
        return self.head(self.relu(self.conv3(self.relu(self.conv2(self.pool(x))))).mean((2, 3)))


@pytest.mark.parametrize(
    "fuse", [None, ValueError("broken"), KeyboardInterrupt(), torch.OutOfMemoryError("full")]
)
@pytest.mark.parametrize("training", [False, True])
def test_the_net_is_left_as_found(fuse, training):
    net = seeded(Bomb).train(training)
    net.conv3.weight.requires_grad_(False)
    net.conv3.eval()
    model = Model(net, "bomb", input_size=(32, 32))
    before = state_of(net)
    net.fuse = fuse
    measured = score(model, objectives.layer("bn1") + objectives.channel("conv3", 1))
    try:
        with frozen(net):
            assert not any(module.training for module in net.modules())
            assert not any(parameter.requires_grad for parameter in net.parameters())
            eager(measured, unit_images(1, 3, 32, 32))
    except BaseException as error:
        assert error is fuse
    else:
        assert fuse is None
    assert_same(before, state_of(net))


def test_an_outer_no_grad_or_inference_mode_does_not_matter(tiny):
    image = unit_images(1, 3, 32, 32)
    measured = score(tiny, objectives.layer("conv2"))
    plain = eager(measured, image)
    with torch.no_grad():
        torch.testing.assert_close(eager(measured, image), plain, rtol=0, atol=0)
    with torch.inference_mode():
        torch.testing.assert_close(eager(measured, image.clone()), plain, rtol=0, atol=0)


def test_names_are_found_by_address_call_and_alias(tiny):
    assert find_layer(tiny, "conv2").address == "conv2"
    assert find_layer(tiny, "relu#1").address == "relu#1"
    assert find_layer(tiny, "layer4").alias == "layer4"


def test_a_module_that_runs_more_than_once_needs_its_call(tiny):
    with pytest.raises(AmbiguousName, match=r"layer 'relu' names 3: relu#0, relu#1, relu#2"):
        find_layer(tiny, "relu")


@pytest.mark.parametrize(
    ("name", "told"),
    [
        ("conv", "no layer 'conv'; nearest: conv3, conv2, conv1"),
        ("CONV2", "no layer 'CONV2'; nearest: conv2"),
        ("relu#3", "no layer 'relu#3'; nearest: relu#"),
        ("zzzz", "no layer 'zzzz'"),
    ],
)
def test_a_miss_names_the_nearest(tiny, name, told):
    with pytest.raises(LayerNotFound) as caught:
        find_layer(tiny, name)
    assert str(caught.value).startswith(told)


def test_a_module_without_a_map_is_told_so():
    class Unused(TinyNet):
        def __init__(self):
            super().__init__()
            self.spare = nn.Conv2d(3, 3, 1)

    model = Model(seeded(Unused), "u", input_size=(32, 32))
    with pytest.raises(LayerNotFound, match="it is a module of the network, but one that puts out no map"):
        find_layer(model, "spare")


def test_a_layer_that_one_image_skips_is_a_model_error():
    class Sometimes(TinyNet):
        def forward(self, x):
            return super().forward(x) if x.shape[2] == 32 else self.conv1(x).mean((2, 3))

    model = Model(seeded(Sometimes), "s", input_size=(32, 32))
    with pytest.raises(ModelError, match="did not reach conv2"):
        activations(model, unit_images(1, 3, 48, 48), ["conv2"])


def shrinking(steps):
    """Each unpadded 3x3 convolution takes 2 pixels off a side: a map remains from 2·steps + 1 on."""
    return Model(nn.Sequential(*(nn.Conv2d(3, 3, 3) for _ in range(steps))).eval(), "s", input_size=(40, 40))


@pytest.mark.parametrize("depth", [1, 3, 6])
def test_the_smallest_size_named_is_the_smallest_that_works(depth):
    model, address = shrinking(8), str(depth - 1)
    smallest = 2 * depth + 1
    check_size(model, [address], (smallest, smallest + 30))
    activations(model, unit_images(1, 3, smallest, smallest), [address])
    with pytest.raises(RuntimeError):
        activations(model, unit_images(1, 3, smallest - 1, smallest - 1), [address])
    with pytest.raises(
        ImageTooSmall, match=f"an image of {smallest - 1}x50 .* at least {smallest} on"
    ) as caught:
        check_size(model, [address], (smallest - 1, 50))
    assert caught.value.exit_code == 2


def test_a_later_call_of_a_reused_module_needs_its_own_size():
    class Reused(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 3, 5)

        def forward(self, x):
            return self.conv(self.conv(self.conv(x)))

    model = Model(Reused().eval(), "r", input_size=(40, 40))
    # 4 pixels a call: 5, 9 and 13
    assert [fits(model, [f"conv#{call}"], (9, 9)) for call in range(3)] == [True, True, False]
    with pytest.raises(ImageTooSmall, match="at least 13"):
        check_size(model, ["conv#2"], (12, 12))


def test_layers_before_the_trouble_take_small_images():
    model = shrinking(8)
    assert fits(model, ["0"], (3, 3)) and not fits(model, ["0", "3"], (3, 3))


def test_hooks_do_not_pile_up(tiny):
    before = state_of(tiny.net)["hooks"]
    for _ in range(3):
        activations(tiny, unit_images(1, 3, 32, 32), ["conv1", "relu#2", ""])
        fits(tiny, ["conv1"], (8, 8))
    assert state_of(tiny.net)["hooks"] == before


def test_one_channel_nets_take_luma():
    model = Model(seeded(lambda: TinyNet(1)), "grey", mean=(0.4,), std=(0.2,), input_size=(32, 32))
    image = unit_images(1, 3, 32, 32)
    luma = 0.299 * image[:, :1] + 0.587 * image[:, 1:2] + 0.114 * image[:, 2:]
    expected = model.net.conv1((luma - 0.4) / 0.2)
    torch.testing.assert_close(activations(model, image, ["conv1"])["conv1"], expected)


def test_channels_last_maps_arrive_channels_first():
    class Last(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 2, stride=2)
            self.norm = nn.LayerNorm(4)
            self.act = nn.ReLU(inplace=True)

        def forward(self, x):
            return self.act(self.norm(self.conv(x).permute(0, 2, 3, 1))).mean((1, 2))

    model = Model(seeded(Last), "last", input_size=(16, 32))
    image = unit_images(2, 3, 16, 32)
    expected = model.net.norm(model.net.conv(model.normalise(image)).permute(0, 2, 3, 1))
    found = activations(model, image, ["norm", ""])
    torch.testing.assert_close(found["norm"], expected.permute(0, 3, 1, 2))
    torch.testing.assert_close(found[""], expected.clamp(min=0).mean((1, 2)))


def test_tiny_models_are_alike():
    assert tiny_model().digest == tiny_model().digest
