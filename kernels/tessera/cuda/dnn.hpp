// Convolutions by cuDNN 9. Each kind of convolution is planned once: descriptors, and the first algorithm of the
// library's heuristics that gives the same bits on every run, keeps to the products that the context allows, and needs
// a workspace within a fixed bound. So the choice depends on the shapes alone, never on what memory happens to be free.
// Sums are kept in float. Workspaces come from the context's pool, so that a captured step keeps its own.
#pragma once
#include <cudnn.h>

#include <compare>
#include <map>

#include <tessera/core/dtype.hpp>
#include <tessera/cuda/context.hpp>
#include <tessera/ops/conv2d.hpp>

namespace tessera::cuda {

static_assert(CUDNN_MAJOR >= 9, "tessera: cuDNN 9 is needed");

inline void check(cudnnStatus_t status, std::string_view who) {
  if (status == CUDNN_STATUS_SUCCESS) [[likely]]
    return;
  char details[512] = "";
  cudnnGetLastErrorString(details, sizeof details);
  fail<Fault>(who, ": ", cudnnGetErrorString(status), details[0] ? ": " : "", details);
}

/// Which of the three results of a convolution is asked for.
enum class ConvolutionPass : uint8_t { forward, input_gradient, weight_gradient };

/// A convolution of contiguous maps x [B, C, H, W] with weight [O, C/G, …] to y; the result of the pass is written, the
/// other two are read.
struct DnnConvolution {
  ConvolutionPass pass = ConvolutionPass::forward;
  Dtype dtype = Dtype::f32;
  Shape<4> x{}, weight{}, y{};
  Conv2dOptions options;
  FloatProducts float_products = FloatProducts::exact;
  std::string_view name() const {
    return pass == ConvolutionPass::forward          ? "conv2d_forward"
           : pass == ConvolutionPass::input_gradient ? "conv2d_input_gradient"
                                                     : "conv2d_weight_gradient";
  }
};

/// The library's handle and the plans made so far. Belongs to one context.
class Dnn {
 public:
  static constexpr size_t most_workspace_bytes = size_t(1) << 30;  // room to lay large maps out channels last

  Dnn() { check(cudnnCreate(&handle_), "cuDNN"); }
  Dnn(const Dnn&) = delete;
  Dnn& operator=(const Dnn&) = delete;
  ~Dnn() { cudnnDestroy(handle_); }

  /// Queues the convolution on the context's stream.
  void convolve(Context<Cuda>& ctx, const DnnConvolution& c, const void* x, const void* weight, const void* y) {
    const Plan& plan = plan_of(c);
    check(cudnnSetStream(handle_, ctx.stream->handle()), c.name());
    const Tensor<uint8_t, 1, Cuda> workspace(ctx, {int64_t(plan.workspace_bytes)});
    const float one = 1, zero = 0;
    // The pass's result is the operand that is written.
    const auto written = [](const void* operand) { return const_cast<void*>(operand); };
    switch (c.pass) {
      case ConvolutionPass::forward:
        return check(cudnnConvolutionForward(handle_, &one, plan.x.get(), x, plan.weight.get(), weight,
                                             plan.convolution.get(), cudnnConvolutionFwdAlgo_t(plan.algorithm),
                                             workspace.data, plan.workspace_bytes, &zero, plan.y.get(), written(y)),
                     c.name());
      case ConvolutionPass::input_gradient:
        return check(
            cudnnConvolutionBackwardData(handle_, &one, plan.weight.get(), weight, plan.y.get(), y,
                                         plan.convolution.get(), cudnnConvolutionBwdDataAlgo_t(plan.algorithm),
                                         workspace.data, plan.workspace_bytes, &zero, plan.x.get(), written(x)),
            c.name());
      case ConvolutionPass::weight_gradient:
        return check(
            cudnnConvolutionBackwardFilter(handle_, &one, plan.x.get(), x, plan.y.get(), y, plan.convolution.get(),
                                           cudnnConvolutionBwdFilterAlgo_t(plan.algorithm), workspace.data,
                                           plan.workspace_bytes, &zero, plan.weight.get(), written(weight)),
            c.name());
    }
  }

