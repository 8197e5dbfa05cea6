"""Writes tests/golden/masked_mse.safetensors: the loss of a masked autoencoder, as its official code computes it.

    python tests/oracle/masked_mse.py
"""
import torch
from recorder import Recorder

r = Recorder(43)
prediction, target = r.randn(2, 7, 12), r.randn(2, 7, 12)
for name, mask in (("some", torch.rand(2, 7) < 0.6), ("one", torch.arange(14).reshape(2, 7) == 5), ("all", torch.ones(2, 7))):
    mask = mask.double()

    def loss(prediction, target):
        of_row = ((prediction - target) ** 2).mean(-1)
        return (of_row * mask).sum() / mask.sum()

    r.record(name, loss, prediction=prediction, target=target)
    r.tensors[f"{name}.mask"] = mask.to(torch.uint8)
r.save("masked_mse")
