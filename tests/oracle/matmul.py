"""Writes tests/golden/matmul.safetensors: PyTorch's linear layers with activations, batched products, and grouped 1x1
convolutions, in double.

    python tests/oracle/matmul.py
"""
import torch
import torch.nn.functional as F
from recorder import Recorder

r = Recorder(2)
activations = {
    "none": lambda x: x,
    "relu": F.relu,
    "gelu": F.gelu,
    "gelu_tanh": lambda x: F.gelu(x, approximate="tanh"),
    "quick_gelu": lambda x: x * torch.sigmoid(1.702 * x),
}
for name, activation in activations.items():
    r.record(name, lambda x, weight, bias: activation(F.linear(x, weight, bias)),
             x=r.randn(2, 3, 7), weight=r.randn(5, 7), bias=r.randn(5))
r.record("batched", lambda a, b: a @ b, a=r.randn(2, 3, 4), b=r.randn(2, 4, 5))
r.record("transposed", lambda a, b: a.mT @ b.mT, a=r.randn(2, 4, 3), b=r.randn(2, 5, 4))
# Channels are the last axis here and the second one in PyTorch.
r.record("grouped", lambda x, weight, bias: F.conv1d(x.mT, weight[..., None], bias, groups=3).mT,
         x=r.randn(2, 5, 12), weight=r.randn(6, 4), bias=r.randn(6))
r.save("matmul")
