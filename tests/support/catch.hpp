// Catch2, whichever of versions 2 and 3 is installed, under version 2's names.
#pragma once
#if __has_include(<catch2/catch_all.hpp>)
#include <catch2/catch_all.hpp>
using Catch::Approx;
namespace tessera_test {
inline auto contains(const std::string& text) { return Catch::Matchers::ContainsSubstring(text); }
}  // namespace tessera_test
#else
#include <catch2/catch.hpp>
namespace tessera_test {
inline auto contains(const std::string& text) { return Catch::Contains(text); }
}  // namespace tessera_test
#endif
/// `expression` throws an exception of `type` whose sentence holds `text`.
#define REQUIRE_ERROR(expression, type, text)                                \
  do {                                                                       \
    REQUIRE_THROWS_AS(expression, type);                                     \
    REQUIRE_THROWS_WITH(expression, tessera_test::contains(text));           \
  } while (false)
