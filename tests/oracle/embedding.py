"""Writes tests/golden/embedding.safetensors: PyTorch's embedding, and one token of each sequence.

    python tests/oracle/embedding.py
"""
import torch
import torch.nn.functional as F
from recorder import Recorder

r = Recorder(7)
ids = torch.tensor([[3, 0, 3, 9], [9, 3, 1, 1]], dtype=torch.int32)
index = torch.tensor([2, 0, 3], dtype=torch.int32)
r.record("lookup", lambda table: F.embedding(ids, table), table=r.randn(11, 5))
r.record("gather", lambda x: x[torch.arange(3), index.long()], x=r.randn(3, 4, 5))
r.tensors |= {"ids": ids, "index": index}
r.save("embedding")
