import math

import pytest
import torch
import torchvision
from conftest import TinyNet, seeded, tiny_model
from torch import nn
from torch.nn import functional as F

from featviz.errors import ModelError
from featviz.layer_table import layer_table
from featviz.types import Model

ARCHITECTURES = (
    "resnet18", "vgg11", "densenet121", "squeezenet1_1", "mobilenet_v2", "convnext_tiny", "swin_t", "vit_b_16",
)  # fmt: skip


def on_meta(name, **more):
    with torch.device("meta"):
        net = torchvision.models.get_model(name, weights=None)
    return Model(net.eval(), name, **more)


@pytest.fixture(scope="module")
def zoo():
    return {name: on_meta(name) for name in ARCHITECTURES}


def by_name(model):
    table = layer_table(model)
    return {row.address: row for row in table} | {row.alias: row for row in table if row.alias}


def test_addresses_and_calls_of_a_net_with_a_reused_relu(tiny):
    assert [row.address for row in layer_table(tiny)] == [
        "conv1", "bn1", "relu#0", "pool", "conv2", "relu#1", "conv3", "relu#2", "head", "",
    ]  # fmt: skip


def test_shapes_and_strides_by_hand(tiny):
    rows = by_name(tiny)
    assert rows["conv1"].shape == (1, 6, 16, 16)
    assert rows["conv2"].shape == rows["relu#2"].shape == (1, 8, 4, 4)
    assert rows["head"].shape == rows[""].shape == (1, 5)
    assert (rows["conv1"].stride, rows["pool"].stride, rows["relu#1"].stride) == (2, 4, 8)
    assert rows["head"].stride is None and not rows["head"].spatial
    assert rows["conv2"].channels == 8
    assert rows["head"].receptive_field is None


def test_receptive_fields_of_the_tiny_net_by_hand(tiny):
    # 3; maxpool 3 + 2·2 = 7; conv2 7 + 2·4 = 15; conv3 15 + 2·8 = 31
    rows = by_name(tiny)
    found = [rows[name].receptive_field for name in ("conv1", "bn1", "relu#0", "pool", "conv2", "conv3")]
    assert found == [3, 3, 3, 7, 15, 31]


def test_resnet18_receptive_fields(zoo):
    # 7; pool 7+2·2=11; layer1 11+4·2·4=43; layer2 43+2·4+3·2·8=99; and so on
    rows = by_name(zoo["resnet18"])
    assert [rows[f"layer{k}"].receptive_field for k in (1, 2, 3, 4)] == [43, 99, 211, 435]
    assert [rows[f"layer{k}"].stride for k in (1, 2, 3, 4)] == [4, 8, 16, 32]


def positive_linear(net):
    """The same layout without what stops a gradient: every weight positive, pools averaging."""
    for name, module in list(net.named_modules()):
        parent = net.get_submodule(name.rpartition(".")[0])
        leaf = name.rpartition(".")[2]
        if isinstance(module, (nn.ReLU, nn.ReLU6, nn.BatchNorm2d, nn.Dropout)):
            setattr(parent, leaf, nn.Identity())
        elif isinstance(module, nn.MaxPool2d):
            pool = nn.AvgPool2d(module.kernel_size, module.stride, module.padding, ceil_mode=module.ceil_mode)
            setattr(parent, leaf, pool)
    for parameter in net.parameters():
        nn.init.constant_(parameter, 1e-2)
    return net.double()


