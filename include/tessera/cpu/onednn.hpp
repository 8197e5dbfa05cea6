// The matrix product by oneDNN for float and bfloat16, with bias and activation fused; other types go to Eigen.
// Include it in one file compiled by the host compiler; link dnnl.
#pragma once
#include <omp.h>

#include <oneapi/dnnl/dnnl.hpp>
#include <unordered_map>

#include <tessera/cpu/eigen.hpp>

namespace tessera::cpu {

namespace detail {

using dnnl_memory = ::dnnl::memory;

inline const ::dnnl::engine& onednn_engine() {
  static const ::dnnl::engine engine(::dnnl::engine::kind::cpu, 0);
  return engine;
}
inline dnnl_memory::data_type onednn_dtype(Dtype d) {
  return d == Dtype::bf16 ? dnnl_memory::data_type::bf16 : dnnl_memory::data_type::f32;
}
inline dnnl_memory::desc onednn_desc(const MatrixProduct::Operand& x, Dtype dtype, int64_t count, int64_t rows,
                                     int64_t columns) {
  return {{x.batch ? count : 1, rows, columns},
          onednn_dtype(dtype),
          {x.batch ? x.batch : rows * columns, x.transposed ? 1 : x.row, x.transposed ? x.row : 1}};
}

// Versions 2 and 3 of the library differ in these two calls.
inline void onednn_activation(::dnnl::post_ops& after, ::dnnl::algorithm algorithm, float alpha = 0) {
#if DNNL_VERSION_MAJOR >= 3
  after.append_eltwise(algorithm, alpha, 0);
#else
  after.append_eltwise(1, algorithm, alpha, 0);
#endif
}
inline ::dnnl::matmul::primitive_desc onednn_matmul(const dnnl_memory::desc& a, const dnnl_memory::desc& b,
                                                    const dnnl_memory::desc* bias, const dnnl_memory::desc& c,
                                                    const ::dnnl::primitive_attr& attributes) {
  using Product = ::dnnl::matmul;
#if DNNL_VERSION_MAJOR >= 3
  return bias ? Product::primitive_desc(onednn_engine(), a, b, *bias, c, attributes)
              : Product::primitive_desc(onednn_engine(), a, b, c, attributes);
#else
  const Product::desc product = bias ? Product::desc(a, b, *bias, c) : Product::desc(a, b, c);
  return Product::primitive_desc(product, attributes, onednn_engine());
#endif
}

inline void onednn_execute(Pool<Cpu>& pool, const MatrixProduct& p) {
  namespace d = ::dnnl;
  const auto a_desc = onednn_desc(p.a, p.in, p.count, p.m, p.k), b_desc = onednn_desc(p.b, p.in, p.count, p.k, p.n);
  const dnnl_memory::desc c_desc{
      {p.count, p.m, p.n}, onednn_dtype(p.out), {p.c_batch ? p.c_batch : p.m * p.c_row, p.c_row, 1}};
  d::post_ops after;
  if (p.add) after.append_sum();
  switch (p.activation) {
    case Activation::none:
      break;
    case Activation::relu:
      onednn_activation(after, d::algorithm::eltwise_relu);
      break;
    case Activation::gelu:
      onednn_activation(after, d::algorithm::eltwise_gelu_erf);
      break;
    case Activation::gelu_tanh:
      onednn_activation(after, d::algorithm::eltwise_gelu_tanh);
      break;
    case Activation::quick_gelu:
      onednn_activation(after, d::algorithm::eltwise_swish, 1.702f);
      break;
  }
  d::primitive_attr attributes;
  attributes.set_post_ops(after);
  attributes.set_scratchpad_mode(d::scratchpad_mode::user);  // the library's own is shared by threads
  const dnnl_memory::desc bias_desc =
      p.bias ? dnnl_memory::desc({1, 1, p.n}, dnnl_memory::data_type::f32, dnnl_memory::format_tag::abc)
             : dnnl_memory::desc();
  const auto primitive_desc = onednn_matmul(a_desc, b_desc, p.bias ? &bias_desc : nullptr, c_desc, attributes);
  const auto scratch = pool.allocate(primitive_desc.scratchpad_desc().get_size());
  thread_local d::stream stream(onednn_engine());
  const auto memory = [](const dnnl_memory::desc& m, const void* data) {
    return dnnl_memory(m, onednn_engine(), const_cast<void*>(data));
  };
  std::unordered_map<int, dnnl_memory> arguments{
      {DNNL_ARG_SRC, memory(a_desc, p.a.data)},
      {DNNL_ARG_WEIGHTS, memory(b_desc, p.b.data)},
      {DNNL_ARG_DST, memory(c_desc, p.c)},
      {DNNL_ARG_SCRATCHPAD, memory(primitive_desc.scratchpad_desc(), scratch.get())}};
  if (p.bias) arguments.emplace(DNNL_ARG_BIAS, memory(bias_desc, p.bias));
  d::matmul(primitive_desc).execute(stream, arguments);
  stream.wait();
}

inline void onednn_long_bfloat16(Pool<Cpu>& pool, const MatrixProduct& p);

}  // namespace detail

inline void onednn_matrix_product(Pool<Cpu>& pool, const MatrixProduct& p) {
  if (p.in != Dtype::f32 && p.in != Dtype::bf16) return eigen_matrix_product(pool, p);
  if (p.k == 0) return eigen_matrix_product(pool, p);  // oneDNN leaves c unwritten
  try {
    // Teams of threads cost more than they give on small products.
    const bool small = p.count * p.m * p.n * p.k < 500'000;
    const int threads = omp_get_max_threads();
    if (small) omp_set_num_threads(1);
    struct Restore {
      int threads;
      ~Restore() { omp_set_num_threads(threads); }
    } restore{threads};
    // Long sums: oneDNN cuts K by the number of threads (seen with a transposed and K >= 2048, and in bfloat16), which
    // changes the bits. Cut here instead, into pieces that it leaves whole, and add them in order.
    constexpr int64_t piece = 1024;
    const bool cut = p.k > piece && (p.a.transposed || p.in == Dtype::bf16) && (p.out == Dtype::f32);
    if (p.in == Dtype::bf16 && p.out == Dtype::bf16 && p.k > 2 * piece) return detail::onednn_long_bfloat16(pool, p);
    if (!cut) return detail::onednn_execute(pool, p);
    for (int64_t item = 0; item < p.count; ++item)
      for (int64_t first = 0; first < p.k; first += piece) {
        const auto advance = [&](const MatrixProduct::Operand& x, bool k_is_row) {
          const int64_t offset = item * x.batch + first * (k_is_row ? x.row : 1);
          return MatrixProduct::Operand{static_cast<const char*>(x.data) + offset * int64_t(dtype_size(p.in)), x.row, 0,
                                        x.transposed};
        };
        MatrixProduct part = p;
        part.count = 1;
        part.k = std::min(piece, p.k - first);
        part.a = advance(p.a, p.a.transposed);
        part.b = advance(p.b, !p.b.transposed);
        part.c = static_cast<char*>(p.c) + item * p.c_batch * int64_t(dtype_size(p.out));
        part.c_batch = 0;
        part.add = p.add || first > 0;
        if (first > 0) part.bias = nullptr;
        if (first + piece < p.k) part.activation = Activation::none;
        detail::onednn_execute(pool, part);
      }
  } catch (const ::dnnl::error& error) {
    fail("matmul: oneDNN failed on [", p.m, ", ", p.k, "] x [", p.k, ", ", p.n, "], batch ", p.count, ": ",
         error.what());
  }
}

/// bfloat16 out of a long sum: summed in float (so that it can be cut), rounded once.
inline void detail::onednn_long_bfloat16(Pool<Cpu>& pool, const MatrixProduct& p) {
  const auto sum = pool.allocate(size_t(p.m * p.n) * sizeof(float));
  for (int64_t item = 0; item < p.count; ++item) {
    MatrixProduct one = p;
    one.count = 1;
    one.a.data = static_cast<const bfloat16*>(p.a.data) + item * p.a.batch;
    one.b.data = static_cast<const bfloat16*>(p.b.data) + item * p.b.batch;
    one.a.batch = one.b.batch = one.c_batch = 0;
    one.out = Dtype::f32;
    one.c = sum.get();
    one.c_row = p.n;
    one.add = false;
    onednn_matrix_product(pool, one);
    bfloat16* c = static_cast<bfloat16*>(p.c) + item * p.c_batch;
    parallel_for(p.m, row_grain(p.n), [&](int64_t begin, int64_t end) {
      for (int64_t r = begin; r < end; ++r)
        for (int64_t j = 0; j < p.n; ++j) {
          const float value = static_cast<const float*>(sum.get())[r * p.n + j];
          c[r * p.c_row + j] = narrow<bfloat16>(p.add ? value + widen(c[r * p.c_row + j]) : value);
        }
    });
  }
}

inline const bool onednn_provided = provide_matrix_product(&onednn_matrix_product, 1);

}  // namespace tessera::cpu
