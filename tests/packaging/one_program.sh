#!/usr/bin/env bash
# Files for the host compiler and for nvcc make one program: kernels of one name for Simt and for Cuda, the device's handles
# on both sides, no symbol defined twice. Without a GPU its Simt half runs alone. Skipped (77) where there is no nvcc.
# Usage: one_program.sh SOURCE_DIR OUT_DIR LIBTESSERA_SIMT, with NVCC and CXX set.
set -euo pipefail
source_dir=$1 out=$2 simt=$3
if [ ! -x "${NVCC:-}" ]; then
  echo "SKIPPED: no nvcc on this machine"
  exit 77
fi
mkdir -p "$out"
cuda=$(cd "$(dirname "$NVCC")/.." && pwd)
here=$source_dir/tests/packaging/one_program
includes=(-I "$source_dir/include" -I "$source_dir/kernels")
"$NVCC" -std=c++20 -arch=sm_80 --compiler-bindir "${CXX:-g++}" --expt-relaxed-constexpr --diag-suppress=186,3189 --Werror all-warnings \
  -Xcompiler=-fopenmp,-Wall,-Wextra,-Werror "${includes[@]}" -c "$here/cuda.cu" -o "$out/cuda.o"
for file in simt main; do
  "${CXX:-g++}" -std=c++20 -O1 -fopenmp -Wall -Wextra -Werror "${includes[@]}" -isystem "$cuda/include" -c "$here/$file.cpp" -o "$out/$file.o"
done
libraries=$cuda/lib64
"${CXX:-g++}" -fopenmp "$out"/{main,simt,cuda}.o "$simt" -L "$libraries" -Wl,-rpath,"$libraries" -lcudart -lcublasLt -o "$out/both"
# Both kernels are there, under names that differ.
for provider in simt cuda; do
  count=$(nm -C "$out/$provider.o" | grep -c "tessera::kernels::${provider}_provider::layernorm_forward_kernel" || true)
  [ "$count" -ge 1 ] || { echo "layernorm_forward_kernel is missing from $provider.o"; exit 1; }
done
"$out/both"
