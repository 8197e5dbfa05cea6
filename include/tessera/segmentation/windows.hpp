// Sliding windows: a picture larger than the model's input is scored window by window, and scores are averaged where
// windows overlap. The boxes are mmsegmentation's: a window starts every `stride` pixels, and the last one of each axis
// is moved back inside the picture; a picture smaller than the window is one smaller window.
#pragma once
#include <algorithm>
#include <cstdint>
#include <vector>

#include <tessera/core/parallel.hpp>
#include <tessera/core/tensor.hpp>
#include <tessera/data/pixels.hpp>

namespace tessera::segmentation {

using data::Box;

/// The windows of a picture of width x height, row by row. ValueError where the stride leaves gaps.
inline std::vector<Box> sliding_windows(int width, int height, int window, int stride) {
  require(width > 0 && height > 0, "sliding_windows: a picture of ", width, " x ", height);
  require(window > 0 && stride > 0 && stride <= window, "sliding_windows: window ", window, ", stride ", stride,
          "; the stride must be positive and at most the window");
  const auto count = [&](int size) { return (std::max(size - window, 0) + stride - 1) / stride + 1; };
  std::vector<Box> boxes;
  for (int row = 0; row < count(height); ++row)
    for (int column = 0; column < count(width); ++column) {
      const int right = std::min(column * stride + window, width), bottom = std::min(row * stride + window, height);
      boxes.push_back({std::max(right - window, 0), std::max(bottom - window, 0), right, bottom});
    }
  return boxes;
}

/// Sums score maps of windows and divides by how often each pixel was covered. Windows are added in the caller's
/// order, so the result does not depend on the number of threads.
class WindowAverage {
 public:
  /// Of `channels` scores a pixel.
  WindowAverage(Context<Cpu>& ctx, int64_t channels, int height, int width)
      : ctx_(&ctx),
        sums_(Tensor<float, 3>::zeros(ctx, {channels, height, width})),
        count_(Tensor<float, 2>::zeros(ctx, {height, width})) {}

  /// Adds scores [channels, box height, box width].
  void add(const Box& box, TensorView<const float, 3, Cpu> scores) {
    const int64_t channels = sums_.shape[0];
    require(box.left >= 0 && box.top >= 0 && box.left < box.right && box.top < box.bottom &&
                box.right <= sums_.shape[2] && box.bottom <= sums_.shape[1],
            "WindowAverage::add: box (", box.left, ", ", box.top, ", ", box.right, ", ", box.bottom,
            ") outside the map ", to_string(sums_.shape));
    expect_shape("WindowAverage::add", "scores", scores.shape, Shape<3>{channels, box.height(), box.width()},
                 "channels height width", "the box");
    parallel_for(channels, row_grain(int64_t(box.width()) * box.height()), [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c)
        for (int y = 0; y < box.height(); ++y) {
          float* to = &sums_(c, box.top + y, box.left);
          const float* from = &scores(c, y, 0);
          for (int x = 0; x < box.width(); ++x) to[x] += from[x];
        }
    });
    for (int y = box.top; y < box.bottom; ++y)
      for (int x = box.left; x < box.right; ++x) count_(y, x) += 1.f;
  }

  /// How many windows covered each pixel, [height, width].
  const Tensor<float, 2>& count() const { return count_; }

  /// The averaged scores [channels, height, width]. ValueError where a pixel was not covered.
  Tensor<float, 3> mean() const {
    const int64_t pixels = count_.size();
    const float* count = count_.data;
    require(std::all_of(count, count + pixels, [](float n) { return n > 0; }),
            "WindowAverage::mean: some pixels are in no window");
    Tensor<float, 3> result(*ctx_, sums_.shape);
    parallel_for(sums_.shape[0], row_grain(pixels), [&](int64_t begin, int64_t end) {
      for (int64_t c = begin; c < end; ++c)
        for (int64_t i = 0; i < pixels; ++i) result.data[c * pixels + i] = sums_.data[c * pixels + i] / count[i];
    });
    return result;
  }

 private:
  Context<Cpu>* ctx_;
  Tensor<float, 3> sums_;
  Tensor<float, 2> count_;
};

}  // namespace tessera::segmentation
