"""Writes tests/golden/tokens.safetensors: class token, patches and positions put together by PyTorch, in double.

    python tests/oracle/tokens.py
"""
import torch
from recorder import Recorder

r = Recorder(5)
r.record("class", lambda class_embedding, patches, positions: torch.cat(
    [class_embedding.expand(patches.shape[0], 1, -1), patches], dim=1) + positions,
         class_embedding=r.randn(6), patches=r.randn(3, 4, 6), positions=r.randn(5, 6))
r.record("patches_only", lambda patches, positions: patches + positions, patches=r.randn(3, 4, 6),
         positions=r.randn(4, 6))
r.save("tokens")
