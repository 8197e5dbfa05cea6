#!/usr/bin/env bash
# What must not compile does not, and the compiler says so in tessera's words. Usage: compile_fail.sh SOURCE_DIR CXX.
# Each program of compile_fail/ names its flags and what the compiler must say. The good program shows that the flags
# are not what fails.
set -euo pipefail
source_dir=$1 CXX=$2
cd "$source_dir/tests/packaging/compile_fail"
status=0
compile() { "$CXX" -fsyntax-only -I "$source_dir/include" "$@" 2>&1; }

compile -std=c++20 -fopenmp good.cpp || { echo "good.cpp does not compile"; status=1; }
for file in *.cpp; do
  [ "$file" != good.cpp ] || continue
  read -ra flags <<<"$(sed -n 's,^// flags: ,,p' "$file")"
  words=$(sed -n 's,^// says: ,,p' "$file")
  [ -n "$words" ] && [ ${#flags[@]} -gt 0 ] || { echo "$file names no flags or no words"; status=1; }
  if output=$(compile "${flags[@]}" "$file"); then
    echo "$file compiles but must not"
    status=1
  elif ! grep -qF "$words" <<<"$output"; then
    printf '%s: the compiler does not say "%s":\n%s\n' "$file" "$words" "$output"
    status=1
  fi
done
exit $status