 private:
  /// A descriptor of the library's, destroyed with this.
  template <class Handle, cudnnStatus_t (*create)(Handle*), cudnnStatus_t (*destroy)(Handle)>
  class Owned {
   public:
    Owned() { check(create(&handle_), "cuDNN"); }
    Owned(Owned&& other) noexcept : handle_(std::exchange(other.handle_, nullptr)) {}
    Owned& operator=(Owned&& other) noexcept {
      std::swap(handle_, other.handle_);
      return *this;
    }
    ~Owned() {
      if (handle_) destroy(handle_);
    }
    Handle get() const { return handle_; }

   private:
    Handle handle_ = nullptr;
  };
  using Maps = Owned<cudnnTensorDescriptor_t, cudnnCreateTensorDescriptor, cudnnDestroyTensorDescriptor>;
  using Filter = Owned<cudnnFilterDescriptor_t, cudnnCreateFilterDescriptor, cudnnDestroyFilterDescriptor>;
  using Convolution =
      Owned<cudnnConvolutionDescriptor_t, cudnnCreateConvolutionDescriptor, cudnnDestroyConvolutionDescriptor>;

  /// All that the choice of an algorithm may depend on.
  struct Key {
    ConvolutionPass pass;
    Dtype dtype;
    Shape<4> x, weight;
    int32_t stride_rows, stride_columns, padding_rows, padding_columns, dilation_rows, dilation_columns;
    int64_t groups;
    FloatProducts float_products;
    auto operator<=>(const Key&) const = default;
  };
  struct Plan {
    Maps x, y;
    Filter weight;
    Convolution convolution;
    int algorithm = 0;  // of the pass's own enumeration
    size_t workspace_bytes = 0;
  };

  const Plan& plan_of(const DnnConvolution& c) {
    const auto& o = c.options;
    const Key key{c.pass,
                  c.dtype,
                  c.x,
                  c.weight,
                  o.stride.rows,
                  o.stride.columns,
                  o.padding.rows,
                  o.padding.columns,
                  o.dilation.rows,
                  o.dilation.columns,
                  o.groups,
                  c.float_products};
    if (const auto found = plans_.find(key); found != plans_.end()) return found->second;
    if (plans_.size() >= most_plans) plans_.clear();  // a program with ever new shapes must not grow for ever
    return plans_.emplace(key, make(c)).first->second;
  }

  Plan make(const DnnConvolution& c) {
    require<ShapeError>(c.dtype == Dtype::f32 || c.dtype == Dtype::bf16, c.name(),
                        ": the GPU convolves float and bfloat16, not ", dtype_name(c.dtype));
    const cudnnDataType_t type = c.dtype == Dtype::f32 ? CUDNN_DATA_FLOAT : CUDNN_DATA_BFLOAT16;
    for (const Shape<4>& shape : {c.x, c.weight, c.y})
      for (const int64_t extent : shape)
        require<ShapeError>(extent < (int64_t(1) << 31), c.name(), ": an axis of ", to_string(shape),
                            " has 2^31 elements or more, beyond what cuDNN takes");
    Plan plan;
    const auto describe = [&](const Maps& maps, const Shape<4>& n) {
      check(cudnnSetTensor4dDescriptor(maps.get(), CUDNN_TENSOR_NCHW, type, int(n[0]), int(n[1]), int(n[2]), int(n[3])),
            c.name());
    };
    describe(plan.x, c.x);
    describe(plan.y, c.y);
    check(cudnnSetFilter4dDescriptor(plan.weight.get(), type, CUDNN_TENSOR_NCHW, int(c.weight[0]), int(c.weight[1]),
                                     int(c.weight[2]), int(c.weight[3])),
          c.name());
    const auto& o = c.options;
    check(cudnnSetConvolution2dDescriptor(plan.convolution.get(), o.padding.rows, o.padding.columns, o.stride.rows,
                                          o.stride.columns, o.dilation.rows, o.dilation.columns,
                                          CUDNN_CROSS_CORRELATION, CUDNN_DATA_FLOAT),
          c.name());
    check(cudnnSetConvolutionGroupCount(plan.convolution.get(), int(o.groups)), c.name());
    // The default lets float products be TF32's.
    const bool exact = c.dtype == Dtype::f32 && c.float_products == FloatProducts::exact;
    check(cudnnSetConvolutionMathType(plan.convolution.get(), exact ? CUDNN_FMA_MATH : CUDNN_TENSOR_OP_MATH), c.name());
    choose(plan, c, exact);
    return plan;
  }

