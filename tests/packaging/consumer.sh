#!/usr/bin/env bash
# examples/consumer and examples/custom_op against the installed package: installs into a temporary prefix, moves that
# elsewhere, builds copies of the examples there and runs them. Also the pkg-config file, and what find_package says when it
# cannot serve. Usage: consumer.sh SOURCE_DIR OUT_DIR. CMAKE names cmake; CXX, if set, is the compiler; ONEDNN=ON installs
# with oneDNN; NVCC, if set, compiles the custom operation for a GPU.
set -euo pipefail
source_dir=$1 out=$2 cmake=${CMAKE:-cmake}
rm -rf "$out"
mkdir -p "$out"

quiet() {  # runs a command; its output is shown only where it fails
  "$@" >"$out/log" 2>&1 || { cat "$out/log"; return 1; }
}
quiet "$cmake" -S "$source_dir" -B "$out/tessera" -G Ninja -DTESSERA_TESTS=OFF -DTESSERA_EXAMPLES=OFF \
  -DTESSERA_ONEDNN="${ONEDNN:-OFF}"
quiet "$cmake" --install "$out/tessera" --prefix "$out/first"
mv "$out/first" "$out/prefix"
if grep -rlF -e "$source_dir" -e "$out" "$out/prefix"; then
  echo "these installed files name folders of the machine that made them"
  exit 1
fi

cp -r "$source_dir/examples/consumer" "$out/project"
quiet "$cmake" -S "$out/project" -B "$out/build" -G Ninja -DCMAKE_BUILD_TYPE=Release -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
  -DCMAKE_PREFIX_PATH="$out/prefix"  # -O1: the compiler's time, not the program's, is what this costs
quiet "$cmake" --build "$out/build"
"$out/build/consumer" "$out/model.safetensors"
[ -s "$out/model.safetensors" ] || { echo "the consumer wrote no model"; exit 1; }

# examples/custom_op: kernels of one's own on the installed emulated device, and compiled by nvcc where there is one.
cp -r "$source_dir/examples/custom_op" "$out/custom_op"
cuda=()
[ ! -x "${NVCC:-}" ] || cuda=(-DCUSTOM_OP_CUDA=ON -DCMAKE_CUDA_COMPILER="$NVCC" -DCMAKE_CUDA_ARCHITECTURES=90)
quiet "$cmake" -S "$out/custom_op" -B "$out/custom_op/build" -G Ninja -DCMAKE_CXX_FLAGS_RELEASE=-O1 \
  -DCMAKE_PREFIX_PATH="$out/prefix" "${cuda[@]}"
quiet "$cmake" --build "$out/custom_op/build"
for program in check mistake; do quiet "$out/custom_op/build/$program"; done
if [ ${#cuda[@]} -gt 0 ]; then
  status=0
  "$out/custom_op/build/check_cuda" || status=$?
  [ $status = 0 ] || [ $status = 77 ] || { echo "check_cuda ends with status $status"; exit 1; }
fi

# The package's own words.
mkdir "$out/asks"
printf '%s\n' 'cmake_minimum_required(VERSION 3.25)' 'project(asks CXX)' 'find_package(tessera ${VERSION} CONFIG REQUIRED COMPONENTS ${ASK})' \
  'foreach(part tessera headers ${EXPECT})' '  if(NOT TARGET tessera::${part})' '    message(FATAL_ERROR "no tessera::${part}")' \
  '  endif()' 'endforeach()' >"$out/asks/CMakeLists.txt"
ask() { rm -rf "$out/asked"; "$cmake" -S "$out/asks" -B "$out/asked" -G Ninja -DCMAKE_PREFIX_PATH="$out/prefix" "$@" >"$out/log" 2>&1; }
ask || { cat "$out/log"; exit 1; }
ask "-DASK=scenes" "-DEXPECT=io;data;scenes" || { cat "$out/log"; exit 1; }
ask "-DASK=data;scenes;io" "-DEXPECT=io;data;scenes" || { cat "$out/log"; exit 1; }
refuses() {
  local words=$1
  shift
  if ask "$@"; then echo "find_package succeeds with $*"; exit 1; fi
  tr -s '\n ' ' ' <"$out/log" | grep -qF "$words" || { cat "$out/log"; echo "find_package does not say: $words"; exit 1; }
}
refuses "There is no component kernels; io, data, scenes, simt and cuda are known" -DASK=kernels
refuses "Component scenes needs Freetype, not found" -DASK=scenes -DCMAKE_DISABLE_FIND_PACKAGE_Freetype=ON
refuses "TESSERA_ONEDNN is ON but oneDNN was not found" -DTESSERA_ONEDNN=ON -DCMAKE_FIND_ROOT_PATH="$out/asks" \
  -DCMAKE_FIND_ROOT_PATH_MODE_LIBRARY=ONLY
refuses "Component cuda needs nvcc 13, not found" -DASK=cuda -DTESSERA_NVCC=
refuses "version" -DVERSION=0.2

if command -v pkg-config >/dev/null; then
  export PKG_CONFIG_PATH=$out/prefix/share/pkgconfig
  flags=$(pkg-config --cflags tessera)
  case " $flags " in *" -fopenmp "*) ;; *) echo "tessera.pc has no -fopenmp: $flags"; exit 1 ;; esac
  case "$(pkg-config --libs tessera)" in *-fopenmp*) ;; *) echo "tessera.pc links no OpenMP"; exit 1 ;; esac
  # shellcheck disable=SC2086  # flags are several words
  printf '#include <tessera/cpu/eigen.hpp>\n#include <tessera/tessera.hpp>\n' |
    "${CXX:-c++}" -std=c++20 $flags -fsyntax-only -x c++ -
else
  echo "pkg-config is not installed: tessera.pc was not tried"
fi
