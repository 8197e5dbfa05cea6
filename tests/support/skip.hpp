// Skipping with a reason: Catch2 v2 has no SKIP. A test case that cannot run calls skip("why") and returns; one that
// runs beside such cases calls ran().
#pragma once
#include <string>
#include <vector>

namespace tessera_test {
inline std::vector<std::string>& skips() {
  static std::vector<std::string> reasons;
  return reasons;
}
inline int& checks_made() {
  static int count = 0;
  return count;
}
inline void skip(std::string reason) { skips().push_back(std::move(reason)); }
/// Notes that a test case of this program did run, so that the program as a whole is not counted as skipped.
inline void ran() { ++checks_made(); }
}  // namespace tessera_test
