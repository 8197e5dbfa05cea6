// Pooling by assignment on Cpu: batched matrix products in accumulate_t, divided by groups afterwards.
#pragma once
#include <tessera/cpu/product.hpp>
#include <tessera/ops/assignment_pool.hpp>

namespace tessera {

template <>
struct Backend<op::assignment_pool, Cpu> {
  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>& ctx, Out<T, 3, Cpu> pooled, Out<A, 2, Cpu> mass, In<T, 3, Cpu> value,
                      In<T, 3, Cpu> assignment, const AssignmentPoolOptions& options) {
    const auto [batch, groups, channels] = pooled.shape;
    const int64_t tokens = value.shape[1];
    if (batch == 0) return;
    Tensor<A, 3> copy_v, copy_a, sums;
    const A *v = widened(ctx, value, copy_v), *a = widened(ctx, assignment, copy_a);
    A* sum = in_place_or_new(ctx, pooled, sums);
    products(ctx, batch, groups, channels, tokens, sum, {a, groups, true}, {v, channels});
    parallel_for(batch, row_grain(groups * (tokens + channels)),
                 [&, groups = groups, channels = channels](int64_t begin, int64_t end) {
                   Tensor<A, 1> of_item(ctx, {groups});
                   for (int64_t b = begin; b < end; ++b) {
                     A* m = mass ? mass.data + b * groups : of_item.data;
                     sum_of_rows(m, a + b * tokens * groups, tokens, groups);
                     for (int64_t g = 0; g < groups; ++g) {
                       const A divisor = detail::pool_divisor(m[g], options.divisor, A(options.epsilon));
                       const A* from = sum + (b * groups + g) * channels;
                       T* to = pooled.data + (b * groups + g) * channels;
#pragma omp simd
                       for (int64_t c = 0; c < channels; ++c) to[c] = narrow<T>(from[c] / divisor);
                     }
                   }
                 });
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>& ctx, Out<T, 3, Cpu> d_value, Out<T, 3, Cpu> d_assignment, In<T, 3, Cpu> d_pooled,
                       In<A, 2, Cpu> mass, In<T, 3, Cpu> value, In<T, 3, Cpu> assignment,
                       const AssignmentPoolOptions& options) {
    const auto [batch, groups, channels] = d_pooled.shape;
    const int64_t tokens = value.shape[1];
    if (batch == 0) return;
    Tensor<A, 3> copy_v, copy_a;
    const A* a = widened(ctx, assignment, copy_a);
    // d_sum: what reaches the sum over tokens, before its division
    Tensor<A, 3> d_sum(ctx, d_pooled.shape);
    parallel_for(batch * groups, row_grain(channels), [&, channels = channels](int64_t begin, int64_t end) {
      for (int64_t row = begin; row < end; ++row) {
        const A divisor = detail::pool_divisor(mass.data[row], options.divisor, A(options.epsilon));
        const T* from = d_pooled.data + row * channels;
        A* to = d_sum.data + row * channels;
#pragma omp simd
        for (int64_t c = 0; c < channels; ++c) to[c] = A(widen(from[c])) / divisor;
      }
    });
    if (d_value) {
      Tensor<A, 3> wide;
      A* d = in_place_or_new(ctx, d_value, wide);
      products(ctx, batch, tokens, channels, groups, d, {a, groups}, {d_sum.data, channels});
      narrow_from(d_value, wide);
    }
    if (d_assignment) {
      const A* v = widened(ctx, value, copy_v);
      Tensor<A, 3> wide;
      A* q = in_place_or_new(ctx, d_assignment, wide);
      products(ctx, batch, tokens, groups, channels, q, {v, channels}, {d_sum.data, channels, true});
      parallel_for(batch, row_grain(tokens * groups), [&, groups = groups](int64_t begin, int64_t end) {
        Tensor<A, 1> through_divisor(ctx, {groups});
        for (int64_t b = begin; b < end; ++b)
          subtract_divisor_path(q + b * tokens * groups, a + b * tokens * groups, mass.data + b * groups,
                                through_divisor.data, tokens, groups, options);
      });
      narrow_from(d_assignment, wide);
    }
  }

 private:
  /// c[b] = op(a[b]) op(b[b]) for all items of a batch; contiguous matrices.
  template <class A>
  static void products(Context<Cpu>& ctx, int64_t batch, int64_t m, int64_t n, int64_t k, A* c, cpu::Factor<A> a,
                       cpu::Factor<A> b) {
    cpu::matrix_product(*ctx.pool, cpu::MatrixProduct{.in = dtype_of<A>,
                                                      .out = dtype_of<A>,
                                                      .count = batch,
                                                      .m = m,
                                                      .n = n,
                                                      .k = k,
                                                      .a = {a.data, a.row, m * k, a.transposed},
                                                      .b = {b.data, b.row, k * n, b.transposed},
                                                      .c = c,
                                                      .c_row = n,
                                                      .c_batch = m * n});
  }

  template <class T, class A>
  static const A* widened(Context<Cpu>& ctx, const TensorView<const T, 3>& from, Tensor<A, 3>& copy) {
    if constexpr (std::is_same_v<T, A>) {
      return from.data;
    } else {
      copy = Tensor<A, 3>(ctx, from.shape);
      parallel_for(from.size(), row_grain(1), [&](int64_t begin, int64_t end) {
        cpu::widened_or_same<A>(from.data + begin, end - begin, copy.data + begin);
      });
      return copy.data;
    }
  }
  /// Where a product in A goes: to the output itself, or to a tensor that is narrowed later.
  template <class T, class A>
  static A* in_place_or_new(Context<Cpu>& ctx, const TensorView<T, 3>& output, Tensor<A, 3>& wide) {
    if constexpr (std::is_same_v<T, A>) {
      return output.data;
    } else {
      wide = Tensor<A, 3>(ctx, output.shape);
      return wide.data;
    }
  }
  template <class T, class A>
  static void narrow_from(const TensorView<T, 3>& output, const Tensor<A, 3>& wide) {
    if (!wide) return;
    parallel_for(output.size(), row_grain(1), [&](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) output.data[i] = narrow<T>(wide.data[i]);
    });
  }

  template <class A>
  static void sum_of_rows(A* sum, const A* rows, int64_t count, int64_t width) {
    std::fill_n(sum, width, A(0));
    for (int64_t n = 0; n < count; ++n, rows += width) {
#pragma omp simd
      for (int64_t g = 0; g < width; ++g) sum[g] += rows[g];
    }
  }

  /// q [N, G] holds v_n . d_sum_g: the gradient through the sum. Taken off: the gradient through the divisor,
  /// pooled_g . d_sum_g = sum over n of a[n, g] q[n, g] / divisor, where the divisor depends on the mass.
  template <class A>
  static void subtract_divisor_path(A* q, const A* a, const A* mass, A* path, int64_t tokens, int64_t groups,
                                    const AssignmentPoolOptions& options) {
    std::fill_n(path, groups, A(0));
    for (int64_t n = 0; n < tokens; ++n) {
#pragma omp simd
      for (int64_t g = 0; g < groups; ++g) path[g] += a[n * groups + g] * q[n * groups + g];
    }
    for (int64_t g = 0; g < groups; ++g)
      path[g] *= detail::pool_divisor_derivative(mass[g], options.divisor) /
                 detail::pool_divisor(mass[g], options.divisor, A(options.epsilon));
    for (int64_t n = 0; n < tokens; ++n) {
#pragma omp simd
      for (int64_t g = 0; g < groups; ++g) q[n * groups + g] -= path[g];
    }
  }
};

}  // namespace tessera
