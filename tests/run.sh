#!/usr/bin/env bash
# The whole test suite on this machine: installs what is missing, configures, builds, runs. Ends with ctest's summary and
# the number of skipped tests. Arguments go to ctest (-R golden, -L ops, …). TESSERA_PRESET picks another preset.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
source tools/prerequisites.sh
# Threads that wait give their core away: on a machine with other work, spinning ones cost many times their use.
export OMP_WAIT_POLICY=${OMP_WAIT_POLICY:-passive}
tessera_install "${tessera_build_packages[@]}" "${tessera_test_packages[@]}"

preset=${TESSERA_PRESET:-cpu}
cmake --preset "$preset" -DTESSERA_UNITED_TESTS=ON "${TESSERA_CMAKE_ARGUMENTS[@]:--DTESSERA_TESTS=ON}" >"build-$preset.log" 2>&1 || {
  cat "build-$preset.log"
  exit 1
}
mkdir -p "build/$preset" && mv "build-$preset.log" "build/$preset/configure.log"
cmake --build --preset "$preset" -j "$(tessera_jobs)"

log=build/$preset/ctest.log
status=0
ctest --test-dir "build/$preset" --output-on-failure -j 2 "$@" 2>&1 | tee "$log" || status=$?
# What single tests skipped inside, with their reasons.
grep -hs '^SKIPPED: ' "build/$preset/Testing/Temporary/LastTest.log" | sort | uniq -c || true
echo "skipped tests: $(grep -c '\*\*\*Skipped' "$log" || true)"
exit "$status"