@pytest.mark.parametrize(
    ("name", "layer", "side"),
    [("squeezenet1_1", "features.7", 160), ("resnet18", "layer2", 192), ("vgg11", "features.10", 128)],
)
def test_receptive_field_is_as_wide_as_the_gradient(zoo, name, layer, side):
    net = positive_linear(torchvision.models.get_model(name, weights=None))
    image = torch.zeros(1, 3, side, side, dtype=torch.float64, requires_grad=True)
    kept = []
    handle = net.get_submodule(layer).register_forward_hook(lambda m, i, out: kept.append(out))
    net(image)
    handle.remove()
    rows, columns = kept[0].shape[2:]
    (gradient,) = torch.autograd.grad(kept[0][0, :, rows // 2, columns // 2].sum(), image)
    touched = gradient.abs().sum((0, 1)) > 0
    extent = (int(touched.any(1).sum()), int(touched.any(0).sum()))
    assert extent[0] < side, "the picture must be wider than what is measured"
    assert extent == (by_name(zoo[name])[layer].receptive_field,) * 2


def test_dilation_and_transposed_convolution_count():
    net = nn.Sequential(
        nn.Conv2d(3, 2, 3, stride=2, padding=2, dilation=2),
        nn.ConvTranspose2d(2, 2, 2, stride=2),
        nn.Conv2d(2, 2, 3),
    )
    rows = by_name(Model(net, "n", input_size=(32, 32)))
    # 1+2·2·1=5, stride 2; transposed: 5+1·2=7, stride 1; 7+2·1=9
    assert [rows[str(k)].receptive_field for k in range(3)] == [5, 7, 9]


def test_global_operations_see_the_whole_image():
    class Gated(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)
            self.after = nn.Identity()

        def forward(self, x):
            x = self.conv(x)
            return self.after(x * x.mean((2, 3), keepdim=True).sigmoid())

    rows = by_name(Model(Gated(), "gated", input_size=(16, 16)))
    assert rows["conv"].receptive_field == 3
    assert math.isinf(rows["after"].receptive_field)


@pytest.mark.parametrize("name", ARCHITECTURES)
def test_every_architecture_has_addresses_that_exist_and_aliases_in_order(zoo, name):
    model = zoo[name]
    table = layer_table(model)
    modules = dict(model.net.named_modules())
    assert {row.address.partition("#")[0] for row in table} <= set(modules)
    assert len({row.address for row in table}) == len(table)
    rows, order = by_name(model), [row.address for row in table]
    stages = [rows[f"layer{k}"] for k in (1, 2, 3, 4)]
    positions = [order.index(row.address) for row in stages]
    assert positions == sorted(set(positions))
    if name not in ("vit_b_16", "squeezenet1_1"):  # one has no strides, the other ends at 16
        assert [row.stride for row in stages] == [4, 8, 16, 32]


@pytest.mark.parametrize(
    ("name", "ends"),
    [
        ("resnet18", {"stem": "relu", "layer1": "layer1", "layer4": "layer4"}),
        ("densenet121", {"stem": "features.relu0", "layer1": "features.denseblock1", "layer4": "features"}),
        ("vgg11", {"layer2": "features.14", "layer3": "features.19", "layer4": "features"}),
        ("squeezenet1_1", {"stem": "features.1", "layer1": "features.4", "layer2": "features.7"}),
        ("mobilenet_v2", {"layer1": "features.3", "layer2": "features.6", "layer3": "features.13"}),
        ("convnext_tiny", {"layer1": "features.1", "layer2": "features.3", "layer3": "features.5"}),
        ("swin_t", {"layer1": "features.1", "layer2": "features.3", "layer3": "features.5"}),
        ("vit_b_16", {f"layer{k}": f"encoder.layers.encoder_layer_{3 * k - 1}" for k in (1, 2, 3, 4)}),
    ],
)
def test_aliases_by_hand(zoo, name, ends):
    rows = by_name(zoo[name])
    assert {alias: rows[alias].address for alias in ends} == ends


def test_a_models_own_module_of_that_name_wins(zoo):
    row = by_name(zoo["resnet18"])["layer3"]
    assert (row.address, row.kind) == ("layer3", "Sequential")


def test_channels_last_maps_are_told_channels_first(zoo):
    swin = by_name(zoo["swin_t"])["features.1"]
    assert swin.channels_last and swin.shape == (1, 96, 56, 56)
    tokens = by_name(zoo["vit_b_16"])["encoder"]
    assert tokens.shape == (1, 197, 768) and tokens.channels == 768 and tokens.stride is None


def test_non_square_input_and_one_channel():
    net = seeded(lambda: TinyNet(1))
    rows = by_name(Model(net, "grey", mean=(0.5,), std=(0.5,), input_size=(32, 64)))
    assert rows["conv1"].shape == (1, 6, 16, 32)
    assert rows["conv1"].stride == 2


def test_a_net_that_asks_for_values_is_run_on_data():
    class Asking(nn.Module):
        def __init__(self):
            super().__init__()
            self.conv = nn.Conv2d(3, 4, 3, padding=1)

        def forward(self, x):
            x = self.conv(x)
            return x * 2 if float(x.sum()) > 0 else x

    assert by_name(Model(Asking(), "asking", input_size=(16, 16)))["conv"].shape == (1, 4, 16, 16)


def test_functional_calls_with_named_arguments_count():
    class Named(nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = nn.Parameter(torch.ones(2, 3, 5, 5))
            self.end = nn.Identity()

        def forward(self, x):
            x = F.conv2d(input=x, weight=self.weight, stride=2, padding=2)
            return self.end(F.max_pool2d(x, kernel_size=2))

    row = by_name(Model(Named(), "named", input_size=(32, 32)))["end"]
    assert (row.receptive_field, row.stride) == (7, 4)


def test_a_net_that_does_not_run_is_a_model_error():
    broken = Model(nn.Sequential(nn.Conv2d(7, 2, 3)), "broken", input_size=(16, 16))
    with pytest.raises(ModelError, match="broken does not run on an image of 16x16"):
        layer_table(broken)


class Stateful(TinyNet):
    """Runs only on data, so the table is made on the real buffers."""

    def forward(self, x):
        assert float(x.sum()) == float(x.sum())
        return super().forward(x)


@pytest.mark.parametrize("build", [TinyNet, Stateful])
def test_the_table_leaves_no_trace_on_a_net_in_training_mode(build):
    net = seeded(build).train()
    before = {name: tensor.clone() for name, tensor in net.state_dict().items()}
    rows = layer_table(Model(net, "training", input_size=(32, 32)))
    assert len(rows) == 10
    assert all(module.training for module in net.modules())
    assert not any(module._forward_hooks for module in net.modules())
    assert all(torch.equal(before[name], tensor) for name, tensor in net.state_dict().items())


def test_batch_norm_over_one_value_is_no_obstacle_in_training_mode():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.BatchNorm2d(4)).train()
    assert by_name(Model(net, "n", input_size=(16, 16)))["2"].shape == (1, 4, 1, 1)
    assert net.training and net[2].num_batches_tracked == 0


def test_the_table_is_made_once_for_a_net():
    model = tiny_model()
    assert layer_table(model) is layer_table(Model(model.net, "the same net", input_size=(32, 32)))
