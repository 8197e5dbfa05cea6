"""The operations in PyTorch. A peer is a function of a row's inputs (a dict of tensors) and its name that returns the work
to be timed; the work returns a dict of outputs under the names that the row has."""

import math

import torch
import torch.nn.functional as F

PEERS = {}


def peer(*names):
    def register(function):
        for name in names:
            PEERS[name] = function
        return function

    return register


def forward(function, inputs, output="y"):
    """Work that computes function(**inputs) without recording."""

    def work():
        with torch.no_grad():
            return {output: function(**inputs)}

    return work


def backward(function, inputs, wanted, d_name="d_y"):
    """Work that computes the gradients of function(**inputs) by autograd; the forward pass is done here, once. `wanted`
    names the inputs whose gradients are outputs."""
    inputs = dict(inputs)
    d_y = inputs.pop(d_name, None)
    for name in wanted:
        inputs[name] = inputs[name].detach().requires_grad_(True)
    y = function(**inputs)
    d_y = torch.ones_like(y) if d_y is None else d_y
    leaves = [inputs[name] for name in wanted]

    def work():
        gradients = torch.autograd.grad(y, leaves, d_y, retain_graph=True)
        return {f"d_{name}": gradient for name, gradient in zip(wanted, gradients)}

    return work


def both_ways(operation, function, wanted, output="y", d_name=None):
    """Registers the forward and the backward row of one operation."""
    PEERS[f"{operation}/forward"] = lambda inputs, name: forward(function, inputs, output)
    PEERS[f"{operation}/backward"] = lambda inputs, name: backward(function, inputs, wanted, d_name or f"d_{output}")


# ---- elementwise, reductions ----------------------------------------------------------------------------------------

both_ways("gelu", lambda x: F.gelu(x), ["x"])
both_ways("gelu_tanh", lambda x: F.gelu(x, approximate="tanh"), ["x"])
both_ways("quick_gelu", lambda x: x * torch.sigmoid(1.702 * x), ["x"])  # as transformers computes it
both_ways("add", lambda a, b: a + b, ["a", "b"])
both_ways("multiply", lambda a, b: a * b, ["a", "b"])
both_ways("divide", lambda a, b: a / b, ["a", "b"])
both_ways("exp", lambda x: torch.exp(x), ["x"])
both_ways("sigmoid", lambda x: torch.sigmoid(x), ["x"])
both_ways("tanh", lambda x: torch.tanh(x), ["x"])
both_ways("mean", lambda x: x.mean(1), ["x"])
both_ways("softmax", lambda x: F.softmax(x, -1), ["x"])
both_ways("log_softmax", lambda x: F.log_softmax(x, -1), ["x"])
both_ways("l2_normalise", lambda x: x / x.norm(dim=-1, keepdim=True), ["x"])  # as CLIP computes it


@peer("scale/forward")
def scale(inputs, name):
    return forward(lambda x: 0.125 * x, inputs)


@peer("mean/backward")
def mean_backward(inputs, name):
    items, tokens, channels = (int(n) for n in name.split("/")[-1].split("x"))
    x = torch.zeros(items, tokens, channels)
    return backward(lambda x: x.mean(1), {"x": x, **inputs}, ["x"])


@peer("max/forward")
def max_forward(inputs, name):
    def work():
        with torch.no_grad():
            values, index = inputs["x"].max(1)
        return {"y": values, "index": index}

    return work


@peer("max/backward")
def max_backward(inputs, name):
    return backward(lambda x: x.max(1).values, inputs, ["x"])


# Weight and bias are f32 beside a bf16 x, too.
both_ways("layernorm", lambda x, weight, bias: F.layer_norm(x, x.shape[-1:], weight, bias), ["x", "weight", "bias"])
both_ways("groupnorm", lambda x, weight, bias: F.group_norm(x, 32, weight, bias), ["x", "weight", "bias"])


# ---- products -------------------------------------------------------------------------------------------------------


@peer("linear/forward")
def linear_forward(inputs, name):
    x, weight, bias = inputs["x"], inputs["weight"], inputs["bias"].to(inputs["x"].dtype)
    if name.endswith("_quick_gelu"):

        def function():
            y = F.linear(x, weight, bias)
            return y * torch.sigmoid(1.702 * y)

        return forward(function, {})
    return forward(lambda: F.linear(x, weight, bias), {})


@peer("linear/backward")
def linear_backward(inputs, name):
    bias = torch.zeros(inputs["weight"].shape[0], dtype=inputs["x"].dtype)
    return backward(lambda x, weight, bias: F.linear(x, weight, bias), {**inputs, "bias": bias}, ["x", "weight", "bias"])


