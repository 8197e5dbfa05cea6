#include <tessera/optim/schedule.hpp>

#include "support/catch.hpp"

using namespace tessera;
using optim::CosineSchedule;

TEST_CASE("schedule: warm-up is linear, then half a cosine, then the end", "[optim]") {
  const CosineSchedule schedule{.total_steps = 100, .warmup_steps = 20, .start = 0.1, .end = 0.01};
  CHECK(schedule(0) == Approx(0.1));
  CHECK(schedule(10) == Approx(0.55));
  CHECK(schedule(20) == Approx(1));
  CHECK(schedule(60) == Approx(0.505));
  CHECK(schedule(100) == Approx(0.01));
  CHECK(schedule(500) == Approx(0.01));
}

TEST_CASE("schedule: a cosine from step 0 jumps where the warm-up ends", "[optim]") {
  const CosineSchedule schedule{.total_steps = 60, .warmup_steps = 8, .cosine_from_zero = true};
  CHECK(schedule(8) == Approx(0.5 * (1 + std::cos(std::acos(-1.0) * 8 / 60))));
}

TEST_CASE("schedule: constants, all-warm-up, and bad numbers", "[optim]") {
  CHECK(optim::ConstantSchedule{0.3}(17) == 0.3);
  CHECK(CosineSchedule{.total_steps = 5, .warmup_steps = 5}(4) == Approx(0.8));
  CHECK(CosineSchedule{.total_steps = 5, .warmup_steps = 5}(5) == 0);
  REQUIRE_ERROR((CosineSchedule{.total_steps = 5, .warmup_steps = 6}(0)), ValueError, "warmup_steps is 6");
  REQUIRE_ERROR(CosineSchedule{.total_steps = 0}(0), ValueError, "total_steps 0");
}
