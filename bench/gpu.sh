#!/usr/bin/env bash
# Everything that only a GPU can tell, in one run of under 9 minutes: builds the tests and the benchmark for the GPU of this
# machine, then runs conformance of the primitives, all tests of kernels, compute-sanitizer, and the benchmark beside PyTorch.
#   bench/gpu.sh [--dry-run] [OUT]        OUT: build/gpu/results
# Needs an NVIDIA GPU, CUDA 13 and g++; for the last stage Python with PyTorch. No network, no CMake. Eigen's and Catch2's
# headers come from the system or from build/gpu/bundle, which bench/gpu_bundle.sh fills beforehand (TESSERA_GPU_BUNDLE names
# another folder). A stage that fails does not stop the next; each writes its results at once:
#   machine.txt build.txt conformance.txt tests.txt sanitizer.txt bench.json bench.md, and summary.txt with a line a stage.
# --dry-run prints what would be run. TESSERA_GPU_BUDGET: seconds for everything (530).
set -uo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
dry=0
if [ "${1:-}" = --dry-run ]; then
  dry=1
  shift
fi
if [ $# -gt 1 ] || [[ "${1:-}" = -* ]]; then
  sed -n '2,10p' "${BASH_SOURCE[0]}" | sed 's/^# \{0,1\}//' >&2
  exit 1
fi
out=${1:-build/gpu/results}
build=build/gpu
bundle=${TESSERA_GPU_BUNDLE:-$build/bundle}
python=${TESSERA_BENCH_PYTHON:-python3}
CXX=${CXX:-g++}
jobs=${TESSERA_JOBS:-$(nproc)}
budget=${TESSERA_GPU_BUDGET:-530}
started=$SECONDS
failures=0

nvcc=$(command -v nvcc || echo /usr/local/cuda/bin/nvcc)
cuda=$(cd "$(dirname "$nvcc")/.." 2>/dev/null && pwd || echo /usr/local/cuda)
architecture=$(nvidia-smi --query-gpu=compute_cap --format=csv,noheader 2>/dev/null | head -1 | tr -d '. ')
architecture=sm_${architecture:-90}
commit=$(git rev-parse --short HEAD 2>/dev/null || cat "$bundle/commit" 2>/dev/null || echo unknown)

left() { echo $((budget - (SECONDS - started))); }
# Seconds for a stage: its own limit, or what is left for everything. At least one, so that `timeout` stops it.
limit() {
  local rest
  rest=$(left)
  [ "$rest" -lt "$1" ] || rest=$1
  [ "$rest" -gt 1 ] || rest=1
  echo "$rest"
}
note() {
  echo "$*"
  [ $dry = 1 ] || echo "$*" >>"$out/summary.txt"
}
# stage NAME SECONDS COMMAND…: the command's output goes to NAME.txt, a line about it to summary.txt.
stage() {
  local name=$1 seconds=$2 begun=$SECONDS status=0
  shift 2
  if [ $dry = 1 ]; then
    echo "== $name (at most $seconds s) =="
    "$@"
    return
  fi
  local most
  most=$(limit "$seconds")
  (timeout --kill-after=5 "$most" bash -c '"$@"' stage "$@") >"$out/$name.txt" 2>&1 || status=$?
  case $status in
    0) note "$name: passed, $((SECONDS - begun)) s" ;;
    77) note "$name: skipped: $(grep -m1 SKIPPED "$out/$name.txt")" ;;
    124 | 137) note "$name: cut short after $most s; what it found until then is in $name.txt" ;;
    *) note "$name: FAILED ($status), $((SECONDS - begun)) s: see $name.txt" ;;
  esac
  [ $status = 0 ] || [ $status = 77 ] || failures=$((failures + 1))
}
do_() {  # a command, or in a dry run its text
  if [ $dry = 1 ]; then
    echo "  $*"
  else
    "$@"
  fi
}

# ---- what is built: name, compiler, sources and flags ----
includes="-I include -I kernels -I tests -isystem $bundle/include -isystem /usr/include/eigen3 -isystem $bundle/include/eigen3"
host="$CXX -std=c++20 -O2 -fopenmp $includes -isystem $cuda/include"
device="$nvcc -std=c++20 -O3 -arch=$architecture --compiler-bindir $CXX --expt-relaxed-constexpr --diag-suppress=186,3189 -Xcompiler=-fopenmp -lineinfo $includes"
cudnn= cudnn_library=  # convolutions, where it is installed
for place in "$cuda/include" "$bundle/include" /usr/include /usr/include/x86_64-linux-gnu; do
  [ -n "$cudnn" ] || [ ! -e "$place/cudnn.h" ] || { cudnn="-DTESSERA_CUDNN -isystem $place" cudnn_library=-lcudnn; }
done
device+=" $cudnn"
libraries="$cudnn_library -L $cuda/lib64 -Xlinker -rpath -Xlinker $cuda/lib64 -lcublasLt -lgomp"
common_objects="$build/main.o $build/matmul_eigen.o"

