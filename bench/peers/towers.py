"""CLIP ViT-B/16's towers by transformers, with our random weights, and the demo's training step as a plain PyTorch
module."""

import torch
import torch.nn.functional as F
from torch import nn

from operations import multi_text_loss, pair_compatibility, peer


def loaded(model, inputs, dtype):
    """The model with the row's weights. Position ids are buffers of the model, not weights."""
    weights = {name: value for name, value in inputs.items() if "." in name}
    result = model.load_state_dict(weights, strict=False)
    missing = [name for name in result.missing_keys if not name.endswith("position_ids")]
    if missing or result.unexpected_keys:
        raise RuntimeError(f"weights differ: missing {missing[:3]}, unexpected {result.unexpected_keys[:3]}")
    return model.to(dtype).eval()


@peer("clip_vit_b16_image/forward")
def image_tower(inputs, name):
    from transformers import CLIPVisionConfig, CLIPVisionModelWithProjection

    config = CLIPVisionConfig(
        hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12, patch_size=16,
        projection_dim=512, attn_implementation="sdpa")
    images = inputs["images"]
    model = loaded(CLIPVisionModelWithProjection(config), inputs, images.dtype)
    resized = images.shape[-1] != 224

    def work():
        with torch.no_grad():
            return {"embeddings": model(pixel_values=images, interpolate_pos_encoding=resized).image_embeds}

    return work


@peer("clip_vit_b16_text/forward")
def text_tower(inputs, name):
    from transformers import CLIPTextConfig, CLIPTextModelWithProjection

    config = CLIPTextConfig(eos_token_id=49407, attn_implementation="sdpa")
    dtype = torch.bfloat16 if "/bf16/" in name else torch.float32
    model = loaded(CLIPTextModelWithProjection(config), inputs, dtype)
    ids = inputs["ids"].long()

    def work():
        with torch.no_grad():
            return {"embeddings": model(input_ids=ids).text_embeds}

    return work


# ---- the demo's training step ---------------------------------------------------------------------------------------


class Block(nn.Module):
    """A pre-norm block under OpenAI's parameter names."""

    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn = nn.Module()
        self.attn.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.attn.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.attn.out_proj = nn.Linear(width, width)
        self.mlp = nn.Module()
        self.mlp.c_fc, self.mlp.c_proj = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x, causal):
        items, tokens, width = x.shape
        qkv = F.linear(self.ln_1(x), self.attn.in_proj_weight, self.attn.in_proj_bias)
        query, key, value = (
            part.transpose(1, 2) for part in qkv.view(items, tokens, 3, self.heads, width // self.heads).unbind(2))
        attended = F.scaled_dot_product_attention(query, key, value, is_causal=causal)
        x = x + self.attn.out_proj(attended.transpose(1, 2).reshape(items, tokens, width))
        return x + self.mlp.c_proj(F.gelu(self.mlp.c_fc(self.ln_2(x))))


class Blocks(nn.Module):
    def __init__(self, width, layers, heads):
        super().__init__()
        self.resblocks = nn.ModuleList(Block(width, heads) for _ in range(layers))

    def forward(self, x, causal=False):
        for block in self.resblocks:
            x = block(x, causal)
        return x


class Pacl(nn.Module):
    def __init__(self, width=128, heads=4, patch=8, grid=8, vocabulary=300, context=32):
        super().__init__()
        self.positional_embedding = nn.Parameter(torch.empty(context, width))
        self.text_projection = nn.Parameter(torch.empty(width, width))
        self.token_embedding = nn.Embedding(vocabulary, width)
        self.transformer = Blocks(width, 2, heads)
        self.ln_final = nn.LayerNorm(width)
        self.visual = nn.Module()
        self.visual.positional_embedding = nn.Parameter(torch.empty(grid * grid, width))
        self.visual.proj = nn.Parameter(torch.empty(width, width))
        self.visual.conv1 = nn.Conv2d(3, width, patch, patch)
        self.visual.transformer = Blocks(width, 3, heads)
        self.visual.ln_post = nn.LayerNorm(width)
        self.logit_scale = nn.Parameter(torch.empty(()))

    def patches(self, images):
        visual = self.visual
        x = visual.conv1(images).flatten(2).transpose(1, 2) + visual.positional_embedding
        return visual.ln_post(visual.transformer(x)) @ visual.proj

    def texts(self, ids):  # the end-of-text token is the last
        x = self.transformer(self.token_embedding(ids) + self.positional_embedding[: ids.shape[1]], causal=True)
        return F.normalize(self.ln_final(x[:, -1]) @ self.text_projection, dim=-1)


@peer("pacl_demo/training_step")
def training_step(inputs, name):
    model = Pacl()
    model.load_state_dict(
        {name.removeprefix("model."): value for name, value in inputs.items() if name.startswith("model.")})
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05, fused=True)
    captions, prompts, rows, owner = (inputs[name].long() for name in ("captions", "prompts", "rows", "owner"))
    excluded = inputs["excluded"].bool()

    def work():
        patches = model.patches(inputs["images"])
        distinct = torch.cat([model.texts(captions), model.texts(prompts)])
        loss = multi_text_loss(pair_compatibility(patches, distinct[rows]), owner, excluded, model.logit_scale)
        loss.backward()
        norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        return {"loss": loss.detach(), "gradient_norm": norm}

    return work
