"""Writes tests/golden/rearrange.safetensors: PyTorch's permute, narrow, cat and expand.

    python tests/oracle/rearrange.py
"""
import torch
from recorder import Recorder

r = Recorder(4)
r.record("permute", lambda x: x.permute(2, 0, 3, 1), x=r.randn(2, 3, 4, 5))
r.record("slice", lambda x: x.narrow(1, 1, 2), x=r.randn(2, 4, 3))
r.record("concatenate", lambda a, b, c: torch.cat((a, b, c), 1), a=r.randn(2, 1, 3), b=r.randn(2, 4, 3),
         c=r.randn(2, 2, 3))
r.record("broadcast", lambda x: x.expand(2, 4, 3), x=r.randn(4, 1))
r.save("rearrange")
