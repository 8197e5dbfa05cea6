"""Writes tests/golden/vit: a very small ViTModel by transformers with DINO's options (erf GELU, biases everywhere, no norm
before the blocks), with the tokens of all patches at the stored size and at another one.

    python tests/oracle/vit.py
"""
import pathlib

import torch
from safetensors.torch import save_file
from transformers import ViTConfig, ViTImageProcessor, ViTModel

folder = pathlib.Path(__file__).parent.parent / "golden" / "vit"
folder.mkdir(parents=True, exist_ok=True)

torch.manual_seed(12)
config = ViTConfig(hidden_size=12, num_hidden_layers=2, num_attention_heads=3, intermediate_size=20, image_size=12,
                   patch_size=4, layer_norm_eps=1e-4)  # large, so that a wrong one shows
model = ViTModel(config, add_pooling_layer=True).eval()
for name, p in model.named_parameters():
    if p.dim() >= 2:
        torch.nn.init.normal_(p, std=0.5 if "embeddings" in name else 0.8 * p[0].numel() ** -0.5)
    elif "norm" in name:
        torch.nn.init.normal_(p, mean=float(name.endswith("weight")), std=0.2)
    else:
        torch.nn.init.normal_(p, std=0.2)
model.save_pretrained(folder)
mean, deviation = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]
ViTImageProcessor(image_mean=mean, image_std=deviation, size={"height": 12, "width": 12}).save_pretrained(folder)

expected, single = {}, {}
with torch.no_grad():
    for name, (height, width) in {"stored": (12, 12), "resized": (20, 8)}.items():
        pixels = torch.randn(2, 3, height, width)
        expected[f"{name}.pixel_values"] = pixels
        for kind, values in {torch.float: single, torch.double: expected}.items():
            out = model.to(kind)(pixel_values=pixels.to(kind), interpolate_pos_encoding=True, output_hidden_states=True)
            values[f"{name}.last_block"] = out.hidden_states[-1][:, 1:].float()
            values[f"{name}.ln_post"] = out.last_hidden_state[:, 1:].float()
        model.float()
for name, values in single.items():
    print(name, "differs by", float((expected[name] - values).abs().max()), "from", float(values.abs().max()))
save_file({k: v.clone().contiguous() for k, v in expected.items()}, folder / "expected.safetensors")
