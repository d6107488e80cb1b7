import copy
import math

import captum.attr
import pytest
import torch
import torch.nn.functional as F
from oracles import LAYERS, case, quietly
from torch import nn

import featviz
from featviz.backward import RULES, relu_rule
from featviz.backward.rules import Activated
from featviz.errors import InvalidValue, ModelError, NoActivations

X = torch.linspace(-7, 7, 57, dtype=torch.float64)  # holds 0 exactly
R = torch.tensor([1.5, -2.0, 0.0, 3.0], dtype=torch.float64).repeat(15)[: len(X)]


def relu_slope(x):
    return (x > 0).double()


def normal_cdf(x):
    return (1 + torch.erf(x / math.sqrt(2))) / 2


def gelu_slope(x):
    return normal_cdf(x) + x * torch.exp(-x * x / 2) / math.sqrt(2 * math.pi)


def silu_slope(x):
    s = 1 / (1 + torch.exp(-x))
    return s * (1 + x * (1 - s))


def hardswish_slope(x):
    return torch.where(x < -3, 0.0, torch.where(x > 3, 1.0, (2 * x + 3) / 6))


def inside(low, high):
    return lambda x: ((x > low) & (x < high)).double()


FUNCTIONS = {
    "nn.ReLU": (nn.ReLU(), relu_slope),
    "nn.ReLU in place": (nn.ReLU(inplace=True), relu_slope),
    "F.relu": (F.relu, relu_slope),
    "F.relu in place": (lambda x: F.relu(x, inplace=True), relu_slope),
    "F.relu by name": (lambda x: F.relu(input=x), relu_slope),
    "torch.relu": (torch.relu, relu_slope),
    "torch.relu_": (torch.relu_, relu_slope),
    "Tensor.relu": (lambda x: x.relu(), relu_slope),
    "Tensor.relu_": (lambda x: x.relu_(), relu_slope),
    "Tensor.clamp": (lambda x: x.clamp(min=0), relu_slope),
    "Tensor.clamp_": (lambda x: x.clamp_(0), relu_slope),
    "torch.clamp_min": (lambda x: torch.clamp_min(x, 0), relu_slope),
    "torch.clip to 6": (lambda x: torch.clip(x, 0, 6), inside(0, 6)),
    "nn.ReLU6": (nn.ReLU6(), inside(0, 6)),
    "nn.ReLU6 in place": (nn.ReLU6(inplace=True), inside(0, 6)),
    "F.relu6": (F.relu6, inside(0, 6)),
    "nn.Hardtanh": (nn.Hardtanh(-2, 3), inside(-2, 3)),
    "nn.SiLU": (nn.SiLU(), silu_slope),
    "nn.SiLU in place": (nn.SiLU(inplace=True), silu_slope),
    "nn.GELU": (nn.GELU(), gelu_slope),
    "nn.Hardswish": (nn.Hardswish(), hardswish_slope),
    "nn.LeakyReLU in place": (nn.LeakyReLU(0.125, inplace=True), lambda x: torch.where(x > 0, 1.0, 0.125)),
    "F.prelu falling": (
        lambda x: F.prelu(x, torch.tensor([-0.5], dtype=x.dtype)),
        lambda x: torch.where(x > 0, 1.0, -0.5),
    ),
    "nn.ELU": (nn.ELU(), lambda x: torch.where(x > 0, 1.0, torch.exp(x))),
    "nn.Softplus": (nn.Softplus(), lambda x: 1 / (1 + torch.exp(-x))),
}

EXPECTED = {
    "plain": lambda r, slope: r * slope,
    "deconvnet": lambda r, slope: r * (r > 0),
    "guided": lambda r, slope: r * slope * (r > 0) * (slope > 0),
}


def passed_back(rule, function, x=X, r=R):
    leaf = x.clone().requires_grad_(True)
    with relu_rule(rule) as rewriting:
        y = function(leaf * 1)
    return torch.autograd.grad(y, leaf, r)[0], y.detach(), rewriting


