#!/usr/bin/env bash
# Compiles tests/seam/layernorm.cu for sm_90a with nvcc; skipped (77) where there is none.
set -euo pipefail
source_dir=$1 out=$2
if [ ! -x "${NVCC:-}" ]; then
  echo "SKIPPED: no nvcc on this machine"
  exit 77
fi
"$NVCC" -std=c++20 -arch=sm_90a --expt-relaxed-constexpr --Werror all-warnings -Xcompiler=-fopenmp,-Wall,-Wextra -I "$source_dir/include" -c "$source_dir/tests/seam/layernorm.cu" \
  -o "$out/seam_layernorm.o"
# The kernels must be there, not optimised away as unused templates.
cuobjdump=$(dirname "$NVCC")/cuobjdump
if [ -x "$cuobjdump" ]; then
  count=$("$cuobjdump" -symbols "$out/seam_layernorm.o" 2>/dev/null | grep -c layernorm_forward_kernel)
  [ "$count" -ge 2 ] || { echo "layernorm_forward_kernel is missing from the object"; exit 1; }
fi
