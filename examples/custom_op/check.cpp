// What an operation should be able to show: its gradient, its definition, and the same numbers from its kernels.
// Compiled by the host compiler this runs the kernels on the emulator, in three orders; compiled by nvcc (check.cu), on
// a GPU.
#include <chrono>
#include <cstdio>
#include <tessera/autograd/gradcheck.hpp>
#include <tessera/autograd/softmax.hpp>
#include <tessera/core/random.hpp>

#include "patch_entropy.cuh"
#if !defined(__CUDACC__)
#include <tessera/simt/device.hpp>
#endif

using namespace tessera;
using Device = kernels::KernelDevice;  // Simt, or Cuda where nvcc compiles

int problems = 0;
void expect(bool holds, const std::string& claim) {
  std::printf("%s: %s\n", holds ? "ok" : "WRONG", claim.c_str());
  problems += !holds;
}

template <class T>
Tensor<T, 2> random_logits(Context<Cpu>& ctx, int64_t rows, int64_t classes) {
  Tensor<T, 2> x(ctx, {rows, classes});
  const RandomStream random = ctx.random.draw();
  for (int64_t i = 0; i < x.size(); ++i) x.data[i] = narrow<T>(3 * random.normal(uint64_t(i)));
  return x;
}

/// A NaN is the largest difference of all.
template <class A, class B>
double largest_difference(const std::vector<A>& a, const std::vector<B>& b) {
  double worst = 0;
  for (size_t i = 0; i < a.size(); ++i) {
    const double difference = std::abs(double(widen(a[i])) - double(widen(b[i])));
    if (!(difference <= worst)) worst = difference;
  }
  return worst;
}

// 1. The backward pass against differences of the forward pass, in double.
void check_gradient(Context<Cpu>& ctx) {
  for (const double temperature : {1.0, 0.2}) {
    const Variable<double, 2> x(random_logits<double>(ctx, 5, 7), true);
    const auto result = gradcheck(
        ctx, [&](auto& tape, auto logits) { return undecided::patch_entropy(tape, logits, {temperature}); }, x);
    expect(result.passed, sentence("gradient at temperature ", temperature, " ", result.message));
  }
}

// 2. The forward pass against the definition, composed of tessera's own operations, and at the edges.
void check_definition(Context<Cpu>& ctx) {
  Tape<Cpu> tape(ctx, false);
  const Variable<double, 2> x(random_logits<double>(ctx, 40, 171));
  const auto h = undecided::patch_entropy(tape, x);
  const auto p = softmax(tape, x), log_p = log_softmax(tape, x);
  double worst = 0;
  for (int64_t r = 0; r < 40; ++r) {
    double sum = 0;
    for (int64_t k = 0; k < 171; ++k) sum -= p.value()(r, k) * log_p.value()(r, k);
    worst = std::max(worst, std::abs(sum - h.value()(r)));
  }
  expect(worst < 1e-12, sentence("-sum(p log p): differs by at most ", worst));

  const double none = -std::numeric_limits<double>::infinity();
  const auto edges = Tensor<double, 2>::from_host(ctx, {3, 4}, {2, 2, 2, 2, none, 1, none, 1, none, none, none, none});
  const auto at_edges = undecided::patch_entropy(tape, Variable<double, 2>(edges));
  expect(largest_difference(to_host(at_edges.value()), std::vector<double>{std::log(4.0), std::log(2.0), 0}) < 1e-15,
         "log 4 for four equal classes, log 2 where two are left out, 0 where all are");
}

