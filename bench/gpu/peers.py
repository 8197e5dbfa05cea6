"""Times the rows of the GPU's benchmark beside PyTorch on the same GPU, in turns, and writes JSON and a table
(bench/gpu.sh calls this). Results are written after every row, so that a run cut short still tells.

Each peer is PyTorch's shortest way to the same work: eager, torch.compile of it, and for attention the flash and cuDNN
backends. Correctness is the tests' business; here both sides compute on random numbers of the same shapes."""

import argparse
import contextlib
import datetime
import json
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

try:
    import torch
    import torch.nn.functional as F
except ImportError:  # --dry-run and the tests of this file's parsing work without it
    torch = None


def numbers(name):
    return [int(n) for n in re.findall(r"\d+", name.rsplit("/", 1)[1])]


def normal(*shape, dtype=None, grad=False):
    tensor = torch.randn(*shape, device="cuda", dtype=dtype or torch.bfloat16)
    return tensor.requires_grad_(grad)


def with_gradients(function, leaves, d_out):
    """Work that computes the gradients alone; the forward pass is done here, once."""
    out = function()
    return lambda: torch.autograd.grad(out, leaves, d_out, retain_graph=True)


# Each maker takes (name, compile) and gives the work; `compile` is torch.compile or the identity.
def layernorm(name, compile):
    rows, width = numbers(name)
    dtype = torch.bfloat16 if "/bf16/" in name else torch.float32
    backward = "/backward/" in name
    x = normal(rows, width, dtype=dtype, grad=backward)
    weight, bias = (normal(width, dtype=dtype, grad=backward) for _ in range(2))
    function = compile(lambda x, w, b: F.layer_norm(x, (width,), w, b))
    if not backward:
        return lambda: function(x, weight, bias)
    return with_gradients(lambda: function(x, weight, bias), (x, weight, bias), normal(rows, width, dtype=dtype))


def groupnorm(name, compile):
    batch, channels, height, width = numbers(name)
    backward = "/backward/" in name
    x = normal(batch, channels, height, width, grad=backward)
    weight, bias = (normal(channels, grad=backward) for _ in range(2))
    function = compile(lambda x, w, b: F.group_norm(x, 32, w, b))
    if not backward:
        return lambda: function(x, weight, bias)
    return with_gradients(lambda: function(x, weight, bias), (x, weight, bias), normal(batch, channels, height, width))


def conv2d(name, compile):
    batch, channels, height, width = numbers(name)
    backward = "/backward/" in name
    x = normal(batch, channels, height, width, grad=backward)
    weight, bias = normal(channels, channels, 3, 3, grad=backward), normal(channels, grad=backward)
    function = compile(lambda x, w, b: F.conv2d(x, w, b, padding=1))
    if not backward:
        return lambda: function(x, weight, bias)
    return with_gradients(lambda: function(x, weight, bias), (x, weight, bias), normal(batch, channels, height, width))


def quick_gelu(x):
    return x * torch.sigmoid(1.702 * x)


def linear_quick_gelu(name, compile):
    rows, width, hidden = numbers(name)
    x, weight, bias = normal(rows, width), normal(hidden, width), normal(hidden)
    function = compile(lambda x: quick_gelu(F.linear(x, weight, bias)))
    return lambda: function(x)


def bias_quick_gelu(name, compile):
    rows, hidden = numbers(name)
    x, bias = normal(rows, hidden, grad=True), normal(hidden, grad=True)
    function = compile(lambda x, b: quick_gelu(x + b))
    return with_gradients(lambda: function(x, bias), (x, bias), normal(rows, hidden))


def softmax(name, compile):
    x = normal(*numbers(name))
    function = compile(lambda x: torch.softmax(x, -1))
    return lambda: function(x)


def gumbel_softmax(name, compile):
    logits = normal(*numbers(name), dtype=torch.float32)
    function = compile(lambda logits: F.gumbel_softmax(logits, 0.9, hard=True))
    return lambda: function(logits)


