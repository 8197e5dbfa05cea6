#!/usr/bin/env bash
# Times tessera beside PyTorch on this machine: builds the preset `bench`, installs PyTorch into an environment of its own
# (build/bench/venv; TESSERA_BENCH_PYTHON names another interpreter that has torch, transformers, safetensors and scikit-image), runs
# both in turns and writes build/bench/compare.json and docs/benchmarks/cpu.md.
#   bench/compare.sh [--filter REGEX] [--quick]
# With --filter or --quick the page goes to build/bench/compare.md instead. OMP_NUM_THREADS sets the threads (2).
# TESSERA_BENCH_COMPILE=1 has SegCLIP's peer go through torch.compile, which takes minutes before the first step.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/prerequisites.sh

filter="" rounds=3 seconds=0.2 page=docs/benchmarks/cpu.md
while [ $# -gt 0 ]; do
  case "$1" in
    --filter)
      filter=${2:?--filter needs a regular expression}
      page=build/bench/compare.md
      shift 2
      ;;
    --quick)
      rounds=1 seconds=0.05 page=build/bench/compare.md
      shift
      ;;
    *)
      sed -n '2,7s/^# \{0,1\}//p' "bench/compare.sh" >&2
      exit 1
      ;;
  esac
done

packages=("${tessera_build_packages[@]}" libbenchmark-dev)
[ -n "${TESSERA_BENCH_PYTHON:-}" ] || packages+=(python3-venv)
tessera_install "${packages[@]}"

mkdir -p build/bench
cmake --preset bench -DTESSERA_EXAMPLES=OFF >build/bench/configure.log 2>&1 || {
  cat build/bench/configure.log
  exit 1
}
cmake --build --preset bench --target tessera_bench -j "$(tessera_jobs)"

python=${TESSERA_BENCH_PYTHON:-build/bench/venv/bin/python}
if [ -z "${TESSERA_BENCH_PYTHON:-}" ] && ! "$python" -c 'import skimage, torch, transformers, safetensors' 2>/dev/null; then
  echo "bench: installing PyTorch into build/bench/venv"
  python3 -m venv build/bench/venv
  # PyTorch's own index has builds without CUDA, a tenth of the size; the default index serves where it is out of reach.
  "$python" -m pip install -q torch --index-url https://download.pytorch.org/whl/cpu ||
    "$python" -m pip install -q torch
  "$python" -m pip install -q numpy safetensors scikit-image transformers
fi

export OMP_NUM_THREADS=${OMP_NUM_THREADS:-2}
exec "$python" bench/peers/compare.py --program build/bench/bench/tessera_bench --output build/bench/compare.json \
  --report "$page" --filter "$filter" --rounds "$rounds" --seconds "$seconds" \
  --commit "$(git rev-parse --short HEAD 2>/dev/null || echo unknown)"