tests=$(for file in tests/cuda/*_test.cu tests/kernels/*_test.cpp; do basename "$file" | sed 's/_test\..*//'; done)
# One line a command: "what<TAB>command". The first half is needed by the second.
objects() {
  printf 'main.o\t%s\n' "$host -DTESSERA_TEST_CUDA -c tests/support/main.cpp -o $build/main.o"
  printf 'matmul_eigen.o\t%s\n' "$host -c cmake/matmul_eigen.cpp -o $build/matmul_eigen.o"
  printf 'conformance_emulated.o\t%s\n' "$host -c tests/cuda/conformance_emulated.cpp -o $build/conformance_emulated.o"
  local source
  for source in kernels/tessera/simt/*.cpp; do
    [ "$(basename "$source")" = callbacks.cpp ] || printf 'simt\t%s\n' "$host -c $source -o $build/simt_$(basename "$source" .cpp).o"
  done
  for source in bench/gpu/*.cu; do
    printf 'bench\t%s\n' "$device -c $source -o $build/bench_$(basename "$source" .cu).o"
  done
}
test_objects() {
  local name
  for name in $tests; do
    printf 'test_%s.o\t%s\n' "$name" "$device -DTESSERA_TEST_DIR='\"tests\"' -DTESSERA_SOURCE_DIR='\".\"' -c $build/$name.cu -o $build/$name.o"
  done
}
programs() {
  local name extra
  for name in $tests; do
    extra=
    [ "$name" != conformance ] || extra="$build/conformance_emulated.o $build/simt_*.o"
    printf 'test_%s\t%s\n' "$name" "$device $build/$name.o $common_objects $extra $libraries -o $build/test_$name"
  done
  printf 'bench\t%s\n' "$device $build/bench_*.o $libraries -o $build/tessera_gpu_bench"
}
run_lines() {  # runs each line's command, several at once; says which failed and why
  if [ $dry = 1 ]; then
    sed 's/^[^\t]*\t/  /'
    return
  fi
  xargs -d '\n' -P "$jobs" -I {} bash -c '
    what=${1%%$'"'\t'"'*} command=${1#*$'"'\t'"'}
    begun=$SECONDS
    if message=$(eval "$command" 2>&1); then echo "built $what in $((SECONDS - begun)) s"
    else echo "FAILED to build $what:"; echo "$message" | head -30; exit 1; fi' line {}
}
build_all() {
  local status=0 name
  if [ $dry = 0 ]; then
    for name in $tests; do
      if [ -e "tests/cuda/${name}_test.cu" ]; then echo "#include \"cuda/${name}_test.cu\""; else echo "#include \"kernels/${name}_test.cpp\""; fi >"$build/$name.cu"
    done
  fi
  { test_objects; objects; } | run_lines || status=1
  programs | run_lines || status=1
  return $status
}

# ---- the stages ----
machine() {
  do_ nvidia-smi --query-gpu=name,driver_version,compute_cap,memory.total,clocks.max.sm,power.limit --format=csv
  do_ "$nvcc" --version
  do_ "$CXX" --version
  do_ "$python" -c 'import torch; print("PyTorch", torch.__version__, torch.version.cuda, torch.backends.cudnn.version())'
  echo "commit $commit, architecture $architecture, $jobs jobs"
}
conformance() { do_ timeout --foreground 60 "$build/test_conformance" --durations yes; }
run_tests() {
  local name status failed=0
  for name in $tests; do
    [ "$name" != conformance ] || continue
    if [ $dry = 1 ]; then
      echo "  timeout --foreground 60 $build/test_$name"
      continue
    fi
    status=0
    timeout --foreground 60 "$build/test_$name" >"$out/test_$name.log" 2>&1 || status=$?
    echo "$name: exit status $status: $(tail -n 2 "$out/test_$name.log" | tr '\n' ' ')"
    [ $status = 0 ] || failed=1
  done
  return $failed
}
# A tool slows a kernel a hundredfold: several programs at once, the small ones first.
sanitize() {  # TOOL NAME
  local tool=$1 name=$2 log=$out/sanitizer_$1_$2.log status=0 program
  program=$(command -v compute-sanitizer || echo "$cuda/bin/compute-sanitizer")
  local command=(timeout --foreground 20 "$program" --tool "$tool" --error-exitcode 9 "$build/test_$name")
  if [ $dry = 1 ]; then
    echo "  ${command[*]}"
    return
  fi
  "${command[@]}" >"$log" 2>&1 || status=$?
  case $status in
    0) echo "$tool $name: clean" ;;
    124) echo "$tool $name: clean for the 20 s that it was given" ;;
    *)
      echo "$tool $name: exit status $status: $(grep -m1 -E '=+ (Invalid|Error|Race|Barrier|Uninit|.*hazard)' "$log")"
      return 1
      ;;
  esac
}
sanitizer() {
  local tool name small="conformance layernorm softmax reduce rearrange tokens embedding patches similarity attention"
  for name in $small $tests; do
    for tool in memcheck racecheck synccheck initcheck; do echo "$tool $name"; done
  done | awk '!seen[$0]++' | xargs -P "$([ $dry = 1 ] && echo 1 || echo $(((jobs + 1) / 2)))" -L 1 bash -c 'sanitize "$1" "$2"' sanitize
}
bench() {
  do_ "$python" bench/gpu/peers.py --program "$build/tessera_gpu_bench" --output "$out" --commit "$commit" --seconds "${1:-150}"
}
export -f machine conformance run_tests sanitize sanitizer bench do_ build_all run_lines objects test_objects programs
export dry out build bundle python CXX jobs nvcc cuda architecture commit includes host device libraries common_objects tests

if [ $dry = 0 ]; then
  if ! nvidia-smi -L 2>/dev/null | grep -q 'GPU 0'; then
    echo "SKIPPED: no NVIDIA GPU on this machine (--dry-run prints what would be run)"
    exit 77
  fi
  mkdir -p "$out" "$build"
  rm -f "$out"/summary.txt
fi
stage machine 30 machine
stage build 260 build_all
stage conformance 60 conformance
stage tests 90 run_tests
stage sanitizer 100 sanitizer
stage bench 200 bench "$([ $dry = 1 ] && echo 150 || echo $(($(limit 200) - 30)))"
note "$failures stages failed; $((SECONDS - started)) s in all; results in $out"
[ $failures = 0 ]
