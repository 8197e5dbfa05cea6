"""Writes tests/golden/gumbel_softmax.safetensors: the formula of torch.nn.functional.gumbel_softmax, soft and hard, with
the noise given; gradients by autograd. Beside every case its noise and the index of the largest.

    python tests/oracle/gumbel_softmax.py
"""
import math

import torch
from recorder import Recorder

r = Recorder(41)
masked = r.randn(4, 6)
masked[0, 2:] = -math.inf
masked[3, 0] = -math.inf
cases = {"groups": (3 * r.randn(2, 11, 8), 0.9), "wide": (r.randn(3, 65), 0.5), "masked": (masked, 1.0)}
for name, (logits, temperature) in cases.items():
    gumbel = -(-torch.rand(logits.shape, dtype=torch.double).clamp(1e-7, 1 - 1e-7).log()).log()
    # rows whose two largest are too near to each other would turn with the last bit of float
    two = ((logits + gumbel).topk(2, -1).values / temperature).diff(dim=-1).abs()
    assert two.min() > 1e-3, name

    def soft(logits):
        return torch.softmax((logits + gumbel) / temperature, -1)

    def hard(logits):
        y = soft(logits)
        one_hot = torch.zeros_like(y).scatter_(-1, y.max(-1, keepdim=True)[1], 1.0)
        return one_hot - y.detach() + y

    r.record(f"{name}.soft", soft, logits=logits)
    r.record(f"{name}.hard", hard, logits=logits)
    r.tensors[f"{name}.gumbel"] = gumbel
    r.tensors[f"{name}.index"] = soft(logits).argmax(-1).int()
r.save("gumbel_softmax")
