"""Guided backpropagation and Grad-CAM beside captum and pytorch-grad-cam, at equal results.

`python -m benchmarks.attribution [--repeats N] [--threads N]`: resnet34 with random weights, one picture of
224 px. Only the two tools of a pair run in turn. Prints a table; benchmarks/occlusion.py does occlusion.
"""

from __future__ import annotations

import argparse
import copy
import platform
import warnings
from importlib.metadata import version

import torch
from captum.attr import GuidedBackprop, LayerGradCam
from pytorch_grad_cam import GradCAM
from pytorch_grad_cam.utils.model_targets import ClassifierOutputTarget

import featviz
from benchmarks.paired import ratios, told
from featviz.attribution import METHODS

CLASS = 282


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=15)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore", message="Setting backward hooks")
    model = featviz.load("resnet34", untrained=True, device="cpu")
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    shown = model.normalise(image)
    net = copy.deepcopy(model.net).requires_grad_(True)  # as torchvision gives it: some need it unfrozen
    last = net.layer4

    def ours(method):
        return METHODS[method](model, image, [featviz.class_(CLASS)])[0].raw

    def captum_cam():
        return LayerGradCam(net, last).attribute(shown, target=CLASS, relu_attributions=True)[0, 0]

    def captum_guided():
        fresh = image.clone().requires_grad_(True)  # to the image in [0, 1], as ours
        return GuidedBackprop(net).attribute(model.normalise(fresh), target=CLASS)[0]

    def other_cam():
        with GradCAM(model=net, target_layers=[last]) as cam:
            return cam(input_tensor=shown, targets=[ClassifierOutputTarget(CLASS)])[0]

    wanted = captum_cam()
    check(ours("grad-cam").clamp(min=0), wanted)
    std = torch.tensor(model.std).view(3, 1, 1)
    check(ours("guided-backprop") * std, captum_guided())
    rows = [
        ("Grad-CAM", "captum", captum_cam, "grad-cam"),
        ("Grad-CAM", "pytorch-grad-cam", other_cam, "grad-cam"),
        ("guided backpropagation", "captum", captum_guided, "guided-backprop"),
    ]
    print(f"torch {torch.__version__}, captum {version('captum')}, grad-cam {version('grad-cam')}, ", end="")
    print(f"{options.threads} threads, {platform.machine()}, {options.repeats} pairs\n")
    print("| method | beside | its time over ours, median (least to most) |\n|---|---|---|")
    for about, tool, run, method in rows:
        print(f"| {about} | {tool} | {told(ratios(run, lambda m=method: ours(m), options.repeats))} |")


def check(found: torch.Tensor, wanted: torch.Tensor) -> None:
    """Stop where the two tools do not agree."""
    found, wanted = found.detach(), wanted.detach()
    difference = float((found - wanted).abs().max() / wanted.abs().max())
    assert difference < 1e-5, difference


if __name__ == "__main__":
    main()
