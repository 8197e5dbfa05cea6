// The optimiser's arithmetic on Cpu: parameters cut into blocks by their sizes alone, blocks in parallel.
#pragma once
#include <algorithm>
#include <cmath>
#include <vector>

#include <tessera/core/math.hpp>
#include <tessera/core/parallel.hpp>
#include <tessera/ops/adamw.hpp>

namespace tessera {

template <>
struct Backend<op::adamw, Cpu> {
  using Tensors = std::span<const AdamWTensor>;

  static void gradient_norm(Context<Cpu>&, TensorView<double, 0> norm, Tensors tensors) {
    const auto blocks = blocks_of(tensors);
    const double squares = parallel_sum<double>(int64_t(blocks.size()), 1, [&](int64_t first, int64_t last) {
      double sum = 0;
      for (int64_t b = first; b < last; ++b) {
        const Block& block = blocks[size_t(b)];
        visit(tensors[block.tensor].gradient_dtype, [&]<class G>(G) {
          const G* gradient = static_cast<const G*>(tensors[block.tensor].gradient);
#pragma omp simd reduction(+ : sum)
          for (int64_t i = block.begin; i < block.end; ++i) {
            const double g = double(widen(gradient[i]));
            sum += g * g;
          }
        });
      }
      return sum;
    });
    *norm.data = std::sqrt(squares);
  }

  static void clip(Context<Cpu>&, TensorView<AdamWFactors, 1> factors, TensorView<const double, 0> norm,
                   double largest_norm) {
    factors.data[0].gradient_scale = clipping_factor(*norm.data, largest_norm);
  }

  static void step(Context<Cpu>&, TensorView<int64_t, 1> steps, TensorView<const AdamWRule, 1> rules,
                   TensorView<const AdamWFactors, 1> factors, Tensors tensors) {
    if (!takes_place(factors.data[0])) return;
    std::vector<AdamWNumbers> numbers(tensors.size());
    for (size_t p = 0; p < tensors.size(); ++p)
      if (tensors[p].gradient) numbers[p] = AdamWNumbers::of(rules.data[p], factors.data[0], double(++steps.data[p]));
    const auto blocks = blocks_of(tensors);
    parallel_for(int64_t(blocks.size()), 1, [&](int64_t first, int64_t last) {
      for (int64_t b = first; b < last; ++b) {
        const Block& block = blocks[size_t(b)];
        const AdamWTensor& tensor = tensors[block.tensor];
        visit(tensor.dtype, [&]<class T>(T) {
          if (tensor.gradient_dtype == tensor.dtype)
            update<T, T>(block, tensor, numbers[block.tensor]);
          else
            update<T, accumulate_t<T>>(block, tensor, numbers[block.tensor]);
        });
      }
    });
  }

 private:
  static constexpr int64_t block_size = 16384;
  struct Block {
    size_t tensor;
    int64_t begin, end;
  };
  static std::vector<Block> blocks_of(Tensors tensors) {
    std::vector<Block> blocks;
    for (size_t p = 0; p < tensors.size(); ++p)
      for (int64_t begin = 0; tensors[p].gradient && begin < tensors[p].size; begin += block_size)
        blocks.push_back({p, begin, std::min(tensors[p].size, begin + block_size)});
    return blocks;
  }
  template <class Body>
  static void visit(Dtype dtype, Body&& body) {
    switch (dtype) {
      case Dtype::f64:
        return body(double{});
      case Dtype::bf16:
        return body(bfloat16{});
      case Dtype::f16:
        return body(float16{});
      default:
        return body(float{});
    }
  }

  template <class T, class G, class A = accumulate_t<T>>
  static void update(const Block& block, const AdamWTensor& tensor, const AdamWNumbers& u) {
    const G* gradient = static_cast<const G*>(tensor.gradient);
    T* value = static_cast<T*>(tensor.value);
    A* p = nullptr;
    if constexpr (std::is_same_v<T, A>)
      p = value;
    else
      p = static_cast<A*>(tensor.master);
    A *m = static_cast<A*>(tensor.first_moment), *v = static_cast<A*>(tensor.second_moment);
    const A keep = A(u.keep), scale = A(u.gradient_scale), new_m = A(1 - u.beta1), beta2 = A(u.beta2),
            new_v = A(1 - u.beta2), step_size = A(u.step_size), correction = A(u.second_correction),
            epsilon = A(u.epsilon);
#pragma omp simd
    for (int64_t i = block.begin; i < block.end; ++i) {
      const A g = scale * widen(gradient[i]);
      m[i] += new_m * (g - m[i]);
      v[i] = beta2 * v[i] + new_v * g * g;
      p[i] = keep * p[i] - step_size * m[i] / (math::sqrt(v[i]) / correction + epsilon);
    }
    if (std::isfinite(u.low) || std::isfinite(u.high))
      for (int64_t i = block.begin; i < block.end; ++i) p[i] = std::clamp(p[i], A(u.low), A(u.high));
    if constexpr (!std::is_same_v<T, A>) {
#pragma omp simd
      for (int64_t i = block.begin; i < block.end; ++i) value[i] = narrow<T>(p[i]);
    }
    if (A* average = static_cast<A*>(tensor.average)) {
      const A decay = A(u.average_decay), rest = A(1 - u.average_decay);
#pragma omp simd
      for (int64_t i = block.begin; i < block.end; ++i) average[i] = decay * average[i] + rest * A(widen(value[i]));
    }
  }
};

}  // namespace tessera
