#!/usr/bin/env bash
# The rules of kernels/ that a text search can check: assembly, launches and the compiler's architecture macro appear in the
# provider for nvcc alone; every kernel has launch bounds, which come from the traits that its launches take their threads
# from; includes go one way.
# Usage: kernel_words.sh SOURCE_DIR. Lists what breaks a rule.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
cd "$1"
problems=0
forbid() {  # forbid WHY PATTERN FILE…
  local why=$1 pattern=$2 found
  shift 2
  found=$(grep -nE "$pattern" "$@" /dev/null || true)
  [ -z "$found" ] && return
  echo "$why:"
  echo "$found"
  problems=1
}
mapfile -t kernels < <(find kernels/tessera/kernels -name '*.cuh')
mapfile -t others < <(find kernels/tessera -name '*.cuh' -o -name '*.hpp' -path '*tessera/simt*')

without_ptx=()
for file in "${others[@]}"; do [ "$file" = kernels/tessera/device/ptx.cuh ] || without_ptx+=("$file"); done
forbid "assembly outside device/ptx.cuh" '\basm\b' "${without_ptx[@]}"
forbid "__CUDA_ARCH__ outside device/ptx.cuh" '__CUDA_ARCH__' "${without_ptx[@]}"
mapfile -t users < <(find examples tests -name '*.cuh' -o -path 'tests/kernels/*.cpp')
forbid "assembly, or the compiler's architecture, in a kernel" '\basm\b|__CUDA_ARCH__' "${users[@]}"
forbid "a launch that does not use launch()" '<<<|>>>\(|cudaLaunchKernel' "${users[@]}"
forbid "a launch that does not use launch()" '<<<|>>>\(|cudaLaunchKernel' "${kernels[@]}"
forbid "CUDA's spellings of what has a word of tessera's" '__global__|__shared__|__launch_bounds__|extern __shared' "${kernels[@]}"
forbid "a thread count that is not a traits' constant" 'TESSERA_LAUNCH_BOUNDS\(([^)]*[^A-Za-z0-9_])?[0-9]' "${kernels[@]}"
forbid "CUDA's headers in a kernel" '#include *<cu' "${kernels[@]}"
forbid "__activemask and the words without _sync" '__activemask|__shfl(_up|_down|_xor)?\(|__ballot\(|__any\(|__all\(' "${kernels[@]}"
forbid "kernels know core, ops, device and other kernels alone" '#include <tessera/(cpu|autograd|nn|optim|io|data|segmentation|systems|train|simt|cuda)/' "${kernels[@]}"
for file in "${kernels[@]}"; do
  count=$(grep -c 'TESSERA_KERNEL' "$file" || true)
  bounds=$(grep -c 'TESSERA_LAUNCH_BOUNDS' "$file" || true)
  [ "$count" = "$bounds" ] || { echo "$file: $count kernels but $bounds with TESSERA_LAUNCH_BOUNDS"; problems=1; }
done
perl "$here/kernel_bounds.pl" "${kernels[@]}" || problems=1
echo "${#kernels[@]} files of kernels"
exit $problems
