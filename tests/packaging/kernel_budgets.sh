#!/usr/bin/env bash
# Registers, spilled bytes and static shared memory of every kernel, as ptxas tells them, are held to kernels/budgets.json:
# for each kernel the most that any of its instances in the kernels' tests may take. This is also the proof, on every commit,
# that nvcc compiles those tests for a GPU. Skipped (77) where there is no nvcc.
# Usage: kernel_budgets.sh SOURCE_DIR OUT_DIR [--measure | --architecture sm_80 [STEM…]], with NVCC and CXX set. --measure
# prints a new budgets.json; --architecture compiles for another one, for which there are no budgets, all tests or those
# named, prints what each kernel takes there and fails where one spills.
set -euo pipefail
source_dir=$1 out=$2 mode=${3:-}
if [ ! -x "${NVCC:-}" ]; then
  echo "SKIPPED: no nvcc on this machine"
  exit 77
fi
mkdir -p "$out"
budgets=$source_dir/kernels/budgets.json
architecture=sm_90a  # that of the budgets; the numbers of others differ
stems=()
if [ "$mode" = --architecture ]; then
  architecture=$4
  stems=("${@:5}")
fi
export NVCC source_dir out architecture CXX=${CXX:-g++}

compile() {  # device code alone: no host object is made
  local name=$1 file=$out/$1.cu
  echo "#include \"kernels/${name}_test.cpp\"" >"$file"
  "$NVCC" -std=c++20 -arch=$architecture --compiler-bindir "$CXX" --expt-relaxed-constexpr --diag-suppress=186,3189 --Werror all-warnings \
    -Xcompiler=-fopenmp -DTESSERA_TEST_DIR='""' -I "$source_dir/include" -I "$source_dir/kernels" -I "$source_dir/tests" \
    -Xptxas -v -cubin "$file" -o "$out/$name.cubin" >"$out/$name.log" 2>&1 || {
    echo "$name: nvcc fails:"
    grep -v '^ptxas info' "$out/$name.log" | head -40
    return 1
  }
}
export -f compile
# clip_test has no kernels of its own: whole models, which the test on a GPU compiles.
if [ ${#stems[@]} -eq 0 ]; then
  mapfile -t stems < <(for file in "$source_dir"/tests/kernels/*_test.cpp; do basename "$file" _test.cpp; done | grep -vx clip)
fi
rm -f "$out"/*.log
printf '%s\n' "${stems[@]}" |
  xargs -P "${TESSERA_JOBS:-$(nproc)}" -I {} bash -c 'compile {}' || exit 1

# "kernel registers spilled shared", the most over all instances.
cat "$out"/*.log | c++filt -p | awk '
  /Compiling entry function/ {
    kernel = $0
    sub(/^[^\x27]*\x27/, "", kernel)
    sub(/\x27 for \x27.*/, "", kernel)
    sub(/<.*/, "", kernel)
    sub(/^.*::/, "", kernel)
    next
  }
  /bytes stack frame/ {
    for (i = 2; i <= NF; ++i) if ($i == "spill" && $(i - 1) == "bytes") count += $(i - 2)
    if (count > spilled[kernel]) spilled[kernel] = count
    count = 0
  }
  /Used [0-9]+ registers/ {
    for (i = 2; i <= NF; ++i) {
      if ($i ~ /^registers/ && $(i - 1) + 0 > registers[kernel] + 0) registers[kernel] = $(i - 1)
      if ($i ~ /^smem/ && $(i - 2) + 0 > shared[kernel] + 0) shared[kernel] = $(i - 2)
    }
  }
  END { for (kernel in registers) print kernel, registers[kernel], spilled[kernel] + 0, shared[kernel] + 0 }' |
  sort >"$out/measured"
echo "$(wc -l <"$out/measured") kernels, $architecture, $("$NVCC" --version | grep -o 'V[0-9.]*' | tail -1)"

if [ "$mode" = --architecture ]; then
  awk '{ print $1 ": " $2 " registers, " $3 " bytes spilled, " $4 " of shared memory"; bad += $3 > 0 } END { exit bad > 0 }' "$out/measured"
  exit
fi
if [ "$mode" = --measure ]; then  # registers are handed out in eights
  awk 'BEGIN { print "{" }
    { printf "%s  \"%s\": { \"registers\": %d, \"spilled_bytes\": %d, \"shared_bytes\": %d }", (NR > 1 ? ",\n" : ""), $1, int(($2 + 7) / 8) * 8, $3, $4 }
    END { print "\n}" }' "$out/measured"
  exit 0
fi
sed -nE 's/^ *"([a-z0-9_]+)": \{ "registers": ([0-9]+), "spilled_bytes": ([0-9]+), "shared_bytes": ([0-9]+) \},?$/\1 \2 \3 \4/p' \
  "$budgets" | sort >"$out/budgets"
awk -v budgets="$out/budgets" '
  BEGIN { while ((getline line < budgets) > 0) { split(line, part, " "); most[part[1]] = line } }
  {
    if (!($1 in most)) { print $1 ": takes " $2 " registers and has no budget in kernels/budgets.json"; bad = 1; next }
    split(most[$1], budget, " ")
    split("kernel registers bytes_spilled bytes_of_shared_memory", what, " ")
    for (i = 2; i <= 4; ++i)
      if ($i + 0 > budget[i] + 0) { print $1 ": " $i " " what[i] ", but its budget is " budget[i]; bad = 1 }
    delete most[$1]
  }
  END {
    for (kernel in most) { print kernel ": has a budget but no test of kernels uses it"; bad = 1 }
    exit bad
  }' "$out/measured"
