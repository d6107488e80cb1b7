"""What explanations are compared with: other tools, on networks on which those are right.

`ORACLES[method](case)` gives the raw map that another implementation makes. Where that tool misses activation
calls (functional, reused, no `nn.ReLU`), it is shown a twin: the same network with one `nn.ReLU`
module for each call.
"""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import cached_property, partial

import captum.attr
import numpy as np
import pytorch_grad_cam
import torch
import torch.fx
import torchcam.methods
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget
from torch import Tensor, nn

import featviz
from featviz.types import Draws, Model

LAYERS = {
    "resnet18": ("layer3", "layer4"),
    "vgg11": ("features.15", "features"),
    "squeezenet1_1": ("features.9", "features"),
    "googlenet": ("inception4e", "inception5b"),
    "densenet121": ("features.denseblock3", "features.denseblock4"),
    "mobilenet_v2": ("features.14", "features"),
    "efficientnet_lite0": ("blocks.4", "bn2"),
}
"""Network -> an early layer and a late one, neither followed by an in-place operation."""


class Normalised(nn.Module):
    """A network that takes images in [0, 1], as a module."""

    def __init__(self, model: Model, net: nn.Module) -> None:
        super().__init__()
        self.net = net
        self.model = model

    def forward(self, image: Tensor) -> Tensor:
        return self.net(self.model.normalise(image))


class OneReLU6(nn.ReLU):
    """ReLU6 as captum sees a ReLU: it rewrites what `nn.ReLU` modules pass back."""

    def forward(self, x: Tensor) -> Tensor:
        return x.clamp(0, 6)


def twin(net: nn.Module) -> nn.Module:
    """The same network with a module of its own for each call of an activation, none in place."""
    traced = torch.fx.GraphModule(net, _Tracer().trace(copy.deepcopy(net)))
    modules = dict(traced.named_modules())
    for i, node in enumerate(list(traced.graph.nodes)):
        made = _activation(node, modules)
        if made is not None:
            traced.add_module(f"activation_{i}", made)
            with traced.graph.inserting_after(node):
                new = traced.graph.call_module(f"activation_{i}", (node.args[0],))
            node.replace_all_uses_with(new)
            traced.graph.erase_node(node)
    traced.delete_all_unused_submodules()
    traced.recompile()
    return traced.eval()


class _Tracer(torch.fx.Tracer):
    def is_leaf_module(self, module: nn.Module, name: str) -> bool:
        return not list(module.children()) and type(module).__name__ != "BatchNormAct2d"


def _activation(node: torch.fx.Node, modules: Mapping[str, nn.Module]) -> nn.Module | None:
    called = modules.get(str(node.target)) if node.op == "call_module" else None
    name = getattr(node.target, "__name__", str(node.target)) if called is None else type(called).__name__
    if node.op in {"call_module", "call_function", "call_method"}:
        if name in {"ReLU", "relu", "relu_"}:
            return nn.ReLU()
        if name in {"ReLU6", "relu6"}:
            return OneReLU6()
    return None


STEPS = 6
"""Of integrated gradients; the agreement does not depend on them."""


@dataclass
class Case:
    """A network, a picture in [0, 1], a class and a layer."""

    model: Model
    image: Tensor
    target: int
    layer: str

    @cached_property
    def pixels(self) -> nn.Module:
        return Normalised(self.model, self.model.net)

    @cached_property
    def twin(self) -> nn.Module:
        return Normalised(self.model, twin(self.model.net))

    @property
    def module(self) -> nn.Module:
        return self.model.net.get_submodule(self.layer)

    @property
    def normalised(self) -> Tensor:
        return self.model.normalise(self.image)


def case(name: str, side: int = 96, dtype: torch.dtype = torch.float64, late: bool = True) -> Case:
    """A network of `LAYERS` with random weights (the embedded one with its own) and a random picture."""
    model = featviz.load(name, untrained=name != "efficientnet_lite0", device="cpu")
    if name == "vgg11":  # its hidden linear layers are 119 million of its 133 million weights
        with torch.random.fork_rng():
            torch.manual_seed(0)
            hidden = [nn.Linear(25088, 64), nn.ReLU(True), nn.Dropout(), nn.Linear(64, 1000)]
        model.net.classifier = nn.Sequential(*hidden).eval()
    model = replace(model, net=model.net.to(dtype))
    generator = torch.Generator().manual_seed(5)
    coarse = torch.rand(1, 3, 8, 8, generator=generator, dtype=torch.float64)
    image = nn.functional.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1).to(dtype)
    with torch.no_grad():
        first = int(model(image)[0].argmax())
    return Case(model, image, first, LAYERS[name][late])


@contextmanager
def quietly() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


# ------------------------------------------------------------------------------------- the image


def saliency(case: Case) -> Tensor:
    x = case.image.clone().requires_grad_(True)
    return captum.attr.Saliency(case.pixels).attribute(x, target=case.target, abs=False)[0]


def input_x_gradient(case: Case) -> Tensor:
    x = case.image.clone().requires_grad_(True)
    return captum.attr.InputXGradient(case.pixels).attribute(x, target=case.target)[0].detach()


