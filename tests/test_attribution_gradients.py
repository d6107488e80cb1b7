import functools
import inspect

import captum.attr
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from little import Little, little_image, little_model
from oracles import LAYERS, case, difference, ours, quietly
from torch import nn

import featviz
from featviz.attribution import METHODS
from featviz.attribution import gradients as module
from featviz.attribution.batches import in_batches
from featviz.errors import ImageTooSmall, InvalidValue, ModelError, NoActivations
from featviz.layer_table import layer_table
from featviz.types import OUTPUT, Model, Objective

METHODS_OF_THE_IMAGE = list(module.GRADIENTS)


@functools.cache
def shared(name, dtype=torch.float64):
    return case(name, 64, dtype)


@pytest.mark.parametrize("name", LAYERS)
@pytest.mark.parametrize("method", METHODS_OF_THE_IMAGE)
def test_equals_its_oracle(method, name):
    # captum's nodes of integrated gradients agree with ours to 1e-8 only
    assert difference(method, shared(name)) <= (1e-7 if method == "integrated-gradients" else 1e-9)


@pytest.mark.parametrize("method", [*METHODS_OF_THE_IMAGE, "smoothgrad"])
def test_equals_its_oracle_in_single_precision(method):
    assert difference(method, shared("squeezenet1_1", torch.float32)) <= 1e-5


@pytest.mark.parametrize("name", ["resnet18", "efficientnet_lite0"])
def test_smoothgrad_equals_its_oracle(name):
    assert difference("smoothgrad", shared(name)) <= 1e-9


# --------------------------------------------------------------------- small networks, by hand


@pytest.fixture
def little():
    return little_model()


@pytest.fixture
def image():
    return little_image()


def by_hand(model, image, score):
    x = image.clone().requires_grad_(True)
    return torch.autograd.grad(score(model.normalise(x)), x)[0][0]


def test_one_attribution_for_each_objective_in_their_order(little, image):
    objectives = [featviz.class_(2), featviz.class_(0), featviz.class_(2) - featviz.class_(0)]
    made = METHODS["gradient"](little, image, objectives)
    assert [one.target for one in made] == ["class:2", "class:0", "class:2 - class:0"]
    torch.testing.assert_close(made[2].raw, made[0].raw - made[1].raw)
    logits = little(image)[0]
    torch.testing.assert_close(torch.tensor([one.score for one in made[:2]]), logits[[2, 0]].float())
    assert made[0].method == "gradient" and made[0].size == (16, 12) and made[0].raw.shape == (3, 16, 12)


@pytest.mark.parametrize(
    ("target", "score"),
    [
        ("second:1", lambda net, x: net.second(F.relu(net.first(x)))[0, 1].mean()),
        ("second:1@2,5", lambda net, x: net.second(F.relu(net.first(x)))[0, 1, 2, 5]),
        ("relu#0:3@9,1", lambda net, x: F.relu(net.first(x))[0, 3, 9, 1]),
        (
            "2*second:0 - first:1",
            lambda net, x: 2 * net.second(F.relu(net.first(x)))[0, 0].mean() - net.first(x)[0, 1].mean(),
        ),
    ],
)
def test_any_neuron_is_explained(little, image, target, score):
    (made,) = METHODS["gradient"](little, image, [featviz.objective_of(little, target)])
    torch.testing.assert_close(made.raw, by_hand(little, image, lambda x: score(little.net, x)))


def test_guided_explains_a_neuron_by_the_calls_before_it(little, image):
    (made,) = METHODS["guided-backprop"](little, image, [featviz.neuron("second", 1, (2, 5))])
    assert made.notes == {"rule": "guided", "rewritten_calls": 1}
    x = image.clone().requires_grad_(True)
    first = little.net.first(little.normalise(x))
    upper = torch.autograd.grad(little.net.second(F.relu(first))[0, 1, 2, 5], first, retain_graph=True)[0]
    torch.testing.assert_close(made.raw, torch.autograd.grad(first, x, upper.clamp(min=0))[0][0])


def test_the_whole_network_counts_each_call_of_the_one_module(little, image):
    (made,) = METHODS["deconvnet"](little, image, [featviz.class_(1)])
    assert made.notes == {"rule": "deconvnet", "rewritten_calls": 2}


