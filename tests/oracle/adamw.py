"""Writes tests/golden/adamw.safetensors: seven steps of torch.optim.AdamW over two parameter groups, with clipping by
the global norm and a learning-rate factor that changes, in float32 and in float64.

    python tests/oracle/adamw.py
"""
import pathlib

import torch
from safetensors.torch import save_file

STEPS = 7
tensors = {"factor": torch.tensor([0.25, 0.5, 1.0, 1.0, 0.75, 0.5, 0.125], dtype=torch.double)}
for dtype, suffix in ((torch.float32, "f32"), (torch.float64, "f64")):
    torch.manual_seed(7)
    initial = {"weight": torch.randn(5, 9, dtype=torch.double), "bias": torch.randn(11, dtype=torch.double)}
    gradients = {name: torch.randn(STEPS, *p.shape, dtype=torch.double) * 0.3 for name, p in initial.items()}
    parameters = {name: p.to(dtype, copy=True).requires_grad_() for name, p in initial.items()}
    optimizer = torch.optim.AdamW([
        {"params": [parameters["weight"]], "lr": 3e-2, "betas": (0.9, 0.98), "eps": 1e-6, "weight_decay": 0.2},
        {"params": [parameters["bias"]], "lr": 1e-2, "betas": (0.8, 0.999), "eps": 1e-8, "weight_decay": 0.0}])
    rates = [group["lr"] for group in optimizer.param_groups]
    history = {name: [] for name in parameters}
    norms = []
    for step in range(STEPS):
        for name, p in parameters.items():
            p.grad = None if (name, step) == ("bias", 2) else gradients[name][step].to(dtype, copy=True)
        norms.append(torch.nn.utils.clip_grad_norm_(parameters.values(), 1.5))
        for group, rate in zip(optimizer.param_groups, rates):
            group["lr"] = rate * float(tensors["factor"][step])
        optimizer.step()
        for name, p in parameters.items():
            history[name].append(p.detach().clone())
    tensors[f"norm.{suffix}"] = torch.stack(norms)
    for name in parameters:
        tensors[f"initial.{name}"] = initial[name]
        tensors[f"gradient.{name}"] = gradients[name]
        tensors[f"{name}.{suffix}"] = torch.stack(history[name])
save_file(tensors, pathlib.Path(__file__).parent.parent / "golden" / "adamw.safetensors")
