#!/usr/bin/env python3
"""Makes tests/golden/images: small files decoded and pictures resized by Pillow.

Needs Pillow 13 (it chooses the order of the two passes; see data/resize.hpp) and numpy. Run from the repository root.
Pictures to resize are computed, not stored: pattern() here and in tests/data/resize_test.cpp is the same formula.
"""
import json
import pathlib

import numpy
from PIL import Image

FOLDER = pathlib.Path(__file__).resolve().parent.parent / "golden" / "images"
FILTERS = {
    "nearest": Image.NEAREST,
    "box": Image.BOX,
    "bilinear": Image.BILINEAR,
    "hamming": Image.HAMMING,
    "bicubic": Image.BICUBIC,
    "lanczos": Image.LANCZOS,
}
# width, height, channels, new width, new height
SIZES = [
    (1, 1, 3, 7, 5),
    (1, 1, 1, 1, 3),
    (7, 5, 3, 1, 1),
    (13, 17, 3, 29, 31),
    (31, 29, 3, 13, 17),
    (64, 48, 3, 64, 20),
    (64, 48, 1, 21, 48),
    (257, 3, 3, 19, 11),
    (20, 90, 3, 24, 23),
    (90, 100, 4, 37, 11),
    (8000, 50, 3, 224, 20),
    (50, 8000, 1, 9, 640),
    (640, 427, 3, 335, 224),
]


def pattern(width, height, channels):
    y, x, c = numpy.meshgrid(numpy.arange(height), numpy.arange(width), numpy.arange(channels), indexing="ij")
    value = (x * 7 + y * 13 + c * 101 + (x * y) // 3 + ((x // 5 + y // 4) % 2) * 90) % 256
    return value.astype(numpy.uint8)


def fnv1a(data):
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) % 2**64
    return f"{value:016x}"


def resized(width, height, channels, new_width, new_height, filter_):
    # Channel by channel: Pillow would weigh colours by alpha.
    planes = pattern(width, height, channels)
    made = [Image.fromarray(planes[..., c]).resize((new_width, new_height), filter_) for c in range(channels)]
    return numpy.stack([numpy.asarray(plane) for plane in made], axis=-1)


def decoding_files():
    colour = Image.fromarray(pattern(21, 14, 3))
    ramp = Image.fromarray(numpy.linspace(0, 255, 20 * 16).reshape(16, 20).astype(numpy.uint8))
    cmyk = Image.fromarray(pattern(24, 16, 4), mode="CMYK")
    rgba = Image.fromarray(pattern(9, 7, 4))
    palette = colour.quantize(11)
    exif = Image.Exif()
    exif[0x0112] = 6
    colour.save(FOLDER / "rgb.png")
    rgba.save(FOLDER / "rgba.png")
    rgba.convert("LA").save(FOLDER / "grey_alpha.png")
    ramp.save(FOLDER / "grey.png")
    palette.save(FOLDER / "palette_4bit.png", bits=4)
    palette.save(FOLDER / "palette_transparent.png", transparency=3)
    ramp.point(lambda v: v > 99 and 255).convert("1").save(FOLDER / "bilevel.png")
    colour.save(FOLDER / "colour_444.jpg", quality=92, subsampling=0)
    colour.save(FOLDER / "colour_420.jpg", quality=75, subsampling=2)
    colour.save(FOLDER / "progressive.jpg", quality=80, progressive=True)
    ramp.save(FOLDER / "grey.jpg", quality=90)
    cmyk.save(FOLDER / "cmyk.jpg", quality=90, subsampling=0)
    colour.save(FOLDER / "turned.jpg", quality=90, exif=exif)
    Image.new("RGB", (1, 1), (10, 200, 90)).save(FOLDER / "one.png")


def main():
    FOLDER.mkdir(parents=True, exist_ok=True)
    decoding_files()
    decoded = {}
    for path in sorted(FOLDER.iterdir()):
        if path.suffix in (".png", ".jpg"):
            picture = Image.open(path).convert("RGB")
            decoded[path.name] = {"size": list(picture.size), "fnv1a": fnv1a(picture.tobytes())}
    rows = []
    for size in SIZES:
        for name, filter_ in FILTERS.items():
            result = resized(*size, filter_)
            row = {"size": list(size), "filter": name, "fnv1a": fnv1a(result.tobytes())}
            if result.size <= 40:
                row["pixels"] = result.ravel().tolist()
            rows.append(row)
    text = json.dumps({"decoded": decoded, "resized": rows})
    (FOLDER / "expected.json").write_text(text.replace('{"size"', '\n{"size"') + "\n")


if __name__ == "__main__":
    main()
