#!/usr/bin/env bash
# clang compiles the headers of the folders that need no library, and the tests of core, ops, autograd, nn and optim,
# without a warning. Files of UNITED_DIR, which include several tests each, stand for those tests: most of the time goes
# into what they share. That each header compiles alone is headers_alone.sh's matter.
# Usage: headers_clang.sh SOURCE_DIR UNITED_DIR. CLANG names the compiler; skipped (77) where there is none.
set -euo pipefail
source_dir=$1 united_dir=$2
if [ ! -x "${CLANG:-}" ] || ! echo '#include <omp.h>' | "$CLANG" -fopenmp -fsyntax-only -x c++ - 2>/dev/null; then
  echo "SKIPPED: no clang with OpenMP on this machine (Debian: clang libomp-dev)"
  exit 77
fi
export flags="-std=c++20 -fopenmp -fsyntax-only -Wall -Wextra -Werror -I $source_dir/include -I $source_dir/tests
  -isystem ${EIGEN:-/usr/include/eigen3} -DTESSERA_TEST_DIR=\"\" -DTESSERA_SOURCE_DIR=\"\""

cd "$source_dir/include"
headers=$(find tessera/{core,ops,cpu,autograd,nn,optim} -name '*.hpp' | sort)
echo '#include <oneapi/dnnl/dnnl.hpp>' | "$CLANG" -std=c++20 -fsyntax-only -x c++ - 2>/dev/null ||
  headers=$(grep -v '^tessera/cpu/onednn.hpp$' <<<"$headers")
# Each compiler's command is one line: what is included, by names in <>.
list() {
  sed 's/.*/<&>/' <<<"$headers" | paste -sd' '
  cd "$source_dir/tests"
  local united=()
  for file in "$united_dir"/*.cpp; do
    if grep -qE '"(core|ops|autograd|nn|optim)/' "$file"; then united+=("$file"); fi
  done
  for file in "${united[@]}"; do sed -E 's/#include "(.*)"/<\1>/' "$file" | paste -sd' '; done
  for test in {core,ops,autograd,nn,optim}/*_test.cpp; do
    grep -qxF "#include \"$test\"" "${united[@]}" || echo "<$test>"
  done
}
check() {
  # shellcheck disable=SC2086  # both are several words
  printf '#include %s\n' $1 | "$CLANG" $flags -x c++ - 2>&1 || echo "FAILED: ${1:0:120}"
}
export -f check
failed=$(list | xargs -d '\n' -P 2 -I {} bash -c 'check "$1"' _ {})
if [ -n "$failed" ]; then
  echo "$failed"
  exit 1
fi
echo "$(wc -l <<<"$headers") headers, $(list | tail -n +2 | wc -w) tests"
