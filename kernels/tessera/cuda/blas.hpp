// Matrix products by cuBLASLt. Its matrices lie column by column, ours row by row, so it is asked for c' = b' a': the
// same bytes, the factors exchanged. Each kind of product is planned once and its algorithm kept.
//
// The workspace is of one fixed size and partial sums are only ever added in float, in an order that the algorithm
// fixes: the same product of the same shape gives the same bits on one kind of GPU and version of the library.
#pragma once
#include <cublasLt.h>

#include <bit>
#include <compare>
#include <map>

#include <tessera/core/dtype.hpp>
#include <tessera/core/math.hpp>
#include <tessera/cuda/context.hpp>

namespace tessera::cuda {

inline void check(cublasStatus_t status, std::string_view who) {
  if (status == CUBLAS_STATUS_SUCCESS) [[likely]]
    return;
  fail<Fault>(who, ": ", cublasLtGetStatusString(status));
}

inline cudaDataType_t library_type(Dtype dtype) {
  switch (dtype) {
    case Dtype::f32:
      return CUDA_R_32F;
    case Dtype::bf16:
      return CUDA_R_16BF;
    case Dtype::f16:
      return CUDA_R_16F;
    default:
      fail<ValueError>("matmul: the GPU multiplies float, bfloat16 and float16, not ", dtype_name(dtype));
  }
}

/// c[i] = activation(op(a[i]) op(b[i]) + bias), i < count; c [m, n] row by row, k summed over. Strides in elements:
/// `row` between two rows as stored, `batch` between two matrices (0: one for all).
struct BlasProduct {
  struct Operand {
    const void* data = nullptr;
    int64_t row = 0, batch = 0;
    bool transposed = false;
  };
  Dtype in = Dtype::f32, out = Dtype::f32;
  int64_t count = 1, m = 0, n = 0, k = 0;
  Operand a, b, c;              // c is written
  const float* bias = nullptr;  // [n]
  Activation activation = Activation::none;
  FloatProducts float_products = FloatProducts::exact;
};

/// The library's handle, its workspace and the plans made so far. Belongs to one stream.
class Blas {
 public:
  static constexpr size_t workspace_bytes = size_t(32)
                                            << 20;  // what the library's fastest algorithms for Hopper ask for

  Blas() {
    check(cublasLtCreate(&handle_), "cuBLASLt");
    try {
      workspace_ = Memory<Cuda>::allocate(workspace_bytes);
    } catch (...) {
      cublasLtDestroy(handle_);
      throw;
    }
  }
  Blas(const Blas&) = delete;
  Blas& operator=(const Blas&) = delete;
  ~Blas() {
    Memory<Cuda>::release(workspace_);
    cublasLtDestroy(handle_);
  }

  /// Queues the product. Returns whether bias and activation are in it; if not, the caller applies them: the library
  /// has no such epilogue for these types.
  bool multiply(const Stream& stream, const BlasProduct& product) {
    Plan& plan = plan_of(product);
    if (plan.fused && product.bias) plan.operation.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, product.bias);
    const float one = 1, zero = 0;
    // The library's c is added where its beta is not 0; its d is the result.
    check(cublasLtMatmul(handle_, plan.operation.get(), &one, product.b.data, plan.first.get(), product.a.data,
                         plan.second.get(), &zero, product.c.data, plan.result.get(), const_cast<void*>(product.c.data),
                         plan.result.get(), &plan.algorithm, workspace_, workspace_bytes, stream.handle()),
          "matmul");
    return plan.fused;
  }

 private:
  /// A descriptor of the library's, destroyed with this.
  template <class Handle, cublasStatus_t (*destroy)(Handle)>
  class Owned {
   public:
    Owned() = default;
    Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Owned& operator=(Owned&& other) noexcept {
      std::swap(handle_, other.handle_);
      return *this;
    }
    ~Owned() {
      if (handle_) destroy(handle_);
    }
    Handle get() const { return handle_; }
    Handle* out() { return &handle_; }

