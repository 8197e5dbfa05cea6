// Cross-entropy on kernels' devices. A warp takes a row, or a block where there are many classes: one pass finds the
// row's maximum, a second all sums. The loss is summed in double, over a fixed number of blocks and then over the
// blocks in order. A class number out of range, which the host cannot see, gives NaN in its row and in the loss.
#pragma once
#include <algorithm>

#include <tessera/device/launch.cuh>
#include <tessera/kernels/row_groups.cuh>
#include <tessera/ops/cross_entropy.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct cross_entropy_traits {
  static constexpr int threads = 256;
  static constexpr int64_t most_blocks = 1024;      // of the forward pass and of counting: parts of the sums
  static constexpr int64_t classes_of_warp = 2048;  // beyond, a block takes a row
};

/// What both passes know of the targets: class numbers, or soft ones [R, C]; the other pointer is null.
template <class T>
struct CrossEntropyTargets {
  const int32_t* numbers;
  const T* soft;
  int32_t ignored;
  float smoothing;  // in [0, 1]
};

/// A part of the sums over rows.
struct CrossEntropyPart {
  double loss;
  int64_t counted;  // rows that have a target
};

template <class T, int Count, int group>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(cross_entropy_traits::threads)
    cross_entropy_forward_kernel(CrossEntropyPart* parts, float* row_loss, float* log_sum_exp, const T* logits,
                                 CrossEntropyTargets<T> targets, int64_t rows, int64_t classes) {
  constexpr int threads = cross_entropy_traits::threads, warps = threads / warp_size;
  using Rows = RowGroup<threads, group>;
  TESSERA_SHARED(float, scratch, warps);
  TESSERA_SHARED(CrossEntropyPart, of_warp, warps);
  const float keep = 1 - targets.smoothing, share = targets.smoothing / float(classes);
  double total = 0;
  int64_t counted = 0;
  for (int64_t row = Rows::first_row(); row < rows; row += Rows::rows_of_grid()) {
    const T* x = logits + row * classes;
    const T* soft = targets.soft ? targets.soft + row * classes : nullptr;
    float largest = negative_infinity();
    Rows::template for_each_pack<Count>(classes, [&](int64_t c) {
      float values[Count];
      load_wide(values, x + c);
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) largest = fmaxf(largest, values[i]);
    });
    largest = Rows::max(largest, scratch);

    // below: by how much logits are below the maximum, weighted by the targets or, for class numbers, all alike.
    float exponentials = 0, below = 0, mass = 0;
    Rows::template for_each_pack<Count>(classes, [&](int64_t c) {
      float values[Count], t[Count];
      load_wide(values, x + c);
      if (soft) load_wide(t, soft + c);
      TESSERA_UNROLL
      for (int i = 0; i < Count; ++i) {
        exponentials += expf(values[i] - largest);
        const float weight = soft ? keep * t[i] + share : 1.0f;
        below += weight == 0 ? 0.0f : weight * (largest - values[i]);
        mass += weight;
      }
    });
    const float log = logf(Rows::sum(exponentials, scratch));
    below = Rows::sum(below, scratch);
    if (soft) mass = Rows::sum(mass, scratch);

    if (Rows::lane() != 0) continue;
    float value = 0;
    if (soft) {
      value = below + mass * log;
      ++counted;
    } else if (const int32_t target = targets.numbers[row]; target != targets.ignored) {
      const bool valid = target >= 0 && target < classes;
      value = valid ? (largest - widen(x[target])) + log : not_a_number();
      if (targets.smoothing != 0) value = keep * value + share * below + targets.smoothing * log;
      ++counted;
    }
    if (log_sum_exp) log_sum_exp[row] = largest + log;
    if (row_loss) row_loss[row] = value;
    total += double(value);
  }
  // Groups are added up in their order; the lanes of a warp's group other than the first have added nothing.
  if (threadIdx.x % warp_size == 0) of_warp[threadIdx.x / warp_size] = {total, counted};
  __syncthreads();
  if (threadIdx.x != 0 || !parts) return;
  CrossEntropyPart sum{0, 0};
  for (int warp = 0; warp < warps; ++warp) {
    sum.loss += of_warp[warp].loss;
    sum.counted += of_warp[warp].counted;
  }
  parts[blockIdx.x] = sum;
}

/// How many rows have a target, by parts.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(cross_entropy_traits::threads)
    cross_entropy_count_kernel(CrossEntropyPart* parts, const int32_t* targets, int32_t ignored, int64_t rows) {
  constexpr int threads = cross_entropy_traits::threads;
  int64_t counted = 0;
  for (int64_t first = int64_t(blockIdx.x) * threads; first < rows; first += int64_t(gridDim.x) * threads) {
    const int64_t row = first + threadIdx.x;
    counted += __syncthreads_count(row < rows && targets[row] != ignored);
  }
  if (threadIdx.x == 0) parts[blockIdx.x] = {0, counted};
}

