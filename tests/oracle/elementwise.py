"""Writes tests/golden/elementwise.safetensors: PyTorch's arithmetic with broadcasting, functions and activations.

    python tests/oracle/elementwise.py
"""
import torch
import torch.nn.functional as F
from recorder import Recorder

r = Recorder(3)
shapes = {"equal": ((2, 3, 4), (2, 3, 4)), "vector": ((2, 3, 4), (4,)), "matrix": ((2, 3, 4), (3, 4)),
          "middle": ((2, 3, 4), (2, 1, 4)), "both": ((2, 1, 4), (3, 1)), "scalar": ((2, 3, 4), ())}
for name, (a, b) in shapes.items():
    for kind in ("add", "sub", "mul", "div"):
        r.record(f"{name}.{kind}", lambda a, b: getattr(torch, kind)(a, b), a=r.randn(*a), b=1.5 + r.randn(*b).abs())
for kind in ("exp", "log", "sigmoid", "tanh", "sqrt"):
    r.record(kind, getattr(torch, kind), input=r.randn(3, 5).abs() + 0.1)
x = torch.tensor([-200.0, -30, -9, -6, -5.5, -3, -1, -0.1, 0.1, 0.5, 2, 5, 9, 30, 200], dtype=torch.double)
r.record("relu", F.relu, input=x)
r.record("gelu", F.gelu, input=x)
r.record("gelu_tanh", lambda input: F.gelu(input, approximate="tanh"), input=x)
r.record("quick_gelu", lambda input: input * torch.sigmoid(1.702 * input), input=x)
r.save("elementwise")
