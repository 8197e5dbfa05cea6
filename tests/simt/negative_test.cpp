// Known-bad kernels: each must be found, by a sentence or, where CUDA allows what it does, by its numbers. Good ones
// must pass in every order.
#include <map>
#include <optional>

#include "simt/negative/kernels.cuh"
#include "support/catch.hpp"
#include "support/child.hpp"
#include "support/kernels.hpp"
#include "support/skip.hpp"

using namespace tessera;
using namespace tessera_test;
using flawed::Flaw;

namespace {

using Floats = Tensor<float, 1, Simt>;

struct Setup {
  Context<Cpu> host = nan_filled_context();
  Context<Simt> device;
  template <class T>
  std::pair<std::vector<T>, Tensor<T, 1, Simt>> random(int64_t n, uint64_t seed) {
    auto values = random_tensor<T, 1>(host, {n}, seed);
    return {to_host(values), on_device(device, values)};
  }
};

// Each runs a kernel once and returns its largest error (infinite where a NaN is among the results).
template <Flaw flaw>
double centre(int rows, int channels) {
  Setup s;
  auto [x, x_device] = s.random<float>(rows * channels, 1);
  Floats y(s.device, {rows * channels});
  kernels::launch("centre", flawed::centre_kernel<flaw>, unsigned(rows), unsigned(flawed::traits::threads), 0, s.device,
                  y.data, x_device.data, channels);
  std::vector<double> expected(x.begin(), x.end());
  for (int r = 0; r < rows; ++r) {
    double mean = 0;
    for (int c = 0; c < channels; ++c) mean += double(x[size_t(r * channels + c)]) / channels;
    for (int c = 0; c < channels; ++c) expected[size_t(r * channels + c)] -= mean;
  }
  return largest_difference(to_host(y), expected);
}

template <Flaw flaw>
double histogram(int n) {
  Setup s;
  std::vector<int> values, expected(8);
  for (int i = 0; i < n; ++i) {
    values.push_back(i * i % 7);
    ++expected[size_t(values.back())];
  }
  auto in = Tensor<int, 1, Simt>::from_host(s.device, {n}, values);
  auto counts = Tensor<int, 1, Simt>::zeros(s.device, {8});
  kernels::launch("histogram", flawed::histogram_kernel<flaw>, 3u, unsigned(flawed::traits::threads), 0, s.device,
                  counts.data, in.data, n);
  return to_host(counts) == expected ? 0 : 1;
}

template <Flaw flaw>
double attention(int n) {
  using A = flawed::attention_traits;
  constexpr size_t width = A::width;
  Setup s;
  auto [q, q_device] = s.random<bfloat16>(n * A::width, 1);
  auto [k, k_device] = s.random<bfloat16>(n * A::width, 2);
  auto [v, v_device] = s.random<bfloat16>(n * A::width, 3);
  Floats out(s.device, {n * A::width});
  kernels::launch("attention", flawed::attention_kernel<flaw>, unsigned((n + A::queries - 1) / A::queries),
                  unsigned(A::threads), A::shared_bytes, s.device, out.data, q_device.data, k_device.data,
                  v_device.data, n);
  std::vector<double> expected(q.size());
  for (size_t row = 0; row < size_t(n); ++row) {
    std::vector<double> weights(static_cast<size_t>(n));
    double total = 0;
    for (size_t key = 0; key < size_t(n); ++key) {
      double dot = 0;
      for (size_t c = 0; c < width; ++c) dot += double(widen(q[row * width + c])) * widen(k[key * width + c]);
      total += weights[key] = std::exp(dot / std::sqrt(double(width)));
    }
    for (size_t key = 0; key < size_t(n); ++key)
      for (size_t c = 0; c < width; ++c) expected[row * width + c] += weights[key] / total * widen(v[key * width + c]);
  }
  return largest_difference(to_host(out), expected);
}

double ones(void (*kernel)(float*), unsigned threads) {
  Setup s;
  Floats out(s.device, {int64_t(threads)});
  kernels::launch("small", kernel, 1u, threads, 0, s.device, out.data);
  return largest_difference(to_host(out), std::vector<float>(threads, 1.0f));
}

template <bool barrier>
double float4_copies() {
  Setup s;
  auto [in, in_device] = s.random<float>(256, 1);
  Floats out(s.device, {256});
  kernels::launch("float4", flawed::float4_kernel<barrier>, 1u, 64u, 0, s.device,
                  reinterpret_cast<kernels::float4*>(out.data), reinterpret_cast<kernels::float4*>(in_device.data));
  std::vector<float> expected;
  for (size_t i = 0; i < 256; ++i) expected.push_back(in[(i / 4 + 33) % 64 * 4 + i % 4]);
  return largest_difference(to_host(out), expected);
}

template <bool barrier>
double memcpy_copies() {
  Setup s;
  auto [in, in_device] = s.random<float>(1024, 1);
  Floats out(s.device, {1024});
  kernels::launch("memcpy", flawed::memcpy_kernel<barrier>, 1u, 64u, 0, s.device, out.data, in_device.data);
  std::vector<float> expected;
  for (size_t i = 0; i < 1024; ++i) expected.push_back(in[(i / 16 + 33) % 64 * 16 + i % 16]);
  return largest_difference(to_host(out), expected);
}

constexpr double tolerance = 0.01;  // of bfloat16's attention; the others are far below

/// The sentence of the first order that finds something, "mismatch" for wrong numbers; absent where all orders pass.
std::optional<std::string> found(const std::function<double()>& run) {
  for (simt::Order order : simt::all_orders) {
    const InOrder setting(order, 7);
    try {
      if (!(run() <= tolerance)) return "mismatch";
    } catch (const simt::Fault& fault) {
      return fault.what();
    }
  }
  return std::nullopt;
}

struct Case {
  const char* name;
  std::function<double()> run;
  const char* sentence;        // what the checked flavour says; null where a sanitizer ends the program
  const char* plain_sentence;  // what the plain flavour says; null where it may miss the flaw
};

}  // namespace