def assignment_pool(name, compile):
    images, tokens, width, groups = numbers(name)
    backward = "/backward/" in name
    value, assignment = normal(images, tokens, width, grad=backward), normal(images, tokens, groups, grad=backward)
    function = compile(lambda v, a: a.mT @ v / a.sum(1).clamp(min=1)[..., None])
    if not backward:
        return lambda: function(value, assignment)
    return with_gradients(lambda: function(value, assignment), (value, assignment), normal(images, groups, width))


def masked_mse(name, compile):
    shape = numbers(name)
    prediction, target = (normal(*shape, dtype=torch.float32) for _ in range(2))
    mask = (torch.arange(shape[0] * shape[1], device="cuda") % 4 != 0).reshape(shape[:2]).float()
    function = compile(lambda p, t: (((p - t) ** 2).mean(-1) * mask).sum() / mask.sum())
    return lambda: function(prediction, target)


def l2_normalise(name, compile):
    x = normal(*numbers(name))
    function = compile(lambda x: F.normalize(x, dim=-1, eps=0))
    return lambda: function(x)


def embedding(name, compile):
    ids, vocabulary, channels = numbers(name)
    table = normal(vocabulary, channels, grad=True)
    at = torch.randint(vocabulary, (ids,), device="cuda")
    function = compile(lambda t: F.embedding(at, t))
    return with_gradients(lambda: function(table), (table,), normal(ids, channels))


def interpolate(name, compile):
    batch, channels, small, large = numbers(name)
    backward = "/backward/" in name
    x = normal(batch, channels, small, small, dtype=torch.float32, grad=backward)
    function = compile(lambda x: F.interpolate(x, size=(large, large), mode="bilinear"))
    if not backward:
        return lambda: function(x)
    return with_gradients(lambda: function(x), (x,), normal(batch, channels, large, large, dtype=torch.float32))


def copy(name, compile):
    x = torch.randn(numbers(name)[0], device="cuda")
    y = torch.empty_like(x)
    return lambda: y.copy_(x)


def matmul(name, compile):
    n = numbers(name)[0]
    a, b = normal(n, n), normal(n, n)
    c = torch.empty_like(a)
    return lambda: torch.matmul(a, b, out=c)


def attention(backend):
    def make(name, compile):
        items, heads, queries, keys, channels = numbers(name)
        backward, causal = "/backward/" in name, name.endswith("causal")
        q = normal(items, heads, queries, channels, grad=backward)
        k, v = (normal(items, heads, keys, channels, grad=backward) for _ in range(2))

        def run():
            chosen = contextlib.nullcontext()
            if backend:
                from torch.nn.attention import SDPBackend, sdpa_kernel

                chosen = sdpa_kernel(getattr(SDPBackend, backend))
            with chosen:
                return F.scaled_dot_product_attention(q, k, v, is_causal=causal)

        if not backward:
            return run
        return with_gradients(run, (q, k, v), normal(items, heads, queries, channels))

    return make


def contrastive(name, compile):
    batch, channels = numbers(name)
    image, text = (F.normalize(normal(batch, channels), dim=-1).detach().requires_grad_(True) for _ in range(2))
    scale = torch.tensor(2.659, device="cuda", requires_grad=True)
    labels = torch.arange(batch, device="cuda")

    def loss(image, text, scale):
        logits = (scale.exp() * (image @ text.T)).float()
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2

    function = compile(loss)
    return lambda: torch.autograd.grad(function(image, text, scale), (image, text, scale))


def cross_entropy(name, compile):
    rows, classes = numbers(name)
    logits = normal(rows, classes, grad=True)
    targets = torch.randint(classes, (rows,), device="cuda")
    function = compile(lambda x: F.cross_entropy(x, targets))
    return lambda: torch.autograd.grad(function(logits), (logits,))


def upsample_argmax(name, compile):
    batch, classes, small, large = numbers(name)
    x = normal(batch, classes, small, small, dtype=torch.float32)
    function = compile(lambda x: F.interpolate(x, size=(large, large), mode="bilinear").argmax(1))
    return lambda: function(x)