   private:
    Handle handle_ = nullptr;
  };
  struct Operation : Owned<cublasLtMatmulDesc_t, cublasLtMatmulDescDestroy> {
    template <class T>
    void set(cublasLtMatmulDescAttributes_t attribute, const T& value) {
      check(cublasLtMatmulDescSetAttribute(this->get(), attribute, &value, sizeof value), "matmul");
    }
  };
  using Layout = Owned<cublasLtMatrixLayout_t, cublasLtMatrixLayoutDestroy>;
  using Preference = Owned<cublasLtMatmulPreference_t, cublasLtMatmulPreferenceDestroy>;

  /// All that the choice of an algorithm may depend on.
  struct Key {
    Dtype in, out;
    int64_t count, m, n, k, a_row, a_batch, b_row, b_batch, c_row, c_batch;
    bool a_transposed, b_transposed, bias;
    Activation activation;
    FloatProducts float_products;
    uint32_t a_alignment, b_alignment, c_alignment, bias_alignment;
    auto operator<=>(const Key&) const = default;
  };
  struct Plan {
    Operation operation;
    Layout first, second, result;
    cublasLtMatmulAlgo_t algorithm;
    bool fused = true;
  };

  static uint32_t alignment_of(const void* address) {
    constexpr int most = 8;  // 256 bytes
    const auto bits = reinterpret_cast<uintptr_t>(address);
    return bits == 0 ? 1u << most : 1u << std::min(most, std::countr_zero(bits));
  }

  Plan& plan_of(const BlasProduct& p) {
    const Key key{p.in,
                  p.out,
                  p.count,
                  p.m,
                  p.n,
                  p.k,
                  p.a.row,
                  p.a.batch,
                  p.b.row,
                  p.b.batch,
                  p.c.row,
                  p.c.batch,
                  p.a.transposed,
                  p.b.transposed,
                  p.bias != nullptr,
                  p.activation,
                  p.float_products,
                  alignment_of(p.a.data),
                  alignment_of(p.b.data),
                  alignment_of(p.c.data),
                  alignment_of(p.bias)};
    if (const auto found = plans_.find(key); found != plans_.end()) return found->second;
    if (plans_.size() >= most_plans) plans_.clear();  // a program with ever new shapes must not grow for ever
    Plan plan;
    plan.fused = true;
    if (!make(plan, p, key)) {
      plan = {};
      plan.fused = false;
      BlasProduct plain = p;
      plain.bias = nullptr;
      plain.activation = Activation::none;
      require<Fault>(make(plan, plain, key), "matmul: cuBLASLt has no algorithm for ", p.count, " products [", p.m,
                     ", ", p.k, "] [", p.k, ", ", p.n, "] of ", dtype_name(p.in), " into ", dtype_name(p.out));
    }
    return plans_.emplace(key, std::move(plan)).first->second;
  }

