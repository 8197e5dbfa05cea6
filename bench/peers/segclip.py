"""SegCLIP's training step as a plain PyTorch module: the three losses, with noise, masking and superpixels given. With
TESSERA_BENCH_COMPILE=1 in the environment the losses go through torch.compile."""

import os

import torch
import torch.nn.functional as F
from torch import nn

from operations import assignment_pool_mean, contrastive_loss, gumbel_softmax, multi_text_loss, peer, symmetric_kl


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def attend(query, key, value, heads, causal=False):
    """Attention of [B, N, C] in heads."""
    query, key, value = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in (query, key, value))
    return F.scaled_dot_product_attention(query, key, value, is_causal=causal).transpose(1, 2).flatten(2)


class Packed(nn.Module):
    """Query, key and value projections in one matrix."""

    def __init__(self, width):
        super().__init__()
        self.in_proj_weight = nn.Parameter(torch.empty(3 * width, width))
        self.in_proj_bias = nn.Parameter(torch.empty(3 * width))
        self.out_proj = nn.Linear(width, width)


class Mlp(nn.Module):
    def __init__(self, width, activation, names=("c_fc", "c_proj")):
        super().__init__()
        self.activation, self.names = activation, names
        setattr(self, names[0], nn.Linear(width, 4 * width))
        setattr(self, names[1], nn.Linear(4 * width, width))

    def forward(self, x):
        first, second = (getattr(self, name) for name in self.names)
        return second(self.activation(first(x)))


class Block(nn.Module):
    def __init__(self, width, heads, activation):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Packed(width), Mlp(width, activation)

    def forward(self, x, causal=False):
        attn = self.attn
        qkv = F.linear(self.ln_1(x), attn.in_proj_weight, attn.in_proj_bias).chunk(3, -1)
        x = x + attn.out_proj(attend(*qkv, self.heads, causal))
        return x + self.mlp(self.ln_2(x))


def blocks(count, width, heads, activation):
    return nn.ModuleList(Block(width, heads, activation) for _ in range(count))


class CrossBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_x, self.ln_k, self.ln_2 = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.attn, self.mlp = Packed(width), Mlp(width, quick_gelu)

    def forward(self, query, context):
        width, attn = query.shape[-1], self.attn
        projected = F.linear(self.ln_x(query), attn.in_proj_weight[:width], attn.in_proj_bias[:width])
        key, value = F.linear(self.ln_k(context), attn.in_proj_weight[width:], attn.in_proj_bias[width:]).chunk(2, -1)
        query = query + attn.out_proj(attend(projected, key, value, self.heads))
        return query + self.mlp(self.ln_2(query))


