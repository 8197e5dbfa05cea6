#!/usr/bin/env bash
# nvcc compiles the vocabulary, every word of it, and all kernels for sm_80 and sm_90a without a warning; skipped (77) where
# there is none. Usage: kernels_nvcc.sh SOURCE_DIR OUT_DIR, with NVCC and CXX set.
set -euo pipefail
source_dir=$1 out=$2
if [ ! -x "${NVCC:-}" ]; then
  echo "SKIPPED: no nvcc on this machine"
  exit 77
fi
for architecture in sm_80 sm_90a; do
  "$NVCC" -std=c++20 -arch=$architecture --compiler-bindir "${CXX:-g++}" --expt-relaxed-constexpr --diag-suppress=186,3189 --Werror all-warnings \
    -Xcompiler=-fopenmp,-Wall,-Wextra -I "$source_dir/include" -I "$source_dir/kernels" -I "$source_dir/tests" \
    -c "$source_dir/tests/simt/vocabulary.cu" -o "$out/vocabulary_$architecture.o"
done
