"""Writes tests/golden/segment_reduce.safetensors: sums, means and maxima of segments by PyTorch's scatter_reduce, and rows
gathered back, in double.

    python tests/oracle/segment_reduce.py

Segments are int32 with -1 for tokens of none; segment 3 of item 0 and segment 0 of item 1 are empty.
"""
import torch
from recorder import Recorder

r = Recorder(8)
segments = torch.tensor([[0, 2, 0, -1, 2, 1, 0], [3, 1, 1, 2, -1, -1, 3]], dtype=torch.int32)
count = 4


def scatter(x, kind):
    rows = torch.where(segments < 0, count, segments).long()  # one row more, for tokens of none
    index = rows[..., None].expand(-1, -1, x.shape[-1])
    y = torch.zeros(x.shape[0], count + 1, x.shape[-1], dtype=x.dtype)
    return y.scatter_reduce(1, index, x, kind, include_self=False)[:, :count]


def gather(rows):
    inside = segments >= 0
    index = torch.where(inside, segments, 0).long()[..., None].expand(-1, -1, rows.shape[-1])
    return rows.gather(1, index) * inside[..., None]


for name, kind in (("sum", "sum"), ("mean", "mean"), ("max", "amax")):
    r.record(name, lambda x: scatter(x, kind), x=r.randn(2, 7, 5))
r.record("gather", gather, rows=r.randn(2, count, 5))
r.tensors["segments"] = segments
r.save("segment_reduce")
