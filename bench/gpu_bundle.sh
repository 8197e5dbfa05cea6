#!/usr/bin/env bash
# Collects what bench/gpu.sh needs and a GPU machine without network may lack: Eigen's and Catch2's headers and the number
# of the commit, at most 40 MB, into a folder (build/gpu/bundle) that is copied there with the sources.
#   bench/gpu_bundle.sh [FOLDER]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/prerequisites.sh
folder=${1:-build/gpu/bundle}
tessera_install libeigen3-dev catch2
mkdir -p "$folder/include"
find_header() {  # the folder that holds a header: the system's, or where the caller's CPATH says
  local place
  for place in ${CPATH:+${CPATH//:/ }} /usr/include/eigen3 /usr/include /usr/local/include/eigen3 /usr/local/include; do
    if [ -e "$place/$1" ]; then
      echo "$place"
      return
    fi
  done
  echo "gpu_bundle: $1 was not found (Debian: apt-get install libeigen3-dev catch2)" >&2
  return 1
}
eigen=$(find_header Eigen/Core)
catch=$(find_header catch2/catch.hpp || find_header catch2/catch_all.hpp)
mkdir -p "$folder/include/eigen3"
cp -rL "$eigen/Eigen" "$folder/include/eigen3/"
cp -rL "$catch/catch2" "$folder/include/"
git rev-parse --short HEAD >"$folder/commit" 2>/dev/null || echo unknown >"$folder/commit"
megabytes=$(du -sm "$folder" | cut -f1)
if [ "$megabytes" -gt 40 ]; then
  echo "gpu_bundle: $folder holds $megabytes MB, more than the 40 that may travel" >&2
  exit 1
fi
echo "$folder: $megabytes MB"