// 3. The kernels against Cpu in double, at sizes around a warp (32) and a block (4 rows), in every order of threads.
template <class T>
void check_kernels(Context<Cpu>& ctx, const char* type, double tolerance) {
  double worst = 0;
  bool same_bits = true;
  for (const auto& [rows, classes] : {std::pair{1, 1}, {3, 31}, {4, 32}, {5, 33}, {9, 197}}) {
    const auto x = random_logits<T>(ctx, rows, classes);
    const auto d_h = Tensor<float, 1>::from_host(ctx, {rows}, std::vector<float>(size_t(rows), 0.5f));
    Tensor<double, 2> x_exact(ctx, x.shape), d_x_exact(ctx, x.shape);
    for (int64_t i = 0; i < x.size(); ++i) x_exact.data[i] = double(widen(x.data[i]));
    Tensor<double, 1> h_exact(ctx, {rows});
    const auto d_h_exact = Tensor<double, 1>::from_host(ctx, {rows}, std::vector<double>(size_t(rows), 0.5));
    undecided::patch_entropy_forward<double>(ctx, h_exact, x_exact);
    undecided::patch_entropy_backward(ctx, view(d_x_exact), d_h_exact, x_exact);

    std::vector<float> first_h;
    const auto run = [&] {
      Context<Device> device;
      const auto x_there = Tensor<T, 2, Device>::from_host(device, x.shape, x.data);
      const auto d_h_there = Tensor<float, 1, Device>::from_host(device, d_h.shape, d_h.data);
      Tensor<float, 1, Device> h(device, h_exact.shape);
      Tensor<T, 2, Device> d_x(device, x.shape);
      undecided::patch_entropy_forward<T>(device, h, x_there);
      undecided::patch_entropy_backward(device, view(d_x), d_h_there, x_there);
      const auto h_here = to_host(h);  // launches run now, and throw what they did wrong
      worst = std::max(
          {worst, largest_difference(h_here, to_host(h_exact)), largest_difference(to_host(d_x), to_host(d_x_exact))});
      if (first_h.empty()) first_h = h_here;
      same_bits = same_bits && h_here == first_h;
    };
#if defined(__CUDACC__)
    run();
#else
    for (const simt::Order order : simt::all_orders) {
      simt::settings().order = order;
      run();
    }
#endif
  }
  expect(worst < tolerance, sentence("kernels in ", type, ": differ from Cpu by at most ", worst));
  expect(same_bits, sentence("kernels in ", type, ": the same bits in every order"));
}

/// Milliseconds of one call, the least of five.
template <class F>
double milliseconds(F&& call) {
  double least = 1e9;
  for (int i = 0; i < 5; ++i) {
    const auto started = std::chrono::steady_clock::now();
    call();
    least =
        std::min(least, std::chrono::duration<double, std::milli>(std::chrono::steady_clock::now() - started).count());
  }
  return least;
}

// 4. Is it worth its own code? Against a composition that writes p and log p to memory.
void report_time(Context<Cpu>& ctx) {
  Tape<Cpu> tape(ctx, false);
  const Variable<float, 2> x(random_logits<float>(ctx, 8 * 196, 171));
  const double alone = milliseconds([&] { undecided::patch_entropy(tape, x); });
  const double parts = milliseconds([&] { softmax(tape, x), log_softmax(tape, x); });
  std::printf("Cpu, 8 pictures of 196 patches, 171 classes: %.2f ms; softmax and log_softmax alone take %.2f ms\n",
              alone, parts);
#if defined(__CUDACC__)
  Context<Cuda> device;
  const auto x_there = Tensor<float, 2, Cuda>::from_host(device, x.shape(), x.value().data);
  Tensor<float, 1, Cuda> h(device, {x.shape()[0]});
  std::printf("Cuda: %.3f ms\n", milliseconds([&] {
                undecided::patch_entropy_forward<float>(device, h, x_there);
                device.synchronize();
              }));
#endif
}

int main() try {
#if defined(__CUDACC__)
  if (const std::string reason = cuda::why_unavailable(); !reason.empty()) {
    std::printf("SKIPPED: %s\n", reason.c_str());
    return 77;
  }
#endif
  Context<Cpu> ctx({.seed = 1});
  check_gradient(ctx);
  check_definition(ctx);
  check_kernels<float>(ctx, "float", 1e-6);
  check_kernels<bfloat16>(ctx, "bfloat16", 2e-3);  // the gradient's rounding to bfloat16
  report_time(ctx);
  return problems > 0;
} catch (const Error& error) {
  std::printf("WRONG: %s\n", error.what());
  return 1;
}
