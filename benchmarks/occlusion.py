"""Occlusion beside captum: one class there, every class here, at equal results.

`python -m benchmarks.occlusion [--repeats N] [--threads N]`: resnet34 with random weights, 224 px, window 32,
stride 16. First captum's best `perturbations_per_eval` is found, then both run in turn; the ratio of each
pair is what counts, since other work on the machine hits both.
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch
from captum.attr import Occlusion

import featviz
from benchmarks.paired import timed
from featviz.attribution.occlusion import occlusion, sweep
from featviz.attribution.sweeps import filling

WINDOW, STRIDE, CLASS = 32, 16, 282


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    model = featviz.load("resnet34", untrained=True, device="cpu")
    image = torch.rand(1, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    baseline = filling(image, "noise", 0)

    def theirs(at_once: int) -> torch.Tensor:
        with torch.no_grad():
            found = Occlusion(model).attribute(
                image,
                target=CLASS,
                sliding_window_shapes=(3, WINDOW, WINDOW),
                strides=(3, STRIDE, STRIDE),
                baselines=baseline,
                perturbations_per_eval=at_once,
            )
        return found[0, 0]

    def ours() -> torch.Tensor:
        kept = sweep(model, image, windows=[WINDOW], stride=STRIDE)
        (found,) = occlusion(model, image, [featviz.class_(CLASS)], sweep=kept)
        return found.map

    times = {n: min(timed(lambda n=n: theirs(n))[0] for _ in range(2)) for n in (1, 4, 8, 16, 32)}
    best = min(times, key=lambda n: times[n])
    ours()
    pairs = []
    difference = 0.0
    for _ in range(options.repeats):
        (a, expected), (b, found) = timed(lambda: theirs(best)), timed(ours)
        pairs.append((a, b))
        difference = max(difference, float((found - expected).abs().max() / expected.abs().max()))
    ratios = sorted(a / b for a, b in pairs)
    report = {
        "captum_seconds": {n: round(t, 2) for n, t in times.items()},
        "captum_best": best,
        "pairs": [(round(a, 2), round(b, 2)) for a, b in pairs],
        "ratio_median": round(statistics.median(ratios), 2),
        "ratio_range": (round(ratios[0], 2), round(ratios[-1], 2)),
        "largest_difference_over_largest_drop": difference,  # float32: the logits are many times the drops
        "classes_scored": {"captum": 1, "featviz": 1000},
        "threads": options.threads,
    }
    print(json.dumps(report, indent=2))


if __name__ == "__main__":
    main()
