"""Writes tests/golden/pair_compatibility.safetensors: PACL's compatibility of all image and text pairs with PyTorch's
gradients, in double, composed plainly (every pair's pooled vector is held).

    python tests/oracle/pair_compatibility.py
"""
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(5)
patches = 2 * torch.randn(3, 11, 9, dtype=torch.double)
texts = 3 * torch.randn(5, 9, dtype=torch.double)
d_phi = torch.randn(3, 5, dtype=torch.double)
tensors = {"patches": patches, "texts": texts, "d_phi": d_phi}
for variant, scale, normalized in (("raw", 1.0, False), ("sharp", 5.0, False), ("normalized", 5.0, True)):
    v, t = patches.clone().requires_grad_(), texts.clone().requires_grad_()
    similarity = torch.einsum("btd,kd->bkt", F.normalize(v, dim=-1), F.normalize(t, dim=-1))
    attention = torch.softmax(scale * similarity, dim=-1)
    pooled = torch.einsum("bkt,btd->bkd", attention, F.normalize(v, dim=-1) if normalized else v)
    phi = F.cosine_similarity(pooled, t[None], dim=-1)
    phi.backward(d_phi)
    tensors |= {f"{variant}.phi": phi.detach(), f"{variant}.d_patches": v.grad, f"{variant}.d_texts": t.grad}
save_file(tensors, pathlib.Path(__file__).parent.parent / "golden" / "pair_compatibility.safetensors")