def test_a_target_below_every_activation_is_an_error_not_a_picture(little, image):
    with pytest.raises(NoActivations):
        METHODS["guided-backprop"](little, image, [featviz.channel("first", 0)])


def test_gradients_are_signed_and_of_the_image_in_0_to_1(little, image):
    """A gradient through the normalisation is that of the normalised image divided by the deviation."""
    (made,) = METHODS["gradient"](little, image, [featviz.class_(0)])
    x = little.normalise(image).requires_grad_(True)
    inner = torch.autograd.grad(little.net(x)[0, 0], x)[0][0]
    torch.testing.assert_close(made.raw, inner / torch.tensor(little.std, dtype=torch.float64).view(3, 1, 1))
    assert made.raw.min() < 0 < made.raw.max()


# -------------------------------------------------------------------------- integrated gradients


def test_integrated_gradients_are_exact_for_a_polynomial():
    """n nodes of Gauss–Legendre are exact up to degree 2n - 1: the gradient of a cubic takes two."""

    class Cubic(nn.Module):
        def forward(self, x):
            return x.pow(3).sum((2, 3))

    model = Model(Cubic(), "cubic", (0.0,) * 3, (1.0,) * 3, (4, 4))
    x = torch.rand(1, 3, 4, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for baseline, start in (("black", 0.0), ("grey", 0.5), ("white", 1.0)):
        (made,) = METHODS["integrated-gradients"](model, x, [featviz.class_(1)], steps=2, baseline=baseline)
        torch.testing.assert_close(made.raw[1], (x.pow(3) - start**3)[0, 1])
        assert abs(made.notes["completeness_error"]) < 1e-12
        assert made.notes["difference"] == pytest.approx(float((x.pow(3) - start**3)[0, 1].sum()))


def test_completeness_error_is_measured(little, image):
    run = functools.partial(METHODS["integrated-gradients"], little, image, [featviz.class_(0)])
    coarse, fine = run(steps=1)[0], run(steps=300)[0]
    assert abs(fine.notes["completeness_error"]) < 1e-4 < abs(coarse.notes["completeness_error"])
    wanted = (little(image)[0, 0] - little(torch.zeros_like(image))[0, 0]).item()
    assert fine.notes["difference"] == pytest.approx(wanted)
    error = float(coarse.raw.sum() - wanted)
    assert coarse.notes["completeness_error"] == pytest.approx(error)


def test_integrated_gradients_from_an_image_and_from_the_mean(little, image):
    start = torch.rand(1, 3, 16, 12, dtype=torch.float64)
    (made,) = METHODS["integrated-gradients"](little, image, [featviz.class_(0)], steps=400, baseline=start)
    assert made.notes["baseline"] == "image"
    assert float(made.raw.sum()) == pytest.approx(
        (little(image)[0, 0] - little(start)[0, 0]).item(), abs=1e-4
    )
    (mean,) = METHODS["integrated-gradients"](little, image, [featviz.class_(0)], baseline="mean")
    before = little.net(torch.zeros_like(image))[0, 0]
    assert mean.notes["difference"] == pytest.approx((little(image)[0, 0] - before).item(), abs=1e-6)


def test_batches_change_nothing(little, image):
    for method, settings in (("integrated-gradients", {"steps": 7}), ("smoothgrad", {"samples": 7})):
        run = functools.partial(
            METHODS[method], little, image, [featviz.class_(0), featviz.class_(1)], **settings
        )
        for one, other in zip(run(batch=1), run(batch=4), strict=True):
            torch.testing.assert_close(one.raw, other.raw)


# ------------------------------------------------------------------------------------ smoothgrad


@pytest.mark.parametrize("of", METHODS_OF_THE_IMAGE)
def test_smoothgrad_without_noise_is_the_method_itself(little, image, of):
    (plain,) = METHODS[of](little, image, [featviz.class_(1)])
    (smooth,) = METHODS["smoothgrad"](little, image, [featviz.class_(1)], of=of, samples=3, noise=0.0)
    torch.testing.assert_close(smooth.raw, plain.raw)
    assert smooth.notes["of"] == of and smooth.notes.get("rule") == plain.notes.get("rule")
    assert smooth.notes.get("rewritten_calls") == plain.notes.get("rewritten_calls")


def test_smoothgrad_follows_its_seed(little, image):
    run = functools.partial(METHODS["smoothgrad"], little, image, [featviz.class_(1)], samples=2)
    assert torch.equal(run(seed=1)[0].raw, run(seed=1)[0].raw)
    assert not torch.equal(run(seed=1)[0].raw, run(seed=2)[0].raw)
    assert run()[0].notes["sigma"] == pytest.approx(0.15 * float(image.max() - image.min()))


def test_defaults_are_the_papers():
    settings = inspect.signature(METHODS["smoothgrad"]).parameters
    assert (settings["noise"].default, settings["samples"].default) == (0.15, 25)


# ----------------------------------------------------------------------------- faults of others


def state_of(net):
    """Everything about a network that a tool might leave changed."""
    return (
        {name: tensor.clone() for name, tensor in net.state_dict().items()},
        [
            (type(m), m.training, len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks))
            for m in net.modules()
        ],
        [(p.requires_grad, p.grad is None) for p in net.parameters()],
    )


