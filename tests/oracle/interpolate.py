"""Writes tests/golden/interpolate.safetensors: PyTorch's interpolate with its gradients (pip install safetensors torch).

    python tests/oracle/interpolate.py [file]

caseN.x, .y, .d_y, .d_x; caseN.mode (0 nearest, 1 bilinear, 2 bicubic), .align_corners and .scale_factor (0: by size).
nearest.<input>.<output>: the input cell of every output cell.
"""
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

file = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "golden" / "interpolate.safetensors"
generator = torch.Generator().manual_seed(7)
MODES = ["nearest", "bilinear", "bicubic"]
SIZES = [((5, 7), (9, 4)), ((4, 3), (8, 6)), ((6, 6), (6, 6)), ((1, 5), (3, 1)), ((7, 9), (12, 14)), ((8, 11), (3, 4)),
         ((3, 4), (3, 9))]
FACTORS = [((7, 7), (10.1 / 7, 9.1 / 7)), ((5, 6), (1.1, 2.6)), ((9, 8), (0.4, 0.55))]

tensors, count = {}, 0


def add(x, mode, align, size=None, factor=None):
    global count
    x.requires_grad_()
    arguments = {} if mode == "nearest" else {"align_corners": align}
    y = F.interpolate(x, size=size, scale_factor=factor, mode=mode, **arguments)
    d_y = torch.randn(y.shape, generator=generator, dtype=x.dtype)
    y.backward(d_y)
    name = f"case{count}."
    count += 1
    tensors.update({name + "x": x.detach(), name + "y": y.detach(), name + "d_y": d_y, name + "d_x": x.grad,
                    name + "mode": torch.tensor(MODES.index(mode), dtype=torch.int32),
                    name + "align_corners": torch.tensor(int(align), dtype=torch.int32),
                    name + "scale_factor": torch.tensor(factor or (0, 0), dtype=torch.float64)})


def random(height, width, dtype):
    return torch.randn(1, 1, height, width, generator=generator, dtype=dtype)


for mode in MODES:
    for align in (False, True) if mode != "nearest" else (False,):
        for n, (source, target) in enumerate(SIZES):
            add(random(*source, torch.float64 if n % 2 else torch.float32), mode, align, size=target)
    for source, factor in FACTORS:
        add(random(*source, torch.float32), mode, False, factor=factor)
for i, o in [(3, 7), (7, 3), (10, 29), (29, 10), (14, 31), (31, 14), (11, 11), (6, 12), (49, 53), (53, 49), (100, 41), (41, 100)]:
    cells = torch.arange(i, dtype=torch.float32).reshape(1, 1, i)
    tensors[f"nearest.{i}.{o}"] = F.interpolate(cells, size=o, mode="nearest").reshape(o).to(torch.int32)
save_file(tensors, file)
