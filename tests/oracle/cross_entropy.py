"""Writes tests/golden/cross_entropy.safetensors: PyTorch's cross_entropy with its gradients
(pip install safetensors torch).

    python tests/oracle/cross_entropy.py [file]

caseN.logits, .targets (int32 [R], or [R, C] soft), .reduction (0 mean, 1 sum, 2 none), .label_smoothing, .d_loss, .loss,
.d_logits, and for soft targets .d_targets. Every fifth class number is ignored (-100).
"""
import pathlib
import sys

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

file = sys.argv[1] if len(sys.argv) > 1 else pathlib.Path(__file__).parent.parent / "golden" / "cross_entropy.safetensors"
generator = torch.Generator().manual_seed(11)
REDUCTIONS = ["mean", "sum", "none"]
tensors, count = {}, 0
for soft in (False, True):
    for reduction in REDUCTIONS:
        for smoothing in (0.0, 0.1):
            for dtype, rows, classes in ((torch.float32, 6, 7), (torch.float64, 3, 17)):
                logits = (4 * torch.randn(rows, classes, generator=generator, dtype=dtype)).requires_grad_()
                if soft:
                    targets = torch.rand(rows, classes, generator=generator, dtype=dtype)
                    targets = (targets / (targets.sum(1, keepdim=True) * 0.8)).requires_grad_()
                else:
                    targets = torch.randint(0, classes, (rows,), generator=generator)
                    targets[::5] = -100
                loss = F.cross_entropy(logits, targets, reduction=reduction, label_smoothing=smoothing)
                d_loss = torch.randn(loss.shape, generator=generator, dtype=dtype)
                loss.backward(d_loss)
                name = f"case{count}."
                count += 1
                tensors.update({name + "logits": logits.detach(), name + "loss": loss.detach(), name + "d_loss": d_loss,
                                name + "targets": targets.detach() if soft else targets.to(torch.int32),
                                name + "d_logits": logits.grad,
                                name + "reduction": torch.tensor(REDUCTIONS.index(reduction), dtype=torch.int32),
                                name + "label_smoothing": torch.tensor(smoothing, dtype=torch.float64)})
                if soft:
                    tensors[name + "d_targets"] = targets.grad
save_file(tensors, file)
