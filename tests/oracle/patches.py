"""Writes tests/golden/patches.safetensors: PyTorch's unfold, and its convolution as a patch embedding, in double.

    python tests/oracle/patches.py
"""
import torch.nn.functional as F
from recorder import Recorder

r = Recorder(4)
for name, (height, width), kernel, stride in (("usual", (8, 12), 4, 4), ("overlapping", (7, 9), 3, 2),
                                              ("gaps", (8, 11), 2, 3)):
    r.record(name, lambda images: F.unfold(images, kernel, stride=stride).transpose(1, 2),
             images=r.randn(1, 3, height, width))
for name, stride in (("embedding", 4), ("embedding_overlapping", 2)):
    r.record(name, lambda images, weight, bias: F.conv2d(
        images, weight.reshape(6, 3, 4, 4), bias, stride=stride).flatten(2).transpose(1, 2),
             images=r.randn(1, 3, 8, 12), weight=r.randn(6, 3 * 4 * 4), bias=r.randn(6))
r.save("patches")
