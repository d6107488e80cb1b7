"""How far the explanations are from other tools' on seven networks, as a table in Markdown.

    python -m benchmarks.oracles > docs/oracles.md

from the root of the repository, with the extra `test` installed. It takes some minutes.
"""

from __future__ import annotations

import functools
import sys
from importlib.metadata import version
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
import oracles

from featviz.errors import NotApplicable

TOOLS = {
    "gradient": "captum `Saliency`",
    "input-x-gradient": "captum `InputXGradient`",
    "deconvnet": "captum `Deconvolution` on the twin",
    "guided-backprop": "captum `GuidedBackprop` on the twin",
    "integrated-gradients": "captum `IntegratedGradients`",
    "smoothgrad": "captum `NoiseTunnel(Saliency)`, our noise",
    "grad-cam": "captum `LayerGradCam`",
    "grad-cam++": "pytorch-grad-cam `GradCAMPlusPlus`",
    "layer-cam": "torchcam `LayerCAM`",
    "score-cam": "torchcam `ScoreCAM`, late layer, 64 pixels",
    "eigen-cam": "pytorch-grad-cam `EigenCAM`, which gives float32",
    "guided-grad-cam": "captum `GuidedBackprop` on the twin times `LayerGradCam`",
}
SLOW = {"score-cam"}

case = functools.cache(oracles.case)

HEAD = """# How far the explanations are from their oracles

The greatest difference between our raw map and the other tool's, relative to the greatest value in the \
other tool's: the worse of an early and a late layer. A random picture of 96 pixels, and the class that \
the network puts first. The weights are random but for the embedded model, which has its own; VGG's \
two hidden linear layers are narrowed to 64. Made by

    python -m benchmarks.oracles > docs/oracles.md

with {versions}.

captum misses activations that are no `nn.ReLU` module of their own: it is shown a *twin*, the same network \
with one such module for each call (`tests/oracles.py`). torchcam cuts its maps at 0, so ours are cut \
for the comparison. The sign of an eigen-cam is free. Both tools of class activation maps keep a layer's \
output without a copy, so the layers compared are ones that no in-place operation follows. The quotient \
of grad-cam++ has a pole where a channel's sum is negative, as at layers without a ReLU (`blocks.4` of \
efficientnet_lite0): there rounding counts for more.
"""


def main() -> None:
    tools = ("torch", "captum", "grad-cam", "torchcam")
    print(HEAD.format(versions=", ".join(f"{tool} {version(tool)}" for tool in tools)))
    for dtype in (torch.float64, torch.float32):
        print(f"## {str(dtype).removeprefix('torch.')}\n")
        print(f"| method | oracle | {' | '.join(oracles.LAYERS)} |\n|{'---|' * (2 + len(oracles.LAYERS))}")
        for method, tool in TOOLS.items():
            if method not in SLOW or dtype == torch.float64:
                print(f"| {method} | {tool} | {' | '.join(row(method, dtype))} |", flush=True)
        print()
    print("## Identities, float64\n")
    print(f"| identity | {' | '.join(oracles.LAYERS)} |\n|{'---|' * (1 + len(oracles.LAYERS))}")
    for name, identity in IDENTITIES.items():
        print(f"| {name} | {' | '.join(identity(case(net)) for net in oracles.LAYERS)} |", flush=True)


def row(method: str, dtype: torch.dtype) -> list[str]:
    layers = (True,) if "cam" not in method or method in SLOW else (False, True)
    side = 64 if method in SLOW else 96
    return [
        f"{max(oracles.difference(method, case(name, side, dtype, late)) for late in layers):.0e}"
        for name in oracles.LAYERS
    ]


def logit(given: oracles.Case) -> str:
    try:
        made = oracles.ours("cam", given)
    except NotApplicable:
        return "no such end"
    wanted = float(given.model(given.image)[0, given.target].detach())
    return f"{abs(float(made.raw.mean()) + made.notes['bias'] - wanted) / abs(wanted):.0e}"


def positions(given: oracles.Case) -> str:
    try:
        made = oracles.ours("cam", given).raw
    except NotApplicable:
        return "no such end"
    coarse = oracles.ours("grad-cam", given, layer="auto")
    if given.model.name == "densenet121":
        return "ReLU between"
    return relative(coarse.raw * coarse.raw.numel(), made)


def percentiles(given: oracles.Case) -> str:
    try:
        oracles.ours("cam", given)
    except NotApplicable:
        return "no such end"
    if given.model.name == "densenet121":
        return "ReLU between"
    wanted = oracles.ours("grad-cam", given, layer="auto").raw
    made = [oracles.ours("percentile-cam", given, layer="auto", percentile=q).raw for q in (0.0, 50.0, 90.0)]
    return max((relative(one, wanted) for one in made), key=float)


def relative(made: torch.Tensor, wanted: torch.Tensor) -> str:
    return f"{float((made - wanted).abs().max() / wanted.abs().max()):.0e}"


IDENTITIES = {
    "mean(CAM) + bias = logit": logit,
    "CAM = H·W·Grad-CAM": positions,
    "percentile-cam (0, 50, 90) = grad-cam on the pooled map": percentiles,
}


if __name__ == "__main__":
    assert set(TOOLS) == set(oracles.ORACLES)
    main()
