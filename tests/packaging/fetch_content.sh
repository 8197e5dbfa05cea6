#!/usr/bin/env bash
# examples/consumer from a checkout, by FetchContent: the same program, nothing installed. No tests, examples or install
# rules of tessera may appear in the project around it. Usage: fetch_content.sh SOURCE_DIR OUT_DIR.
set -euo pipefail
source_dir=$1 out=$2 cmake=${CMAKE:-cmake}
rm -rf "$out"
mkdir -p "$out"
cp -r "$source_dir/examples/consumer" "$out/project"
"$cmake" -S "$out/project" -B "$out/build" -G Ninja -DCMAKE_BUILD_TYPE=Debug -DTESSERA_CHECKOUT="$source_dir" >"$out/log" 2>&1 ||
  { cat "$out/log"; exit 1; }
# Debug: the compiler's time, not the program's, is what this costs.
"$cmake" --build "$out/build" >"$out/log" 2>&1 || { cat "$out/log"; exit 1; }
programs=$(find "$out/build" -type f -perm -u+x ! -path '*/CMakeFiles/*' -printf '%f\n')
[ "$programs" = consumer ] || { printf 'more was built than the consumer:\n%s\n' "$programs"; exit 1; }
"$out/build/consumer"
# The emulated device is among a checkout's targets.
"$cmake" -S "$source_dir/examples/custom_op" -B "$out/custom_op" -G Ninja -DTESSERA_CHECKOUT="$source_dir" >"$out/log" 2>&1 ||
  { cat "$out/log"; exit 1; }