  /// Whether the library has an algorithm for it.
  bool make(Plan& plan, const BlasProduct& p, const Key& key) {
    cublasLtEpilogue_t epilogue = CUBLASLT_EPILOGUE_DEFAULT;
    if (!epilogue_of(p, epilogue)) return false;
    const bool tf32 = p.in == Dtype::f32 && p.float_products == FloatProducts::tf32;
    check(cublasLtMatmulDescCreate(plan.operation.out(), tf32 ? CUBLAS_COMPUTE_32F_FAST_TF32 : CUBLAS_COMPUTE_32F,
                                   CUDA_R_32F),
          "matmul");
    plan.operation.set(CUBLASLT_MATMUL_DESC_TRANSA, p.b.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    plan.operation.set(CUBLASLT_MATMUL_DESC_TRANSB, p.a.transposed ? CUBLAS_OP_T : CUBLAS_OP_N);
    plan.operation.set(CUBLASLT_MATMUL_DESC_EPILOGUE, epilogue);
    if (p.bias) {
      plan.operation.set(CUBLASLT_MATMUL_DESC_BIAS_POINTER, p.bias);
      plan.operation.set(CUBLASLT_MATMUL_DESC_BIAS_DATA_TYPE, int32_t(CUDA_R_32F));
    }
    // A row-major matrix of r rows and c columns is a column-major one of c rows and r columns.
    set_layout(plan.first, p.in, p.b.transposed ? p.k : p.n, p.b.transposed ? p.n : p.k, p.b, p.count);
    set_layout(plan.second, p.in, p.a.transposed ? p.m : p.k, p.a.transposed ? p.k : p.m, p.a, p.count);
    set_layout(plan.result, p.out, p.n, p.m, p.c, p.count);

    Preference preference;
    check(cublasLtMatmulPreferenceCreate(preference.out()), "matmul");
    const auto prefer = [&](cublasLtMatmulPreferenceAttributes_t attribute, const auto& value) {
      check(cublasLtMatmulPreferenceSetAttribute(preference.get(), attribute, &value, sizeof value), "matmul");
    };
    prefer(CUBLASLT_MATMUL_PREF_MAX_WORKSPACE_BYTES, uint64_t(workspace_bytes));
    // Partial sums in the type of the result would lose bfloat16's few bits once more.
    prefer(CUBLASLT_MATMUL_PREF_REDUCTION_SCHEME_MASK, uint32_t(CUBLASLT_REDUCTION_SCHEME_COMPUTE_TYPE));
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_A_BYTES, key.b_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_B_BYTES, key.a_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_C_BYTES, key.c_alignment);
    prefer(CUBLASLT_MATMUL_PREF_MIN_ALIGNMENT_D_BYTES, key.c_alignment);
    cublasLtMatmulHeuristicResult_t best{};
    int found = 0;
    const cublasStatus_t status =
        cublasLtMatmulAlgoGetHeuristic(handle_, plan.operation.get(), plan.first.get(), plan.second.get(),
                                       plan.result.get(), plan.result.get(), preference.get(), 1, &best, &found);
    if (status == CUBLAS_STATUS_NOT_SUPPORTED || status == CUBLAS_STATUS_INVALID_VALUE) return false;
    check(status, "matmul");
    if (found == 0 || best.state != CUBLAS_STATUS_SUCCESS) return false;
    plan.algorithm = best.algo;
    return true;
  }

  /// Whether the library has an epilogue with this activation. Its GELU is the one by tanh.
  static bool epilogue_of(const BlasProduct& p, cublasLtEpilogue_t& epilogue) {
    switch (p.activation) {
      case Activation::none:
        epilogue = p.bias ? CUBLASLT_EPILOGUE_BIAS : CUBLASLT_EPILOGUE_DEFAULT;
        return true;
      case Activation::relu:
        epilogue = p.bias ? CUBLASLT_EPILOGUE_RELU_BIAS : CUBLASLT_EPILOGUE_RELU;
        return true;
      case Activation::gelu_tanh:
        epilogue = p.bias ? CUBLASLT_EPILOGUE_GELU_BIAS : CUBLASLT_EPILOGUE_GELU;
        return true;
      default:
        return false;
    }
  }

  static void set_layout(Layout& layout, Dtype dtype, int64_t rows, int64_t columns,
                         const BlasProduct::Operand& operand, int64_t count) {
    check(cublasLtMatrixLayoutCreate(layout.out(), library_type(dtype), uint64_t(rows), uint64_t(columns), operand.row),
          "matmul");
    const auto set = [&](cublasLtMatrixLayoutAttribute_t attribute, const auto& value) {
      check(cublasLtMatrixLayoutSetAttribute(layout.get(), attribute, &value, sizeof value), "matmul");
    };
    set(CUBLASLT_MATRIX_LAYOUT_BATCH_COUNT, int32_t(count));
    set(CUBLASLT_MATRIX_LAYOUT_STRIDED_BATCH_OFFSET, operand.batch);
  }

  static constexpr size_t most_plans = 4096;
  cublasLtHandle_t handle_ = nullptr;
  void* workspace_ = nullptr;
  std::map<Key, Plan> plans_;
};

/// The context's, made at its first use.
inline Blas& blas(Context<Cuda>& ctx) {
  if (!ctx.blas) ctx.blas = std::make_shared<Blas>();
  return *ctx.blas;
}

}  // namespace tessera::cuda
