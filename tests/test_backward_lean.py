"""The lean backward beside plain autograd: the same gradient, and only what it needs kept."""

import gc
import weakref

import pytest
import timm
import torch
import torchvision
from conftest import TinyNet, seeded
from torch import nn
from torch.nn import functional as F

import featviz
from featviz.backward import bits
from featviz.backward import lean as lean_module
from featviz.backward.lean import KEEPING, LEAN, Lean
from featviz.backward.rules import RULES, ReluRule
from featviz.statistics import NormStatistics


@pytest.fixture(autouse=True)
def nothing_too_small(monkeypatch):
    monkeypatch.setattr(lean_module, "SMALL", 0)


def image(*shape, seed=0, dtype=torch.float64):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def gradient_of(function, x, weights=None):
    """The gradient of a weighted sum of what a function gives, so that no symmetry hides an error."""
    leaf = x.clone().requires_grad_(True)
    made = function(leaf * 1.0)  # not a leaf, so that functions may work in place
    weights = image(*made.shape, seed=5, dtype=made.dtype) if weights is None else weights
    return torch.autograd.grad((made * weights).sum(), leaf)[0]


def kept(function, x):
    """Bytes of all tensors kept for the backward, each once, weights of the image's graph apart."""
    storages = {}

    def note(tensor):
        storages[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    leaf = x.clone().requires_grad_(True) * 1.0
    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        function(leaf)
    return sum(storages.values())


WEIGHT = image(6, 4, 3, 3, seed=1)
BIAS = image(6, seed=2)
CALLS = {
    "conv1d": (lambda x: F.conv1d(x, WEIGHT[..., 0], BIAS, 2, 1), (2, 4, 13)),
    "conv2d": (lambda x: F.conv2d(x, WEIGHT, BIAS, stride=2, padding=1), (2, 4, 13, 10)),
    "conv2d grouped": (lambda x: F.conv2d(x, WEIGHT[:4, :2], padding=(0, 1), groups=2), (1, 4, 9, 8)),
    "conv2d depthwise": (lambda x: F.conv2d(x, WEIGHT[:4, :1], None, (2, 1), 1, 1, 4), (1, 4, 9, 8)),
    "conv2d dilated": (lambda x: F.conv2d(x, WEIGHT, BIAS, 1, 2, 2), (2, 4, 9, 8)),
    "conv2d same": (lambda x: F.conv2d(x, WEIGHT, padding="same", dilation=(1, 2)), (1, 4, 9, 8)),
    "conv2d valid": (lambda x: F.conv2d(x, WEIGHT, padding="valid"), (1, 4, 9, 8)),
    "conv3d": (lambda x: F.conv3d(x, WEIGHT[..., None], BIAS, padding=1), (1, 4, 5, 6, 4)),
    "conv_transpose2d": (
        lambda x: F.conv_transpose2d(x, WEIGHT[:4].transpose(0, 1)[:4], None, 2, 1, 1),
        (1, 4, 5, 6),
    ),
    "batch_norm": (
        lambda x: F.batch_norm(x, BIAS[:4], BIAS[:4].abs() + 0.1, BIAS[1:5], BIAS[2:]),
        (2, 4, 5, 6),
    ),
    "batch_norm plain": (lambda x: F.batch_norm(x, BIAS[:4], BIAS[:4].abs() + 0.1), (2, 4, 7)),
    "relu": (F.relu, (2, 3, 5, 7)),
    "relu_": (torch.relu_, (2, 3, 5, 7)),
    "relu in place": (lambda x: F.relu(x, inplace=True), (1, 3, 5, 7)),
    "relu6": (lambda x: F.relu6(4 * x), (2, 3, 5, 7)),
    "relu6 in place": (lambda x: F.relu6(x, inplace=True), (2, 3, 5, 7)),
    "hardtanh": (lambda x: F.hardtanh(x, -0.5, 0.7), (2, 3, 5, 7)),
    "hardsigmoid": (lambda x: F.hardsigmoid(4 * x), (2, 3, 5, 7)),
    "leaky_relu": (lambda x: F.leaky_relu(x, 0.2), (2, 3, 5, 7)),
    "leaky_relu in place": (lambda x: F.leaky_relu(x, 0.2, inplace=True), (2, 3, 5, 7)),
    "max_pool2d": (lambda x: F.max_pool2d(x, 3, 2, 1), (2, 3, 9, 12)),
    "max_pool2d oblong": (lambda x: F.max_pool2d(x, (2, 3), (3, 1), (1, 0), (1, 2)), (2, 3, 9, 12)),
    "max_pool2d beyond": (lambda x: F.max_pool2d(x, 2, ceil_mode=True), (1, 2, 5, 7)),
    "avg_pool2d": (lambda x: F.avg_pool2d(x, 3, 2, 1, count_include_pad=False), (2, 3, 9, 12)),
    "adaptive_avg_pool2d": (lambda x: F.adaptive_avg_pool2d(x, (3, 2)), (2, 3, 7, 8)),
    "linear": (lambda x: F.silu(F.linear(x, torch.cat([WEIGHT[:, :, 0, 0]] * 2))), (2, 3, 4)),
    "layer_norm": (lambda x: F.gelu(F.layer_norm(x, (4,), BIAS[:4], BIAS[2:])), (2, 3, 4)),
    "permute": (lambda x: F.silu(norm(x).permute(0, 2, 3, 1)), (2, 4, 5, 6)),
    "silu": (F.silu, (2, 3, 5, 7)),
    "silu_": (torch._C._nn.silu_, (2, 3, 5, 7)),
    "silu in place": (lambda x: F.silu(x, inplace=True), (2, 3, 5, 7)),
    "silu of a norm in place": (lambda x: F.silu(norm(x), inplace=True), (2, 4, 5, 7)),
    "hardswish": (lambda x: F.hardswish(4 * x), (2, 3, 5, 7)),
    "hardswish in place": (lambda x: F.hardswish(norm(x), True), (2, 4, 5, 7)),
    "mish": (F.mish, (2, 3, 5, 7)),
    "mish in place": (lambda x: F.mish(x, inplace=True), (2, 3, 5, 7)),
    "gelu": (F.gelu, (2, 3, 5, 7)),
    "gelu by tanh": (lambda x: F.gelu(x, approximate="tanh"), (2, 3, 5, 7)),
    "mul": (lambda x: gated(x) * F.silu(x), (2, 4, 5, 7)),
    "mul the other way": (lambda x: F.silu(x) * gated(x), (2, 4, 5, 7)),
    "mul_": (lambda x: F.silu(norm(x)).mul_(gated(x)), (2, 4, 5, 7)),
    "multiply": (lambda x: torch.multiply(F.silu(x), gated(x)), (2, 4, 5, 7)),
}


def norm(x):
    return F.batch_norm(x, BIAS[:4], BIAS[:4].abs() + 0.1, BIAS[1:5], BIAS[2:])


def gated(x):
    return x.mean((2, 3), keepdim=True).sigmoid()


def wide(x):
    """What an inverted bottleneck does: widen, gate smoothly, go over each channel, weigh the channels."""
    weight = torch.cat([WEIGHT[..., :1, :1]] * 4)
    x = F.silu(norm6(F.conv2d(x, weight)), inplace=True)
    x = F.silu(norm6(F.conv2d(x, WEIGHT[:, :1].repeat(4, 1, 1, 1), None, 1, 1, 1, 24)), inplace=True)
    return x * gated(x)


def norm6(x):
    each = torch.cat([BIAS] * 4)
    return F.batch_norm(x, each, each.abs() + 0.1, each, each)


@pytest.mark.parametrize("name", CALLS)
def test_gradients_equal_plain_autograd(name):
    function, shape = CALLS[name]
    x = image(*shape)
    plain = gradient_of(function, x)
    with Lean() as mode:
        found = gradient_of(function, x)
        assert kept(function, x) <= kept_plainly(function, x)
    assert mode.calls.total() >= 1
    close = 1e-7 if name == "hardsigmoid" else 1e-12  # torch's own sixth is a float32
    torch.testing.assert_close(found, plain, rtol=close, atol=1e-12)


def kept_plainly(function, x):
    with torch._C.DisableTorchFunction():
        return kept(function, x)


def test_every_function_is_tried_here():
    tried = {name.split(" ")[0] for name in CALLS}
    untried = {"conv_transpose1d", "conv_transpose3d", "hardtanh_", "leaky_relu_", "hardswish_", "mish_"}
    assert {*LEAN, *KEEPING} - tried == untried


LAST = ["conv2d", "batch_norm", "relu", "relu6", "max_pool2d", "avg_pool2d", "silu of a norm in place", "mul"]


@pytest.mark.parametrize("name", LAST)
def test_channels_last(name):
    function, shape = CALLS[name]
    x = image(*(shape if len(shape) == 4 else (2, 3, 5, 7))).contiguous(memory_format=torch.channels_last)
    with Lean():
        found = gradient_of(function, x)
    torch.testing.assert_close(found, gradient_of(function, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("value", [0.0, 6.0, -0.0])
@pytest.mark.parametrize("function", [F.relu, F.relu6, F.hardtanh, F.hardsigmoid, F.leaky_relu])
def test_bounds_pass_what_plain_autograd_passes(function, value):
    x = torch.full((2, 5), value)
    with Lean():
        found = gradient_of(function, x)
    torch.testing.assert_close(found, gradient_of(function, x))


@pytest.mark.parametrize("count", [1, 7, 8, 9, 63, 64, 65, 1000, bits.PART - 1, bits.PART + 3, 2 * bits.PART])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_bits_are_what_was_asked(count, dtype):
    x = image(count, dtype=torch.float64).to(dtype)
    packed = bits.pack(x, -0.5, 0.5)
    assert packed.dtype == torch.uint8 and packed.numel() == -(-count // 8)
    g = image(count, seed=3).to(dtype)
    wanted = torch.where((x > -0.5) & (x < 0.5), g, torch.zeros_like(g))
    torch.testing.assert_close(bits.times(g, packed, 1.0, 0.0), wanted, rtol=0, atol=0)


def test_what_learns_is_left_to_plain_autograd():
    x, weight = image(1, 4, 6, 6).requires_grad_(True), WEIGHT.clone().requires_grad_(True)
    norm = nn.BatchNorm2d(6).double()
    with Lean() as mode:
        made = norm(F.conv2d(x, weight))
    assert mode.calls.total() == 0
    found = torch.autograd.grad(made.square().sum(), [x, weight])
    assert all(each.abs().sum() > 0 for each in found)


def test_a_picture_kept_elsewhere_is_not_overwritten():
    """A gate in place tells autograd so, which refuses a backward that needs what it overwrote."""
    x = image(2, 3, 4, 4).requires_grad_(True)
    with Lean():
        y = x * 1.0
        squared = y.square()
        F.relu(y, inplace=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        squared.sum().backward()


def test_what_was_kept_stays_what_it_was_where_a_network_works_in_place():
    """Plain autograd keeps nothing of what a frozen linear layer takes, so that it may be written into."""

    def residual(x):
        hidden = F.silu(F.linear(x, torch.cat([WEIGHT[:, :, 0, 0]] * 2)))
        x += F.linear(hidden, torch.cat([WEIGHT[:, :, 1, 1]] * 2).t())
        x[:, 0] = 0.5
        x.view(-1)[3:] *= 2
        F.dropout(x, 0.0, True, True)
        return F.silu(x)

    x = image(2, 5, 4)
    with Lean() as mode:
        found = gradient_of(residual, x)
    assert mode.calls["silu"] == 2
    torch.testing.assert_close(found, gradient_of(residual, x), rtol=1e-12, atol=1e-12)


def test_a_write_that_nobody_saw_is_an_error_and_no_picture():
    x = image(2, 5, 4).requires_grad_(True)
    with Lean():
        y = x * 1.0
        made = F.silu(F.linear(y, torch.cat([WEIGHT[:, :, 0, 0]] * 2)))
    y.detach().mul_(2)
    with pytest.raises(RuntimeError, match="inplace operation"):
        made.sum().backward()


def test_what_several_ask_for_is_made_once_and_then_let_go():
    x = image(2, 4, 16, 16)
    with Lean() as mode:
        leaf = x.clone().requires_grad_(True)
        made = wide(leaf)
        once, again = (torch.autograd.grad(made.sum(), leaf, retain_graph=True)[0] for _ in range(2))
        assert mode.calls["silu"] == 2 and mode.calls["mul"] == 1
        assert kept(wide, x) < 0.3 * kept_plainly(wide, x)
    leaf = x.clone().requires_grad_(True)
    plain = torch.autograd.grad(wide(leaf).sum(), leaf)[0]
    torch.testing.assert_close(once, plain, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(again, plain, rtol=1e-12, atol=1e-12)


def test_nothing_lives_on_after_the_backward():
    """Neither cycles nor notes on tensors hold what a forward made."""
    gc.collect()
    gc.disable()
    try:
        before = sum(type(each) is torch.Tensor for each in gc.get_objects())
        with Lean():
            gradient_of(wide, image(2, 4, 16, 16))
        assert sum(type(each) is torch.Tensor for each in gc.get_objects()) <= before
    finally:
        gc.enable()


@pytest.mark.parametrize("inner", [ReluRule(RULES["redirected"]), NormStatistics()])
def test_other_modes_see_the_calls_within(inner):
    with inner:
        plain = gradient_of(wide, image(2, 4, 16, 16))
    with Lean(), inner:
        found = gradient_of(wide, image(2, 4, 16, 16))
    torch.testing.assert_close(found, plain, rtol=1e-12, atol=1e-12)


def test_transformers_keep_less():
    net = seeded(lambda: timm.create_model("vit_tiny_patch16_224")).requires_grad_(False).double()
    x = image(1, 3, 224, 224)
    plain = gradient_of(net, x)
    with Lean():
        found = gradient_of(net, x)
        less = kept(net, x) - weights_kept(net, net, x)
    assert float((found - plain).norm() / plain.norm()) < 1e-10
    assert less < 0.65 * (kept(net, x) - weights_kept(net, net, x))


NETS = {
    "resnet18": 20,
    "resnet50": 20,
    "vgg16": 10,
    "googlenet": 10,
    "densenet121": 20,
    "mobilenet_v2": 20,
    "efficientnet_b0": 12,
    "convnext_tiny": 5,
}
"""Network -> how many times less is kept, in whole numbers, for one image of 96 pixels."""


def network(name):
    more = {"init_weights": False} if name == "googlenet" else {}
    return seeded(lambda: torchvision.models.get_model(name, **more)).requires_grad_(False)


@pytest.mark.parametrize("name", NETS)
def test_networks_have_the_same_gradient(name):
    net = network(name).double()
    x = image(1, 3, 96, 96)
    plain = gradient_of(net, x)
    with Lean():
        found = gradient_of(net, x)
    assert float((found - plain).norm() / plain.norm()) < 1e-10


def test_the_embedded_model_has_the_same_gradient(embedded):
    x = image(1, 3, 96, 128)
    net = embedded.net.double()
    try:
        plain = gradient_of(net, x)
        with Lean():
            found = gradient_of(net, x)
    finally:
        net.float()
    assert float((found - plain).norm() / plain.norm()) < 1e-10


@pytest.mark.parametrize("name", ["resnet18", "mobilenet_v2", "efficientnet_b0", "convnext_tiny"])
def test_single_precision(name):
    net, x = network(name), image(1, 3, 96, 96, dtype=torch.float32)
    plain = gradient_of(net, x)
    with Lean():
        found = gradient_of(net, x)
    assert float((found - plain).norm() / plain.norm()) < 1e-5


@pytest.mark.parametrize("name", NETS)
def test_less_is_kept(name):
    net = network(name)
    weights = sum(each.untyped_storage().nbytes() for each in [*net.parameters(), *net.buffers()])
    x = image(1, 3, 224, 224, dtype=torch.float32)

    def of_the_image(run):
        return max(1, kept(run, x) - weights_kept(net, run, x))

    plain = of_the_image(net)
    with Lean():
        lean = of_the_image(net)
    assert weights > 0 and plain / lean >= NETS[name]


def weights_kept(net, run, x):
    own = {each.untyped_storage()._cdata for each in [*net.parameters(), *net.buffers()]}
    found = {}

    def note(tensor):
        if tensor.untyped_storage()._cdata in own:
            found[tensor.untyped_storage()._cdata] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(note, lambda tensor: tensor):
        run(x.clone().requires_grad_(True) * 1.0)
    return sum(found.values())


def test_no_weights_change_and_no_gradients_are_left():
    net = seeded(TinyNet).requires_grad_(False)
    before = {name: each.clone() for name, each in net.state_dict().items()}
    with Lean():
        gradient_of(net, image(2, 3, 40, 56, dtype=torch.float32))
    assert all(torch.equal(before[name], each) for name, each in net.state_dict().items())
    assert all(each.grad is None for each in net.parameters())


def test_a_batch_gives_each_what_it_has_alone():
    net = seeded(TinyNet).requires_grad_(False).double()
    x = image(3, 3, 40, 56)
    weights = image(3, 5, seed=5)
    with Lean():
        whole = gradient_of(net, x, weights)
        alone = [gradient_of(net, x[i : i + 1], weights[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(whole, torch.cat(alone), rtol=1e-10, atol=1e-12)


def test_padding_as_in_tensorflow():
    """timm's padding before the convolution, as the embedded model has it."""
    net = timm.layers.Conv2dSame(4, 6, 3, stride=2).double().requires_grad_(False)
    x = image(1, 4, 8, 9)
    with Lean():
        found = gradient_of(net, x)
    torch.testing.assert_close(found, gradient_of(net, x), rtol=1e-12, atol=1e-12)


def test_under_autocast():
    """As near to the gradient in full precision as plain autograd comes."""
    net, x = network("resnet18"), image(1, 3, 96, 96, dtype=torch.float32)
    exact = gradient_of(net, x)
    with torch.autocast("cpu", torch.bfloat16):
        plain = gradient_of(net, x)
        with Lean():
            found = gradient_of(net, x)
        with Lean():
            assert net.conv1(x.requires_grad_(True)).dtype == torch.bfloat16
    assert found.dtype == torch.float32
    assert float((found - exact).norm()) < 1.2 * float((plain - exact).norm())


def test_the_library_uses_it_and_can_do_without(tiny, small_photo):
    with_it = featviz.dream(tiny, small_photo, "conv2", steps=2)
    without = featviz.dream(tiny, small_photo, "conv2", steps=2, lean=False)
    assert float((with_it.image - without.image).abs().max()) < 1e-3


@pytest.mark.parametrize("after", [F.relu_, lambda y: y.add_(1), lambda y: F.silu(y, inplace=True)])
@pytest.mark.parametrize("pool", [F.max_pool2d, F.avg_pool2d])
def test_a_pool_may_be_followed_by_work_in_place(pool, after):
    x = image(1, 4, 12, 10)

    def net(x):
        return after(pool(F.conv2d(x, WEIGHT, BIAS), 2))

    with Lean():
        found = gradient_of(net, x)
    torch.testing.assert_close(found, gradient_of(net, x), rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(
    "make", [F.silu, lambda y: F.batch_norm(y, BIAS, BIAS.abs() + 1), lambda y: F.gelu(y)]
)
def test_a_view_of_what_is_made_again_is_not_written_into(make):
    x = image(1, 4, 9, 8)

    def net(x):
        y = make(F.conv2d(x, WEIGHT, BIAS))
        return torch.cat([F.silu(y), 3 * F.silu(y.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)], 1)

    with Lean():
        found = gradient_of(net, x)
    torch.testing.assert_close(found, gradient_of(net, x), rtol=1e-12, atol=1e-12)


def test_what_a_norm_takes_is_not_held_until_the_backward():
    alive = []

    def net(x):
        for _ in range(2):
            y = F.conv2d(x, WEIGHT[:4, :1], None, 1, 1, 1, 4)
            alive.append(weakref.ref(y))
            x = F.silu(F.batch_norm(y, BIAS[:4], BIAS[:4].abs() + 1))
        return x

    with Lean():
        made = net(F.silu(image(1, 4, 9, 8).requires_grad_(True)))
    gc.collect()
    assert made.requires_grad and [each() for each in alive] == [None, None]


def test_functions_of_torch_itself():
    x = image(2, 4, 6, 5)

    def net(x):
        y = torch.batch_norm(x, BIAS[:4], BIAS[1:5], BIAS[:4], BIAS[:4].abs() + 1, False, 0.1, 1e-5, False)
        return torch.layer_norm(y, [5], None, None, 1e-5, False)

    with Lean():
        found = gradient_of(net, x)
    torch.testing.assert_close(found, gradient_of(net, x), rtol=1e-12, atol=1e-12)
