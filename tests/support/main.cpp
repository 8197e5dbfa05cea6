// Catch's main, compiled once. A program in which every test that ran was skipped exits with 77, which ctest counts as
// skipped; the reasons are printed.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif
#include <cstdio>

#include "skip.hpp"

int main(int argc, char** argv) {
  Catch::Session session;
  const int failed = session.run(argc, argv);
  const auto& skips = tessera_test::skips();
  for (const auto& reason : skips) std::printf("SKIPPED: %s\n", reason.c_str());
  if (failed == 0 && !skips.empty() && tessera_test::checks_made() == 0) return 77;
  return failed;
}
