#!/usr/bin/env bash
# bench/gpu.sh as far as it can be proven without a GPU: the dry run names every test of kernels and every source of the
# benchmark; without a GPU it is skipped with a reason; and with tools that stand in for the real ones, a stage that fails or
# takes too long does not stop the next, and each has its line in the summary. Usage: gpu_script.sh SOURCE_DIR OUT_DIR.
set -euo pipefail
source_dir=$1 out=$2
rm -rf "$out" && mkdir -p "$out/tools"
script=$source_dir/bench/gpu.sh
problem() {
  echo "$*"
  exit 1
}

bash -n "$script" "$source_dir/bench/gpu_bundle.sh"
"$script" --dry-run >"$out/dry.txt" || problem "the dry run fails"
for stage in machine build conformance tests sanitizer bench; do
  grep -q "^== $stage " "$out/dry.txt" || problem "the dry run has no stage $stage"
done
for file in "$source_dir"/tests/kernels/*_test.cpp "$source_dir"/tests/cuda/*_test.cu; do
  name=$(basename "$file" | sed 's/_test\..*//')
  grep -q "build/gpu/test_$name\$" "$out/dry.txt" || problem "the dry run neither builds nor runs $name"
done
for file in "$source_dir"/bench/gpu/*.cu; do
  grep -q "bench/gpu/$(basename "$file")" "$out/dry.txt" || problem "the dry run does not build $file"
done
status=0
"$script" --wrong 2>"$out/usage.txt" || status=$?
[ $status = 1 ] && grep -q 'bench/gpu.sh \[--dry-run\]' "$out/usage.txt" || problem "a wrong argument is not explained"

# Stand-ins: a GPU, and compilers that make programs which pass, fail or never end.
cp -r "$source_dir"/{bench,tests,kernels,include,cmake} "$out/" 2>/dev/null
mkdir -p "$out/build/gpu"
cat >"$out/tools/nvidia-smi" <<'TOOL'
#!/bin/sh
case "$1" in
  -L) echo "GPU 0: a stand-in" ;;
  --query-gpu=compute_cap) echo 9.0 ;;
  *) echo "stand-in, 9.0" ;;
esac
TOOL
cat >"$out/tools/nvcc" <<'TOOL'
#!/bin/bash
for ((i = 1; i <= $#; ++i)); do
  if [ "${!i}" = -o ]; then
    next=$((i + 1)) target=${!next}
    case "$target" in
      *softmax.o) echo "softmax does not compile" >&2; exit 2 ;;
      *test_tokens) printf '#!/bin/sh\nsleep 1000\n' >"$target" ;;
      *test_layernorm) printf '#!/bin/sh\necho failed; exit 3\n' >"$target" ;;
      *) printf '#!/bin/sh\necho all passed\n' >"$target" ;;
    esac
    chmod +x "$target"
  fi
done
TOOL
cp "$out/tools/nvcc" "$out/tools/g++"
printf '#!/bin/sh\nexit 0\n' >"$out/tools/compute-sanitizer"
printf '#!/bin/sh\necho no torch; exit 1\n' >"$out/tools/python3"
chmod +x "$out"/tools/*
status=0
PATH=$out/tools:$PATH CXX=$out/tools/g++ TESSERA_BENCH_PYTHON=$out/tools/python3 TESSERA_GPU_BUDGET=25 \
  "$out/bench/gpu.sh" "$out/results" >"$out/run.txt" 2>&1 || status=$?
[ $status = 1 ] || problem "a run with failures ends with status $status"
summary=$out/results/summary.txt
expect() { grep -qE "$1" "$summary" || { cat "$summary"; problem "the summary has no line like: $1"; }; }
expect '^machine: passed'
expect '^build: FAILED'
expect '^conformance: passed'
expect '^tests: (FAILED|cut short)'
expect '^sanitizer: '
expect '^bench: (FAILED|cut short)'
grep -q 'softmax does not compile' "$out/results/build.txt" || problem "build.txt does not say what failed"
grep -q 'layernorm: exit status 3: failed' "$out/results/tests.txt" || problem "tests.txt does not say which test failed"
