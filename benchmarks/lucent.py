"""Feature visualization beside lucent: time a step, and what its pictures are recognised as.

lucent pins an old kornia, so this runs in an environment of its own: `torch-lucent==0.1.8` with `kornia<0.5`,
then `pip install --no-deps -e .` and featviz's other packages.

`python -m benchmarks.lucent speed [--threads N --repeats N]`: ResNet-18 with random weights, eight pictures
of 128 px at once, a channel of each stage; beside it what the bare truncated forward and backward take.
The first steps' waking is left out: it is over after 16.

`python -m benchmarks.lucent reach [--model A --weights F]`: how long our default takes to the activation of
the finished picture, unmoved, that lucent's defaults reach in 512 steps, for a channel of each stage.

`python -m benchmarks.lucent recognition --judge B [--model A --classes N …]`: as benchmarks/recognition.py,
the pictures made with lucent's defaults.
"""

from __future__ import annotations

import argparse
import time
import warnings

import torch
from lucent.optvis import objectives, param, transform
from lucent.optvis import render as lucent_render
from torch import nn

import featviz
from benchmarks.paired import ratios, timed, told
from benchmarks.recognition import CLASSES, judged
from featviz import ingredients
from featviz.layers import find_layer, frozen, score
from featviz.render_settings import RenderSettings
from featviz.targets import objective_of
from featviz.visualize import render

PICTURES, SIDE, STEPS = 8, 128, 6


class Whole(nn.Module):
    """A model with its own normalisation as one module, as lucent takes networks."""

    def __init__(self, model):
        super().__init__()
        self.model, self.net = model, model.net.requires_grad_(True)

    def forward(self, image):
        return self.model(image)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["speed", "reach", "recognition"])
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--repeats", type=int, default=7)
    for name in ("--judge", "--weights", "--judge-weights"):
        parser.add_argument(name)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--classes", type=int, default=len(CLASSES))
    parser.add_argument("--size", type=int, default=224)
    parser.add_argument("--steps", type=int, default=256)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    warnings.filterwarnings("ignore")
    {"speed": speed, "reach": reach, "recognition": recognition}[options.what](options)


def speed(options) -> None:
    ingredients.WAKING = 0
    model = featviz.load("resnet18", untrained=True, device="cpu")
    whole = Whole(model).eval()
    print(f"torch {torch.__version__}, {options.threads} threads, {PICTURES} pictures of {SIDE} px\n")
    print("| channel of | lucent's time over ours | ours over the bare network's |\n|---|---|---|")
    for stage in range(1, 5):
        layer = f"layer{stage}"
        beside = ratios(lambda s=layer: by_lucent(whole, s), lambda s=layer: by_us(model, s), options.repeats)
        over = ratios(lambda s=layer: by_us(model, s), lambda s=layer: bare(model, s), options.repeats)
        print(f"| {layer} | {told(beside)} | {told(over)} |", flush=True)


def by_us(model, layer):
    """`STEPS` steps of eight channels, with lucent's parameterization and transforms."""
    targets = [f"{layer}:{channel}" for channel in range(PICTURES)]
    settings = RenderSettings(preset="fourier", size=SIDE, steps=STEPS)
    for _ in render(model, targets, settings):
        pass


def by_lucent(whole, layer):
    """The same with lucent; it names layers with underscores."""
    named = f"net_{layer}"
    wanted = sum(objectives.channel(named, channel, batch=channel) for channel in range(PICTURES))
    lucent_render.render_vis(
        whole,
        wanted,
        lambda: param.image(SIDE, batch=PICTURES),
        transforms=transform.standard_transforms,
        thresholds=(STEPS,),
        preprocess=False,
        show_image=False,
        progress=False,
    )


def bare(model, layer):
    """Forward to the layer and backward to the image, of what the network sees of eight pictures."""
    objective = score(model, featviz.channel(layer, 0))
    image = torch.rand(PICTURES, 3, SIDE + 12, SIDE + 12)
    with frozen(model.net):
        for _ in range(STEPS):
            leaf = image.clone().requires_grad_(True)
            torch.autograd.grad(objective(leaf).sum(), leaf)


def reach(options) -> None:
    model = featviz.load(options.model, weights=options.weights, device="cpu")
    whole = Whole(model).eval()
    settings = RenderSettings(size=SIDE, view_scale=1.0, view_from=0.0, starts=1)
    print("| channel | lucent's activation | its seconds | ours | our seconds | steps | ratio |")
    print("|---" * 7 + "|")
    for stage in range(1, 5):
        target = f"layer{stage}:{2 * stage}"
        seconds, made = timed(lambda t=target: lucent_channel(whole, model, t))
        measured = score(model, objective_of(model, target))
        with torch.no_grad():
            wanted = float(measured(torch.from_numpy(made[-1]).permute(0, 3, 1, 2).float()))
        begun, looking = time.perf_counter(), 0.0
        for step in render(model, target, settings):
            paused = time.perf_counter()
            with torch.no_grad():
                reached = float(measured(step.image))
            looking += time.perf_counter() - paused
            if reached >= wanted:
                break
        ours = time.perf_counter() - begun - looking
        row = (target, wanted, seconds, reached, ours, step.index, seconds / ours)
        print("| {} | {:.3g} | {:.1f} | {:.3g} | {:.1f} | {} | {:.1f} |".format(*row), flush=True)


def lucent_channel(whole, model, target):
    """One channel by lucent's defaults; the address of its layer with underscores."""
    layer, channel = target.split(":")
    named = "net_" + find_layer(model, layer).address.replace(".", "_")
    return lucent_render.render_vis(
        whole,
        objectives.channel(named, int(channel)),
        lambda: param.image(SIDE),
        thresholds=(512,),
        preprocess=False,
        show_image=False,
        progress=False,
    )


def recognition(options) -> None:
    model = featviz.load(options.model, weights=options.weights, device="cpu")
    judge = featviz.load(options.judge, weights=options.judge_weights, device="cpu")
    whole = Whole(model).eval()
    output = "net_classifier" if hasattr(model.net, "classifier") else "net_fc"
    chosen = CLASSES[:: max(1, len(CLASSES) // options.classes)][: options.classes]
    ranks, begun = [], time.perf_counter()
    for number in chosen:
        seconds, made = timed(
            lambda n=number: lucent_render.render_vis(
                whole,
                objectives.channel(output, n),
                lambda: param.image(options.size),
                thresholds=(options.steps,),
                preprocess=False,
                show_image=False,
                progress=False,
            )
        )
        image = torch.from_numpy(made[-1]).permute(0, 3, 1, 2).float()
        ranks += judged(judge, image, (number,))
        print(f"{number}: named at {ranks[-1] + 1}, {seconds:.1f} s", flush=True)
    first, five = (sum(rank < limit for rank in ranks) for limit in (1, 5))
    each = (time.perf_counter() - begun) / len(chosen)
    print(
        f"| {model.name} | {judge.name} | lucent's defaults | {len(chosen)} | {first} | {five} | {each:.1f} |"
    )


if __name__ == "__main__":
    main()
