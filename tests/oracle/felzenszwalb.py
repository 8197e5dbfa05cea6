"""Writes tests/golden/felzenszwalb: superpixels of small pictures by scikit-image, with its edges sorted stably, so that
edges of equal weight have a defined order; smoothed pictures; crops of the maps with the labels of their patches.

    python tests/oracle/felzenszwalb.py

Needs scikit-image, scipy, torch and safetensors.
"""
import json
import math
import pathlib

import numpy
import torch
from safetensors.numpy import save_file
from scipy import ndimage
from skimage.segmentation import felzenszwalb

unstable = numpy.argsort
numpy.argsort = lambda values: unstable(values, kind="stable")  # what felzenszwalb calls

random = numpy.random.default_rng(7)


def blobs(height, width, noise):
    y, x = numpy.mgrid[0:height, 0:width]
    image = numpy.stack([60 + x, 90 + y, 120 + x // 2], -1).astype(float)
    for _ in range(5):
        inside = numpy.hypot(y - random.uniform(0, height), x - random.uniform(0, width)) < random.uniform(4, 14)
        image[inside] = random.uniform(0, 255, 3)
    image += random.normal(0, noise, image.shape) if noise else 0
    return image.clip(0, 255).astype(numpy.uint8)


def chequers(height, width, cell):
    """Many edges of equal weight."""
    y, x = numpy.mgrid[0:height, 0:width]
    return numpy.stack([(y // cell + x // cell) % 2 * 200, (y // cell) % 3 * 40, x // cell * 20], -1).astype(numpy.uint8)


# Picture, scale, sigma, min_size, crop side, patch.
CASES = [
    (blobs(37, 53, 0), 224, 0.9, 60, 32, 8),
    (blobs(61, 40, 12), 30, 0.8, 12, 30, 5),
    (chequers(48, 36, 6), 20, 0.9, 4, 24, 6),
    (chequers(31, 45, 9), 100, 0.5, 90, 28, 7),
    (blobs(5, 70, 25), 10, 2.3, 3, 16, 16),
    (blobs(1, 33, 25), 10, 0.9, 3, 8, 2),
    (random.integers(0, 256, (24, 29, 3)).astype(numpy.uint8), 224, 0.0, 20, 20, 4),
]
BOXES = [(0.0, 0.0, 1.0, 1.0), (0.13, 0.21, 0.83, 0.97), (0.5, 0.25, 0.505, 0.8)]


def cropped(labels, box, side, patch):
    height, width = labels.shape
    x0, y0, x1, y1 = (numpy.float32(value) for value in box)
    part = labels[int(y0 * height):math.ceil(y1 * height), int(x0 * width):math.ceil(x1 * width)]
    if min(part.shape) < 2:
        part = labels
    resized = torch.nn.functional.interpolate(torch.tensor(part)[None, None].float(), size=(side, side), mode="nearest")
    patches = torch.nn.functional.avg_pool2d(resized.double(), patch)
    return resized[0, 0].numpy().astype(numpy.int16), patches[0, 0].numpy().astype(numpy.int32)


def main():
    tensors, about, config = {}, {}, {}
    for index, (image, scale, sigma, min_size, side, patch) in enumerate(CASES):
        name = f"image{index}"
        labels = felzenszwalb(image, scale=scale, sigma=sigma, min_size=min_size).astype(numpy.int32)
        smooth = ndimage.gaussian_filter(image * (1 / 255), [sigma, sigma, 0], mode="reflect")
        tensors |= {f"input.{name}": image, f"out.{name}.labels": labels.astype(numpy.int16)}
        if image.size < 1500:
            tensors[f"mid.{name}.smooth"] = smooth
        for number, box in enumerate(BOXES):
            out = f"out.{name}.crop{number}"
            tensors[out + ".resized"], tensors[out + ".patch_labels"] = cropped(labels, box, side, patch)
            about[out + ".patch_labels"] = {"desc": f"mean of the numbers in a patch, rounded down; box (x0,y0,x1,y1)={box}"}
        config[name] = {"scale": scale, "sigma": sigma, "min_size": min_size, "segments": int(labels.max()) + 1}
    folder = pathlib.Path(__file__).parent.parent / "golden" / "felzenszwalb"
    folder.mkdir(exist_ok=True)
    save_file({key: numpy.ascontiguousarray(value) for key, value in tensors.items()}, folder / "case.safetensors")
    case = {"item": "felzenszwalb", "config": {"images": config}, "tensors": about, "fp64_vs_fp32_maxdiff": 0.0}
    (folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")


if __name__ == "__main__":
    main()
