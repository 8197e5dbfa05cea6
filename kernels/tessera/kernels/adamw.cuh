// The optimiser's arithmetic on kernels' devices: one launch takes many parameters, cut into chunks of a block each,
// and reads and writes every number once: gradient, value or master, both moments, the moving average. Addresses travel
// in the kernel's arguments, so that nothing is uploaded; all that changes from step to step is read from memory. The
// gradients' norm is summed in double, chunk by chunk and then over chunks in order.
#pragma once
#include <algorithm>

#include <tessera/device/launch.cuh>
#include <tessera/kernels/row_groups.cuh>
#include <tessera/ops/adamw.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct adamw_traits {
  static constexpr int threads = 256;
  static constexpr int pack = 4;                  // elements that a thread takes at a time
  static constexpr int64_t chunk = 16 * threads;  // elements of a block
  static constexpr int tensors = 40;              // of a launch: its arguments must fit into 4 KiB
};

/// The parameters of one launch. Tensor i has the blocks [first_block[i], first_block[i + 1]).
struct AdamWBatch {
  AdamWTensor tensors[adamw_traits::tensors];
  int32_t index[adamw_traits::tensors];  // among all parameters
  uint32_t first_block[adamw_traits::tensors + 1];
  int32_t count;

  /// The tensor of this block.
  TESSERA_DEVICE int find() const {
    int low = 0, high = count - 1;
    while (low < high) {
      const int middle = (low + high + 1) / 2;
      if (first_block[middle] <= blockIdx.x)
        low = middle;
      else
        high = middle - 1;
    }
    return low;
  }
};
static_assert(sizeof(AdamWBatch) <= 4000, "tessera: a kernel's arguments must fit into 4 KiB");

/// Calls visit(i) for this thread's packs of the chunk, then visit_one(i) for what is left of the tensor.
template <class Visit, class VisitOne>
TESSERA_DEVICE void for_each_of_chunk(int64_t begin, int64_t size, bool packs, Visit&& visit, VisitOne&& visit_one) {
  constexpr int pack = adamw_traits::pack, threads = adamw_traits::threads;
  const int64_t end = min(begin + adamw_traits::chunk, size);
  const int64_t whole = packs ? begin + (end - begin) / pack * pack : begin;
  for (int64_t i = begin + int64_t(threadIdx.x) * pack; i < whole; i += int64_t(threads) * pack) visit(i);
  for (int64_t i = whole + threadIdx.x; i < end; i += threads) visit_one(i);
}
/// Whether packs of four elements can be read there.
TESSERA_DEVICE bool aligned(const void* address, int element_size) {
  return reinterpret_cast<uintptr_t>(address) % (unsigned(element_size) * adamw_traits::pack) == 0;
}

// ---- the norm ----

template <class G>
TESSERA_DEVICE double squares_of_chunk(const G* gradient, int64_t begin, int64_t size) {
  double sum = 0;
  for_each_of_chunk(
      begin, size, aligned(gradient, sizeof(G)),
      [&](int64_t i) {
        const auto pack = load_pack<G, adamw_traits::pack>(gradient + i);
        TESSERA_UNROLL
        for (int k = 0; k < adamw_traits::pack; ++k) sum += double(widen(pack[k])) * double(widen(pack[k]));
      },
      [&](int64_t i) { sum += double(widen(gradient[i])) * double(widen(gradient[i])); });
  return sum;
}