TEST_CASE("negative: the kernels without a flaw pass in every order", "[simt]") {
  const std::pair<const char*, std::function<double()>> good[] = {
      {"centre", [] { return centre<Flaw::none>(3, 200); }},
      {"centre, few channels", [] { return centre<Flaw::none>(2, 5); }},
      {"histogram", [] { return histogram<Flaw::none>(1000); }},
      {"attention, 1 key", [] { return attention<Flaw::none>(1); }},
      {"attention, 32 keys", [] { return attention<Flaw::none>(32); }},
      {"attention, 33 keys", [] { return attention<Flaw::none>(33); }},
      {"attention, 65 keys", [] { return attention<Flaw::none>(65); }},
      {"attention, 129 keys", [] { return attention<Flaw::none>(129); }},
      {"float4", [] { return float4_copies<true>(); }},
      {"memcpy", [] { return memcpy_copies<true>(); }},
  };
  for (const auto& [name, run] : good) {
    INFO(name);
    CHECK(found(run).value_or("") == "");
  }
}

TEST_CASE("negative: every flaw is found", "[simt]") {
  const std::vector<Case> cases = {
      {"row sum without a barrier", [] { return centre<Flaw::missing_barrier>(2, 200); },
       "read of uninitialised memory", "mismatch"},
      {"attention without the barrier before use", [] { return attention<Flaw::missing_barrier_before_use>(65); },
       "race", "mismatch"},
      {"attention without the barrier after use", [] { return attention<Flaw::missing_barrier_after_use>(129); },
       "race", nullptr},
      {"histogram without a barrier", [] { return histogram<Flaw::missing_barrier>(1000); },
       "read of uninitialised memory", "mismatch"},
      {"shuffle over half the width", [] { return centre<Flaw::wrong_width>(2, 200); }, "mismatch", "mismatch"},
      {"shuffle with a mask without the caller", [] { return centre<Flaw::wrong_mask>(2, 200); }, "mask 0000ffff",
       "mask 0000ffff"},
      {"one row too far", [] { return centre<Flaw::off_by_one_row>(2, 200); }, "access out of bounds",
       "access out of bounds"},
      {"one key too far", [] { return attention<Flaw::off_by_one_row>(65); }, "access out of bounds",
       "access out of bounds"},
      {"one past a shared array", [] { return centre<Flaw::shared_overflow>(2, 200); }, "access out of bounds",
       "past the end of the 16 bytes of shared memory declared at kernels.cuh"},
      {"shared tiles without room for their padding", [] { return attention<Flaw::no_padding>(65); },
       "access out of bounds", "access out of bounds"},
      {"threads that leave before a barrier", [] { return centre<Flaw::early_exit>(2, 100); }, "exited", "exited"},
      {"no wait for copies", [] { return attention<Flaw::missing_wait>(65); }, "a copy is not waited for", "cp.async"},
      {"copies that are not committed", [] { return attention<Flaw::missing_commit>(65); }, "a copy is not waited for",
       "cp.async"},
      {"tail of V not zeroed: the stage is fresh", [] { return attention<Flaw::tail_not_zeroed>(33); },
       "read of uninitialised memory", "mismatch"},
      {"tail of V not zeroed: the first tile", [] { return attention<Flaw::tail_not_zeroed>(31); },
       "read of uninitialised memory", "mismatch"},
      {"blocks that add without atomics", [] { return histogram<Flaw::plain_addition>(1000); },
       "blocks are not ordered", nullptr},
      {"barriers in both branches", [] { return ones(flawed::different_barriers_kernel, 128); },
       "wait at different barriers", "wait at different barriers"},
      {"barriers in both branches, on one line", [] { return ones(flawed::barriers_of_one_line_kernel, 128); },
       "wait at different barriers", "wait at different barriers"},
      {"lanes that leave a loop of shuffles early", [] { return ones(flawed::divergent_loop_kernel, 32); },
       "have exited or do not exist", "have exited or do not exist"},
      {"a shuffle taken for a barrier", [] { return ones(flawed::shuffle_as_barrier_kernel, 64); }, "race", nullptr},
      {"float4 without a barrier", [] { return float4_copies<false>(); }, "read of uninitialised memory", "mismatch"},
      {"memcpy without a barrier", [] { return memcpy_copies<false>(); }, "race", "mismatch"},
      {"a write through a null pointer", [] { return ones(flawed::null_kernel, 32); }, nullptr,
       "no memory of the device"},
  };
  for (const Case& one : cases) {
    const char* expected = simt::checked() ? one.sentence : one.plain_sentence;
    if (!expected) continue;
    INFO(one.name);
    const std::optional<std::string> sentence = found(one.run);
    REQUIRE(sentence);
    CHECK_THAT(*sentence, contains(expected));
    // The sentence names a line, in the source or, where nothing tells it, none.
    if (simt::checked() && *sentence != "mismatch") CHECK_THAT(*sentence, contains(".cuh:"));
  }
}

