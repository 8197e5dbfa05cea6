// What distributed training asks of the processes that take part: gathering features of all ranks, and bringing each
// rank the sum of what all have found out about its own. One process alone is OneRank.
#pragma once
#include <cstring>

#include <tessera/core/context.hpp>
#include <tessera/core/dtype.hpp>

namespace tessera {

/// Collective operations of size() processes, in the order of their ranks. All call each one alike. Memory is the
/// device's; work is in the order of ctx's stream where the device has streams.
template <class Device = Cpu>
class Communicator {
 public:
  virtual ~Communicator() = default;

  virtual int64_t rank() const = 0;  ///< 0 to size() - 1
  virtual int64_t size() const = 0;
  /// all: every rank's `bytes` bytes, one after the other.
  virtual void all_gather(Context<Device>& ctx, const void* mine, void* all, int64_t bytes) = 0;
  /// mine: `count` numbers, the sum over ranks of what each holds in `all` (size() * count numbers) at this rank's
  /// place, added in the order of ranks. dtype is f32 or f64.
  virtual void reduce_scatter_sum(Context<Device>& ctx, const void* all, void* mine, int64_t count, Dtype dtype) = 0;
};

/// One process alone: nothing to exchange.
template <class Device = Cpu>
class OneRank : public Communicator<Device> {
 public:
  int64_t rank() const override { return 0; }
  int64_t size() const override { return 1; }
  void all_gather(Context<Device>&, const void*, void*, int64_t) override { refuse(); }
  void reduce_scatter_sum(Context<Device>&, const void*, void*, int64_t, Dtype) override { refuse(); }

 private:
  // Callers leave out the exchange where there is one rank: a copy would be wasted.
  [[noreturn]] static void refuse() { fail<ValueError>("OneRank: one process has nobody to exchange with"); }
};

}  // namespace tessera
