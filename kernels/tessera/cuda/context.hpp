// Context<Cuda>: a stream, the pool that tensors come from, random numbers, and the handles of cuBLASLt and cuDNN.
//
// Tensors are freed and handed out again in the order of the stream's work, without waiting for it: so a tensor that is
// used on another context's stream must stay until that work is done (Event, Stream::wait or synchronize()). A tensor
// keeps its pool, and the pool its stream, beyond the context's life.
#pragma once
#include <memory>

#include <tessera/core/context.hpp>
#include <tessera/core/staging.hpp>
#include <tessera/cuda/memory.hpp>

namespace tessera {
namespace cuda {
class Blas;  // cuda/blas.hpp; made at the first matrix product
class Dnn;   // cuda/dnn.hpp; made at the first convolution

/// How float matrix products and convolutions are computed: exactly, or with factors rounded to TF32's 10 bits of
/// fraction on the tensor cores, about eight times as fast.
enum class FloatProducts : uint8_t { exact, tf32 };
}  // namespace cuda

/// One thread of the host at a time.
template <>
struct Context<Cuda> {
  std::shared_ptr<cuda::Stream> stream;
  std::shared_ptr<Pool<Cuda>> pool;
  RandomState random;
  cuda::FloatProducts float_products = cuda::FloatProducts::exact;
  std::shared_ptr<cuda::Blas> blas;
  std::shared_ptr<cuda::Dnn> dnn;

  /// On the current device (cudaSetDevice). Throws cuda::Fault where there is none.
  explicit Context(ContextOptions options = {}, std::shared_ptr<cuda::Stream> own_stream = nullptr)
      : stream(own_stream ? std::move(own_stream) : std::make_shared<cuda::Stream>()),
        pool(std::make_shared<Pool<Cuda>>(options.memory, stream)),
        random{options.seed} {}
  /// Returns when all that was queued is done. Throws cuda::Fault for what a kernel did wrong.
  void synchronize() { stream->synchronize(); }
};

template <>
class Staging<Cuda> {
 public:
  template <class T, int Rank>
  Tensor<T, Rank, Cuda> operator()(Context<Cuda>& ctx, const Tensor<T, Rank>& host) {
    Tensor<T, Rank, Cuda> copy(ctx, host.shape);
    buffers_.copy_to_device(*ctx.stream, copy.data, host.data, size_t(copy.size()) * sizeof(T));
    return copy;
  }

 private:
  cuda::Staging buffers_;
};

}  // namespace tessera