def adamw(name, compile):
    parameters = [torch.nn.Parameter(normal(2048, 2048, dtype=torch.float32)) for _ in range(36)]
    for p in parameters:
        p.grad = torch.randn_like(p)
    optimizer = torch.optim.AdamW(parameters, lr=1e-4, weight_decay=0.1, fused=True)

    def work():
        torch.nn.utils.clip_grad_norm_(parameters, 1.0, foreach=True)
        optimizer.step()

    return work


class Block(torch.nn.Module if torch else object):
    def __init__(self, width, heads):
        super().__init__()
        self.heads = heads
        self.ln_1, self.ln_2 = torch.nn.LayerNorm(width), torch.nn.LayerNorm(width)
        self.qkv, self.out = torch.nn.Linear(width, 3 * width), torch.nn.Linear(width, width)
        self.fc, self.proj = torch.nn.Linear(width, 4 * width), torch.nn.Linear(4 * width, width)

    def forward(self, x, causal):
        b, n, c = x.shape
        q, k, v = self.qkv(self.ln_1(x)).view(b, n, 3, self.heads, c // self.heads).permute(2, 0, 3, 1, 4)
        y = F.scaled_dot_product_attention(q, k, v, is_causal=causal)
        x = x + self.out(y.transpose(1, 2).reshape(b, n, c))
        return x + self.proj(quick_gelu(self.fc(self.ln_2(x))))


class Clip(torch.nn.Module if torch else object):
    """CLIP ViT-B/16 of random weights: what a step costs does not depend on them."""

    def __init__(self, size=224):
        super().__init__()
        tokens = (size // 16) ** 2 + 1
        self.patches = torch.nn.Conv2d(3, 768, 16, 16, bias=False)
        self.first = torch.nn.Parameter(torch.zeros(1, 1, 768))
        self.positions = torch.nn.Parameter(torch.randn(tokens, 768) * 0.01)
        self.ln_pre, self.ln_post, self.ln_text = (torch.nn.LayerNorm(w) for w in (768, 768, 512))
        self.image_blocks = torch.nn.ModuleList(Block(768, 12) for _ in range(12))
        self.text_blocks = torch.nn.ModuleList(Block(512, 8) for _ in range(12))
        self.tokens = torch.nn.Embedding(49408, 512)
        self.text_positions = torch.nn.Parameter(torch.randn(77, 512) * 0.01)
        self.image_projection = torch.nn.Parameter(torch.randn(768, 512) * 0.03)
        self.text_projection = torch.nn.Parameter(torch.randn(512, 512) * 0.04)
        self.scale = torch.nn.Parameter(torch.tensor(2.659))

    def image(self, images, blocks):
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat([self.first.expand(x.shape[0], -1, -1).to(x.dtype), x], 1) + self.positions
        x = self.ln_pre(x)
        for block in self.image_blocks[:blocks]:
            x = block(x, False)
        return x

    def forward(self, images, ids):
        image = self.ln_post(self.image(images, 12)[:, 0]) @ self.image_projection
        x = self.tokens(ids) + self.text_positions
        for block in self.text_blocks:
            x = block(x, True)
        text = self.ln_text(x[:, -1]) @ self.text_projection
        logits = self.scale.exp() * F.normalize(image, dim=-1) @ F.normalize(text, dim=-1).T
        labels = torch.arange(len(logits), device=logits.device)
        return (F.cross_entropy(logits, labels) + F.cross_entropy(logits.T, labels)) / 2


def clip_training(name, compile):
    batch = numbers(name)[0]
    model = Clip().cuda()
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-5, fused=True)
    images, ids = normal(batch, 3, 224, 224, dtype=torch.float32), torch.randint(49406, (batch, 77), device="cuda")
    forward = compile(model)

    def work():
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16):
            loss = forward(images, ids)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()

    return work


