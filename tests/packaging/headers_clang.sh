#!/usr/bin/env bash
# clang compiles every header of the folders that need no library, and the tests of core and ops, without a warning.
# Usage: headers_clang.sh SOURCE_DIR. CLANG names the compiler; skipped (77) where there is none.
set -euo pipefail
source_dir=$1
if [ ! -x "${CLANG:-}" ] || ! echo '#include <omp.h>' | "$CLANG" -fopenmp -fsyntax-only -x c++ - 2>/dev/null; then
  echo "SKIPPED: no clang with OpenMP on this machine (Debian: clang libomp-dev)"
  exit 77
fi
"$source_dir/tests/packaging/headers_alone.sh" "$source_dir" "$CLANG" core ops cpu autograd nn optim

flags=(-std=c++20 -fopenmp -fsyntax-only -Wall -Wextra -Werror -I "$source_dir/include" -I "$source_dir/tests"
  -DTESSERA_TEST_DIR='""' -DTESSERA_SOURCE_DIR='""')
failed=$(printf '%s\n' "$source_dir"/tests/{core,ops,autograd,nn,optim}/*_test.cpp | grep -v '\*' |
  xargs -P 2 -I {} bash -c '"$@" 2>&1 || echo "FAILED: ${!#}"' _ "$CLANG" "${flags[@]}" {})
if [ -n "$failed" ]; then
  echo "$failed"
  exit 1
fi
