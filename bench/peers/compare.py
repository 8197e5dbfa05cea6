"""Runs the rows of tessera_bench beside their PyTorch peers and writes compare.json and the report (bench/compare.sh calls
this). For every row: our program writes its inputs and outputs; the peer computes from the same inputs and its outputs
are compared; then both are timed in turns. A peer that fails or disagrees makes an error row."""

import argparse
import datetime
import json
import os
import re
import statistics
import subprocess
import sys
import time
import traceback
from pathlib import Path

import torch
from safetensors.torch import load_file

import operations
import segclip  # noqa: F401  (registers its peers)
import superpixels  # noqa: F401
import towers  # noqa: F401

# Largest difference of two outputs over the largest value of ours. bfloat16 keeps 8 bits; a tower rounds to it
# hundreds of times. PyTorch sums the norm of 20 million numbers in float and
# layernorm's parameter gradients in bfloat16, which puts it, not us, that far from the sums in double.
TOLERANCE = {"f32": 1e-4, "bf16": 2e-2, "bf16 tower": 6e-2, "long sum": 2e-3, "bf16 sum": 1e-1}

# What the library aims at: peer's time over ours.
TARGETS = [
    (r"^clip_vit_b16_image/.*/f32/", 2.0),
    (r"^clip_vit_b16_image/.*/bf16/", 1.35),
    (r"^clip_vit_b16_text/.*/f32/", 2.0),
    (r"^attention/.*/f32/(b8h12n197d64|b1h12n785d64)$", 2.0),
    (r"^attention/.*/bf16/(b8h12n197d64|b1h12n785d64)$", 2.0),
    (r"^(layernorm|softmax|gelu)/.*/f32/", 1.3),
    (r"^contrastive/both/.*/4096x512$", 2.0),
    (r"^upsample_argmax/.*to448$", 10.0),
    (r"^pair_compatibility/both/.*/b256t196d512k256$", 3.0),
    (r"^pacl_demo/", 2.0),
    (r"^segclip_demo/", 3.0),
    (r"^segclip_vit_b16/", 2.0),
    (r"^felzenszwalb/", 3.0),
]


def target_of(name):
    return next((value for pattern, value in TARGETS if re.search(pattern, name)), None)


def disagreement(name, ours, theirs):
    """A sentence, or None where the outputs agree."""
    kind = "bf16" if "/bf16/" in name else "f32"
    if kind == "bf16" and name.startswith("clip_"):
        kind = "bf16 tower"
    if name.startswith("gradient_norm/"):
        kind = "long sum"
    if name.startswith("layernorm/backward/cpu/bf16/"):
        kind = "bf16 sum"
    for output, expected in ours.items():
        if output not in theirs:
            return f"the peer has no output {output}"
        result = theirs[output]
        if tuple(result.shape) != tuple(expected.shape):
            return f"{output}: shapes {tuple(expected.shape)} and {tuple(result.shape)}"
        if not expected.is_floating_point():
            differing = (result.long() != expected.long()).double().mean().item()
            if differing > 1e-4:  # ties that rounding breaks either way
                return f"{output}: {100 * differing:.3g} % of the values differ"
            continue
        expected, result = expected.double(), result.double()
        largest = expected.abs().max().item()
        difference = (expected - result).abs().max().item()
        if not difference <= TOLERANCE[kind] * largest:
            return f"{output}: differs by {difference / max(largest, 1e-30):.2g} of its largest value"
    return None