def same(one, other):
    return all(torch.equal(one[0][k], other[0][k]) for k in one[0]) and one[1:] == other[1:]


@pytest.mark.parametrize("method", [name for name in METHODS if name not in {"occlusion", "rise"}])
def test_the_model_is_left_as_found_also_in_training_mode_and_after_an_error(little, image, method):
    little.net.train()
    little.net.pool.eval()
    before = state_of(little.net)
    first = METHODS[method](little, image, [featviz.class_(1)])[0]
    assert same(before, state_of(little.net))
    second = METHODS[method](little, image, [featviz.class_(1)])[0]
    assert torch.equal(first.raw, second.raw)  # a guided ReLU left in place doubles the second gradient

    def fails(_activations):
        raise ZeroDivisionError

    with pytest.raises((ZeroDivisionError, ModelError)):
        METHODS[method](little, image, [Objective((OUTPUT,), fails, "fails")])
    assert same(before, state_of(little.net))


@pytest.mark.parametrize("around", [torch.no_grad, torch.inference_mode])
@pytest.mark.parametrize("method", [name for name in METHODS if name not in {"occlusion", "rise"}])
def test_frozen_weights_and_gradients_off_around_it(little, image, method, around):
    wanted = METHODS[method](little, image, [featviz.class_(1)])[0].raw
    little.net.requires_grad_(False)
    with around():
        made = METHODS[method](little, image.clone(), [featviz.class_(1)])[0]
    assert torch.equal(made.raw, wanted) and not made.raw.requires_grad


def test_in_place_and_not_in_place_agree(little, image):
    twin = Little(inplace=False).double().eval()
    twin.load_state_dict(little.net.state_dict())
    other = Model(twin, "twin", input_size=(16, 12))
    for method in ("gradient", "guided-backprop", "deconvnet"):
        made = [METHODS[method](model, image, [featviz.class_(1)])[0].raw for model in (little, other)]
        assert torch.equal(*made)


def test_captum_misses_the_functional_relus_that_we_count():
    """The fault that the rules exist for: captum's guided map of GoogLeNet is the plain gradient."""
    given = shared("googlenet")
    x = given.image.clone().requires_grad_(True)
    with quietly():
        captums = captum.attr.GuidedBackprop(given.pixels).attribute(x, target=given.target)[0]
    assert torch.equal(captums, ours("gradient", given).raw)
    made = ours("guided-backprop", given)
    assert made.notes["rewritten_calls"] == 57
    assert (made.raw - captums).abs().max() > 0.1 * captums.abs().max()


def test_the_forward_stops_at_the_target(little, image):
    def late(_module, _inputs, _output):
        raise AssertionError("ran past the target")

    layer_table(little)  # runs the network once on its own
    handle = little.net.fc.register_forward_hook(late)
    METHODS["gradient"](little, image, [featviz.channel("second", 0)])
    handle.remove()


