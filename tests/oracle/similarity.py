"""Writes tests/golden/similarity.safetensors: division by the length, PyTorch's normalize, cosines of all pairs.

    python tests/oracle/similarity.py
"""
import torch
import torch.nn.functional as F
from recorder import Recorder

r = Recorder(8)
r.record("plain", lambda x: x / x.norm(dim=-1, keepdim=True), x=r.randn(2, 3, 7))
short = r.randn(4, 5) * torch.tensor([[1.0], [1e-3], [0.05], [0.0]], dtype=torch.double)
r.record("epsilon", lambda x: F.normalize(x, dim=-1, eps=0.25), x=short)
r.record("pairs", lambda a, b: F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T, a=r.randn(4, 6), b=r.randn(3, 6))
r.record("patches", lambda a, b: F.normalize(a, dim=-1) @ F.normalize(b, dim=-1).T, a=r.randn(2, 5, 6),
         b=r.randn(3, 6))
r.save("similarity")
