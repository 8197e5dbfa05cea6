// Elementwise operations on Cpu.
#pragma once
#include <tessera/cpu/strided.hpp>
#include <tessera/ops/elementwise.hpp>

namespace tessera {

template <>
struct Backend<op::add_into, Cpu> {
  template <class T, int Rank>
  static void run(Context<Cpu>&, TensorView<T, Rank, Cpu> y, TensorView<const T, Rank, Cpu> x) {
    run(cpu::StridedLoop<2>(y.shape, {y.strides, x.strides}), y.data, x.data);
  }

 private:
  template <class T>
  static void run(const cpu::StridedLoop<2>& loop, T* y, const T* x) {
    cpu::with_strides(loop.inner_stride(0), loop.inner_stride(1), [&](auto y_step, auto x_step) {
      loop.run([&](const auto& at, int64_t n) {
        T* y_row = y + at[0];
        const T* x_row = x + at[1];
#pragma omp simd
        for (int64_t i = 0; i < n; ++i)
          y_row[i * y_step] = narrow<T>(widen(y_row[i * y_step]) + widen(x_row[i * x_step]));
      });
    });
  }
};

template <>
struct Backend<op::arithmetic, Cpu> {
  template <class T, class TB, int Rank>
  static void forward(Context<Cpu>&, TensorView<T, Rank, Cpu> y, TensorView<const T, Rank, Cpu> a,
                      TensorView<const TB, Rank, Cpu> b, Arithmetic kind) {
    forward(cpu::StridedLoop<3>(y.shape, {y.strides, a.strides, b.strides}), y.data, a.data, b.data, kind);
  }

  template <class T, class DA, class DB, class TB, int Rank>
  static void backward(Context<Cpu>& ctx, TensorView<DA, Rank, Cpu> d_a, TensorView<DB, Rank, Cpu> d_b,
                       TensorView<const T, Rank, Cpu> d_y, TensorView<const T, Rank, Cpu> a,
                       TensorView<const TB, Rank, Cpu> b, Arithmetic kind) {
    if (d_a) operand_gradient<Operand::first>(ctx, d_a, d_y, a, b, kind);
    if (d_b) operand_gradient<Operand::second>(ctx, d_b, d_y, a, b, kind);
  }

 private:
  enum class Operand { first, second };

  template <class T, class TB>
  static void forward(const cpu::StridedLoop<3>& loop, T* y, const T* a, const TB* b, Arithmetic kind) {
    using A = accumulate_t<T>;
    const int64_t y_step = loop.inner_stride(0);
    math::with_arithmetic(kind, [&]<Arithmetic k>(std::integral_constant<Arithmetic, k>) {
      cpu::with_strides(loop.inner_stride(1), loop.inner_stride(2), [&](auto a_step, auto b_step) {
        loop.run([&](const auto& at, int64_t n) {
          T* y_row = y + at[0];
          const T* a_row = a + at[1];
          const TB* b_row = b + at[2];
          const auto value = [&](int64_t i) {
            return narrow<T>(math::calculate<k>(A(widen(a_row[i * a_step])), A(widen(b_row[i * b_step]))));
          };
          if (y_step == 1) {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) y_row[i] = value(i);
          } else {
            for (int64_t i = 0; i < n; ++i) y_row[i * y_step] = value(i);
          }
        });
      });
    });
  }

  /// An operand's gradient, summed over the axes on which d has extent 1 and d_y more.
  template <Operand operand, class D, class T, class TB, int Rank>
  static void operand_gradient(Context<Cpu>& ctx, TensorView<D, Rank, Cpu> d, TensorView<const T, Rank, Cpu> d_y,
                               TensorView<const T, Rank, Cpu> a, TensorView<const TB, Rank, Cpu> b, Arithmetic kind) {
    const bool is_d_y = kind == Arithmetic::add || (kind == Arithmetic::subtract && operand == Operand::first);
    const bool repeated = d.shape != d_y.shape;
    if (is_d_y && repeated && d_y.is_contiguous()) return cpu::sum_onto(ctx, d.data, d.shape, d_y.data, d_y.shape);
    if (!repeated) {
      const cpu::StridedLoop<4> loop(d.shape, {d.strides, d_y.strides, a.strides, b.strides});
      return products<operand>(loop, d.data, d_y.data, a.data, b.data, kind);
    }
    Tensor<accumulate_t<T>, Rank> each(ctx, d_y.shape);
    const cpu::StridedLoop<4> loop(each.shape, {each.strides, d_y.strides, a.strides, b.strides});
    products<operand>(loop, each.data, d_y.data, a.data, b.data, kind);
    cpu::sum_onto(ctx, d.data, d.shape, each.data, d_y.shape);
  }