class Ours:
    def __init__(self, program):
        self.program = program

    def names(self):
        return subprocess.run([self.program, "--list"], check=True, capture_output=True, text=True).stdout.split()

    def call(self, *arguments):
        result = subprocess.run([self.program, *arguments], capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError("tessera_bench: " + (result.stderr.strip().splitlines() or ["failed"])[-1])
        return result.stdout

    def dump(self, name, folder):
        self.call("--dump", str(folder), "--benchmark_filter", f"^{re.escape(name)}$")
        path = folder / (name.replace("/", "_") + ".safetensors")
        tensors = load_file(path)
        path.unlink()
        inputs = {key[3:]: value for key, value in tensors.items() if key.startswith("in.")}
        return inputs, {key[4:]: value for key, value in tensors.items() if key.startswith("out.")}

    def milliseconds(self, name, seconds):
        text = self.call(f"--benchmark_filter=^{re.escape(name)}/real_time$", f"--benchmark_min_time={seconds}",
                         "--benchmark_format=json")
        run = json.loads(text)["benchmarks"][0]
        return run["best_ms"], {key: run[key] for key in ("GB/s", "GFLOP/s", "work_MB") if key in run}


def peer_milliseconds(work, seconds):
    """The fastest of the runs that fit into `seconds`, after one to warm up: as tessera_bench counts."""
    work()
    best, begun = float("inf"), time.perf_counter()
    while True:
        started = time.perf_counter()
        work()
        now = time.perf_counter()
        best = min(best, now - started)
        if now - begun >= seconds:
            return 1000 * best


def peer_work_megabytes(work):
    """What a run takes at its peak beyond what lives before it and what it returns, as the system counts it; None where
    the system does not tell."""
    def status(key):
        return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) * 1024

    try:
        Path("/proc/self/clear_refs").write_text("5")  # VmHWM, the largest resident size, starts anew
        before = status("VmRSS:")
        result = work()
        returned = sum(tensor.numel() * tensor.element_size() for tensor in result.values())
        return max(0, status("VmHWM:") - before - returned) / 1e6
    except OSError:
        return None


def compare(ours, name, rounds, seconds, folder):
    row = {"name": name, "ours_ms": None, "peer": f"PyTorch {torch.__version__}", "peer_ms": None, "ratio": None,
           "spread": None, "target": target_of(name)}
    try:
        inputs, outputs = ours.dump(name, folder)
        operation = "/".join(name.split("/")[:2])
        if operation not in operations.PEERS:
            raise RuntimeError(f"there is no peer for {operation}")
        work = operations.PEERS[operation](inputs, name)
        error = disagreement(name, outputs, work())
        if error:
            raise RuntimeError(f"the peer disagrees: {error}")
        del outputs
        row["peer_work_MB"] = peer_work_megabytes(work)
        our_times, peer_times = [], []
        for _ in range(rounds):
            milliseconds, rates = ours.milliseconds(name, seconds)
            our_times.append(milliseconds)
            peer_times.append(peer_milliseconds(work, seconds))
        row.update(ours_ms=statistics.median(our_times), peer_ms=statistics.median(peer_times), **rates,
                   ours_best_ms=min(our_times), peer_best_ms=min(peer_times))
        row["ratio"] = row["peer_ms"] / row["ours_ms"]
        each = [peer / own for own, peer in zip(our_times, peer_times)]
        row["spread"] = [min(each), max(each)]
    except Exception as error:  # an error row, and on with the next
        row["error"] = str(error).splitlines()[0] if str(error) else type(error).__name__
        if os.environ.get("TESSERA_BENCH_TRACE"):
            traceback.print_exc()
    return row


def load():
    return os.getloadavg()[0]


def machine():
    lines = dict(line.split(":", 1) for line in subprocess.run(["lscpu"], capture_output=True, text=True,
                                                              env={**os.environ, "LC_ALL": "C"}).stdout.splitlines()
                 if ":" in line)
    return {key: lines[key].strip() for key in ("Model name", "CPU family", "Model", "CPU(s)", "L2 cache", "L3 cache",
                                                "Hypervisor vendor") if key in lines}


def number(value):
    return f"{value:.3g}" if value < 100 else f"{value:.0f}"


def megabytes(row, key):
    return "" if row.get(key) is None else number(row[key])