/// sums [blocks] of squares of gradients, a chunk a block.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(adamw_traits::threads)
    gradient_squares_kernel(double* sums, const AdamWBatch batch) {
  TESSERA_SHARED(double, scratch, adamw_traits::threads / warp_size);
  const int tensor = batch.find();
  const AdamWTensor& t = batch.tensors[tensor];
  const int64_t begin = int64_t(blockIdx.x - batch.first_block[tensor]) * adamw_traits::chunk;
  double sum = 0;
  if (t.gradient_dtype == Dtype::bf16)
    sum = squares_of_chunk(static_cast<const bfloat16*>(t.gradient), begin, t.size);
  else if (t.gradient_dtype == Dtype::f16)
    sum = squares_of_chunk(static_cast<const float16*>(t.gradient), begin, t.size);
  else
    sum = squares_of_chunk(static_cast<const float*>(t.gradient), begin, t.size);
  sum = block_sum_double<adamw_traits::threads>(sum, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = sum;
}

/// One block: the root of the sum.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(adamw_traits::threads)
    gradient_norm_kernel(double* norm, const double* sums, int64_t count) {
  TESSERA_SHARED(double, scratch, adamw_traits::threads / warp_size);
  double sum = 0;
  for (int64_t i = threadIdx.x; i < count; i += adamw_traits::threads) sum += sums[i];
  sum = block_sum_double<adamw_traits::threads>(sum, scratch);
  if (threadIdx.x == 0) *norm = sqrt(sum);
}

/// One block: the factor that brings gradients of this norm to `largest_norm`.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(adamw_traits::threads)
    clip_gradients_kernel(AdamWFactors* factors, const double* norm, double largest_norm) {
  if (threadIdx.x == 0) factors->gradient_scale = clipping_factor(*norm, largest_norm);
}

// ---- the step ----

/// numbers [tensors of the batch]; counts the steps up.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(adamw_traits::threads)
    adamw_numbers_kernel(AdamWNumbers* numbers, int64_t* steps, const AdamWRule* rules, const AdamWFactors* factors,
                         const AdamWBatch batch) {
  const int i = int(threadIdx.x);
  if (i >= batch.count) return;
  if (!takes_place(*factors)) {
    numbers[i].skip = true;
    return;
  }
  const int32_t parameter = batch.index[i];
  numbers[i] = AdamWNumbers::of(rules[parameter], *factors, double(++steps[parameter]));
}

/// A parameter's numbers, as the update uses them.
struct AdamWArithmetic {
  float keep, scale, new_m, beta2, new_v, step_size, over_correction, epsilon, low, high, decay, rest;

  TESSERA_DEVICE explicit AdamWArithmetic(const AdamWNumbers& n)
      : keep(float(n.keep)),
        scale(float(n.gradient_scale)),
        new_m(float(1 - n.beta1)),
        beta2(float(n.beta2)),
        new_v(float(1 - n.beta2)),
        step_size(float(n.step_size)),
        over_correction(float(1 / n.second_correction)),
        epsilon(float(n.epsilon)),
        low(float(n.low)),
        high(float(n.high)),
        decay(float(n.average_decay)),
        rest(float(1 - n.average_decay)) {}

  TESSERA_DEVICE void update(float gradient, float& p, float& m, float& v) const {
    const float g = scale * gradient;
    m += new_m * (g - m);
    v = beta2 * v + new_v * g * g;
    p = keep * p - step_size * m / (sqrtf(v) * over_correction + epsilon);
    p = p < low ? low : (p > high ? high : p);  // NaN stays
  }
};

/// T: of the values, G: of the gradients.
template <class T, class G>
TESSERA_DEVICE void update_chunk(const AdamWTensor& t, const AdamWArithmetic& arithmetic, int64_t begin) {
  constexpr bool has_master = !std::is_same_v<T, float>;
  constexpr int pack = adamw_traits::pack;
  const G* gradient = static_cast<const G*>(t.gradient);
  T* value = static_cast<T*>(t.value);
  float* p = static_cast<float*>(has_master ? t.master : t.value);
  float *m = static_cast<float*>(t.first_moment), *v = static_cast<float*>(t.second_moment);
  float* average = static_cast<float*>(t.average);
  const bool packs = aligned(gradient, sizeof(G)) && aligned(value, sizeof(T)) && aligned(p, sizeof(float)) &&
                     aligned(m, sizeof(float)) && aligned(v, sizeof(float)) && aligned(average, sizeof(float));
  const auto stored = [](float x) { return widen(narrow<T>(x)); };
  for_each_of_chunk(
      begin, t.size, packs,
      [&](int64_t i) {
        const auto g = load_pack<G, pack>(gradient + i);
        auto ps = load_pack<float, pack>(p + i), ms = load_pack<float, pack>(m + i), vs = load_pack<float, pack>(v + i);
        Pack<float, pack> averages;
        if (average) averages = load_pack<float, pack>(average + i);
        Pack<T, pack> values;
        TESSERA_UNROLL
        for (int k = 0; k < pack; ++k) {
          arithmetic.update(widen(g[k]), ps[k], ms[k], vs[k]);
          values[k] = narrow<T>(ps[k]);
          if (average) averages[k] = arithmetic.decay * averages[k] + arithmetic.rest * stored(ps[k]);
        }
        store_pack(m + i, ms);
        store_pack(v + i, vs);
        store_pack(p + i, ps);
        if constexpr (has_master) store_pack(value + i, values);
        if (average) store_pack(average + i, averages);
      },
      [&](int64_t i) {
        float weight = p[i], first = m[i], second = v[i];
        arithmetic.update(widen(gradient[i]), weight, first, second);
        m[i] = first;
        v[i] = second;
        p[i] = weight;
        if constexpr (has_master) value[i] = narrow<T>(weight);
        if (average) average[i] = arithmetic.decay * average[i] + arithmetic.rest * stored(weight);
      });
}

TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(adamw_traits::threads)
    adamw_update_kernel(const AdamWNumbers* numbers, const AdamWBatch batch) {
  const int tensor = batch.find();
  if (numbers[tensor].skip) return;
  const AdamWTensor& t = batch.tensors[tensor];
  const AdamWArithmetic arithmetic(numbers[tensor]);
  const int64_t begin = int64_t(blockIdx.x - batch.first_block[tensor]) * adamw_traits::chunk;
  const bool wide_gradient = t.gradient_dtype == Dtype::f32;
  if (t.dtype == Dtype::f32)
    update_chunk<float, float>(t, arithmetic, begin);
  else if (t.dtype == Dtype::bf16 && wide_gradient)
    update_chunk<bfloat16, float>(t, arithmetic, begin);
  else if (t.dtype == Dtype::bf16)
    update_chunk<bfloat16, bfloat16>(t, arithmetic, begin);
  else if (wide_gradient)
    update_chunk<float16, float>(t, arithmetic, begin);
  else
    update_chunk<float16, float16>(t, arithmetic, begin);
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::adamw, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::adamw_traits;
  using Tensors = std::span<const AdamWTensor>;

  // Templates on the context, so that they may come before the device's is defined.
  template <class AnyContext>
  static void gradient_norm(AnyContext& ctx, TensorView<double, 0, Device> norm, Tensors tensors) {
    int64_t chunks = 0;
    for (const AdamWTensor& t : tensors)
      if (t.gradient) chunks += kernels::ceil_div(t.size, Traits::chunk);
    Tensor<double, 1, Device> sums(ctx, {chunks});
    int64_t first = 0;
    for_each_batch(tensors, [&](const kernels::AdamWBatch& batch, unsigned blocks) {
      if (blocks == 0) return;
      kernels::launch("gradient_squares", kernels::gradient_squares_kernel, blocks, unsigned(Traits::threads), 0, ctx,
                      sums.data + first, batch);
      first += blocks;
    });
    kernels::launch("gradient_norm", kernels::gradient_norm_kernel, 1u, unsigned(Traits::threads), 0, ctx, norm.data,
                    sums.data, chunks);
  }

  template <class AnyContext>
  static void clip(AnyContext& ctx, TensorView<AdamWFactors, 1, Device> factors, In<double, 0, Device> norm,
                   double largest_norm) {
    kernels::launch("clip_gradients", kernels::clip_gradients_kernel, 1u, unsigned(Traits::threads), 0, ctx,
                    factors.data, norm.data, largest_norm);
  }

  template <class AnyContext>
  static void step(AnyContext& ctx, TensorView<int64_t, 1, Device> steps, In<AdamWRule, 1, Device> rules,
                   In<AdamWFactors, 1, Device> factors, Tensors tensors) {
    Tensor<AdamWNumbers, 1, Device> numbers(ctx, {Traits::tensors});
    for_each_batch(tensors, [&](const kernels::AdamWBatch& batch, unsigned blocks) {
      kernels::launch("adamw_numbers", kernels::adamw_numbers_kernel, 1u, unsigned(Traits::threads), 0, ctx,
                      numbers.data, steps.data, rules.data, factors.data, batch);
      if (blocks > 0)
        kernels::launch("adamw_update", kernels::adamw_update_kernel, blocks, unsigned(Traits::threads), 0, ctx,
                        numbers.data, batch);
    });
  }

 private:
  /// Calls visit(batch, blocks) for all tensors that have a gradient.
  template <class Visit>
  static void for_each_batch(Tensors tensors, Visit&& visit) {
    kernels::AdamWBatch batch{};
    uint32_t blocks = 0;
    const auto flush = [&] {
      if (batch.count > 0) visit(batch, blocks);
      batch.count = 0;
      blocks = 0;
    };
    for (size_t p = 0; p < tensors.size(); ++p) {
      if (!tensors[p].gradient) continue;
      require(tensors[p].dtype != Dtype::f64, "adamw: parameter ", p, " is in double, which kernels do not take");
      batch.tensors[batch.count] = tensors[p];
      batch.index[batch.count] = int32_t(p);
      batch.first_block[batch.count] = blocks;
      blocks += uint32_t(kernels::ceil_div(tensors[p].size, Traits::chunk));
      batch.first_block[++batch.count] = blocks;
      if (batch.count == Traits::tensors) flush();
    }
    flush();
  }
};

}  // namespace tessera