def maskclip(name, compile):
    model = Clip(448).cuda().bfloat16().eval()
    image, classes = normal(1, 3, 448, 448), F.normalize(normal(171, 512), dim=-1)

    def segment(image):
        x = model.image(image, 11)
        block = model.image_blocks[11]
        value = block.out(block.qkv(block.ln_1(x))[..., 2 * 768 :])
        patches = F.normalize(model.ln_post(value[:, 1:]) @ model.image_projection, dim=-1)
        scores = (classes @ patches[0].T).view(1, 171, 28, 28)
        return F.interpolate(scores, size=(448, 448), mode="bilinear").argmax(1)

    function = compile(segment)

    def work():
        with torch.no_grad():
            return function(image)

    return work


MAKERS = {
    "layernorm": layernorm,
    "groupnorm": groupnorm,
    "conv2d": conv2d,
    "linear_quick_gelu": linear_quick_gelu,
    "bias_quick_gelu": bias_quick_gelu,
    "softmax": softmax,
    "gumbel_softmax": gumbel_softmax,
    "assignment_pool": assignment_pool,
    "masked_mse": masked_mse,
    "l2_normalise": l2_normalise,
    "embedding": embedding,
    "interpolate": interpolate,
    "copy": copy,
    "matmul": matmul,
    "contrastive": contrastive,
    "cross_entropy": cross_entropy,
    "upsample_argmax": upsample_argmax,
    "adamw": adamw,
    "clip_vit_b16": clip_training,
    "maskclip_vit_b16": maskclip,
}


def peers_of(name):
    """{peer's name: function that gives the work}."""
    operation = name.split("/")[0]
    plain = lambda function: function
    if operation == "attention":
        backends = {"default": None, "flash": "FLASH_ATTENTION", "cudnn": "CUDNN_ATTENTION"}
        return {peer: (lambda b=backend: attention(b)(name, plain)) for peer, backend in backends.items()}
    maker = MAKERS.get(operation)
    if maker is None:
        return {}
    if "/training_graph/" in name:  # compiling the step takes a minute: once is enough
        return {"compile": lambda: maker(name, torch.compile)}
    peers = {"eager": lambda: maker(name, plain)}
    if operation not in ("copy", "matmul", "adamw", "clip_vit_b16"):
        peers["compile"] = lambda: maker(name, torch.compile)
    return peers


