#!/usr/bin/env bash
# tessera without CMake: one compiler command a file, two files that include the same headers, linked together; and, where
# clang and its OpenMP are installed, one of the files by clang. Usage: command_line.sh SOURCE_DIR OUT_DIR CXX.
# EIGEN may name the folder of Eigen's headers, CLANG a clang++.
set -euo pipefail
source_dir=$1 out=$2 CXX=$3
mkdir -p "$out"
flags=(-std=c++20 -O1 -Wall -Wextra -Werror -fopenmp -I "$source_dir/include" -isystem "${EIGEN:-/usr/include/eigen3}")
cd "$source_dir/tests/packaging/command_line"
"$CXX" "${flags[@]}" -c main.cpp -o "$out/main.o"
"$CXX" "${flags[@]}" -c other.cpp -o "$out/other.o"
"$CXX" -fopenmp "$out/main.o" "$out/other.o" -o "$out/one_compiler"
"$out/one_compiler"

clang=${CLANG:-$(command -v clang++-14 || command -v clang++ || true)}
if [ -z "$clang" ] || ! echo '#include <omp.h>' | "$clang" -fopenmp -fsyntax-only -x c++ - 2>/dev/null; then
  echo "SKIPPED: no clang with OpenMP on this machine; g++ alone was tested"
  exit 0
fi
# clang links: its OpenMP library also answers the calls that g++ writes.
"$clang" "${flags[@]}" -c other.cpp -o "$out/other_clang.o"
"$clang" -fopenmp "$out/main.o" "$out/other_clang.o" -o "$out/two_compilers"
"$out/two_compilers"