def rewritten(kind: type, case: Case) -> Tensor:
    x = case.image.clone().requires_grad_(True)
    return kind(case.twin).attribute(x, target=case.target)[0]


def integrated(case: Case) -> Tensor:
    tool = captum.attr.IntegratedGradients(case.pixels)
    return tool.attribute(case.image, target=case.target, n_steps=STEPS, internal_batch_size=1)[0]


def smoothed(case: Case) -> Tensor:
    """captum's tunnel, with our noise in place of its own draw from the global state."""
    sigma = 0.15 * float(case.image.max() - case.image.min())
    drawn = [Draws([0], "smoothgrad", i).normal(*case.image.shape[1:]) for i in range(4)]
    queue = iter([case.image + sigma * one.to(case.image) for one in drawn])
    tool = captum.attr.NoiseTunnel(captum.attr.Saliency(case.pixels))
    tool._add_noise_to_input = lambda *_: next(queue)
    made = tool.attribute(case.image, nt_samples=4, nt_samples_batch_size=1, target=case.target, abs=False)
    return made[0]


def guided_grad_cam(case: Case) -> Tensor:
    """Of captum's two halves the guided one on the twin, since captum's own would ask the network itself."""
    coarse = grad_cam(case).clamp(min=0)[None, None]
    places = captum.attr.LayerAttribution.interpolate(coarse, case.image.shape[2:], "bilinear")
    return (rewritten(captum.attr.GuidedBackprop, case) * places[0]).detach()


# -------------------------------------------------------------------------------------- a layer


def grad_cam(case: Case) -> Tensor:
    tool = captum.attr.LayerGradCam(case.pixels, case.module)
    return tool.attribute(case.image.clone(), target=case.target)[0, 0].detach()


def grad_cam_pp(case: Case) -> Tensor:
    return from_pytorch_grad_cam(pytorch_grad_cam.GradCAMPlusPlus, case)


def layer_cam(case: Case) -> Tensor:
    return from_torchcam(torchcam.methods.LayerCAM, case)


def score_cam(case: Case) -> Tensor:
    return from_torchcam(torchcam.methods.ScoreCAM, case)


def eigen_cam(case: Case) -> Tensor:
    return from_pytorch_grad_cam(pytorch_grad_cam.EigenCAM, case)


def from_pytorch_grad_cam(kind: type, case: Case) -> Tensor:
    """Its map before it is cut at 0 and stretched."""
    net = copy.deepcopy(case.model.net).requires_grad_(True)  # it refuses frozen weights
    layer = net.get_submodule(case.layer)
    with kind(model=net, target_layers=[layer]) as tool:
        targets = [ClassifierOutputTarget(case.target)]
        tool(input_tensor=case.normalised, targets=targets)
        held = tool.activations_and_grads
        gradients = held.gradients[0].numpy() if held.gradients else None
        given = (case.normalised, layer, targets, held.activations[0].numpy(), gradients, False)
        return torch.from_numpy(np.asarray(tool.get_cam_image(*given)))[0]


def from_torchcam(kind: type, case: Case, **settings: object) -> Tensor:
    """Its map, which it cuts at 0."""
    net = copy.deepcopy(case.model.net).requires_grad_(True)
    with kind(net, case.layer, **settings) as tool:
        scores = net(case.normalised)
        return tool(case.target, scores, normalized=False)[0][0].detach()


ORACLES: dict[str, Callable[[Case], Tensor]] = {
    "gradient": saliency,
    "input-x-gradient": input_x_gradient,
    "deconvnet": partial(rewritten, captum.attr.Deconvolution),
    "guided-backprop": partial(rewritten, captum.attr.GuidedBackprop),
    "integrated-gradients": integrated,
    "smoothgrad": smoothed,
    "grad-cam": grad_cam,
    "grad-cam++": grad_cam_pp,
    "layer-cam": layer_cam,
    "score-cam": score_cam,
    "eigen-cam": eigen_cam,
    "guided-grad-cam": guided_grad_cam,
}

SETTINGS: dict[str, dict[str, object]] = {
    "integrated-gradients": {"steps": STEPS},
    "smoothgrad": {"samples": 4, "batch": 3},
}


def ours(method: str, case: Case, **settings: object) -> featviz.types.Attribution:
    from featviz.attribution import METHODS

    objective = featviz.class_(case.target)
    known = SETTINGS.get(method, {}) | settings
    if "cam" in method and method != "cam":
        known = {"layer": case.layer} | known
    return METHODS[method](case.model, case.image, [objective], **known)[0]


def difference(method: str, case: Case) -> float:
    """The greatest difference between our map and the oracle's, relative to the oracle's greatest value."""
    with quietly():
        wanted = ORACLES[method](case)
    made = ours(method, case).raw
    if method == "layer-cam" or method == "score-cam":
        made = made.clamp(min=0)  # torchcam's are
    if method == "eigen-cam" and (made * wanted).sum() < 0:
        made = -made  # the sign of a principal component is free
    assert wanted.abs().max() > 0, f"the oracle's map for {method} on {case.model.name} is blank"
    return float((made - wanted).abs().max() / wanted.abs().max())