@peer("grouped_linear/forward", "grouped_linear/backward")
def grouped_linear(inputs, name):
    groups = int(name.split("g")[-1])

    def function(x, weight):
        stacked = x.unflatten(1, (groups, -1)).transpose(0, 1)  # [g, M, C / g]
        return torch.bmm(stacked, weight.unflatten(0, (groups, -1)).mT).transpose(0, 1).flatten(1)

    if name.split("/")[1] == "forward":
        return forward(function, inputs)
    return backward(function, inputs, ["x", "weight"])


both_ways("matmul", lambda a, b: a @ b, ["a", "b"])


@peer("attention/forward", "attention/backward")
def attention(inputs, name):
    causal = name.endswith("_causal")

    def function(qkv):
        query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))
        return F.scaled_dot_product_attention(query, key, value, is_causal=causal).transpose(1, 2)

    if name.split("/")[1] == "forward":
        return forward(function, inputs, "out")
    return backward(function, inputs, ["qkv"], "d_out")


def cosine_similarity(a, b):
    return (a / a.norm(dim=-1, keepdim=True)) @ (b / b.norm(dim=-1, keepdim=True)).T


both_ways("cosine_similarity", cosine_similarity, ["a", "b"])


def pair_compatibility(patches, texts):
    """As written down. Of the ways that were tried the fastest: softmax over the last axis, and lengths divided out
    of phi instead of out of the pooled vectors."""
    unit_texts = F.normalize(texts, dim=-1)
    cosines = (F.normalize(patches, dim=-1) @ unit_texts.T).transpose(1, 2)  # [B, K, T]
    pooled = torch.bmm((5 * cosines).softmax(-1), patches)  # [B, K, D]
    return torch.einsum("bkd,kd->bk", pooled, unit_texts) / pooled.norm(dim=-1)


@peer("pair_compatibility/forward", "pair_compatibility/backward", "pair_compatibility/both")
def pair_compatibility_peer(inputs, name):
    which = name.split("/")[1]
    if which == "forward":
        return forward(pair_compatibility, inputs, "phi")
    if which == "backward":
        return backward(pair_compatibility, inputs, ["patches", "texts"], "d_phi")
    patches, texts = (inputs[key].detach().requires_grad_(True) for key in ("patches", "texts"))

    def work():
        phi = pair_compatibility(patches, texts)
        d_patches, d_texts = torch.autograd.grad(phi, [patches, texts], inputs["d_phi"])
        return {"phi": phi.detach(), "d_patches": d_patches, "d_texts": d_texts}

    return work


# ---- tokens ---------------------------------------------------------------------------------------------------------


@peer("patchify/forward")
def patchify_forward(inputs, name):
    kernel = int(name.split("k")[-1])
    return forward(lambda images: F.unfold(images, kernel, stride=kernel).transpose(1, 2).contiguous(), inputs, "patches")


@peer("patchify/backward")
def patchify_backward(inputs, name):
    shape, kernel = name.split("/")[-1].split("k")
    side, kernel = int(shape.split("x")[-1]), int(kernel)
    return forward(lambda d_patches: F.fold(d_patches.transpose(1, 2), side, kernel, stride=kernel), inputs, "d_images")


def assemble_tokens(class_embedding, patches, positions):
    first = class_embedding.expand(patches.shape[0], 1, -1)
    return torch.cat([first, patches], 1) + positions


@peer("assemble_tokens/forward")
def assemble_tokens_forward(inputs, name):
    return forward(assemble_tokens, inputs, "tokens")


@peer("assemble_tokens/backward")
def assemble_tokens_backward(inputs, name):
    items, tokens, channels = inputs["d_tokens"].shape
    zeros = {
        "class_embedding": torch.zeros(channels),
        "patches": torch.zeros(items, tokens - 1, channels),
        "positions": torch.zeros(tokens, channels),
    }
    return backward(assemble_tokens, {**zeros, **inputs}, list(zeros), "d_tokens")


@peer("embedding/forward")
def embedding_forward(inputs, name):
    ids = inputs["ids"].long()
    return forward(lambda: F.embedding(ids, inputs["table"]), {}, "out")


@peer("embedding/backward")
def embedding_backward(inputs, name):
    ids = inputs["ids"].long()
    table = torch.zeros(*(int(n) for n in name.split("v")[-1].split("x")))
    return backward(lambda table: F.embedding(ids, table), {"table": table, "d_out": inputs["d_out"]}, ["table"], "d_out")


@peer("gather_tokens/forward", "gather_tokens/backward")
def gather_tokens(inputs, name):
    index = inputs["index"].long()
    items = torch.arange(len(index))
    if "x" in inputs:
        return forward(lambda: inputs["x"][items, index], {})
    x = torch.zeros(*(int(n) for n in name.split("/")[-1].split("x")))
    return backward(lambda x: x[items, index], {"x": x, "d_y": inputs["d_y"]}, ["x"])


