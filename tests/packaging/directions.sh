#!/usr/bin/env bash
# Include directions: which folder may know which, and where headers of other libraries may appear (docs/design.md).
# Usage: directions.sh SOURCE_DIR. Lists the includes that break a rule.
set -euo pipefail
cd "$1"

# Every `#include` as: file, what is included with its brackets or quotes.
includes() {
  find "$@" -type f \( -name '*.hpp' -o -name '*.cpp' -o -name '*.cuh' -o -name '*.cu' \) -exec awk '
    match($0, /^[ \t]*#[ \t]*include[ \t]*[<"][^>"]*[>"]/) {
      text = substr($0, RSTART, RLENGTH)
      sub(/^[ \t]*#[ \t]*include[ \t]*/, "", text)
      print FILENAME, text
    }' {} +
}

problems=$(includes include/tessera | awk '
  BEGIN {
    # folder: the folders that it may include besides itself
    allowed["core"] = ""
    allowed["ops"] = "core"
    allowed["cpu"] = "core ops"
    allowed["autograd"] = "core ops"
    allowed["nn"] = "core ops autograd"
    allowed["optim"] = "core ops"
    allowed["io"] = "core"
    allowed["data"] = "core io"
    allowed["segmentation"] = "core ops nn io data"
    allowed["systems"] = "core ops autograd nn io data segmentation"
    allowed["train"] = "core ops autograd nn optim io data segmentation systems"
    for (folder in allowed) {
      count = split(allowed[folder], names, " ")
      may[folder, folder] = 1
      for (i = 1; i <= count; ++i) may[folder, names[i]] = 1
    }
    # Single files beyond that: an optimiser works on variables, which are tensors with a gradient.
    single["optim/parameter_list.hpp", "autograd/variable.hpp"] = 1
    # Other libraries: header, then the files or folders that may include it.
    place["Eigen/Core"] = "cpu/eigen.hpp"
    place["oneapi/dnnl/dnnl.hpp"] = "cpu/onednn.hpp"
    place["omp.h"] = "cpu/eigen.hpp cpu/onednn.hpp train/batches.hpp train/feature_cache.hpp"
    place["nlohmann/json.hpp"] = "io/json.hpp"
    place["png.h"] = "data/png.hpp"
    place["jpeglib.h"] = place["jerror.h"] = "data/jpeg.hpp"
    place["archive.h"] = place["archive_entry.h"] = "data/shards.hpp"
    place["utf8proc.h"] = "data/unicode.hpp"
    place["zlib.h"] = "data/"
    place["ft2build.h"] = "data/glyphs.hpp"
    place["fcntl.h"] = place["unistd.h"] = place["sys/file.h"] = place["sys/mman.h"] = place["sys/stat.h"] = "io/ train/"
  }
  function broken(why) { print $1 ": " $2 ": " why }
  {
    file = substr($1, length("include/tessera/") + 1)
    folder = file
    if (!sub(/\/.*/, "", folder)) folder = ""
    if ($2 ~ /^"/) { broken("headers are included by their full name, in <>"); next }
    name = substr($2, 2, length($2) - 2)
    if (name ~ /^tessera\//) {
      sub(/^tessera\//, "", name)
      from = name
      if (!sub(/\/.*/, "", from)) from = ""
      if (file == "tessera.hpp") {
        if (from !~ /^(core|ops|autograd|nn|optim)$/ && name != "version.hpp") broken("not for the umbrella")
        listed[name] = 1
      } else if (name == "tessera.hpp") {
        broken("the umbrella is for programs")
      } else if (name == "version.hpp" || (folder, from) in may || (file, name) in single) {
      } else if (folder == "ops" && from == "cpu" && name == "cpu" substr(file, 4)) {
        # ops/x brings its own cpu/x, at its end
      } else {
        broken(folder "/ may not include " from "/")
      }
    } else if (name ~ /[.\/]/) {
      if (name ~ /^(cuda|cublas|cudnn|cub\/|thrust\/|nv|math_constants)/) broken("CUDA is not reachable from include/")
      count = split(place[name], places, " ")
      found = 0
      for (i = 1; i <= count; ++i) if (index(file, places[i]) == 1) found = 1
      if (!found) broken(count ? "only in " place[name] : "no place in tessera is known for this header")
    }
  }')

# Outside include/: programs, tests and benchmarks use public headers, by their public names.
others=$(includes examples tests bench | awk '
  $2 ~ /^"/ && $2 ~ /tessera\// || $2 ~ /include\/tessera|\/src\// { print $1 ": " $2 ": public headers are <tessera/…>" }
  $1 ~ /^examples\/consumer/ && $2 ~ /^"/ { print $1 ": " $2 ": the consumer is a project of its own" }')
inside=$(grep -rnE '(tessera|io|data|nn|optim|cpu|train|systems|segmentation)::detail::|[^:a-z_]detail::' examples bench \
  --include='*.cpp' --include='*.hpp' || true)
[ -n "$inside" ] && others+=$'\nnames in detail are not public:\n'$inside

if [ -n "$problems$others" ]; then
  printf '%s\n' "$problems" "$others"
  exit 1
fi