TEST_CASE("negative: after a fault, kernels run as before", "[simt]") {
  for (int round = 0; round < 3; ++round) {
    CHECK_THROWS_AS(centre<Flaw::early_exit>(2, 100), simt::Fault);
    CHECK(centre<Flaw::none>(2, 100) <= tolerance);
    CHECK_THROWS_AS(attention<Flaw::off_by_one_row>(65), simt::Fault);
    CHECK(attention<Flaw::none>(65) <= tolerance);
  }
}

TEST_CASE("negative: where a sanitizer ends the program, it says so and fails", "[simt]") {
  if (!simt::checked()) {
    skip("this build has no sanitizers in its kernels");
    return;
  }
  const Child overflow = in_child([] {
    Setup s;
    Floats out(s.device, {64});
    kernels::launch("overflow", flawed::local_overflow_kernel, 1u, 64u, 0, s.device, out.data, 9);
    s.device.synchronize();
  });
  CHECK(overflow.failed);
  CHECK_THAT(overflow.errors, contains("index 8 out of bounds"));
  CHECK_THAT(overflow.errors, contains("kernel overflow ends in a sanitizer's error"));
  const Child shift = in_child([] {
    Setup s;
    Tensor<uint32_t, 1, Simt> out(s.device, {64});
    kernels::launch("shift", flawed::shift_kernel, 1u, 64u, 0, s.device, out.data, 0);
    s.device.synchronize();
  });
  CHECK(shift.failed);
  CHECK_THAT(shift.errors, contains("shift exponent 32 is too large"));
}

TEST_CASE("negative: the host may not follow a device pointer, nor a kernel a host pointer", "[simt]") {
  const Child reading = in_child([] {
    Setup s;
    auto [in, in_device] = s.random<float>(64, 1);
    s.device.synchronize();
    std::printf("%f\n", double(in_device.data[3]));
  });
  CHECK(reading.failed);
  CHECK_THAT(reading.errors, contains("the host touches device memory (byte 12 of a buffer of 256 bytes)"));
  const Child writing = in_child([] {
    Setup s;
    Floats out(s.device, {64});
    out.data[0] = 1;
  });
  CHECK(writing.failed);
  CHECK_THAT(writing.errors, contains("the host touches device memory"));
  if (!simt::checked()) return;
  Setup s;
  std::vector<float> on_host(64, 1.0f);
  Floats out(s.device, {64});
  kernels::launch("host_pointer", flawed::copy_kernel, 1u, 64u, 0, s.device, out.data, on_host.data());
  REQUIRE_THROWS_WITH(s.device.synchronize(), contains("memory of the host"));
}

TEST_CASE("negative: work that nobody waited for fails at the program's end", "[simt]") {
  const Child child = in_child(
      [] {
        Setup s;
        Floats out(s.device, {128});
        kernels::launch("forgotten", flawed::different_barriers_kernel, 1u, 128u, 0, s.device, out.data);
      },
      Ending::exit);
  CHECK(child.failed);
  CHECK_THAT(child.errors, contains("work that nobody waited for failed: kernel forgotten"));
}

TEST_CASE("negative: comparisons remember a NaN", "[simt]") {
  const std::vector<float> right = {1, 2, 3}, nan_first = {NAN, 2, 3}, nan_last = {1, 2, NAN};
  CHECK(largest_difference(right, right) == 0);
  CHECK(std::isinf(largest_difference(nan_first, right)));
  CHECK(std::isinf(largest_difference(nan_last, right)));
  CHECK(std::isinf(largest_difference(right, nan_first)));
}
