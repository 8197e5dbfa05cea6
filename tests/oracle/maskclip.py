"""Writes tests/golden/maskclip_dense: the image tower of a tiny CLIP in plain PyTorch, the last block with identity
attention (tcl) and as it is (plain), on pictures whose grid is not the stored one; forward and all gradients.

    python tests/oracle/maskclip.py
"""
import json
import pathlib

import torch
import torch.nn.functional as F
from safetensors.torch import save_file

B, patch, stored, image, D, heads, layers, E, eps = 2, 4, 3, (20, 8), 12, 3, 2, 10, 1e-5
grid = (image[0] // patch, image[1] // patch)


def make_parameters():
    def matrix(*shape):
        return torch.randn(shape) * shape[-1] ** -0.5

    p = {"class_embedding": torch.randn(D), "positional_embedding": torch.randn(stored * stored + 1, D) * 0.5,
         "proj": matrix(D, E), "conv1.weight": torch.randn(D, 3, patch, patch) * 0.2}
    norms = ["ln_pre", "ln_post"]
    for i in range(layers):
        block = f"transformer.resblocks.{i}."
        norms += [block + "ln_1", block + "ln_2"]
        p |= {block + "attn.in_proj_weight": matrix(3 * D, D), block + "attn.in_proj_bias": torch.randn(3 * D) * 0.1}
        for name, shape in {"attn.out_proj": (D, D), "mlp.c_fc": (4 * D, D), "mlp.c_proj": (D, 4 * D)}.items():
            p |= {f"{block}{name}.weight": matrix(*shape), f"{block}{name}.bias": torch.randn(shape[0]) * 0.1}
    for name in norms:
        p |= {name + ".weight": 1 + 0.2 * torch.randn(D), name + ".bias": 0.1 * torch.randn(D)}
    return p


def resized_positions(table):
    """Bicubic (a = -0.75, no antialiasing), from the stored grid to the picture's; the class token's row as it is."""
    cells = table[1:].reshape(1, stored, stored, D).permute(0, 3, 1, 2)
    cells = F.interpolate(cells, size=grid, mode="bicubic", align_corners=False)
    return torch.cat([table[:1], cells.permute(0, 2, 3, 1).reshape(-1, D)])


def forward(p, x, identity, mid):
    def norm(name, y):
        return F.layer_norm(y, (D,), p[name + ".weight"], p[name + ".bias"], eps)

    def dense(name, y):
        return y @ p[name + ".weight"].T + p[name + ".bias"]

    x = F.conv2d(x, p["conv1.weight"], stride=patch).flatten(2).transpose(1, 2)
    x = torch.cat([p["class_embedding"].expand(B, 1, D), x], 1) + resized_positions(p["positional_embedding"])
    x = norm("ln_pre", x)
    for i in range(layers):
        block = f"transformer.resblocks.{i}."
        packed = norm(block + "ln_1", x) @ p[block + "attn.in_proj_weight"].T + p[block + "attn.in_proj_bias"]
        query, key, value = (t.unflatten(-1, (heads, -1)).transpose(1, 2) for t in packed.chunk(3, -1))
        if identity and i == layers - 1:
            attended = value
        else:
            attended = torch.softmax(query @ key.transpose(2, 3) * (D // heads) ** -0.5, -1) @ value
        x = x + dense(block + "attn.out_proj", attended.transpose(1, 2).flatten(2))
        inner = dense(block + "mlp.c_fc", norm(block + "ln_2", x))
        x = x + dense(block + "mlp.c_proj", inner * torch.sigmoid(1.702 * inner))
        mid[f"block{i}"] = x
    return norm("ln_post", x) @ p["proj"]


def record(parameters, pixels, d_out, d_positions):
    """All outputs and gradients, as a dictionary; in the arguments' precision."""
    tensors = {}
    for variant in ["tcl", "plain"]:
        p = {k: v.clone().requires_grad_() for k, v in parameters.items()}
        x, mid = pixels.clone().requires_grad_(), {}
        tokens = forward(p, x, variant == "tcl", mid)
        loss = (tokens * d_out).sum()
        loss.backward()
        tensors |= {f"mid.{variant}.{k}": v for k, v in mid.items()}
        tensors |= {f"grad.{variant}.param.{k}": v.grad for k, v in p.items()}
        tensors |= {f"grad.{variant}.input.image": x.grad, f"out.{variant}.tokens": tokens, f"out.{variant}.loss": loss}
    table = parameters["positional_embedding"].clone().requires_grad_()
    resized = resized_positions(table)
    (resized * d_positions).sum().backward()
    tensors |= {"out.pos_embed.resized": resized, "grad.pos_embed.param.positional_embedding": table.grad}
    return {k: v.detach() for k, v in tensors.items()}


torch.manual_seed(9)
parameters = make_parameters()
tokens = 1 + grid[0] * grid[1]
inputs = [torch.randn(B, 3, *image), torch.randn(B, tokens, E), torch.randn(tokens, D)]
single = record(parameters, *inputs)
exact = record({k: v.double() for k, v in parameters.items()}, *(x.double() for x in inputs))
noise = {k: float((single[k].double() - exact[k]).abs().max()) for k in single}
counts = {"n_params": len(parameters)}
case = {
    "item": "maskclip_dense",
    "config": {"B": B, "patch": patch, "stored_grid": stored, "image": image, "dense_grid": grid, "D": D, "heads": heads,
               "layers": layers, "E": E, "ln_eps": eps},
    "variants": {
        "tcl": counts | {"desc": "identity attention in the last block; loss = sum(tokens * dout)"},
        "plain": counts | {"desc": "the last block as it is; loss = sum(tokens * dout)"},
        "pos_embed": {"n_params": 1, "desc": "resized position table alone; loss = sum(resized * dpos)"},
    },
    "fp64_vs_fp32_maxdiff": max(noise.values()),
    "fp64_vs_fp32_maxdiff_per_tensor": noise,
}
tensors = {"input.image": inputs[0], "input.dout": inputs[1], "input.dpos": inputs[2]}
tensors |= {"param." + k: v for k, v in parameters.items()} | {k: v.float() for k, v in exact.items()}
folder = pathlib.Path(__file__).parent.parent / "golden" / "maskclip_dense"
folder.mkdir(exist_ok=True)
(folder / "case.json").write_text(json.dumps(case, indent=1) + "\n")
save_file({k: v.clone().contiguous() for k, v in tensors.items()}, folder / "case.safetensors")
