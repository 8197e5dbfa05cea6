// Streams and events. A stream is a queue of launches and copies that run in order; work of two streams is unordered
// but for events.
//
// All streams made here wait for CUDA's own default stream and it for them, so that the copies of Memory<Cuda>, which
// know no stream, come after all that was queued before and before all that is queued later.
#pragma once
#include <memory>

#include <tessera/cuda/status.hpp>

namespace tessera::cuda {

class Event;

/// A queue on the device that was current when it was made.
class Stream {
 public:
  Stream() { check(cudaStreamCreateWithFlags(&handle_, cudaStreamDefault), "a new stream"); }
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;
  ~Stream() { cudaStreamDestroy(handle_); }

  cudaStream_t handle() const { return handle_; }
  /// Returns when all work queued here is done. Throws Fault for what a kernel did wrong.
  void synchronize() { check(cudaStreamSynchronize(handle_), "work queued on a stream"); }
  /// Work queued here from now on waits for what the event recorded; the host does not.
  void wait(const Event& event);

 private:
  cudaStream_t handle_ = nullptr;
};

/// A point in a stream's work, and the time when it was reached.
class Event {
 public:
  Event() { check(cudaEventCreate(&handle_), "a new event"); }
  Event(const Event&) = delete;
  Event& operator=(const Event&) = delete;
  ~Event() { cudaEventDestroy(handle_); }

  cudaEvent_t handle() const { return handle_; }
  void record(const Stream& stream) { check(cudaEventRecord(handle_, stream.handle()), "recording an event"); }
  /// Returns when what it recorded is done. An event that recorded nothing is done.
  void synchronize() { check(cudaEventSynchronize(handle_), "work recorded by an event"); }

 private:
  cudaEvent_t handle_ = nullptr;
};

inline void Stream::wait(const Event& event) {
  check(cudaStreamWaitEvent(handle_, event.handle(), 0), "waiting for an event");
}

/// Milliseconds on the device between two recorded events that are done; about half a microsecond fine.
inline float milliseconds_between(const Event& from, const Event& to) {
  float elapsed = 0;
  check(cudaEventElapsedTime(&elapsed, from.handle(), to.handle()), "the time between two events");
  return elapsed;
}

}  // namespace tessera::cuda
