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
struct Backend<op::fill, Cpu> {
  template <class T>
  static void run(Context<Cpu>&, TensorView<T, 1, Cpu> y, double value) {
    std::fill_n(y.data, y.size(), narrow<T>(accumulate_t<T>(value)));
  }
};

template <>
struct Backend<op::move_average, Cpu> {
  template <class T, class X>
  static void run(Context<Cpu>&, TensorView<T, 1, Cpu> average, TensorView<X, 1, Cpu> x, double decay) {
    using A = accumulate_t<T>;
    const A keep = A(decay), rest = A(1 - decay);
    parallel_for(x.size(), 16384, [&](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i)
        average.data[i] = narrow<T>(keep * widen(average.data[i]) + rest * A(widen(x.data[i])));
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

  // The loops over rows below are functions of their own, called through a pointer: the walk over rows is compiled once
  // for all kinds and strides, which takes a third off the time to compile a model.
  template <class T, class TB>
  static void forward(const cpu::StridedLoop<3>& loop, T* y, const T* a, const TB* b, Arithmetic kind) {
    const cpu::Steps<3> steps = loop.inner_strides();
    const auto row = math::with_arithmetic(
        kind, []<Arithmetic k>(std::integral_constant<Arithmetic, k>) { return &forward_row<k, T, TB>; });
    loop.run([&](const auto& at, int64_t n) { row(y + at[0], a + at[1], b + at[2], n, steps); });
  }
  template <Arithmetic kind, class T, class TB>
  static void forward_row(T* y, const T* a, const TB* b, int64_t n, const cpu::Steps<3>& steps) {
    using A = accumulate_t<T>;
    const auto value = [](T x, TB z) { return narrow<T>(math::calculate<kind>(A(widen(x)), A(widen(z)))); };
    if (steps[0] == 1 && steps[1] == 1 && steps[2] == 1) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) y[i] = value(a[i], b[i]);
    } else if (steps[0] == 1 && steps[1] == 1 && steps[2] == 0) {
      const TB z = *b;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) y[i] = value(a[i], z);
    } else {
      for (int64_t i = 0; i < n; ++i) y[i * steps[0]] = value(a[i * steps[1]], b[i * steps[2]]);
    }
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
    const cpu::Steps<4> steps = loop.inner_strides();
    const auto row = math::with_arithmetic(
        kind, []<Arithmetic k>(std::integral_constant<Arithmetic, k>) { return &products_row<operand, k, D, T, TB>; });
    loop.run([&](const auto& at, int64_t n) { row(d + at[0], d_y + at[1], a + at[2], b + at[3], n, steps); });
  }
  template <Operand operand, Arithmetic kind, class D, class T, class TB>
  static void products_row(D* d, const T* d_y, const T* a, const TB* b, int64_t n, const cpu::Steps<4>& steps) {
    using A = accumulate_t<T>;
    const auto value = [](T from, T x, TB z) {
      const A g = widen(from), first = widen(x), second = widen(z);
      if constexpr (operand == Operand::first)
        return narrow<D>(math::gradient_of_first<kind>(g, second));
      else
        return narrow<D>(math::gradient_of_second<kind>(g, first, second));
    };
    if (steps == cpu::Steps<4>{1, 1, 1, 1}) {
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) d[i] = value(d_y[i], a[i], b[i]);
    } else if (steps == cpu::Steps<4>{1, 1, 1, 0}) {
      const TB z = *b;
#pragma omp simd
      for (int64_t i = 0; i < n; ++i) d[i] = value(d_y[i], a[i], z);
    } else {
      for (int64_t i = 0; i < n; ++i) d[i * steps[0]] = value(d_y[i * steps[1]], a[i * steps[2]], b[i * steps[3]]);
    }
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
