"""Writes tests/golden/symmetric_kl.safetensors: half the sum of PyTorch's kl_div both ways, in double.

    python tests/oracle/symmetric_kl.py
"""
import torch
import torch.nn.functional as F
from recorder import Recorder


def loss(p, q, size):
    log_p, log_q = F.log_softmax(p, -1), F.log_softmax(q, -1)
    kl = lambda of, to: F.kl_div(to, of, reduction="sum", log_target=True)
    return 0.5 * (kl(log_p, log_q) + kl(log_q, log_p)) / size


r = Recorder(9)
r.record("elements", lambda p, q: loss(p, q, 2 * 3 * 8), p=2 * r.randn(2, 3, 8), q=2 * r.randn(2, 3, 8))
r.record("rows", lambda p, q: loss(p, q, 5), p=r.randn(5, 13), q=r.randn(5, 13))
r.save("symmetric_kl")