def report(rows, facts):
    lines = ["# CPU: tessera beside PyTorch", "",
             "Written by `bench/compare.sh`. A ratio above 1 means that tessera is faster: PyTorch's time over ours. "
             f"{facts['rounds']} rounds alternate between the two; a round's time is its fastest run, the table has the "
             "median over rounds, and the spread is the lowest and highest ratio of a round. "
             f"Both use {facts['threads']} threads. Every row's outputs were compared before it was timed, from the same inputs "
             "(largest difference over the largest value: 1e-4 in f32, 2e-2 in bf16, 6e-2 for bf16 towers, 2e-3 for gradient_norm, 1e-1 for layernorm's bf16 sums, which PyTorch rounds); a peer that "
             "fails or disagrees is an error row.", "",
             "| | |", "|---|---|"]
    lines += [f"| {key} | {value} |" for key, value in facts.items() if key != "rounds"]
    lines += ["", "Rerun: `bench/compare.sh` (all rows), `bench/compare.sh --filter '^attention/'`, `--quick` for one short "
              "round. Numbers taken under load say little: the load average above is of the whole machine.", "",
              "felzenszwalb's peer is scikit-image; both run on one thread there. SegCLIP's steps take noise, masking and "
              "superpixels as inputs; the norm of every parameter's first gradient is compared.", "",
              "Backward rows: ours recomputes what it does not keep; PyTorch's times are autograd's backward pass alone over "
              "a graph that is kept.", "",
              "MB: what a run takes at its peak beyond inputs, outputs and, in PyTorch's backward rows, the kept graph; ours as "
              "the library's pool counts it (without what oneDNN takes inside), PyTorch's as the process grows, which tells "
              "little of rows below some 30 MB: memory that was freed before is used again.", ""]
    done = [row for row in rows if row["ratio"]]
    ahead = sum(row["ratio"] >= 1 for row in done)
    with_target = [row for row in done if row["target"]]
    met = sum(row["ratio"] >= row["target"] for row in with_target)
    lines += [f"{ahead} of {len(done)} rows are ahead of PyTorch; {met} of {len(with_target)} targets are met; "
              f"{len(rows) - len(done)} rows are errors.", "",
              "| row | ours ms | PyTorch ms | ratio | spread | target | ours MB | PyTorch MB |",
              "|---|--:|--:|--:|---|--:|--:|--:|"]
    for row in rows:
        target = "" if row["target"] is None else f"{row['target']:g}" + (
            "" if not row["ratio"] else " ✓" if row["ratio"] >= row["target"] else " ✗")
        if row["ratio"]:
            low, high = row["spread"]
            lines.append(f"| {row['name']} | {number(row['ours_ms'])} | {number(row['peer_ms'])} | {row['ratio']:.2f} | "
                         f"{low:.2f}–{high:.2f} | {target} | {megabytes(row, 'work_MB')} | {megabytes(row, 'peer_work_MB')} |")
        else:
            lines.append(f"| {row['name']} | error | | | {row['error']} | {target} | | |")
    return "\n".join(lines) + "\n"


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--program", required=True)
    parser.add_argument("--output", required=True, help="compare.json")
    parser.add_argument("--report", help="the page of results; left alone where this is absent")
    parser.add_argument("--filter", default="")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=float, default=0.2, help="of each measurement")
    parser.add_argument("--commit", default="unknown")
    arguments = parser.parse_args()

    threads = int(os.environ.get("OMP_NUM_THREADS", "2"))
    torch.set_num_threads(threads)
    torch.manual_seed(0)
    ours = Ours(arguments.program)
    names = [name for name in ours.names() if re.search(arguments.filter, name)]
    if not names:
        sys.exit(f"compare: no row matches {arguments.filter}")
    folder = Path(arguments.output).parent / "dump"
    rows, loads = [], [load()]
    for index, name in enumerate(names):
        row = compare(ours, name, arguments.rounds, arguments.seconds, folder)
        rows.append(row)
        loads.append(load())
        text = f"{row['ratio']:.2f}" if row["ratio"] else "error: " + row["error"]
        print(f"[{index + 1}/{len(names)}] {name}: {text}", flush=True)
    facts = {"machine": ", ".join(f"{key} {value}" for key, value in machine().items()),
             "threads": threads, "date": datetime.date.today().isoformat(), "commit": arguments.commit,
             "PyTorch": f"{torch.__version__}, {torch.backends.cpu.get_cpu_capability()}",
             "load average": f"{loads[0]:.1f} at the start, {min(loads):.1f} to {max(loads):.1f} during the run "
                             f"(this run itself makes about {threads})",
             "rounds": arguments.rounds}
    temporary = Path(arguments.output + ".tmp")
    temporary.write_text(json.dumps(rows, indent=1) + "\n")
    temporary.replace(arguments.output)
    if arguments.report:
        Path(arguments.report).parent.mkdir(parents=True, exist_ok=True)
        temporary = Path(arguments.report + ".tmp")
        temporary.write_text(report(rows, facts))
        temporary.replace(arguments.report)
    errors = sum("error" in row for row in rows)
    print(f"{len(rows)} rows, {errors} errors; {arguments.output}")


if __name__ == "__main__":
    main()