/// One block. to = scale * (the parts' loss, or d_loss where it is given), with scale 1, or 1 / rows counted.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(cross_entropy_traits::threads)
    cross_entropy_finish_kernel(float* to, const float* d_loss, const CrossEntropyPart* parts, int64_t count, bool mean,
                                int64_t known_rows) {
  constexpr int threads = cross_entropy_traits::threads;
  TESSERA_SHARED(double, scratch, threads / warp_size);
  double loss = 0, counted = 0;  // whole numbers below 2^53 are exact
  for (int64_t part = threadIdx.x; part < count; part += threads) {
    loss += parts[part].loss;
    counted += double(parts[part].counted);
  }
  loss = block_sum_double<threads>(loss, scratch);
  counted = block_sum_double<threads>(counted, scratch);
  if (known_rows >= 0) counted = double(known_rows);
  const double scale = mean && counted > 0 ? 1.0 / counted : 1.0;
  if (threadIdx.x == 0) *to = float((d_loss ? double(*d_loss) : loss) * scale);
}

/// d_logits and d_targets [R, C], either may be null, from the common factor [] and d_row_loss [R], either may be null.
/// d_logits may be logits: a thread writes what it alone has read, after reading it.
template <class T, int Count, int group>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(cross_entropy_traits::threads)
    cross_entropy_backward_kernel(T* d_logits, T* d_targets, const float* common, const float* d_row_loss,
                                  const float* log_sum_exp, const T* logits, CrossEntropyTargets<T> targets,
                                  int64_t rows, int64_t classes) {
  constexpr int threads = cross_entropy_traits::threads;
  using Rows = RowGroup<threads, group>;
  TESSERA_SHARED(float, scratch, threads / warp_size);
  const float keep = 1 - targets.smoothing, share = targets.smoothing / float(classes);
  const int64_t row = Rows::first_row();
  if (row >= rows) return;  // a whole group
  const T* x = logits + row * classes;
  const T* soft = targets.soft ? targets.soft + row * classes : nullptr;
  float d = (common ? *common : 0.0f) + (d_row_loss ? d_row_loss[row] : 0.0f);
  const float shift = log_sum_exp[row];
  int32_t target = -1;
  bool ignored = false;
  float mass = 1;
  if (soft) {
    if (d_logits) {
      mass = 0;
      Rows::template for_each_pack<Count>(classes, [&](int64_t c) {
        float t[Count];
        load_wide(t, soft + c);
        TESSERA_UNROLL
        for (int i = 0; i < Count; ++i) mass += keep * t[i] + share;
      });
      mass = Rows::sum(mass, scratch);
    }
  } else {
    target = targets.numbers[row];
    ignored = target == targets.ignored;
    if (!ignored && (target < 0 || target >= classes)) d = not_a_number();
  }
  Rows::template for_each_pack<Count>(classes, [&](int64_t c) {
    float values[Count], t[Count], of_target[Count];
    load_wide(values, x + c);
    if (soft) load_wide(t, soft + c);
    TESSERA_UNROLL
    for (int i = 0; i < Count; ++i) {
      of_target[i] = d * keep * (shift - values[i]);
      const float wanted = soft ? keep * t[i] + share : share + (c + i == target ? keep : 0.0f);
      values[i] = ignored ? 0.0f : d * (mass * expf(values[i] - shift) - wanted);
    }
    if (d_logits) store_narrow(d_logits + row * classes + c, values);
    if (d_targets) store_narrow(d_targets + row * classes + c, of_target);
  });
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::cross_entropy, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::cross_entropy_traits;
  template <class T>
  using Targets = kernels::CrossEntropyTargets<T>;

  template <class T>
  static void forward(Context<Device>& ctx, Out<float, 0, Device> loss, Out<float, 1, Device> row_loss,
                      Out<float, 1, Device> log_sum_exp, In<T, 2, Device> logits, In<int32_t, 1, Device> targets,
                      CrossEntropyOptions options) {
    sum_rows<T>(ctx, loss, row_loss, log_sum_exp, logits, of_numbers<T>(targets, options), options.reduction);
  }
  template <class T>
  static void soft_forward(Context<Device>& ctx, Out<float, 0, Device> loss, Out<float, 1, Device> row_loss,
                           Out<float, 1, Device> log_sum_exp, In<T, 2, Device> logits, In<T, 2, Device> targets,
                           CrossEntropyOptions options) {
    sum_rows<T>(ctx, loss, row_loss, log_sum_exp, logits, of_soft<T>(targets, options), options.reduction);
  }

  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 2, Device> d_logits, In<float, 0, Device> d_loss,
                       In<float, 1, Device> d_row_loss, In<float, 1, Device> log_sum_exp, In<T, 2, Device> logits,
                       In<int32_t, 1, Device> targets, CrossEntropyOptions options) {
    const int64_t rows = logits.shape[0];
    const bool mean = options.reduction == Reduction::mean;
    const int64_t parts = d_loss && mean ? parts_of(rows, Traits::threads) : 0;
    Tensor<kernels::CrossEntropyPart, 1, Device> sums(ctx, {parts});
    Tensor<float, 0, Device> common;
    if (parts > 0)
      kernels::launch("cross_entropy_count", kernels::cross_entropy_count_kernel, unsigned(parts),
                      unsigned(Traits::threads), 0, ctx, sums.data, targets.data, options.ignore_index, rows);
    if (d_loss) {
      common = Tensor<float, 0, Device>(ctx, {});
      finish(ctx, common.data, d_loss.data, sums.data, parts, mean, -1);
    }
    gradients<T>(ctx, d_logits.data, nullptr, common.data, d_row_loss, log_sum_exp, logits,
                 of_numbers<T>(targets, options));
  }
  template <class T>
  static void soft_backward(Context<Device>& ctx, Out<T, 2, Device> d_logits, Out<T, 2, Device> d_targets,
                            In<float, 0, Device> d_loss, In<float, 1, Device> d_row_loss,
                            In<float, 1, Device> log_sum_exp, In<T, 2, Device> logits, In<T, 2, Device> targets,
                            CrossEntropyOptions options) {
    if (!d_logits && !d_targets) return;
    Tensor<float, 0, Device> common;
    if (d_loss) {
      common = Tensor<float, 0, Device>(ctx, {});
      finish(ctx, common.data, d_loss.data, nullptr, 0, options.reduction == Reduction::mean, logits.shape[0]);
    }
    gradients<T>(ctx, d_logits.data, d_targets.data, common.data, d_row_loss, log_sum_exp, logits,
                 of_soft<T>(targets, options));
  }

 private:
  template <class T>
  static Targets<T> of_numbers(In<int32_t, 1, Device> targets, const CrossEntropyOptions& options) {
    return {targets.data, nullptr, options.ignore_index, float(options.label_smoothing)};
  }
  template <class T>
  static Targets<T> of_soft(In<T, 2, Device> targets, const CrossEntropyOptions& options) {
    return {nullptr, targets.data, 0, float(options.label_smoothing)};
  }
  static int64_t parts_of(int64_t rows, int64_t rows_of_block) {
    return std::min(Traits::most_blocks, kernels::ceil_div(rows, rows_of_block));
  }

  /// Calls start with packs' width and the row's group as constants.
  template <class T, class Start>
  static void choose(int64_t classes, std::initializer_list<const void*> addresses, Start&& start) {
    constexpr int wide = kernels::Pack<T>::count;
    const auto with_group = [&](auto count) {
      if (classes <= Traits::classes_of_warp)
        start(count, std::integral_constant<int, kernels::warp_size>{});
      else
        start(count, std::integral_constant<int, Traits::threads>{});
    };
    if (kernels::fits_packs<T>(classes, addresses))
      with_group(std::integral_constant<int, wide>{});
    else
      with_group(std::integral_constant<int, 1>{});
  }

  template <class T>
  static void sum_rows(Context<Device>& ctx, Out<float, 0, Device> loss, Out<float, 1, Device> row_loss,
                       Out<float, 1, Device> log_sum_exp, In<T, 2, Device> logits, Targets<T> targets,
                       Reduction reduction) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    const int64_t rows = logits.shape[0], classes = logits.shape[1];
    choose<T>(classes, {logits.data, targets.soft}, [&](auto count, auto group) {
      using Rows = kernels::RowGroup<Traits::threads, group.value>;
      const int64_t parts = parts_of(rows, Rows::rows_of_block);
      Tensor<kernels::CrossEntropyPart, 1, Device> sums(ctx, {loss ? parts : 0});
      if (parts > 0)
        kernels::launch("cross_entropy_forward", kernels::cross_entropy_forward_kernel<T, count.value, group.value>,
                        unsigned(parts), unsigned(Traits::threads), 0, ctx, loss ? sums.data : nullptr, row_loss.data,
                        log_sum_exp.data, logits.data, targets, rows, classes);
      if (loss) finish(ctx, loss.data, nullptr, sums.data, parts, reduction == Reduction::mean, -1);
    });
  }

  template <class AnyContext>  // a template, so that it may come before the device's context is defined
  static void finish(AnyContext& ctx, float* to, const float* d_loss, const kernels::CrossEntropyPart* sums,
                     int64_t parts, bool mean, int64_t known_rows) {
    kernels::launch("cross_entropy_finish", kernels::cross_entropy_finish_kernel, 1u, unsigned(Traits::threads), 0, ctx,
                    to, d_loss, sums, parts, mean, known_rows);
  }

  template <class T>
  static void gradients(Context<Device>& ctx, T* d_logits, T* d_targets, const float* common,
                        In<float, 1, Device> d_row_loss, In<float, 1, Device> log_sum_exp, In<T, 2, Device> logits,
                        Targets<T> targets) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    const int64_t rows = logits.shape[0], classes = logits.shape[1];
    if (rows == 0) return;
    choose<T>(classes, {d_logits, d_targets, logits.data, targets.soft}, [&](auto count, auto group) {
      using Rows = kernels::RowGroup<Traits::threads, group.value>;
      kernels::launch("cross_entropy_backward", kernels::cross_entropy_backward_kernel<T, count.value, group.value>,
                      kernels::blocks_for(rows, Rows::rows_of_block), unsigned(Traits::threads), 0, ctx, d_logits,
                      d_targets, common, d_row_loss.data, log_sum_exp.data, logits.data, targets, rows, classes);
    });
  }
};

}  // namespace tessera
