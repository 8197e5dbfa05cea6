#!/usr/bin/env bash
# Compiles the C++ of README.md and docs/. A block counts where the line before its ```cpp is one of
#   <!-- compiled -->             statements, in a function that has `Context<Cpu>& ctx`
#   <!-- compiled: file -->       declarations or a whole program, with includes of its own
#   <!-- compiled: continued -->  statements that go on from the compiled block before, in the same function
# Blocks without such a line are outlines. Statements see all public headers but those of scenes, and
# `using namespace tessera`. Errors name the line of the document.
#   doc_snippets.sh SOURCE_DIR OUT_DIR COMPILER [FLAGS...]
set -euo pipefail
source_dir=$1 out=$2 compiler=$3
shift 3
mkdir -p "$out"
cd "$source_dir"
mapfile -t documents < <(find README.md CONTRIBUTING.md docs -name '*.md' | sort)

statements=$out/doc_statements.cpp
{
  # Backends (cpu/) come with their operations; a matrix product is not needed to compile.
  find include/tessera -name '*.hpp' -not -path '*/cpu/*' -not -path '*/data/scene*' -not -path '*/data/sprites*' \
    -not -path '*/data/glyphs*' -not -path '*/train/caption_training*' | sort | sed 's|^include/\(.*\)|#include <\1>|'
  echo 'using namespace tessera;'
  awk '
    function close_function() { if (open) print "}"; open = 0 }
    FNR == 1 { mark = "" }
    inside && /^```/ { inside = 0; next }
    inside { print; next }
    /^<!-- compiled -->$/ { mark = "new"; next }
    /^<!-- compiled: continued -->$/ { mark = "continued"; next }
    /^```cpp$/ && mark != "" {
      if (mark == "new") { close_function(); printf "[[maybe_unused]] static void snippet_%d([[maybe_unused]] Context<Cpu>& ctx) {\n", ++n; open = 1 }
      printf "#line %d \"%s\"\n", FNR + 1, FILENAME
      inside = 1
    }
    { mark = "" }
    END { close_function() }
  ' "${documents[@]}"
} >"$statements"

rm -f "$out"/doc_file_*.cpp
awk -v out="$out" '
  inside && /^```/ { inside = 0; close(file); next }
  inside { print >file; next }
  /^<!-- compiled: file -->$/ { mark = 1; next }
  /^```cpp$/ && mark { file = sprintf("%s/doc_file_%d.cpp", out, ++n); printf "#line %d \"%s\"\n", FNR + 1, FILENAME >file; inside = 1 }
  { mark = 0 }
' "${documents[@]}"

count=$(grep -c '^\[\[maybe_unused\]\] static void snippet_' "$statements")
files=("$out"/doc_file_*.cpp)
echo "$count functions of statements, ${#files[@]} files"
[ "$count" -ge 10 ] || { echo "too few snippets were found"; exit 1; }
for file in "$statements" "${files[@]}"; do
  "$compiler" -std=c++20 -fopenmp -fsyntax-only -Wall -Wextra -Werror -Wno-unused -I include "$@" "$file"
done
