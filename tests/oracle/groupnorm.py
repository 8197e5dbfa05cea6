"""Writes tests/golden/groupnorm.safetensors: PyTorch's group_norm in double.

    python tests/oracle/groupnorm.py
"""
import torch.nn.functional as F
from recorder import Recorder

r = Recorder(1)
for name, channels, groups, epsilon in (("maps", 6, 2, 1e-5), ("instances", 4, 4, 0.1)):
    r.record(name, lambda x, weight, bias: F.group_norm(x, groups, weight, bias, epsilon),
             x=3 * r.randn(2, channels, 3, 5) + 1, weight=r.randn(channels), bias=r.randn(channels))
r.save("groupnorm")
