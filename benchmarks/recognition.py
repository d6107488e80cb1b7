"""How many class visualizations an independent network recognises.

`python -m benchmarks.recognition --model A --judge B [--weights FILE --judge-weights FILE] [--preset P]`:
one picture of each of 50 varied classes, made on A, named by B, which had no part in making it. Prints a
row: named first, within five, seconds a picture. `--out FOLDER` keeps the pictures.
"""

from __future__ import annotations

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor

import featviz
from featviz.models.labels import imagenet_labels
from featviz.output import write_picture
from featviz.render_settings import RenderSettings
from featviz.sizes import resize
from featviz.types import Model
from featviz.visualize import render

CLASSES = (
    1, 9, 22, 39, 71, 76, 84, 99, 107, 130, 145, 150, 207, 254, 281, 292, 309, 323, 340, 354, 386, 388, 404,
    407, 417, 430, 446, 468, 483, 498, 508, 530, 555, 562, 579, 620, 661, 671, 717, 779, 817, 849, 852, 920,
    937, 949, 954, 963, 980, 985,
)  # fmt: skip
"""Fish, birds, reptiles, spiders, dogs, cats, insects, larger animals, vehicles, things, buildings, food."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    for name in ("--weights", "--judge-weights", "--preset", "--out"):
        parser.add_argument(name)
    parser.add_argument("--model", default="efficientnet_lite0")
    parser.add_argument("--judge", required=True)
    parser.add_argument("--classes", type=int, default=len(CLASSES))
    parser.add_argument("--batch", type=int, default=1)
    for name in ("--size", "--steps", "--threads"):
        parser.add_argument(name, type=int)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    model = featviz.load(options.model, weights=options.weights)
    judge = featviz.load(options.judge, weights=options.judge_weights)
    settings = RenderSettings(preset=options.preset, size=options.size, steps=options.steps)
    chosen = CLASSES[:: max(1, len(CLASSES) // options.classes)][: options.classes]
    ranks, begun = [], time.perf_counter()
    for start in range(0, len(chosen), options.batch):
        part = chosen[start : start + options.batch]
        for step in render(model, [f"class:{number}" for number in part], settings):
            last = step
        ranks += judged(judge, last.image, part)
        if options.out:
            keep(last.image, part, Path(options.out))
    seconds = (time.perf_counter() - begun) / len(chosen)
    first, five = (sum(rank < limit for rank in ranks) for limit in (1, 5))
    print("| network | judge | preset | classes | first | within five | seconds a picture |")
    print("|---|---|---|---|---|---|---|")
    row = (model.name, judge.name, options.preset or "default", len(chosen))
    print(f"| {' | '.join(map(str, row))} | {first} | {five} | {seconds:.1f} |")
    names = imagenet_labels()
    print("\nranks: " + ", ".join(f"{names[n]} {r + 1}" for n, r in zip(chosen, ranks, strict=True)))


@torch.no_grad()
def judged(judge: Model, images: Tensor, classes: tuple[int, ...]) -> list[int]:
    """Of each image, how many classes the judge holds likelier than the one it was made for."""
    logits = judge(resize(images.to(judge.device), judge.input_size))
    return [int((own > own[number]).sum()) for own, number in zip(logits, classes, strict=True)]


def keep(images: Tensor, classes: tuple[int, ...], folder: Path) -> None:
    """Write the pictures by class number."""
    folder.mkdir(parents=True, exist_ok=True)
    for image, number in zip(images, classes, strict=True):
        write_picture(folder / f"{number}.png", image[None].clamp(0, 1), {}, overwrite=True)


if __name__ == "__main__":
    main()