@pytest.mark.parametrize("rule", EXPECTED)
@pytest.mark.parametrize("name", FUNCTIONS)
def test_each_function_by_each_rule(name, rule):
    function, slope = FUNCTIONS[name]
    kinks = (
        {-3.0, 0.0, 3.0, 6.0} if name in {"nn.Hardswish", "F.prelu falling", "nn.LeakyReLU in place"} else ()
    )
    keep = torch.tensor([float(value) not in kinks for value in X])
    made, y, rewriting = passed_back(rule, function)
    assert torch.equal(y, function(X.clone()))
    torch.testing.assert_close(made[keep], EXPECTED[rule](R, slope(X))[keep], rtol=1e-9, atol=1e-9)
    assert rewriting.calls == 1 and sum(rewriting.seen.values()) == 1


def test_the_gate_is_closed_at_zero():
    made, _, _ = passed_back("guided", nn.ReLU(), torch.zeros(3), torch.ones(3))
    assert made.tolist() == [0, 0, 0]


def test_a_clamp_that_is_no_rectifier_is_left_alone():
    for function in (lambda x: x.clamp(min=1e-6), lambda x: x.clamp(max=0), lambda x: x.clamp(-1, 1)):
        leaf = X.clone().requires_grad_(True)
        with pytest.raises(NoActivations, match="guided rule rewrote no activation"), relu_rule("guided"):
            function(leaf)


def test_in_place_on_a_view_changes_the_whole():
    leaf = torch.tensor([[1.0, -1.0], [2.0, -2.0]], requires_grad=True)
    with relu_rule("deconvnet"):
        whole = leaf * 1
        whole[:, 1:].relu_()
    assert whole.tolist() == [[1, 0], [2, 0]]
    given = torch.tensor([[-1.0, 2.0], [3.0, -4.0]])
    assert torch.autograd.grad(whole, leaf, given)[0].tolist() == [[-1, 2], [3, 0]]


def test_redirected_lets_a_dead_picture_rise_and_no_other():
    dead, alive = torch.tensor([[-1.0, -2.0, -3.0]]), torch.tensor([[-1.0, 2.0, -3.0]])
    given = torch.tensor([[1.0, -2.0, 3.0]]).repeat(2, 1)
    made, _, rewriting = passed_back("redirected", nn.ReLU(), torch.cat([dead, alive]), given)
    assert made.tolist() == [[1, 0, 3], [0, -2, 0]]
    assert rewriting.calls == 1


def test_redirected_lets_what_stands_above_its_range_sink():
    made, _, _ = passed_back(
        "redirected", nn.ReLU6(), torch.tensor([[7.0, 8.0, -1.0]]), torch.tensor([[1.0, -2.0, 3.0]])
    )
    assert made.tolist() == [[0, -2, 3]]


@pytest.mark.parametrize("rule", RULES)
def test_rules_are_functions_of_a_call(rule):
    call = Activated(torch.tensor([[0.0, 2.0, 6.0]]), 0.0, 6.0)
    made = RULES[rule](torch.tensor([[1.0, -1.0, 1.0]]), call)
    assert made.tolist() == [
        {"plain": [0, -1, 0], "redirected": [0, -1, 0], "deconvnet": [1, 0, 1]}.get(rule, [0, 0, 0])
    ]


def test_reused_functional_and_module_calls_count_alike():
    class Net(nn.Module):
        def __init__(self):
            super().__init__()
            self.relu = nn.ReLU(inplace=True)

        def forward(self, x):
            x = self.relu(x * 2) - 1
            x = self.relu(x * 3) - 1
            return F.relu(x).sum(1)

    x = torch.rand(2, 5, requires_grad=True)
    with relu_rule("guided") as rule:
        Net()(x)
    assert rule.calls == 3 and rule.seen == {"relu": 3}


