#include <tessera/optim/ema.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

TEMPLATE_TEST_CASE("ema: averages stand in for parameters and go away again", "[optim]", float, double, bfloat16) {
  using T = TestType;
  Context<Cpu> ctx;
  const Parameter<T, 1> p(random_tensor<T, 1>(ctx, {20000}, 1), true);
  optim::ParameterList list;
  list.add("p", p);
  optim::Ema ema(list, 0.75);
  std::vector<double> expected;
  for (const T& v : to_host(p.value())) expected.push_back(double(widen(v)));
  for (uint64_t step = 2; step < 5; ++step) {
    const auto next = random_tensor<T, 1>(ctx, {20000}, step);
    std::copy_n(next.data, next.size(), p.value().data);
    ema.update();
    for (size_t i = 0; i < expected.size(); ++i) expected[i] = 0.75 * expected[i] + 0.25 * double(widen(next.data[i]));
  }
  const auto state = ema.state();
  REQUIRE(state.size() == 1);
  CHECK(state[0].first == "p.average");
  const auto* average = state[0].second.template as<accumulate_t<T>>();
  CHECK(largest_difference(std::vector<accumulate_t<T>>(average, average + 20000), expected) < 2e-7);

  const auto before = to_host(p.value());
  ema.apply();
  CHECK(largest_difference(to_host(p.value()), expected) < (std::is_same_v<T, bfloat16> ? 4e-3 : 2e-7));
  REQUIRE_ERROR(ema.update(), Error, "between apply() and restore()");
  ema.restore();
  CHECK(largest_difference(to_host(p.value()), before) == 0);

  optim::Ema resumed(list, 0.75);
  resumed.load_state(state);
  const auto again = resumed.state();
  CHECK(std::memcmp(again[0].second.storage.get(), state[0].second.storage.get(), state[0].second.bytes()) == 0);
  REQUIRE_ERROR(resumed.load_state({}), ValueError, "no p.average");
}

TEST_CASE("ema: a teacher follows a student by name", "[optim]") {
  Context<Cpu> ctx;
  const Parameter<float, 1> teacher(random_tensor<float, 1>(ctx, {5}, 1)),
      student(random_tensor<float, 1>(ctx, {5}, 2));
  const auto before = to_host(teacher.value());
  optim::ParameterList teachers, students, others;
  teachers.add("head.weight", teacher);
  students.add("head.weight", student);
  others.add("weight", student);
  optim::average_into(teachers, students, 0.9);
  for (int64_t i = 0; i < 5; ++i)
    CHECK(teacher.value()(i) == Approx(0.9 * double(before[size_t(i)]) + 0.1 * double(student.value()(i))));
  REQUIRE_ERROR(optim::average_into(teachers, others, 0.9), ValueError, "no parameter named head.weight");
  REQUIRE_ERROR(optim::average_into(teachers, students, 1.5), ValueError, "decay is 1.5");
}