  template <Operand operand, class D, class T, class TB>
  static void products(const cpu::StridedLoop<4>& loop, D* d, const T* d_y, const T* a, const TB* b, Arithmetic kind) {
    using A = accumulate_t<T>;
    const int64_t d_step = loop.inner_stride(0), d_y_step = loop.inner_stride(1);
    math::with_arithmetic(kind, [&]<Arithmetic k>(std::integral_constant<Arithmetic, k>) {
      cpu::with_strides(loop.inner_stride(2), loop.inner_stride(3), [&](auto a_step, auto b_step) {
        loop.run([&](const auto& at, int64_t n) {
          D* d_row = d + at[0];
          const T *d_y_row = d_y + at[1], *a_row = a + at[2];
          const TB* b_row = b + at[3];
          const auto value = [&](int64_t i, T from) {
            const A g = widen(from), first = widen(a_row[i * a_step]), second = widen(b_row[i * b_step]);
            if constexpr (operand == Operand::first)
              return narrow<D>(math::gradient_of_first<k>(g, second));
            else
              return narrow<D>(math::gradient_of_second<k>(g, first, second));
          };
          if (d_step == 1 && d_y_step == 1) {
#pragma omp simd
            for (int64_t i = 0; i < n; ++i) d_row[i] = value(i, d_y_row[i]);
          } else {
            for (int64_t i = 0; i < n; ++i) d_row[i * d_step] = value(i, d_y_row[i * d_y_step]);
          }
        });
      });
    });
  }
};

template <>
struct Backend<op::scale, Cpu> {
  template <class T, int Rank>
  static void forward(Context<Cpu>&, TensorView<T, Rank, Cpu> y, TensorView<const T, Rank, Cpu> x, double factor) {
    forward(cpu::StridedLoop<2>(y.shape, {y.strides, x.strides}), y.data, x.data, accumulate_t<T>(factor));
  }

 private:
  template <class T>
  static void forward(const cpu::StridedLoop<2>& loop, T* y, const T* x, accumulate_t<T> factor) {
    cpu::with_strides(loop.inner_stride(0), loop.inner_stride(1), [&](auto y_step, auto x_step) {
      loop.run([&](const auto& at, int64_t n) {
        T* y_row = y + at[0];
        const T* x_row = x + at[1];
#pragma omp simd
        for (int64_t i = 0; i < n; ++i) y_row[i * y_step] = narrow<T>(factor * widen(x_row[i * x_step]));
      });
    });
  }
};

template <>
struct Backend<op::unary, Cpu> {
  template <class T>
  static void forward(Context<Cpu>&, Out<T, 1, Cpu> y, In<T, 1, Cpu> x, Unary function) {
    math::with_unary(function, [&]<Unary f>(std::integral_constant<Unary, f>) {
      parallel_for(x.size(), 8192, [&](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) y.data[i] = narrow<T>(math::apply<f>(widen(x.data[i])));
      });
    });
  }
  template <class T>
  static void backward(Context<Cpu>&, Out<T, 1, Cpu> d_x, In<T, 1, Cpu> d_y, In<T, 1, Cpu> x, In<T, 1, Cpu> y,
                       Unary function) {
    math::with_unary(function, [&]<Unary f>(std::integral_constant<Unary, f>) {
      parallel_for(x.size(), 8192, [&](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i)
          d_x.data[i] = narrow<T>(widen(d_y.data[i]) * math::apply_derivative<f>(widen(x.data[i]), widen(y.data[i])));
      });
    });
  }
};

template <>
struct Backend<op::activation, Cpu> {
  template <class T>
  static void forward(Context<Cpu>&, Out<T, 1, Cpu> y, In<T, 1, Cpu> x, Activation activation) {
    math::with_activation(activation, [&]<Activation a>(std::integral_constant<Activation, a>) {
      parallel_for(x.size(), 8192, [&](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i) y.data[i] = narrow<T>(math::activate<a>(widen(x.data[i])));
      });
    });
  }
  template <class T>
  static void backward(Context<Cpu>&, Out<T, 1, Cpu> d_x, In<T, 1, Cpu> d_y, In<T, 1, Cpu> x, Activation activation) {
    math::with_activation(activation, [&]<Activation a>(std::integral_constant<Activation, a>) {
      parallel_for(x.size(), 8192, [&](int64_t begin, int64_t end) {
#pragma omp simd
        for (int64_t i = begin; i < end; ++i)
          d_x.data[i] = narrow<T>(widen(d_y.data[i]) * math::activate_derivative<a>(widen(x.data[i])));
      });
    });
  }
};

}  // namespace tessera