def test_one_forward_serves_all_targets(little, image):
    layer_table(little)  # runs the network once on its own
    calls = []
    handle = little.net.first.register_forward_hook(lambda *_: calls.append(1))
    METHODS["guided-backprop"](little, image, [featviz.class_(i) for i in range(3)])
    handle.remove()
    assert len(calls) == 1


def test_memory_that_runs_out_halves_the_batch_and_other_errors_pass():
    sizes = []

    def work(start, stop):
        sizes.append(stop - start)
        if stop - start > 3:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return list(range(start, stop))

    assert [i for made in in_batches(10, 8, work) for i in made] == list(range(10))
    assert sizes == [8, 4, 2, 2, 2, 2, 2]

    def too_small(start, stop):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with pytest.raises(torch.OutOfMemoryError):
        list(in_batches(4, 4, too_small))

    def wrong(start, stop):
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        list(in_batches(4, 4, wrong))


# ---------------------------------------------------------------------------------- errors, ViT


def test_errors_name_the_bad_value(little, image):
    target = [featviz.class_(0)]
    for settings, message in (
        ({"of": "gradent"}, "'gradent'; nearest: gradient"),
        ({"samples": 0}, "0 samples"),
        ({"noise": -1.0}, "noise -1"),
        ({"batch": 0}, "batch 0: at least 1"),
    ):
        with pytest.raises(InvalidValue, match=message):
            METHODS["smoothgrad"](little, image, target, **settings)
    with pytest.raises(InvalidValue, match="'blak'; nearest: black"):
        METHODS["integrated-gradients"](little, image, target, baseline="blak")
    with pytest.raises(InvalidValue, match="in 0 steps: at least 1"):
        METHODS["integrated-gradients"](little, image, target, steps=0)
    with pytest.raises(InvalidValue, match=r"baseline \(1, 3, 2, 2\)"):
        METHODS["integrated-gradients"](little, image, target, baseline=torch.zeros(1, 3, 2, 2))
    with pytest.raises(InvalidValue, match=r"\(1, 3, h, w\) in \[0, 1\], not \(3, 16, 12\)"):
        METHODS["gradient"](little, image[0], target)
    with pytest.raises(InvalidValue, match="at least one target"):
        METHODS["gradient"](little, image, [])


def test_too_small_an_image_is_named():
    model = featviz.load("squeezenet1_1", untrained=True, device="cpu")
    with pytest.raises(ImageTooSmall, match="16x16"):
        METHODS["gradient"](model, torch.rand(1, 3, 16, 16), [featviz.class_(0)])


def test_compiled_networks_are_refused_by_name(little, image):
    little.net.compile()
    with pytest.raises(ModelError, match="Little is compiled"):
        METHODS["guided-backprop"](little, image, [featviz.class_(0)])


@functools.cache
def vit():
    return featviz.load("timm/vit_tiny_patch16_224", untrained=True, device="cpu", input_size=64)


@pytest.mark.parametrize("method", [*METHODS_OF_THE_IMAGE, "smoothgrad"])
def test_transformers_have_gradients(method):
    x = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    settings = {"samples": 2} if method == "smoothgrad" else {}
    (made,) = METHODS[method](vit(), x, [featviz.class_(3)], **settings)
    assert made.raw.shape == (3, 64, 64) and np.isfinite(made.raw.numpy()).all() and made.raw.any()
    if "rule" in made.notes:
        assert made.notes["rewritten_calls"] == 12  # one GELU a block
    if method == "gradient":
        torch.testing.assert_close(made.raw, by_hand(vit(), x, lambda y: vit().net(y)[0, 3]))


def test_one_channel_networks_get_a_gradient_for_each_colour():
    net = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.LazyLinear(2)).double()
    net(torch.zeros(1, 1, 8, 8).double())
    model = Model(net.eval(), "grey", (0.5,), (0.25,), (8, 8))
    x = torch.rand(1, 3, 8, 8, dtype=torch.float64)
    (made,) = METHODS["gradient"](model, x, [featviz.class_(0)])
    # Rec. 601 luma weighs the colours by .299, .587 and .114
    torch.testing.assert_close(made.raw[1] / 0.587, made.raw[0] / 0.299)
    assert made.raw.any()
