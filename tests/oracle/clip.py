"""Writes tests/golden/clip/*: very small CLIPs by transformers, with hidden states, embeddings, loss and all gradients;
and tests/golden/open_clip: one by open_clip, under OpenAI's parameter names.

    python tests/oracle/clip.py
"""
import json
import pathlib

import open_clip
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from transformers import CLIPConfig, CLIPModel

golden = pathlib.Path(__file__).parent.parent / "golden"


def randomise(model):
    """Weights that matter everywhere: no zero biases, no norms of one."""
    for name, p in model.named_parameters():
        if name == "logit_scale":
            continue
        if p.dim() >= 2:
            torch.nn.init.normal_(p, std=0.8 * p[0].numel() ** -0.5)
        elif "norm" in name or "ln_" in name:
            torch.nn.init.normal_(p, mean=float(name.endswith("weight")), std=0.2)
        else:
            torch.nn.init.normal_(p, std=0.2)


def rows_of_text(vocabulary, length, end, largest):
    """Rows of random ids; each ends with `end`, after which ids are random as well. `largest`: ids before it are smaller
    (pooling at the largest id), otherwise they may be larger and the end of text stands twice."""
    ids = torch.randint(1, vocabulary, (3, length))
    for row, position in enumerate([2, length - 1, length // 2]):
        if largest:
            ids[row, :position] = torch.randint(1, end, (position,))
            ids[row, position + 1:] = torch.randint(0, end + 1, (length - position - 1,))
        else:
            ids[row][ids[row] == end] = 1
            if position + 2 < length:
                ids[row, position + 2] = end
        ids[row, position] = end
    return ids


def huggingface(name, seed, vision, text, embed, ids, resized):
    torch.manual_seed(seed)
    model = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=embed)).eval()
    randomise(model)
    pixels = torch.randn(3, 3, vision["image_size"], vision["image_size"])
    out = model(input_ids=ids, pixel_values=pixels, return_loss=True)
    out.loss.backward()
    expected = {"grad." + n: p.grad for n, p in model.named_parameters()}
    with torch.no_grad():
        tower = model.vision_model(pixel_values=pixels, output_hidden_states=True)
        for i, h in enumerate(tower.hidden_states):
            expected[f"vision_hidden.{i}"] = h
        for i, h in enumerate(model.text_model(input_ids=ids, output_hidden_states=True).hidden_states):
            expected[f"text_hidden.{i}"] = h
        last = model.vision_model.encoder.layers[-1]
        value = last.self_attn.v_proj(last.layer_norm1(tower.hidden_states[-2]))
        dense = model.visual_projection(model.vision_model.post_layernorm(last.self_attn.out_proj(value)))[:, 1:]
        other = torch.randn(1, 3, *resized)
        pooled = model.vision_model(pixel_values=other, interpolate_pos_encoding=True).pooler_output
        expected |= {
            "pixel_values": pixels, "input_ids": ids, "image_embeds": out.image_embeds, "text_embeds": out.text_embeds,
            "logits_per_image": out.logits_per_image, "loss": out.loss.reshape(1),
            "maskclip_patch_embeds": F.normalize(dense, dim=-1),
            "resized.pixel_values": other, "resized.image_embeds": F.normalize(model.visual_projection(pooled), dim=-1),
        }
    folder = golden / "clip" / name
    folder.mkdir(parents=True, exist_ok=True)
    model.save_pretrained(folder)
    save_file({k: v.detach().clone().contiguous() for k, v in expected.items()}, folder / "expected.safetensors")


def openclip():
    """head_width is no 64, GELU, mlp_ratio 3: what only open_clip_config.json and the shapes tell."""
    torch.manual_seed(5)
    config = {
        "embed_dim": 8,
        "vision_cfg": {"image_size": 12, "layers": 1, "width": 16, "head_width": 8, "patch_size": 4, "mlp_ratio": 3.0},
        "text_cfg": {"context_length": 7, "vocab_size": 30, "width": 12, "heads": 3, "layers": 1},
    }
    model = open_clip.CLIP(**config).eval()
    randomise(model)
    pixels, ids = torch.randn(2, 3, 12, 12), rows_of_text(30, 7, 29, True)
    with torch.no_grad():
        expected = {
            "pixel_values": pixels, "input_ids": ids,
            "image_embeds": model.encode_image(pixels, normalize=True),
            "text_embeds": model.encode_text(ids, normalize=True),
        }
    folder = golden / "open_clip"
    folder.mkdir(parents=True, exist_ok=True)
    preprocess = {"mean": [0.5, 0.25, 0.125], "std": [0.25, 0.5, 1.0], "interpolation": "bicubic", "resize_mode": "shortest"}
    (folder / "open_clip_config.json").write_text(json.dumps({"model_cfg": config, "preprocess_cfg": preprocess}, indent=1) + "\n")
    save_file({k: v.clone().contiguous() for k, v in model.state_dict().items()}, folder / "open_clip_model.safetensors")
    save_file({k: v.clone().contiguous() for k, v in expected.items()}, folder / "expected.safetensors")


torch.manual_seed(1)
huggingface(
    "quick_gelu", 1,
    {"hidden_size": 24, "intermediate_size": 28, "num_hidden_layers": 2, "num_attention_heads": 3, "image_size": 20,
     "patch_size": 4, "hidden_act": "quick_gelu"},
    {"hidden_size": 20, "intermediate_size": 20, "num_hidden_layers": 1, "num_attention_heads": 4, "vocab_size": 81,
     "max_position_embeddings": 9, "hidden_act": "quick_gelu", "eos_token_id": 70, "bos_token_id": 0, "pad_token_id": 1},
    14, rows_of_text(81, 9, 70, False), (12, 28))
huggingface(
    "gelu_legacy_end", 2,
    {"hidden_size": 14, "intermediate_size": 30, "num_hidden_layers": 1, "num_attention_heads": 2, "image_size": 9,
     "patch_size": 3, "hidden_act": "gelu", "layer_norm_eps": 1e-3},
    {"hidden_size": 18, "intermediate_size": 22, "num_hidden_layers": 1, "num_attention_heads": 2, "vocab_size": 47,
     "max_position_embeddings": 11, "hidden_act": "gelu", "eos_token_id": 2, "bos_token_id": 0, "pad_token_id": 1},
    6, rows_of_text(47, 11, 46, True), (12, 15))
openclip()