class GroupedConvolution(nn.Module):
    def __init__(self, width, groups):
        super().__init__()
        self.groups = groups
        self.weight = nn.Parameter(torch.empty(width, width // groups, 1))

    def forward(self, x):
        stacked = x.flatten(0, 1).unflatten(-1, (self.groups, -1)).transpose(0, 1)  # [groups, B N, C / groups]
        weight = self.weight.squeeze(-1).unflatten(0, (self.groups, -1))
        return torch.bmm(stacked, weight.mT).transpose(0, 1).reshape(x.shape)


class SemanticGroup(nn.Module):
    def __init__(self, width, heads, centres=8, cross_layers=2):
        super().__init__()
        self.semantic_center = nn.Parameter(torch.empty(centres, width))
        self.norm, self.cross_ln, self.k_ln = nn.LayerNorm(width), nn.LayerNorm(width), nn.LayerNorm(width)
        self.cross_att = nn.ModuleList(CrossBlock(width, heads) for _ in range(cross_layers))
        self.k_conv, self.v_conv = GroupedConvolution(width, heads), GroupedConvolution(width, heads)
        self.proj_o = nn.Module()
        self.proj_o.ln, self.proj_o.mlp = nn.LayerNorm(width), Mlp(width, F.gelu, ("fc1", "fc2"))

    def forward(self, patches, gumbel):
        centres = self.semantic_center.expand(len(patches), -1, -1)
        for block in self.cross_att:
            centres = block(centres, torch.cat([centres, patches], 1))
        centres = self.cross_ln(centres)
        normalised = self.norm(patches)
        logits = self.k_ln(self.k_conv(normalised)) @ centres.mT  # [B, N, G]
        assignment = gumbel_softmax(logits, gumbel)
        pooled = assignment_pool_mean(self.v_conv(normalised), assignment)
        return quick_gelu(self.proj_o.mlp(self.proj_o.ln(centres + pooled))), assignment


class Visual(nn.Module):
    def __init__(self, size, patch, width, layers, group_layer, heads, embed, activation, class_token, bias):
        super().__init__()
        patches = (size // patch) ** 2
        self.class_embedding = nn.Parameter(torch.empty(width)) if class_token else None
        self.positional_embedding = nn.Parameter(torch.empty(patches + int(class_token), width))
        self.proj = nn.Parameter(torch.empty(width, embed))
        self.conv1 = nn.Conv2d(3, width, patch, patch, bias=bias)
        self.ln_pre, self.ln_post = nn.LayerNorm(width), nn.LayerNorm(width)
        self.transformer = stages = nn.Module()
        stages.layers0 = blocks(group_layer, width, heads, activation)
        stages.semantic_layer2 = SemanticGroup(width, heads)
        stages.layers2 = blocks(layers - group_layer, width, heads, activation)
        stages.layers_mae2 = blocks(2, width, heads, activation)
        stages.reconstruct_layer2 = nn.Module()
        stages.reconstruct_layer2.rec_proj_a = nn.Module()
        stages.reconstruct_layer2.rec_proj_a.a_fc = nn.Linear(8, 8)

    def embed(self, images):
        x = self.conv1(images).flatten(2).transpose(1, 2)
        if self.class_embedding is None:
            return self.ln_pre(x + self.positional_embedding)
        first = self.class_embedding.expand(len(x), 1, -1)
        return self.ln_pre(torch.cat([first, x], 1) + self.positional_embedding)[:, 1:]

    def group(self, x, gumbel):
        for block in self.transformer.layers0:
            x = block(x)
        return self.transformer.semantic_layer2(x, gumbel)

    def features(self, tokens, gumbel):
        """Image and region embeddings [B, 1 + G, E], and the assignment."""
        x, assignment = self.group(tokens, gumbel)
        for block in self.transformer.layers2:
            x = block(x)
        pooled = x.max(1, keepdim=True).values
        return self.ln_post(torch.cat([pooled, x], 1)) @ self.proj, assignment

    def reconstruct(self, visible, gumbel):
        groups, assignment = self.group(visible, gumbel)
        x = quick_gelu(self.transformer.reconstruct_layer2.rec_proj_a.a_fc(assignment) @ groups)
        for block in self.transformer.layers_mae2:
            x = block(x)
        return x


class TimmBlock(nn.Module):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.norm1, self.norm2 = nn.LayerNorm(width, 1e-6), nn.LayerNorm(width, 1e-6)
        self.attn = nn.Module()
        self.attn.qkv, self.attn.proj = nn.Linear(width, 3 * width), nn.Linear(width, width)
        self.mlp = Mlp(width, F.gelu, ("fc1", "fc2"))

    def forward(self, x):
        x = x + self.attn.proj(attend(*self.attn.qkv(self.norm1(x)).chunk(3, -1), self.heads))
        return x + self.mlp(self.norm2(x))


def sine_positions(grid, width):
    """[1 + grid * grid, width]: half of the channels for the column, half for the row; the class token's are 0."""
    quarter = width // 4
    frequency = 10000.0 ** (-torch.arange(quarter, dtype=torch.float64) / quarter)
    angles = torch.arange(grid, dtype=torch.float64)[:, None] * frequency
    line = torch.cat([angles.sin(), angles.cos()], 1)  # [grid, width / 2]
    columns, rows = line.expand(grid, grid, -1), line[:, None].expand(grid, grid, -1)
    table = torch.cat([columns, rows], -1).flatten(0, 1)
    return torch.cat([torch.zeros(1, width, dtype=torch.float64), table]).float()


class Decoder(nn.Module):
    def __init__(self, grid, patch, input_width, width, heads, layers=3):
        super().__init__()
        self.patch = patch
        self.mask_token = nn.Parameter(torch.empty(1, 1, width))
        self.register_buffer("positions", sine_positions(grid, width), persistent=False)
        self.decoder_embed, self.decoder_pred = nn.Linear(input_width, width), nn.Linear(width, 3 * patch * patch)
        self.decoder_blocks = nn.ModuleList(TimmBlock(width, heads) for _ in range(layers))
        self.decoder_norm = nn.LayerNorm(width, 1e-6)

    def forward(self, visible, restore):
        """Pixels of all patches from the visible ones; restore [B, 1 + N]: rows of the batch's tokens."""
        seen = self.decoder_embed(torch.cat([visible.mean(1, keepdim=True), visible], 1))
        items, kept, width = seen.shape
        shuffled = torch.cat([seen, self.mask_token.expand(items, restore.shape[1] - kept, -1)], 1)
        x = shuffled.flatten(0, 1).index_select(0, restore.flatten()).view(items, -1, width) + self.positions
        for block in self.decoder_blocks:
            x = block(x)
        return self.decoder_pred(self.decoder_norm(x))[:, 1:]

    def target(self, images):
        items, channels, height, width = images.shape
        cells = images.unflatten(3, (-1, self.patch)).unflatten(2, (-1, self.patch))  # [B, c, y, p, x, q]
        return cells.permute(0, 2, 4, 3, 5, 1).reshape(items, -1, self.patch * self.patch * channels)


class Segclip(nn.Module):
    def __init__(self, size, patch, width, layers, group_layer, heads, embed, activation, class_token, bias,
                 text_width, text_layers, text_heads, vocabulary, context, decoder_width, decoder_heads):
        super().__init__()
        self.clip = clip = nn.Module()
        clip.positional_embedding = nn.Parameter(torch.empty(context, text_width))
        clip.text_projection = nn.Parameter(torch.empty(text_width, embed))
        clip.token_embedding = nn.Embedding(vocabulary, text_width)
        clip.transformer = nn.Module()
        clip.transformer.resblocks = blocks(text_layers, text_width, text_heads, activation)
        clip.ln_final = nn.LayerNorm(text_width)
        clip.visual = Visual(size, patch, width, layers, group_layer, heads, embed, activation, class_token, bias)
        clip.logit_scale = nn.Parameter(torch.empty(()))
        self.vis_mae_decoder = Decoder(size // patch, patch, width, decoder_width, decoder_heads)

    def texts(self, ids):  # the end-of-text token is the largest
        clip = self.clip
        x = clip.token_embedding(ids) + clip.positional_embedding[: ids.shape[1]]
        for block in clip.transformer.resblocks:
            x = block(x, causal=True)
        pooled = x[torch.arange(len(ids)), ids.argmax(-1)]
        return F.normalize(clip.ln_final(pooled) @ clip.text_projection, dim=-1)

    def superpixel_loss(self, assignment, superpixels):
        same = (superpixels[:, :, None] == superpixels[:, None]).float()
        return symmetric_kl(assignment, same @ assignment / same.sum(-1, keepdim=True))

    def reconstruction_loss(self, tokens, images, visible, restore, removed, gumbel):
        seen = tokens.flatten(0, 1).index_select(0, visible.flatten()).view(*visible.shape, -1)
        decoder = self.vis_mae_decoder
        predicted = decoder(self.clip.visual.reconstruct(seen, gumbel), restore)
        return (((predicted - decoder.target(images)) ** 2).mean(-1) * removed).sum() / removed.sum()

    def forward(self, inputs, contrastive):
        """The three losses; contrastive: of normalised image embeddings."""
        images = inputs["images"]
        tokens = self.clip.visual.embed(images)
        hidden, assignment = self.clip.visual.features(tokens, inputs["gumbel"])
        reconstruction = self.reconstruction_loss(tokens, images, inputs["visible"], inputs["restore"],
                                                  inputs["removed"], inputs["gumbel_of_visible"])
        return (contrastive(self, F.normalize(hidden[:, 0], dim=-1)),
                self.superpixel_loss(assignment, inputs["superpixels"]), reconstruction)


def step(model, inputs, learning_rate, contrastive):
    model.load_state_dict(
        {name.removeprefix("model."): value for name, value in inputs.items() if name.startswith("model.")})
    given = {name: value.long() if value.dtype == torch.int32 else value for name, value in inputs.items()
             if not name.startswith("model.")}
    given["removed"] = given["removed"].float()
    named = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    parameters, norms = list(named.values()), {}
    optimizer = torch.optim.AdamW(
        parameters, lr=learning_rate, betas=(0.9, 0.98), eps=1e-6, weight_decay=0.05, fused=True)
    losses_of = lambda: model(given, lambda model, embeddings: contrastive(model, embeddings, given))
    if os.environ.get("TESSERA_BENCH_COMPILE") == "1":
        losses_of = torch.compile(losses_of)

    def work():
        losses = losses_of()
        sum(losses).backward()
        if not norms:  # once: what is compared
            each = {name: parameter.grad.double().norm() for name, parameter in named.items()}
            norms.update({f"gradient_norm.{name}": norm for name, norm in each.items()})
            norms["gradient_norm"] = torch.stack(list(each.values())).norm()
        nn.utils.clip_grad_norm_(parameters, 1.0)
        optimizer.step()
        optimizer.zero_grad()
        values = zip(("contrastive", "superpixel", "reconstruction"), losses)
        return {**norms, **{name: loss.detach() for name, loss in values}}

    return work


@peer("segclip_demo/training_step")
def demo_step(inputs, name):
    model = Segclip(size=64, patch=8, width=128, layers=3, group_layer=3, heads=4, embed=128, activation=F.gelu,
                    class_token=False, bias=True, text_width=128, text_layers=2, text_heads=4, vocabulary=300,
                    context=32, decoder_width=64, decoder_heads=4)

    def contrastive(model, embeddings, given):
        distinct = torch.cat([model.texts(given["captions"]), model.texts(given["prompts"])])
        scores = embeddings @ distinct[given["rows"]].T
        return multi_text_loss(scores, given["owner"], given["excluded"].bool(), model.clip.logit_scale)

    return step(model, inputs, 1e-3, contrastive)


@peer("segclip_vit_b16/training_step")
def published_step(inputs, name):
    """ViT-B/16 as published: embeddings and the patch convolution are frozen."""
    model = Segclip(size=224, patch=16, width=768, layers=12, group_layer=10, heads=12, embed=512,
                    activation=quick_gelu, class_token=True, bias=False, text_width=512, text_layers=12, text_heads=8,
                    vocabulary=49408, context=77, decoder_width=384, decoder_heads=8)
    clip = model.clip
    for frozen in (clip.visual.class_embedding, clip.visual.positional_embedding, *clip.visual.conv1.parameters(),
                   *clip.visual.ln_pre.parameters(), *clip.token_embedding.parameters(), clip.positional_embedding):
        frozen.requires_grad_(False)

    def contrastive(model, embeddings, given):
        return contrastive_loss(embeddings, model.texts(given["captions"]), model.clip.logit_scale)

    return step(model, inputs, 1e-5, contrastive)
