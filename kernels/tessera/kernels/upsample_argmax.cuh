// Upsampling and argmax on kernels' devices: a block takes a tile of 32 x 32 pixels. It first bounds every class over
// the cells of the coarse map under the tile, and compares, class by class in ascending order, only those that could
// win somewhere in it. docs/math/upsample_argmax.md has the bounds.
#pragma once
#include <cfloat>

#include <tessera/kernels/interpolate.cuh>
#include <tessera/ops/upsample_argmax.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct upsample_argmax_traits {
  static constexpr int threads = 256;
  static constexpr int side = 32;                                 // of a tile, in pixels
  static constexpr int pixels_of_thread = side * side / threads;  // down a column, 8 rows apart
};

/// Cells [first, last] of the coarse map under a tile, on each axis.
struct CoarseCells {
  int first_row, last_row, first_column, last_column;
};
/// What a class's values under a tile lie between; NaN on both sides where that cannot be said.
struct ClassBounds {
  float lower, upper;
};

template <class T>
TESSERA_DEVICE ClassBounds bound_class(const T* map, int64_t width, const CoarseCells& cells) {
  float least = __uint_as_float(0x7f800000u), most = -least, odd = 0;
  for (int row = cells.first_row; row <= cells.last_row; ++row)
    for (int column = cells.first_column; column <= cells.last_column; ++column) {
      const float value = widen(map[row * width + column]);
      least = value < least ? value : least;
      most = value > most ? value : most;
      odd += value - value;  // NaN for NaN and infinity
    }
  const float magnitude = most > -least ? most : -least;
  odd += magnitude * 8 - magnitude * 8;
  const float margin = 16 * FLT_EPSILON * (magnitude + FLT_MIN) + odd;
  return {least - margin, most + margin};
}

/// labels [B, H, W] and best_score [B, H, W] (may be null) from scores [B, C, h, w]. Block (tile, image).
template <class T, class Label>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(upsample_argmax_traits::threads)
    upsample_argmax_kernel(Label* labels, float* best_score, const T* scores, SampledAxis rows, SampledAxis columns,
                           int classes, int64_t tiles_across, int64_t tiles) {
  using Traits = upsample_argmax_traits;
  constexpr int threads = Traits::threads, warps = threads / warp_size, per_thread = Traits::pixels_of_thread;
  constexpr Interpolation bilinear = Interpolation::bilinear;
  TESSERA_SHARED(float, floors, warps);
  TESSERA_SHARED(int, counts, warps);
  TESSERA_SHARED(int, candidates, threads);
  const int thread = int(threadIdx.x), lane = thread % warp_size, warp = thread / warp_size;
  const int64_t image = blockIdx.x / tiles, tile = blockIdx.x % tiles;
  const int64_t first_y = tile / tiles_across * Traits::side, first_x = tile % tiles_across * Traits::side;
  const int64_t last_y = min(first_y + Traits::side, rows.output) - 1;
  const int64_t last_x = min(first_x + Traits::side, columns.output) - 1;
  const CoarseCells cells{rows.taps<bilinear>(first_y).index[0], rows.taps<bilinear>(last_y).index[1],
                          columns.taps<bilinear>(first_x).index[0], columns.taps<bilinear>(last_x).index[1]};
  const int64_t map_size = rows.input * columns.input;
  const T* maps = scores + image * classes * map_size;

  // Some class is nowhere below `floor`.
  float floor = negative_infinity();
  for (int c = thread; c < classes; c += threads) {
    const float lower = bound_class(maps + c * map_size, columns.input, cells).lower;
    floor = lower > floor ? lower : floor;
  }
  floor = warp_max(floor);
  if (lane == 0) floors[warp] = floor;
  __syncthreads();
  for (int other = 0; other < warps; ++other) floor = fmaxf(floor, floors[other]);

  const int64_t x = first_x + lane;
  const Taps<float> across = columns.taps<bilinear>(min(x, last_x));
  const T* upper_row[per_thread];  // row taps of the thread's pixels, within a map
  int64_t to_lower_row[per_thread];
  float down[per_thread], best[per_thread];
  int label[per_thread];
  TESSERA_UNROLL
  for (int p = 0; p < per_thread; ++p) {
    const Taps<float> taps = rows.taps<bilinear>(min(first_y + warp + p * warps, last_y));
    upper_row[p] = maps + taps.index[0] * columns.input;
    to_lower_row[p] = (taps.index[1] - taps.index[0]) * columns.input;
    down[p] = taps.weight[1];
    best[p] = 0;
    label[p] = -1;
  }
  for (int first = 0; first < classes; first += threads) {
    const int c = first + thread;
    const bool kept = c < classes && !(bound_class(maps + c * map_size, columns.input, cells).upper < floor);
    const unsigned kept_lanes = __ballot_sync(full_mask, kept);
    if (lane == 0) counts[warp] = __popc(kept_lanes);
    __syncthreads();            // all have their counts, and are done with the last round's candidates
    int before = 0, count = 0;  // candidates of the warps before this one, and of all
    for (int other = 0; other < warps; ++other) {
      before += other < warp ? counts[other] : 0;
      count += counts[other];
    }
    if (kept) candidates[before + __popc(kept_lanes & ((1u << lane) - 1))] = c;
    __syncthreads();
    for (int i = 0; i < count; ++i) {
      const int candidate = candidates[i];
      TESSERA_UNROLL
      for (int p = 0; p < per_thread; ++p) {
        const T *above = upper_row[p] + candidate * map_size, *below = above + to_lower_row[p];
        const float top = blend(widen(above[across.index[0]]), widen(above[across.index[1]]), across.weight[1]);
        const float bottom = blend(widen(below[across.index[0]]), widen(below[across.index[1]]), across.weight[1]);
        const float value = blend(top, bottom, down[p]);
        // Strictly better wins, so that ties stay with the lower class; a first NaN wins and stays.
        if (label[p] < 0 || (!(value <= best[p]) && best[p] == best[p])) {
          best[p] = value;
          label[p] = candidate;
        }
      }
    }
  }
  TESSERA_UNROLL
  for (int p = 0; p < per_thread; ++p) {
    const int64_t y = first_y + warp + p * warps, at = (image * rows.output + y) * columns.output + x;
    if (y > last_y || x > last_x) continue;
    labels[at] = Label(label[p]);
    if (best_score) best_score[at] = best[p];
  }
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::upsample_argmax, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::upsample_argmax_traits;

  template <class T, class Label>
  static void forward(Context<Device>& ctx, Out<Label, 3, Device> labels, Out<float, 3, Device> best_score,
                      In<T, 4, Device> scores, const InterpolateOptions& options) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    if (labels.size() == 0) return;
    const auto axis = [&](int64_t input, int64_t output, const AxisSampling& sampling) {
      return kernels::SampledAxis{input, output, sampling_step<float>(input, output, sampling, options.align_corners),
                                  sampling, options.align_corners};
    };
    const auto rows = axis(scores.shape[2], labels.shape[1], options.rows);
    const auto columns = axis(scores.shape[3], labels.shape[2], options.columns);
    const int64_t tiles_across = kernels::ceil_div(columns.output, Traits::side);
    const int64_t tiles = tiles_across * kernels::ceil_div(rows.output, Traits::side);
    kernels::launch("upsample_argmax", kernels::upsample_argmax_kernel<T, Label>,
                    kernels::blocks_for(tiles * labels.shape[0], 1), unsigned(Traits::threads), 0, ctx, labels.data,
                    best_score.data, scores.data, rows, columns, int(scores.shape[1]), tiles_across, tiles);
  }
};

}  // namespace tessera
