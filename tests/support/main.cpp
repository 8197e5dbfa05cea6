// Catch's main, compiled once. A program in which every test that ran was skipped exits with 77, which ctest counts as
// skipped; the reasons are printed. A program for a GPU (TESSERA_TEST_CUDA) is skipped as a whole where there is none.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif
#include <cstdio>

#include "skip.hpp"
#if defined(TESSERA_TEST_CUDA)
#include <tessera/cuda/status.hpp>
#endif

int main(int argc, char** argv) {
#if defined(TESSERA_TEST_CUDA)
  if (const std::string reason = tessera::cuda::why_unavailable(); !reason.empty()) {
    std::printf("SKIPPED: %s\n", reason.c_str());
    return 77;
  }
#endif
  Catch::Session session;
  const int failed = session.run(argc, argv);
  const auto& skips = tessera_test::skips();
  for (const auto& reason : skips) std::printf("SKIPPED: %s\n", reason.c_str());
  if (failed == 0 && !skips.empty() && tessera_test::checks_made() == 0) return 77;
  return failed;
}
