"""Writes tests/golden/attention.safetensors: PyTorch's scaled_dot_product_attention in double, from a packed projection
and from separate queries, keys and values, with causal and length masks.

    python tests/oracle/attention.py
"""
import torch
import torch.nn.functional as F
from recorder import Recorder


def split(x, heads):
    """[B, N, H * D] -> [B, H, N, D]"""
    return x.unflatten(-1, (heads, -1)).transpose(1, 2)


def merge(x):
    return x.transpose(1, 2).flatten(2)


def packed(heads, **options):
    def f(qkv):
        query, key, value = (split(part, heads) for part in qkv.chunk(3, dim=-1))
        return merge(F.scaled_dot_product_attention(query, key, value, **options))
    return f


def cross(heads, **options):
    return lambda query, key, value: merge(F.scaled_dot_product_attention(
        split(query, heads), split(key, heads), split(value, heads), **options))


r = Recorder(3)
r.record("packed", packed(2), qkv=r.randn(2, 9, 3 * 2 * 5))
r.record("packed_causal", packed(3, is_causal=True), qkv=r.randn(2, 8, 3 * 3 * 4))
lengths = torch.tensor([7, 3], dtype=torch.int32)
r.tensors["lengths"] = lengths
seen = (torch.arange(7) < lengths[:, None])[:, None, None, :]
r.record("packed_lengths", packed(2, attn_mask=seen), qkv=r.randn(2, 7, 3 * 2 * 4))
r.record("packed_causal_lengths", packed(2, attn_mask=seen & torch.ones(7, 7).tril().bool()), qkv=r.randn(2, 7, 3 * 2 * 4))
r.record("cross", cross(2), query=r.randn(2, 5, 8), key=r.randn(2, 11, 8), value=r.randn(2, 11, 8))
r.record("cross_scale", cross(1, scale=1.7), query=r.randn(1, 5, 3), key=r.randn(1, 40, 3), value=r.randn(1, 40, 3))
r.record("cross_lengths", cross(2, attn_mask=seen), query=r.randn(2, 3, 8), key=r.randn(2, 7, 8), value=r.randn(2, 7, 8))
r.save("attention")
