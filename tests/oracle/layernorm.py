"""Writes tests/golden/layernorm.safetensors: PyTorch's layer_norm in double.

    python tests/oracle/layernorm.py
"""
import torch.nn.functional as F
from recorder import Recorder

r = Recorder(1)
for name, channels, epsilon in (("usual", 9, 1e-5), ("large_epsilon", 5, 0.1)):
    r.record(name, lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias, epsilon),
             x=3 * r.randn(2, 4, channels) + 1, weight=r.randn(channels), bias=r.randn(channels))
r.save("layernorm")