@pytest.mark.parametrize("name", ["resnet18", "vgg11", "squeezenet1_1"])
@pytest.mark.parametrize(
    ("rule", "tool"), [("guided", captum.attr.GuidedBackprop), ("deconvnet", captum.attr.Deconvolution)]
)
def test_equals_captum_where_it_is_right(name, rule, tool):
    given = case(name, 64)
    x = given.image.clone().requires_grad_(True)
    with relu_rule(rule):
        score = given.pixels(x)[0, given.target]
    made = torch.autograd.grad(score, x)[0]
    with quietly():
        wanted = tool(given.pixels).attribute(x, target=given.target)
    assert (made - wanted).abs().max() <= 1e-9 * wanted.abs().max()


@pytest.mark.parametrize("name", ["googlenet", "densenet121", "mobilenet_v2", "efficientnet_lite0"])
def test_equals_captum_on_the_twin_where_captum_misses_calls(name):
    """Functional ReLUs and ReLU6: captum gives something else on the network itself, and says nothing."""
    given = case(name, 64)
    x = given.image.clone().requires_grad_(True)
    with relu_rule("guided") as rule:
        score = given.pixels(x)[0, given.target]
    made = torch.autograd.grad(score, x)[0]
    with quietly():
        wanted = captum.attr.GuidedBackprop(given.twin).attribute(x, target=given.target)
        missed = captum.attr.GuidedBackprop(given.pixels).attribute(x, target=given.target)
    assert (made - wanted).abs().max() <= 1e-9 * wanted.abs().max()
    assert (missed - wanted).abs().max() > 1e-2 * wanted.abs().max()
    twins = [module for module in given.twin.modules() if isinstance(module, nn.ReLU)]
    assert rule.calls == len(twins)


@pytest.mark.parametrize("name", LAYERS)
def test_the_plain_rule_changes_nothing(name):
    given = case(name, 64)
    x = given.image.clone().requires_grad_(True)
    plain = torch.autograd.grad(given.pixels(x)[0, given.target], x)[0]
    with relu_rule("plain") as rule:
        score = given.pixels(x)[0, given.target]
    assert rule.calls > 7
    torch.testing.assert_close(torch.autograd.grad(score, x)[0], plain, rtol=1e-12, atol=1e-15)


def test_without_gradients_there_is_nothing_to_rewrite():
    with pytest.raises(NoActivations), relu_rule("guided"), torch.no_grad():
        nn.ReLU()(torch.ones(3, requires_grad=True))
    with pytest.raises(NoActivations), relu_rule("guided"):
        nn.ReLU()(torch.ones(3))


def test_an_error_inside_is_not_hidden():
    with pytest.raises(ZeroDivisionError), relu_rule("guided"):
        raise ZeroDivisionError


def test_compiled_and_scripted_networks_are_refused_by_name():
    net = nn.Sequential(nn.Conv2d(3, 4, 3), nn.ReLU())
    in_place = copy.deepcopy(net)
    in_place.compile()
    with quietly():
        traced = torch.jit.trace(net, torch.rand(1, 3, 8, 8))
    with (
        pytest.raises(ModelError, match="OptimizedModule is compiled"),
        relu_rule("guided", torch.compile(net)),
    ):
        pass
    with pytest.raises(ModelError, match="Sequential is compiled"), relu_rule("guided", in_place):
        pass
    with (
        pytest.raises(ModelError, match=r"Sequential\.0 is scripted or traced"),
        relu_rule("guided", nn.Sequential(traced)),
    ):
        pass


def test_a_misspelt_rule_names_the_nearest():
    with (
        pytest.raises(InvalidValue, match="'gided'; nearest: guided; one of plain, deconvnet"),
        relu_rule("gided"),
    ):
        pass


def test_nothing_remains_afterwards():
    x = torch.tensor([-1.0, 1.0], requires_grad=True)
    with relu_rule("deconvnet"):
        F.relu(x)
    assert torch.autograd.grad(F.relu(x).sum(), x)[0].tolist() == [0, 1]


def test_it_is_public():
    with featviz.relu_rule("guided") as rule:
        nn.ReLU()(torch.ones(2, requires_grad=True))
    assert rule.calls == 1
