#include <tessera/core/shape.hpp>

#include "support/catch.hpp"

using namespace tessera;

TEST_CASE("shape: counts, strides and words", "[core]") {
  CHECK(element_count(Shape<3>{2, 3, 4}) == 24);
  CHECK(element_count(Shape<0>{}) == 1);
  CHECK(element_count(Shape<2>{5, 0}) == 0);
  CHECK(contiguous_strides(Shape<3>{2, 3, 4}) == Shape<3>{12, 4, 1});
  CHECK(to_string(Shape<3>{2, 50, 768}) == "[2, 50, 768]");
  CHECK(to_string(Shape<0>{}) == "[]");
}

namespace {
[[gnu::noinline]] std::string words_of(Shape<4> shape) { return to_string(shape); }
}  // namespace

TEST_CASE("shape: constants arrive as they were given (g++ 12 with AVX-512 needs to be told how)", "[core]") {
  CHECK(words_of({2, 2, 0, 0}) == "[2, 2, 0, 0]");
  CHECK(words_of({3, 3, 3, 0}) == "[3, 3, 3, 0]");
}

TEST_CASE("shape: a mismatch names operation, argument, axis and numbers", "[core]") {
  CHECK_NOTHROW(expect_shape("op", "x", Shape<2>{2, 3}, Shape<2>{2, 3}, "B C", "y"));
  REQUIRE_ERROR(expect_shape("op", "x", Shape<3>{2, 3, 4}, Shape<3>{2, 5, 4}, "B N C", "y"), ShapeError,
                "op: axis N of x [2, 3, 4] is 3 but must be 5 (from y)");
  REQUIRE_ERROR(expect_shape("op", "x", Shape<2>{2, 3}, Shape<2>{2, 4}, "rows", "y"), ShapeError, "op: axis 1 of x");
  REQUIRE_ERROR(expect_shape("op", "x", Shape<1>{2}, Shape<1>{4}, "", "y"), ShapeError, "op: axis 0 of x [2]");
}

TEST_CASE("shape: sentences join words and numbers", "[core]") {
  CHECK(sentence("axis ", 2, " is ", 0.5, '.') == "axis 2 is 0.5.");
  REQUIRE_ERROR(fail<IoError>("file ", 7), IoError, "file 7");
  REQUIRE_ERROR(require(false, "n is ", -1), ValueError, "n is -1");
  CHECK_NOTHROW(require(true, "n is ", -1));
}