  /// The first suitable algorithm, best first by the library's heuristics.
  void choose(Plan& plan, const DnnConvolution& c, bool exact) {
    const auto among = [&](auto perf, auto ask, auto workspace_of) {
      using Perf = decltype(perf);
      Perf found[16];
      int count = 0;
      check(ask(found, &count), c.name());
      for (int i = 0; i < count; ++i) {
        if (found[i].status != CUDNN_STATUS_SUCCESS || found[i].determinism != CUDNN_DETERMINISTIC) continue;
        if (exact && found[i].mathType != CUDNN_FMA_MATH) continue;
        check(cudnnSetConvolutionMathType(plan.convolution.get(), found[i].mathType), c.name());
        size_t bytes = 0;
        if (workspace_of(found[i].algo, &bytes) != CUDNN_STATUS_SUCCESS || bytes > most_workspace_bytes) continue;
        plan.algorithm = int(found[i].algo);
        plan.workspace_bytes = bytes;
        return;
      }
      fail<Fault>(c.name(), ": cuDNN has no deterministic algorithm for x ", to_string(c.x), " and weight ",
                  to_string(c.weight), " of ", dtype_name(c.dtype), " within ", most_workspace_bytes >> 20,
                  " MiB of workspace");
    };
    const auto x = plan.x.get(), y = plan.y.get();
    const auto weight = plan.weight.get();
    const auto convolution = plan.convolution.get();
    constexpr int most = 16;
    switch (c.pass) {
      case ConvolutionPass::forward:
        return among(
            cudnnConvolutionFwdAlgoPerf_t{},
            [&](auto* found, int* count) {
              return cudnnGetConvolutionForwardAlgorithm_v7(handle_, x, weight, convolution, y, most, count, found);
            },
            [&](auto algorithm, size_t* bytes) {
              return cudnnGetConvolutionForwardWorkspaceSize(handle_, x, weight, convolution, y, algorithm, bytes);
            });
      case ConvolutionPass::input_gradient:
        return among(
            cudnnConvolutionBwdDataAlgoPerf_t{},
            [&](auto* found, int* count) {
              return cudnnGetConvolutionBackwardDataAlgorithm_v7(handle_, weight, y, convolution, x, most, count,
                                                                 found);
            },
            [&](auto algorithm, size_t* bytes) {
              return cudnnGetConvolutionBackwardDataWorkspaceSize(handle_, weight, y, convolution, x, algorithm, bytes);
            });
      case ConvolutionPass::weight_gradient:
        return among(
            cudnnConvolutionBwdFilterAlgoPerf_t{},
            [&](auto* found, int* count) {
              return cudnnGetConvolutionBackwardFilterAlgorithm_v7(handle_, x, y, convolution, weight, most, count,
                                                                   found);
            },
            [&](auto algorithm, size_t* bytes) {
              return cudnnGetConvolutionBackwardFilterWorkspaceSize(handle_, x, y, convolution, weight, algorithm,
                                                                    bytes);
            });
    }
  }

  static constexpr size_t most_plans = 4096;
  cudnnHandle_t handle_ = nullptr;
  std::map<Key, Plan> plans_;
};

/// The context's, made at its first use.
inline Dnn& dnn(Context<Cuda>& ctx) {
  if (!ctx.dnn) ctx.dnn = std::make_shared<Dnn>();
  return *ctx.dnn;
}

}  // namespace tessera::cuda
