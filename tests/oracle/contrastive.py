"""Writes tests/golden/contrastive.safetensors: the symmetric contrastive loss and the loss over several texts an image,
with PyTorch's gradients, in double, composed plainly with all logits in memory.

    python tests/oracle/contrastive.py
"""
import math
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

torch.manual_seed(6)
tensors = {}

image = F.normalize(torch.randn(13, 7, dtype=torch.double), dim=-1)
text = F.normalize(torch.randn(13, 7, dtype=torch.double), dim=-1)
tensors |= {"image": image, "text": text}
for variant, logit_scale in (("below", math.log(1 / 0.07)), ("clamped", math.log(134.0))):
    i, t = image.clone().requires_grad_(), text.clone().requires_grad_()
    s = torch.tensor(logit_scale, dtype=torch.double).requires_grad_()
    logits = s.exp().clamp(max=100) * i @ t.T
    labels = torch.arange(13)
    loss = (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2
    loss.backward()
    tensors |= {f"{variant}.logit_scale": s.detach(), f"{variant}.loss": loss.detach(), f"{variant}.d_image": i.grad,
                f"{variant}.d_text": t.grad, f"{variant}.d_logit_scale": s.grad}

# Six images own 17 texts (image 4 owns none); a third of the other pairs are no negatives.
owner = torch.tensor([0, 0, 1, 1, 1, 2, 3, 3, 3, 3, 5, 5, 0, 2, 1, 5, 3], dtype=torch.int32)
scores = (0.4 * torch.randn(6, 17, dtype=torch.double)).requires_grad_()
excluded = torch.rand(6, 17) < 1 / 3
s = torch.tensor(math.log(20.0), dtype=torch.double).requires_grad_()
owned = owner[None].long() == torch.arange(6)[:, None]
logits = (s.exp().clamp(max=100) * scores).masked_fill(excluded & ~owned, -math.inf)
text_loss = (logits.logsumexp(0) - logits[owner.long(), torch.arange(17)]).mean()
negatives = logits.masked_fill(owned, -math.inf).logsumexp(1, keepdim=True)
against_negatives = torch.logaddexp(logits, negatives) - logits
image_losses = [against_negatives[i][owned[i]].mean() for i in range(6) if owned[i].any()]
loss = (text_loss + torch.stack(image_losses).mean()) / 2
loss.backward()
tensors |= {"owner": owner, "scores": scores.detach(), "excluded": excluded.to(torch.uint8),
            "multi.logit_scale": s.detach(), "multi.loss": loss.detach(), "multi.d_scores": scores.grad,
            "multi.d_logit_scale": s.grad}
save_file({name: t.contiguous() for name, t in tensors.items()},
          pathlib.Path(__file__).parent.parent / "golden" / "contrastive.safetensors")