def rows_of_segments(segments, count):
    """The number of each token's segment among all items' segments."""
    return (segments.long() + count * torch.arange(len(segments))[:, None]).flatten()


@peer("segment_reduce/forward", "segment_reduce/backward")
def segment_reduce(inputs, name):
    shape, count = name.split("/")[-1].split("s")
    items, tokens, channels = (int(n) for n in shape.split("x"))
    count = int(count)
    rows = rows_of_segments(inputs["segments"], count)

    def function(x):
        sums = torch.zeros(items * count, channels).index_add(0, rows, x.reshape(-1, channels))
        members = torch.bincount(rows, minlength=items * count).clamp(min=1)
        return (sums / members[:, None]).reshape(items, count, channels)

    if name.split("/")[1] == "forward":
        return forward(function, {"x": inputs["x"]})
    return backward(function, {"x": torch.zeros(items, tokens, channels), "d_y": inputs["d_y"]}, ["x"])


@peer("segment_gather/forward")
def segment_gather(inputs, name):
    y, segments = inputs["y"], inputs["segments"]
    rows = rows_of_segments(segments, y.shape[1])
    return forward(lambda: y.flatten(0, 1)[rows].reshape(*segments.shape, -1), {}, "x")


@peer("permute/forward")
def permute(inputs, name):
    axes = [int(axis) for axis in name.split("_")[-1]]
    return forward(lambda x: x.permute(axes).contiguous(), inputs)


@peer("concatenate/forward")
def concatenate(inputs, name):
    return forward(lambda a, b: torch.cat([a, b], 1), inputs)


# ---- losses ---------------------------------------------------------------------------------------------------------


@peer("cross_entropy/forward", "cross_entropy/backward")
def cross_entropy(inputs, name):
    targets = inputs["targets"].long()
    function = lambda logits: F.cross_entropy(logits, targets)
    if name.split("/")[1] == "forward":
        return forward(function, {"logits": inputs["logits"]}, "loss")
    return backward(function, {"logits": inputs["logits"]}, ["logits"])


def symmetric_kl(p, q):
    log_p, log_q = F.log_softmax(p, -1), F.log_softmax(q, -1)
    both = F.kl_div(log_p, log_q, reduction="sum", log_target=True) + F.kl_div(log_q, log_p, reduction="sum", log_target=True)
    return both / (2 * p.numel())


both_ways("symmetric_kl", symmetric_kl, ["p", "q"], "loss")


def contrastive_loss(image, text, logit_scale):
    logits = logit_scale.exp().clamp(max=100) * (image @ text.T)
    labels = torch.arange(len(logits))
    return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


@peer("contrastive/forward", "contrastive/backward", "contrastive/both")
def contrastive(inputs, name):
    which = name.split("/")[1]
    if which == "forward":
        return forward(contrastive_loss, inputs, "loss")
    # The scale's gradient too: ours computes it in the same pass.
    if which == "backward":
        return backward(contrastive_loss, inputs, ["image", "text", "logit_scale"])
    leaves = {name: value.detach().requires_grad_(True) for name, value in inputs.items()}

    def work():
        loss = contrastive_loss(**leaves)
        gradients = torch.autograd.grad(loss, list(leaves.values()))
        return {"loss": loss.detach(), **{f"d_{name}": g for name, g in zip(leaves, gradients)}}

    return work


def multi_text_loss(scores, owner, excluded, logit_scale):
    """Half the mean over texts of their cross-entropy over images, and half the mean over images of the mean over their
    texts of the cross-entropy against the image's negatives; excluded pairs are no negatives."""
    logits = logit_scale.exp().clamp(max=100) * scores  # [B, K]
    images, texts = logits.shape
    own = owner[None] == torch.arange(images)[:, None]
    masked = logits.masked_fill(excluded & ~own, -math.inf)
    own_logit = logits[owner, torch.arange(texts)]
    by_text = (masked.logsumexp(0) - own_logit).mean()
    negatives = masked.masked_fill(own, -math.inf).logsumexp(1)  # [B]
    each = torch.logaddexp(negatives[owner], own_logit) - own_logit
    count = own.sum(1)
    by_image = torch.zeros(images).index_add(0, owner, each) / count.clamp(min=1)
    return (by_text + by_image.sum() / (count > 0).sum()) / 2


@peer("multi_text_contrastive/forward", "multi_text_contrastive/backward")
def multi_text_contrastive(inputs, name):
    owner, excluded = inputs["owner"].long(), inputs["excluded"].bool()
    function = lambda scores, logit_scale: multi_text_loss(scores, owner, excluded, logit_scale)
    values = {"scores": inputs["scores"], "logit_scale": inputs["logit_scale"]}
    if name.split("/")[1] == "forward":
        return forward(function, values, "loss")
    return backward(function, values, ["scores", "logit_scale"])


