// Which samples make the batch of a step: the same for the same seed, whatever came before.
#pragma once
#include <cstdint>
#include <vector>

#include <tessera/data/dataset.hpp>

namespace tessera::train {

/// Whole batches of each epoch's random order; what does not fill a batch is left out of that epoch.
class SampleOrder {
 public:
  SampleOrder(int64_t size, int64_t batch, uint64_t seed) : size_(size), batch_(batch), seed_(seed) {
    require(size >= batch && batch > 0, "training: the data set has ", size, " pictures, less than one batch of ",
            batch);
  }

  /// The samples of step `step` (from 0).
  std::vector<int64_t> operator()(int64_t step) {
    const int64_t steps_an_epoch = size_ / batch_, epoch = step / steps_an_epoch;
    if (epoch != epoch_) {
      order_ = data::epoch_order(size_, seed_, uint32_t(epoch));
      epoch_ = epoch;
    }
    const auto first = order_.begin() + ptrdiff_t(step % steps_an_epoch * batch_);
    return {first, first + ptrdiff_t(batch_)};
  }

 private:
  int64_t size_, batch_;
  uint64_t seed_;
  std::vector<int64_t> order_;
  int64_t epoch_ = -1;
};

}  // namespace tessera::train
