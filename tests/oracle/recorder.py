"""What the oracle programs share: records an operation's inputs, output, cotangent and gradients, in double."""
import pathlib

import torch
from safetensors.torch import save_file


class Recorder:
    def __init__(self, seed):
        torch.manual_seed(seed)
        self.tensors = {}

    def randn(self, *shape):
        return torch.randn(shape, dtype=torch.double)

    def record(self, name, f, **inputs):
        """name.<input>, name.y, name.d_y (random) and name.d_<input> of y = f(**inputs)."""
        leaves = {key: value.detach().clone().requires_grad_() for key, value in inputs.items()}
        y = f(**leaves)
        d_y = torch.randn_like(y)
        y.backward(d_y)
        for key, value in inputs.items():
            self.tensors[f"{name}.{key}"] = value.detach()
            self.tensors[f"{name}.d_{key}"] = leaves[key].grad
        self.tensors[f"{name}.y"] = y.detach()
        self.tensors[f"{name}.d_y"] = d_y

    def save(self, stem):
        folder = pathlib.Path(__file__).parent.parent / "golden"
        save_file({key: value.clone().contiguous() for key, value in self.tensors.items()}, folder / f"{stem}.safetensors")