# ---- groups and hidden tokens ---------------------------------------------------------------------------------------


def gumbel_softmax(logits, gumbel):
    """As torch.nn.functional.gumbel_softmax with hard=True, with the noise given."""
    y = ((logits + gumbel) / 0.9).softmax(-1)
    index = y.max(-1, keepdim=True)[1]
    return torch.zeros_like(logits).scatter_(-1, index, 1.0) - y.detach() + y


both_ways("gumbel_softmax", gumbel_softmax, ["logits"], "assignment")


@peer("gumbel_softmax/draw")
def gumbel_softmax_draw(inputs, name):
    return forward(lambda logits: F.gumbel_softmax(logits, 0.9, hard=True), {"logits": inputs["logits"]}, "assignment")


def assignment_pool_mean(value, assignment):
    """Means of value [B, N, C] by the weights assignment [B, N, G]: [B, G, C]. The divisor is mass.clamp(min=1) with the
    derivative 1 at a mass of exactly 1, a group of one patch, as PyTorch's clamp had it when SegCLIP was published. The
    clamp of PyTorch 2.15 has 0 there."""
    mass = assignment.sum(1)
    return assignment.mT @ value / torch.where(mass < 1, 1.0, mass)[..., None]


@peer("assignment_pool/forward", "assignment_pool/backward")
def assignment_pool(inputs, name):
    inputs = {key: value for key, value in inputs.items() if key != "choice"}
    function = assignment_pool_mean
    if name.split("/")[1] == "forward":
        return forward(function, inputs, "pooled")
    return backward(function, inputs, ["value", "assignment"], "d_pooled")


@peer("masked_mse/forward", "masked_mse/backward")
def masked_mse(inputs, name):
    mask = inputs["mask"].float()
    function = lambda prediction, target: (((prediction - target) ** 2).mean(-1) * mask).sum() / mask.sum()
    values = {"prediction": inputs["prediction"], "target": inputs["target"]}
    if name.split("/")[1] == "forward":
        return forward(function, values, "loss")
    return backward(function, values, ["prediction"])


# ---- maps -----------------------------------------------------------------------------------------------------------


@peer("interpolate/forward", "interpolate/backward")
def interpolate(inputs, name):
    channels, side, rest = name.split("/")[-1].split("x")
    to, mode = rest.split("to")[1].split("_")
    corners = {} if mode == "nearest" else {"align_corners": False}
    function = lambda x: F.interpolate(x, (int(to), int(to)), mode=mode, **corners)
    if "x" in inputs:
        return forward(function, inputs)
    x = torch.zeros(1, int(channels), int(side), int(side))
    return backward(function, {"x": x, **inputs}, ["x"])


@peer("conv2d/forward", "conv2d/backward")
def conv2d(inputs, name):
    padding = int(name.split("k")[-1]) // 2
    function = lambda x, weight, bias: F.conv2d(x, weight, bias, padding=padding)
    if "d_y" in inputs:
        return backward(function, inputs, ["x", "weight", "bias"])
    return forward(function, inputs)


@peer("resize_positional_embedding/forward")
def resize_positional_embedding(inputs, name):
    side, to, channels = (int(n) for n in name.split("/")[-1].split("x"))

    def function(table):
        grid = table[1:].reshape(1, side, side, channels).permute(0, 3, 1, 2)
        grid = F.interpolate(grid, (to, to), mode="bicubic", align_corners=False)
        return torch.cat([table[:1], grid.permute(0, 2, 3, 1).reshape(to * to, channels)])

    return forward(function, inputs, "positions")


@peer("upsample_argmax/forward")
def upsample_argmax(inputs, name):
    to = int(name.split("to")[1].split("_")[0])
    function = lambda scores: F.interpolate(scores, (to, to), mode="bilinear", align_corners=False).argmax(1)
    return forward(function, inputs, "labels")


# ---- the optimiser --------------------------------------------------------------------------------------------------


@peer("adamw/step")
def adamw(inputs, name):
    parameter = torch.nn.Parameter(inputs["p"].clone())
    parameter.grad = inputs["gradient"]
    optimizer = torch.optim.AdamW([parameter], lr=1e-3, weight_decay=0.05, fused=True)

    def work():
        optimizer.step()
        return {"p": parameter.detach()}

    return work


@peer("gradient_norm/forward")
def gradient_norm(inputs, name):
    return forward(lambda: torch.linalg.vector_norm(inputs["gradient"]), {}, "norm")
