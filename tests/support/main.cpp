// Catch's main, compiled once. A program in which every test that ran was skipped exits with 77, which ctest counts as
// skipped; the reasons are printed. A program for a GPU (TESSERA_TEST_CUDA) is skipped as a whole where there is none.
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
#else
#define CATCH_CONFIG_RUNNER
#include <catch2/catch.hpp>
#endif
#include <cstdio>
#include <string_view>

#include "skip.hpp"
#if defined(TESSERA_TEST_CUDA)
#include <tessera/cuda/status.hpp>
#endif

namespace {

int tests_started = 0;

#if __has_include(<catch2/catch_all.hpp>)
using Listener = Catch::EventListenerBase;
#else
using Listener = Catch::TestEventListenerBase;
#endif
struct CountTests : Listener {
  using Listener::Listener;
  void testCaseStarting(const Catch::TestCaseInfo&) override { ++tests_started; }
};
CATCH_REGISTER_LISTENER(CountTests)

}  // namespace

int main(int argc, char** argv) {
#if defined(TESSERA_TEST_CUDA)
  if (const std::string reason = tessera::cuda::why_unavailable(); !reason.empty()) {
    std::printf("SKIPPED: %s\n", reason.c_str());
    return 77;
  }
#endif
  Catch::Session session;
  const int failed = session.run(argc, argv);
  // A program of several files' tests, asked for those of a file that it does not have, would pass.
  for (int i = 1; i < argc; ++i)
    if (tests_started == 0 && std::string_view(argv[i]) == "--filenames-as-tags") {
      std::printf("no test of this program matches %s\n", argv[argc - 1]);
      return 1;
    }
  const auto& skips = tessera_test::skips();
  for (const auto& reason : skips) std::printf("SKIPPED: %s\n", reason.c_str());
  if (failed == 0 && !skips.empty() && tessera_test::checks_made() == 0) return 77;
  return failed;
}