class Ours:
    def __init__(self, program):
        self.process = subprocess.Popen([program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def ask(self, line):
        self.process.stdin.write(line + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise RuntimeError("the program ended")
        answer = json.loads(answer)
        if isinstance(answer, dict) and "error" in answer:
            raise RuntimeError(answer["error"])
        return answer


def time_peer(work, flush, count):
    times = []
    for i in range(count):
        flush.fill_(i % 100)
        begun, done = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begun.record()
        work()
        done.record()
        torch.cuda.synchronize()
        times.append(begun.elapsed_time(done) * 1000)
    return times


def clock():
    """The SM clock in MHz, now."""
    result = subprocess.run(
        ["nvidia-smi", "--query-gpu=clocks.sm", "--format=csv,noheader,nounits"], capture_output=True, text=True
    )
    return int(result.stdout.split()[0]) if result.returncode == 0 and result.stdout.split() else None


def summary(times):
    ordered = sorted(times)
    return {
        "median": statistics.median(ordered),
        "low": ordered[len(ordered) // 10],
        "high": ordered[-1 - len(ordered) // 10],
        "count": len(ordered),
    }


def measure(ours, row, rounds, count, deadline):
    result = {"name": row["name"], "bytes": row["bytes"], "flops": row["flops"], "ours": {}, "peers": {}, "errors": {}}
    works = {}
    for peer, make in peers_of(row["name"]).items():
        try:
            works[peer] = make()
            for _ in range(3):
                works[peer]()
            torch.cuda.synchronize()
        except Exception as error:  # a peer that cannot is a fact to report
            works.pop(peer, None)
            result["errors"][peer] = f"{type(error).__name__}: {error}".splitlines()[0][:200]
    flush = torch.empty(256 << 20, dtype=torch.uint8, device="cuda")
    times = {peer: [] for peer in works}
    own = []
    clocks = []
    for _ in range(rounds):
        try:
            own += ours.ask(f"time {row['name']} {count}")["microseconds"]
        except RuntimeError as error:
            result["errors"]["ours"] = str(error)
        clocks.append(clock())
        for peer, work in works.items():
            times[peer] += time_peer(work, flush, count)
        if time.monotonic() > deadline:
            break
    if own:
        result["ours"] = summary(own)
    result["peers"] = {peer: summary(t) for peer, t in times.items() if t}
    result["sm_clock_mhz"] = [c for c in clocks if c]
    works.clear()
    torch.cuda.empty_cache()
    return result


def render(report):
    rows = {row["name"]: row for row in report["rows"]}

    def rate(name, what):
        row = rows.get(name)
        return row[what] / row["ours"]["median"] * 1e6 if row and row["ours"] else None

    copy_rate, matmul_rate = rate("copy/reference/f32/268435456", "bytes"), rate("matmul/reference/bf16/8192", "flops")
    lines = [
        f"{report['gpu']}, {report['date']}, commit {report['commit']}, PyTorch {report['torch']}.",
        "",
        "Medians in microseconds, with the tenth and ninetieth percentile; L2 flushed before each run, random data, ours and"
        " the peers in turns. `of bound`: of the larger of the times that the measured copy and matmul rates allow"
        + (f" ({copy_rate / 1e12:.2f} TB/s, {matmul_rate / 1e12:.0f} TFLOP/s)." if copy_rate and matmul_rate else "."),
        "",
        "| row | ours | of bound | peer: its time, ratio |",
        "|---|---|---|---|",
    ]
    for row in report["rows"]:
        ours = row["ours"]
        if not ours:
            lines.append(f"| {row['name']} | {row['errors'].get('ours', 'not run')} | | |")
            continue
        bound = 0
        if copy_rate:
            bound = max(bound, row["bytes"] / copy_rate * 1e6)
        if matmul_rate:
            bound = max(bound, row["flops"] / matmul_rate * 1e6)
        share = f"{100 * bound / ours['median']:.0f} %" if bound else ""
        peers = [f"{p}: {t['median']:.1f}, {t['median'] / ours['median']:.2f}x" for p, t in row["peers"].items()]
        peers += [f"{p}: {e}" for p, e in row["errors"].items() if p != "ours"]
        lines.append(
            f"| {row['name']} | {ours['median']:.1f} ({ours['low']:.1f}–{ours['high']:.1f}) | {share} | {'; '.join(peers)} |"
        )
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--output", type=Path, required=True, help="folder for bench.json and bench.md")
    parser.add_argument("--commit", default="unknown")
    parser.add_argument("--seconds", type=float, default=150, help="stop before the next row after so long")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--count", type=int, default=15)
    parser.add_argument("--filter", default="")
    arguments = parser.parse_args()
    begun = time.monotonic()
    report = {
        "gpu": torch.cuda.get_device_name(),
        "date": datetime.date.today().isoformat(),
        "commit": arguments.commit,
        "torch": torch.__version__,
        "rows": [],
        "left_out": [],
    }
    import torch._functorch.config

    torch._functorch.config.donated_buffer = False  # compiled backward passes are run again on one forward pass
    ours = Ours(arguments.program)
    deadline = begun + arguments.seconds
    for row in ours.ask("list"):
        if not re.search(arguments.filter, row["name"]):
            continue
        if time.monotonic() > deadline:
            report["left_out"].append(row["name"])
            continue
        print(row["name"], flush=True)
        report["rows"].append(measure(ours, row, arguments.rounds, arguments.count, deadline))
        (arguments.output / "bench.json").write_text(json.dumps(report, indent=1) + "\n")
        (arguments.output / "bench.md").write_text(render(report))
    if report["left_out"]:
        print("no time was left for:", *report["left_out"], sep="\n  ")
    return 0


if __name__ == "__main__":
    sys.exit(main())
