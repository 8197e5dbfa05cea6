#!/usr/bin/env bash
# Every header of include/tessera compiles alone, without a warning. Usage: headers_alone.sh SOURCE_DIR CXX [FOLDER…]
# Folders: core, ops, …; all of them where none is named. EIGEN and FREETYPE may name the folders of those headers.
# Lists the headers that fail.
set -euo pipefail
source_dir=$1 CXX=$2
shift 2
include=$source_dir/include
flags=(-std=c++20 -fopenmp -fsyntax-only -Wall -Wextra -Werror -I "$include")
for folder in "${EIGEN:-/usr/include/eigen3}" "${FREETYPE:-/usr/include/freetype2}"; do flags+=(-isystem "$folder"); done

check() {
  local header=$1
  shift
  # From a file that includes it twice: `#pragma once` is there, and has no warning of its own.
  printf '#include <%s>\n#include <%s>\n' "$header" "$header" | "$@" -x c++ - 2>&1 || echo "FAILED: <$header>"
}
export -f check

cd "$include"
if [ $# -eq 0 ]; then set -- tessera; else set -- "${@/#/tessera/}"; fi
headers=$(find "$@" -name '*.hpp' | sort)
if ! echo '#include <oneapi/dnnl/dnnl.hpp>' | "$CXX" -std=c++20 -fsyntax-only -x c++ - 2>/dev/null; then
  echo "oneDNN is not installed: <tessera/cpu/onednn.hpp> is left out"
  headers=$(grep -v '^tessera/cpu/onednn.hpp$' <<<"$headers")
fi
log=$(xargs -P 2 -I {} bash -c 'check "$@"' _ {} "$CXX" "${flags[@]}" <<<"$headers")
if [ -n "$log" ]; then
  echo "$log"
  exit 1
fi
echo "$(wc -l <<<"$headers") headers"
