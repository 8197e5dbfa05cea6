// A whole step as one CUDA graph: captured once, launched as often as wanted, for one launch's worth of host time.
//
//   auto graph = cuda::capture(ctx, [&] { step(ctx); });   // after the step ran once as usual
//   for (…) { stage the batch; graph.launch(ctx); }
//
// A graph repeats the GPU's work on the same addresses with the same arguments. So what changes from step to step (the
// batch, learning rate, step number) must lie in the GPU's memory and be copied there before the launch, host values of
// random streams are frozen, and tensors made before that the step reads must outlive the graph (those that the step
// itself frees, the graph keeps).
#pragma once
#include <tessera/cuda/context.hpp>

namespace tessera::cuda {

/// A captured step. Holds the pool that the step's tensors came from: their memory is used by every launch and by
/// nothing else.
class Graph {
 public:
  Graph(Graph&& other) noexcept
      : executable_(std::exchange(other.executable_, nullptr)),
        nodes_(other.nodes_),
        pool_(std::move(other.pool_)),
        blas_(std::move(other.blas_)),
        dnn_(std::move(other.dnn_)),
        kept_(std::move(other.kept_)) {}
  Graph& operator=(Graph&& other) noexcept {
    std::swap(executable_, other.executable_);
    std::swap(nodes_, other.nodes_);
    std::swap(pool_, other.pool_);
    std::swap(blas_, other.blas_);
    std::swap(dnn_, other.dnn_);
    std::swap(kept_, other.kept_);
    return *this;
  }
  ~Graph() {
    if (executable_) cudaGraphExecDestroy(executable_);
  }
  /// Queues the whole step on the context's stream: the context that captured it, or one whose work is ordered with it.
  void launch(Context<Cuda>& ctx) { check(cudaGraphLaunch(executable_, ctx.stream->handle()), "a captured step"); }
  /// Kernels, copies and fills in it.
  size_t nodes() const { return nodes_; }
  /// Bytes that it keeps for its tensors.
  size_t bytes() const { return pool_->bytes_in_use() + pool_->bytes_cached(); }

 private:
  template <class Step>
  friend Graph capture(Context<Cuda>& ctx, Step&& step);
  Graph(cudaGraph_t graph, std::shared_ptr<Pool<Cuda>> pool, std::shared_ptr<Blas> blas, std::shared_ptr<Dnn> dnn,
        std::vector<std::shared_ptr<void>> kept)
      : pool_(std::move(pool)), blas_(std::move(blas)), dnn_(std::move(dnn)), kept_(std::move(kept)) {
    check(cudaGraphGetNodes(graph, nullptr, &nodes_), "the nodes of a captured step");
    check(cudaGraphInstantiate(&executable_, graph, 0), "making a captured step ready to launch");
  }
  cudaGraphExec_t executable_ = nullptr;
  size_t nodes_ = 0;
  std::shared_ptr<Pool<Cuda>> pool_;
  std::shared_ptr<Blas> blas_;  // matrix products in the graph use its workspace
  std::shared_ptr<Dnn> dnn_;    // and convolutions what the library keeps with its handle
  std::vector<std::shared_ptr<void>> kept_;
};

namespace detail {
/// Puts the context and this thread back as they were, and ends a capture that an exception cut short.
class CaptureScope {
 public:
  explicit CaptureScope(Context<Cuda>& ctx) : ctx_(ctx), pool_(ctx.pool) {
    require<Fault>(capturing == nullptr, "capture: this thread is already capturing a step");
    // Private: what the step frees may be reused within the step alone, for every launch writes it again.
    ctx.pool = std::make_shared<Pool<Cuda>>(PoolOptions{.cached_bytes = size_t(-1) / 4}, ctx.stream, true);
    // Relaxed: the pool asks for memory meanwhile.
    const cudaError_t status = cudaStreamBeginCapture(ctx.stream->handle(), cudaStreamCaptureModeRelaxed);
    if (status != cudaSuccess) ctx.pool = pool_;
    check(status, "capturing a step");
    capturing = ctx.stream->handle();
    kept_by_graph = &kept;
  }
  CaptureScope(const CaptureScope&) = delete;
  CaptureScope& operator=(const CaptureScope&) = delete;
  ~CaptureScope() {
    if (open_) {
      cudaStreamEndCapture(ctx_.stream->handle(), &graph_);
      cudaGetLastError();
    }
    if (graph_) cudaGraphDestroy(graph_);
    capturing = nullptr;
    kept_by_graph = nullptr;
    ctx_.pool = pool_;
  }
  cudaGraph_t end() {
    open_ = false;
    check(cudaStreamEndCapture(ctx_.stream->handle(), &graph_), "capturing a step");
    return graph_;
  }

  std::vector<std::shared_ptr<void>> kept;

 private:
  Context<Cuda>& ctx_;
  std::shared_ptr<Pool<Cuda>> pool_;
  cudaGraph_t graph_ = nullptr;
  bool open_ = true;
};
}  // namespace detail

/// Runs `step()` on the host while the stream records, instead of running, what it queues. The step must have run
/// before in the usual way: libraries and kernels are loaded then. It may not copy to or from the host (Fault) nor
/// synchronise. The context is left as it was, also by an exception.
template <class Step>
Graph capture(Context<Cuda>& ctx, Step&& step) {
  detail::CaptureScope scope(ctx);
  const auto pool = ctx.pool;
  step();
  cudaGraph_t graph = scope.end();
  return Graph(graph, pool, ctx.blas, ctx.dnn, std::move(scope.kept));
}

}  // namespace tessera::cuda
