"""Writes tests/golden/upsample_argmax.safetensors: PyTorch's bilinear interpolate followed by argmax
(pip install safetensors torch).

    python tests/oracle/upsample_argmax.py [file]

caseN.scores [B, C, h, w], .labels [B, H, W] (uint8), .align_corners. Scores are small integers on a grid of sixteenths
where the enlargement is by a power of two, so that every product is exact and ties are true ties; elsewhere the two best
scores of every pixel differ by more than rounding.
"""
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

file = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "golden" / "upsample_argmax.safetensors"
generator = torch.Generator().manual_seed(5)
tensors = {}
cases = [((2, 9, 4, 5), (32, 40), False, True), ((1, 5, 3, 3), (48, 12), False, True), ((1, 11, 6, 4), (37, 41), False, False),
         ((1, 11, 6, 4), (37, 41), True, False), ((2, 6, 9, 9), (5, 7), False, False), ((1, 4, 1, 3), (9, 20), True, False)]
for n, (shape, size, align, exact) in enumerate(cases):
    scores = torch.randint(-2, 3, shape, generator=generator).float() if exact else torch.randn(shape, generator=generator)
    up = F.interpolate(scores, size=size, mode="bilinear", align_corners=align)
    if not exact:
        best = up.topk(2, dim=1).values
        assert (best[:, 0] - best[:, 1]).min() > 1e-5
    tensors.update({f"case{n}.scores": scores, f"case{n}.labels": up.argmax(1).to(torch.uint8),
                    f"case{n}.align_corners": torch.tensor(int(align), dtype=torch.int32)})
save_file(tensors, file)
