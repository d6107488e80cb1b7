"""A dream of a large photo beside a plain octave DeepDream, which takes the whole picture in one graph.

`python -m benchmarks.large [--megapixels N --octaves N --steps N --threads N --repeats N]`:
gallery/photos/sky.jpg made 4000x3000, or smaller, dreamed at `layer3` of the embedded network. The other way
is that of popular scripts: at each octave the picture goes through the whole network, weights with gradients;
a hook keeps the layer; the picture's gradient is divided by its mean size and added. Octaves, their sizes and
the steps are alike; the plain one has neither jitter nor smoothing, which would cost it more.

Seconds are the dream's own, from Pillow's picture to the finished tensor; growth is the peak of resident
memory less what was resident just before. Each way has a process of its own, after a first dream at 128 px.
Linux only.
"""

from __future__ import annotations

import argparse
import json
import statistics

import torch
from PIL import Image

import featviz
from benchmarks.apart import MIB, apart, growth, machine, quotient, yielding
from benchmarks.paired import timed
from featviz.deepdream import octave_sizes
from featviz.layers import find_layer
from featviz.output.pil import from_pil
from featviz.settings import DreamSettings
from featviz.sizes import resize

PHOTO, LAYER = "gallery/photos/sky.jpg", "layer3"
WARM = 128
WAYS = {"one graph, whole network": "plain", "featviz": "ours"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--megapixels", type=float, default=12.0)
    parser.add_argument("--octaves", type=int, default=4)
    parser.add_argument("--steps", type=int, default=1)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=1)
    parser.add_argument("--measure", choices=WAYS.values(), help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    if options.measure:
        yielding()
        print(json.dumps(measured(options)))
    else:
        compared(options)


def compared(options) -> None:
    given = [f"--{name}={getattr(options, name)}" for name in ("megapixels", "octaves", "steps", "threads")]
    pairs = [
        {way: apart("benchmarks.large", *given, "--measure", way) for way in WAYS.values()}
        for _ in range(options.repeats)
    ]
    width, height = size(options.megapixels)
    print(
        f"{machine(options.threads)}; {width}x{height} px, {options.octaves} octaves, {options.steps} steps\n"
    )
    print("| | seconds | growth MiB |\n|---|---|---|")
    for name, way in WAYS.items():
        print(f"| {name} | {told(pairs, way, 'seconds')} | {told(pairs, way, 'growth', MIB)} |")
    seconds, grown = (shares(pairs, what) for what in ("seconds", "growth"))
    print(f"| ratio | {seconds} | {grown} |")


def told(pairs, way, what, unit=1) -> str:
    """The median of one way's measurements."""
    found = [pair[way][what] / unit for pair in pairs if pair[way]]
    return f"{statistics.median(found):.1f}" if found else "memory ran out"


def shares(pairs, what) -> str:
    """Median and spread of the plain way's measurement over ours; a dash where there was none."""
    whole = [pair for pair in pairs if pair["plain"] and pair["ours"]]
    found = sorted(pair["plain"][what] / pair["ours"][what] for pair in whole)
    if not found:
        return quotient(None, None)
    return f"{statistics.median(found):.2f} ({found[0]:.2f} to {found[-1]:.2f})"


def measured(options):
    """Seconds and growth of one way's dream."""
    model = featviz.load(device="cpu")
    way = {"ours": ours, "plain": plain}[options.measure]
    whole = Image.open(PHOTO).convert("RGB")
    photo = whole.resize(size(options.megapixels), Image.Resampling.LANCZOS)
    way(model, whole.resize((WARM, WARM)), 1, 1)
    model.net.zero_grad(set_to_none=True)
    grown, (seconds, _) = growth(lambda: timed(lambda: way(model, photo, options.octaves, options.steps)))
    return {"seconds": seconds, "growth": grown}


def size(megapixels) -> tuple[int, int]:
    """Width and height of a picture of 4 to 3."""
    unit = (megapixels * 1e6 / 12) ** 0.5
    return round(4 * unit), round(3 * unit)


def ours(model, photo, octaves, steps):
    return featviz.dream(model, photo, LAYER, octaves=octaves, steps=steps).image


def plain(model, photo, octaves, steps, rate=0.01):
    """Octave after octave, each step one graph of the whole picture and the whole network."""
    model.net.requires_grad_(True)
    kept = {}
    layer = model.net.get_submodule(find_layer(model, LAYER).address)
    handle = layer.register_forward_hook(lambda _module, _inputs, output: kept.update(layer=output))
    original = from_pil(photo)[0]
    sizes = octave_sizes(tuple(original.shape[2:]), DreamSettings(octaves=octaves))
    detail = torch.zeros(1, 3, *sizes[0])
    for shape in sizes:
        base = resize(original, shape)
        image = (base + resize(detail, shape)).requires_grad_(True)
        for _ in range(steps):
            model(image)
            kept["layer"].square().mean().backward()
            with torch.no_grad():
                image += rate * image.grad / image.grad.abs().mean()
                image.clamp_(0, 1)
            image.grad = None
        detail = image.detach() - base
    handle.remove()
    return image.detach()


if __name__ == "__main__":
    main()
