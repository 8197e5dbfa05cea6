"""Writes tests/golden/softmax.safetensors: PyTorch's softmax and log_softmax, with masked and with large logits.

    python tests/oracle/softmax.py
"""
import math

import torch
from recorder import Recorder

r = Recorder(6)
masked = r.randn(3, 7)
masked[0, 2:] = -math.inf
masked[2, 0] = -math.inf
for name, x in (("plain", r.randn(2, 3, 9)), ("large", 1e4 * r.randn(3, 5)), ("masked", masked)):
    r.record(f"{name}.softmax", lambda x: torch.softmax(x, -1), x=x)
    r.record(f"{name}.log_softmax", lambda x: torch.log_softmax(x, -1), x=x)
r.save("softmax")
