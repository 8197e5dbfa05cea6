// Cross-entropy on Cpu: a row at a time, three passes over it that stay in cache.
#pragma once
#include <cmath>
#include <limits>

#include <tessera/core/math.hpp>
#include <tessera/core/parallel.hpp>
#include <tessera/ops/cross_entropy.hpp>

namespace tessera {

template <>
struct Backend<op::cross_entropy, Cpu> {
  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>&, Out<A, 0, Cpu> loss, Out<A, 1, Cpu> row_loss, Out<A, 1, Cpu> log_sum_exp,
                      In<T, 2, Cpu> logits, In<int32_t, 1, Cpu> targets, CrossEntropyOptions options) {
    const int64_t classes = logits.shape[1];
    check_targets("cross_entropy_forward", targets, classes, options.ignore_index);
    const A smoothing = A(options.label_smoothing), share = smoothing / A(classes);
    const double total = parallel_sum<double>(logits.shape[0], row_grain(classes), [&](int64_t begin, int64_t end) {
      double sum = 0;
      for (int64_t r = begin; r < end; ++r) {
        const T* row = logits.data + r * classes;
        const auto normaliser = log_sum(row, classes);
        if (log_sum_exp) log_sum_exp.data[r] = normaliser.shift + normaliser.log;
        A value = 0;
        if (targets.data[r] != options.ignore_index) {
          value = (normaliser.shift - widen(row[targets.data[r]])) + normaliser.log;
          if (smoothing != 0) {
            A others = 0;
#pragma omp simd reduction(+ : others)
            for (int64_t c = 0; c < classes; ++c) others += normaliser.shift - widen(row[c]);
            value = (A(1) - smoothing) * value + share * others + smoothing * normaliser.log;
          }
        }
        if (row_loss) row_loss.data[r] = value;
        sum += double(value);
      }
      return sum;
    });
    if (loss) *loss.data = A(total * weight_of_a_row(logits.shape[0], targets, options));
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>&, Out<T, 2, Cpu> d_logits, In<A, 0, Cpu> d_loss, In<A, 1, Cpu> d_row_loss,
                       In<A, 1, Cpu> log_sum_exp, In<T, 2, Cpu> logits, In<int32_t, 1, Cpu> targets,
                       CrossEntropyOptions options) {
    const int64_t classes = logits.shape[1];
    check_targets("cross_entropy_backward", targets, classes, options.ignore_index);
    const A smoothing = A(options.label_smoothing), share = smoothing / A(classes);
    const A common = d_loss ? A(double(*d_loss.data) * weight_of_a_row(logits.shape[0], targets, options)) : A(0);
    parallel_for(logits.shape[0], row_grain(classes), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T* row = logits.data + r * classes;
        T* d_row = d_logits.data + r * classes;
        if (targets.data[r] == options.ignore_index) {
          std::fill_n(d_row, classes, narrow<T>(A(0)));
          continue;
        }
        const A d = common + (d_row_loss ? d_row_loss.data[r] : A(0)), shift = log_sum_exp.data[r];
        const A of_target = math::exp(widen(row[targets.data[r]]) - shift) - share - (A(1) - smoothing);
        const A from_each = share;  // a copy: what a lambda refers to might be changed by writing d_row
#pragma omp simd
        for (int64_t c = 0; c < classes; ++c) d_row[c] = narrow<T>(d * (math::exp(widen(row[c]) - shift) - from_each));
        d_row[targets.data[r]] = narrow<T>(d * of_target);
      }
    });
  }

  template <class T, class A = accumulate_t<T>>
  static void soft_forward(Context<Cpu>&, Out<A, 0, Cpu> loss, Out<A, 1, Cpu> row_loss, Out<A, 1, Cpu> log_sum_exp,
                           In<T, 2, Cpu> logits, In<T, 2, Cpu> targets, CrossEntropyOptions options) {
    const int64_t rows = logits.shape[0], classes = logits.shape[1];
    const A keep = A(1) - A(options.label_smoothing), share = A(options.label_smoothing) / A(classes);
    const double total = parallel_sum<double>(rows, row_grain(classes), [&](int64_t begin, int64_t end) {
      double sum = 0;
      for (int64_t r = begin; r < end; ++r) {
        const T *row = logits.data + r * classes, *target = targets.data + r * classes;
        const auto normaliser = log_sum(row, classes);
        if (log_sum_exp) log_sum_exp.data[r] = normaliser.shift + normaliser.log;
        A value = 0, mass = 0;
#pragma omp simd reduction(+ : value, mass)
        for (int64_t c = 0; c < classes; ++c) {
          const A t = keep * widen(target[c]) + share;
          value += t == 0 ? A(0) : t * (normaliser.shift - widen(row[c]));
          mass += t;
        }
        value += mass * normaliser.log;
        if (row_loss) row_loss.data[r] = value;
        sum += double(value);
      }
      return sum;
    });
    if (loss) *loss.data = A(total * weight_of_a_row(rows, options));
  }

  template <class T, class A = accumulate_t<T>>
  static void soft_backward(Context<Cpu>&, Out<T, 2, Cpu> d_logits, Out<T, 2, Cpu> d_targets, In<A, 0, Cpu> d_loss,
                            In<A, 1, Cpu> d_row_loss, In<A, 1, Cpu> log_sum_exp, In<T, 2, Cpu> logits,
                            In<T, 2, Cpu> targets, CrossEntropyOptions options) {
    const int64_t rows = logits.shape[0], classes = logits.shape[1];
    const A keep = A(1) - A(options.label_smoothing), share = A(options.label_smoothing) / A(classes);
    const A common = d_loss ? A(double(*d_loss.data) * weight_of_a_row(rows, options)) : A(0);
    parallel_for(rows, row_grain(classes), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r) {
        const T *row = logits.data + r * classes, *target = targets.data + r * classes;
        const A d = common + (d_row_loss ? d_row_loss.data[r] : A(0)), shift = log_sum_exp.data[r];
        if (d_targets) {
          T* d_target = d_targets.data + r * classes;
#pragma omp simd
          for (int64_t c = 0; c < classes; ++c) d_target[c] = narrow<T>(d * keep * (shift - widen(row[c])));
        }
        if (d_logits) {
          T* d_row = d_logits.data + r * classes;
          A mass = 0;
#pragma omp simd reduction(+ : mass)
          for (int64_t c = 0; c < classes; ++c) mass += keep * widen(target[c]) + share;
#pragma omp simd
          for (int64_t c = 0; c < classes; ++c) {
            const A t = keep * widen(target[c]) + share;
            d_row[c] = narrow<T>(d * (mass * math::exp(widen(row[c]) - shift) - t));
          }
        }
      }
    });
  }

 private:
  /// The log-sum-exp in two parts: the row's maximum and the logarithm of what is left. Losses subtract a logit from
  /// the first before adding the second, so that large logits cost no digits.
  template <class A>
  struct Parts {
    A shift, log;
  };
  template <class T, class A = accumulate_t<T>>
  static Parts<A> log_sum(const T* row, int64_t classes) {
    A largest = -std::numeric_limits<A>::infinity();
#pragma omp simd reduction(max : largest)
    for (int64_t c = 0; c < classes; ++c) largest = std::max(largest, A(widen(row[c])));
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t c = 0; c < classes; ++c) sum += math::exp(widen(row[c]) - largest);
    return {largest, std::log(sum)};
  }

  static void check_targets(std::string_view name, In<int32_t, 1, Cpu> targets, int64_t classes, int32_t ignored) {
    for (int64_t r = 0; r < targets.size(); ++r) {
      const int32_t target = targets.data[r];
      require((target >= 0 && target < classes) || target == ignored, name, ": targets[", r, "] is ", target,
              " but must be a class in [0, ", classes, ") or ignore_index ", ignored);
    }
  }

  static double weight_of_a_row(int64_t rows, const CrossEntropyOptions& options) {
    return options.reduction == Reduction::mean && rows > 0 ? 1.0 / double(rows) : 1.0;
  }
  static double weight_of_a_row(int64_t rows, In<int32_t, 1, Cpu> targets, const CrossEntropyOptions& options) {
    int64_t counted = 0;
    for (int64_t r = 0; r < rows; ++r) counted += targets.data[r] != options.ignore_index;
    return weight_of_a_row(counted, options);
  }
};

}  // namespace tessera
