"""Writes tests/golden/conv2d.safetensors: PyTorch's conv2d in double.

    python tests/oracle/conv2d.py
"""
import torch.nn.functional as F
from recorder import Recorder

r = Recorder(1)
for name, outputs, kernel, options in (
    ("same", 3, (3, 3), dict(padding=1)),
    ("pointwise", 6, (1, 1), dict()),
    ("strided", 4, (3, 2), dict(stride=(2, 3), padding=(1, 0), dilation=(1, 2))),
    ("groups", 6, (2, 3), dict(padding=(0, 1), groups=2)),
):
    r.record(name, lambda x, weight, bias: F.conv2d(x, weight, bias, **options), x=r.randn(2, 4, 5, 7),
             weight=r.randn(outputs, 4 // options.get("groups", 1), *kernel), bias=r.randn(outputs))
r.save("conv2d")
