#!/usr/bin/env bash
# One operation, one word: every ops/x.hpp has its cpu/x.hpp, autograd/x.hpp, test, mathematics, values of PyTorch and row
# in docs/ops.md, and none of these stands without its operation. Usage: names.sh SOURCE_DIR. Lists what is missing.
set -euo pipefail
cd "$1"
problems=0
missing() {
  echo "$*"
  problems=1
}

# What an operation lacks, with the reason: "<operation> <kind>".
declare -A excepted=(
  ["upsample_argmax autograd"]="its result is a class number, which has no gradient"
  ["adamw autograd"]="a step of the optimiser is not recorded"
)
# Files of these folders that are no operation's, with what they are.
declare -A helpers=(
  ["cpu eigen"]="the provider of matrix products by Eigen"
  ["cpu onednn"]="the provider of matrix products by oneDNN"
  ["cpu product"]="batched products for other operations"
  ["cpu rows"]="sums over rows in a fixed order"
  ["cpu strided"]="loops over strided views"
  ["cpu tile_product"]="products of small tiles for attention"
  ["autograd tape"]="the tape itself"
  ["autograd variable"]="what is recorded"
  ["autograd recompute"]="works on any part of a model"
  ["autograd gradcheck"]="checks gradients"
)

operations=$(for file in include/tessera/ops/*.hpp; do basename "$file" .hpp; done)
for x in $operations; do
  for place in "cpu include/tessera/cpu/$x.hpp" "autograd include/tessera/autograd/$x.hpp" "test tests/ops/${x}_test.cpp" \
    "math docs/math/$x.md" "golden tests/golden/$x.safetensors" "oracle tests/oracle/$x.py"; do
    read -r kind file <<<"$place"
    if [ -e "$file" ]; then
      [ -z "${excepted["$x $kind"]:-}" ] || missing "$x: $file exists, yet names.sh excepts it"
    else
      [ -n "${excepted["$x $kind"]:-}" ] || missing "$x: there is no $file"
    fi
  done
  grep -q "^#include <tessera/ops/$x.hpp>" include/tessera/tessera.hpp || missing "$x: tessera.hpp does not include it"
  grep -qE "Backend<op::" "include/tessera/ops/$x.hpp" || missing "$x: ops/$x.hpp calls no Backend"
  grep -qsE "^\|[^|]*\b$x\b" docs/ops.md || missing "$x: there is no row in docs/ops.md"
done
for folder in cpu autograd; do
  for file in include/tessera/$folder/*.hpp; do
    x=$(basename "$file" .hpp)
    [ -e "include/tessera/ops/$x.hpp" ] || [ -n "${helpers["$folder $x"]:-}" ] || missing "$file: there is no ops/$x.hpp"
  done
done
for entry in "${!helpers[@]}"; do
  [ -e "include/tessera/${entry/ //}.hpp" ] || missing "names.sh lists ${entry/ //}.hpp, which is gone"
done
for file in docs/math/*.md; do
  x=$(basename "$file" .md)
  [ -e "include/tessera/ops/$x.hpp" ] || missing "$file: there is no ops/$x.hpp"
done
for file in tests/ops/*_test.cpp; do
  stem=$(basename "$file" _test.cpp)
  found=0
  for x in $operations; do [[ $stem == "$x" || $stem == "$x"_* ]] && found=1; done
  [ $found = 1 ] || missing "$file: its name begins with no operation's"
done
# The umbrella holds every header of the folders that need no library.
for file in include/tessera/{core,ops,autograd,nn,optim}/*.hpp; do
  grep -q "^#include <${file#include/}>" include/tessera/tessera.hpp || missing "tessera.hpp does not include <${file#include/}>"
done
exit $problems
