// InfoNCE on kernels' devices. Tiles of 128 x 128 logits are made by the tensor cores and used where they lie, in
// registers: forward, each is folded into log-sum-exps of its rows and of its columns; backward, it is made again and
// becomes its own gradient. Gradients of the logits are written for a strip of rows at a time, at most strip_bytes
// however large the batch, which stay in the second-level cache until two products have turned them into gradients of
// the features. All sums are in a fixed order.
#pragma once
#include <algorithm>

#include <tessera/device/launch.cuh>
#include <tessera/kernels/log_sum.cuh>
#include <tessera/kernels/matrix_tiles.cuh>
#include <tessera/ops/contrastive.hpp>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct contrastive_traits {
  static constexpr int threads = matrix_tile_traits::threads;
  static constexpr int64_t wanted_blocks =
      264;  // two an SM of the largest GPUs: then columns are swept by fewer blocks
  static constexpr int64_t strip_bytes = int64_t(16) << 20;
};

/// What the logits' tiles are made from.
template <class T>
struct ContrastiveLogits {
  MatrixOperand<T> image, text;
  int64_t rows, columns, channels;
  int64_t first_label;
  const float* logit_scale;
  float largest_scale;
};

// ---- forward ----

/// Block (row tile, split) sweeps its share of the columns. Writes row_parts [splits, rows], column_parts [row tiles,
/// columns] (may be null) and own [rows], the logits of the pairs.
template <class T>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(contrastive_traits::threads)
    contrastive_forward_kernel(LogSum* row_parts, LogSum* column_parts, float* own, ContrastiveLogits<T> p,
                               int64_t row_tiles, int64_t column_tiles, int64_t tiles_of_split) {
  using Traits = matrix_tile_traits;
  using Tile = MatrixTile<T, true, T, true>;
  SharedArena arena;
  typename Tile::Workspace work(arena);
  TESSERA_SHARED(LogSum, of_row, Traits::rows * Traits::warps_across);
  TESSERA_SHARED(LogSum, of_column, Traits::columns * Traits::warps_down);
  const int64_t row_tile = blockIdx.x % row_tiles, split = blockIdx.x / row_tiles;
  const int64_t first_row = row_tile * Traits::rows;
  const float scale = logit_factor_of(p.logit_scale, p.largest_scale);
  const int thread = int(threadIdx.x), lane = Tile::lane();
  LogSum running;  // of row `thread` of the tile, in the first half of the block
  Tile tile;

  const int64_t end = min(column_tiles, (split + 1) * tiles_of_split);
  for (int64_t column_tile = split * tiles_of_split; column_tile < end; ++column_tile) {
    const int64_t first_column = column_tile * Traits::columns;
    tile.multiply(work, p.image, first_row, p.rows, p.text, first_column, p.columns, p.channels);
    tile.for_each([&](float& value, int tile_row, int tile_column) {
      const int64_t row = first_row + tile_row, column = first_column + tile_column;
      const bool inside = row < p.rows && column < p.columns;
      value = inside ? scale * value : negative_infinity();
      if (inside && column == p.first_label + row) own[row] = value;
    });

    TESSERA_UNROLL
    for (int m = 0; m < Traits::tiles_down; ++m) TESSERA_UNROLL
    for (int half = 0; half < 4; half += 2) {
      float largest = negative_infinity(), sum = 0;
      TESSERA_UNROLL
      for (int n = 0; n < Traits::tiles_across; ++n)
        largest = fmaxf(largest, fmaxf(tile.at(m, n, half), tile.at(m, n, half + 1)));
      TESSERA_UNROLL
      for (int distance = 1; distance < 4; distance *= 2)  // the four lanes that share a row
        largest = fmaxf(largest, __shfl_xor_sync(full_mask, largest, distance));
      const float shift = LogSum::shift_of(largest);
      TESSERA_UNROLL
      for (int n = 0; n < Traits::tiles_across; ++n)
        sum += expf(tile.at(m, n, half) - shift) + expf(tile.at(m, n, half + 1) - shift);
      TESSERA_UNROLL
      for (int distance = 1; distance < 4; distance *= 2) sum += __shfl_xor_sync(full_mask, sum, distance);
      if (lane % 4 == 0) of_row[Tile::row_of(m, half) * Traits::warps_across + Tile::warp_column()] = {largest, sum};
    }
    if (column_parts) {
      TESSERA_UNROLL
      for (int n = 0; n < Traits::tiles_across; ++n) TESSERA_UNROLL
      for (int side = 0; side < 2; ++side) {
        float largest = negative_infinity(), sum = 0;
        TESSERA_UNROLL
        for (int m = 0; m < Traits::tiles_down; ++m)
          largest = fmaxf(largest, fmaxf(tile.at(m, n, side), tile.at(m, n, side + 2)));
        TESSERA_UNROLL
        for (int distance = 4; distance < warp_size; distance *= 2)  // the eight lanes that share a column
          largest = fmaxf(largest, __shfl_xor_sync(full_mask, largest, distance));
        const float shift = LogSum::shift_of(largest);
        TESSERA_UNROLL
        for (int m = 0; m < Traits::tiles_down; ++m)
          sum += expf(tile.at(m, n, side) - shift) + expf(tile.at(m, n, side + 2) - shift);
        TESSERA_UNROLL
        for (int distance = 4; distance < warp_size; distance *= 2) sum += __shfl_xor_sync(full_mask, sum, distance);
        if (lane < 4) of_column[Tile::column_of(n, side) * Traits::warps_down + Tile::warp_row()] = {largest, sum};
      }
    }
    __syncthreads();  // the next product's barriers keep these sums from being overwritten too early
    if (thread < Traits::rows) {
      for (int warp = 0; warp < Traits::warps_across; ++warp)
        running = running.with(of_row[thread * Traits::warps_across + warp]);
    } else if (column_parts) {
      const int column = thread - Traits::rows;
      LogSum sum;
      for (int warp = 0; warp < Traits::warps_down; ++warp)
        sum = sum.with(of_column[column * Traits::warps_down + warp]);
      if (first_column + column < p.columns) column_parts[row_tile * p.columns + first_column + column] = sum;
    }
  }
  if (thread < Traits::rows && first_row + thread < p.rows) row_parts[split * p.rows + first_row + thread] = running;
}

/// log_sum_exp [n] from parts [count, n] in order, and each block's sum of log_sum_exp - own.
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(contrastive_traits::threads)
    contrastive_combine_kernel(float* log_sum_exp, double* sums, const LogSum* parts, const float* own, int64_t count,
                               int64_t n) {
  constexpr int threads = contrastive_traits::threads;
  TESSERA_SHARED(double, scratch, threads / warp_size);
  const int64_t i = int64_t(blockIdx.x) * threads + threadIdx.x;
  double term = 0;
  if (i < n) {
    LogSum sum;
    for (int64_t part = 0; part < count; ++part) sum = sum.with(parts[part * n + i]);
    const float value = sum.value();
    log_sum_exp[i] = value;
    term = double(value) - double(own[i]);
  }
  term = block_sum_double<threads>(term, scratch);
  if (threadIdx.x == 0) sums[blockIdx.x] = term;
}

// ---- backward ----

/// What a tile of logits' gradients is made from besides the logits.
struct ContrastiveGradient {
  const float *d_loss, *row_log_sum_exp, *column_log_sum_exp;  // the last is null for the loss over rows alone
  float mean;                                                  // (1 or 1/2) / rows
};

/// Gradients of the products image textᵀ of rows from `first_strip_row` on: strip [.., stride], zero in the columns
/// from `columns` to `stride`; may be null. dots [row tiles, column tiles]: sums of logit times its gradient, each
/// logit less its log-sum-exp, which changes nothing in the total (a row's and a column's gradients sum to 0) but its
/// rounding.
template <class T, class S>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(contrastive_traits::threads)
    contrastive_gradient_kernel(S* strip, double* dots, ContrastiveLogits<T> p, ContrastiveGradient g,
                                int64_t first_strip_row, int64_t stride, int64_t column_tiles) {
  using Traits = matrix_tile_traits;
  using Tile = MatrixTile<T, true, T, true>;
  constexpr int threads = contrastive_traits::threads;
  SharedArena arena;
  typename Tile::Workspace work(arena);
  TESSERA_SHARED(double, scratch, threads / warp_size);
  const int64_t first_row = first_strip_row + blockIdx.x / column_tiles * Traits::rows;
  const int64_t first_column = blockIdx.x % column_tiles * Traits::columns;
  const float scale = logit_factor_of(p.logit_scale, p.largest_scale), weight = g.mean * *g.d_loss;
  Tile tile;
  tile.multiply(work, p.image, first_row, p.rows, p.text, first_column, p.columns, p.channels);
  float dot = 0;
  const auto gradient = [&](float product, int64_t row, int64_t column) {
    if (row >= p.rows || column >= p.columns) return 0.0f;
    const float logit = scale * product, certain = column == p.first_label + row ? 1.0f : 0.0f;
    const float of_row = logit - g.row_log_sum_exp[row];
    float d = expf(of_row) - certain;
    dot += of_row * d;
    if (g.column_log_sum_exp) {
      const float of_column = logit - g.column_log_sum_exp[column], d_column = expf(of_column) - certain;
      dot += of_column * d_column;
      d += d_column;
    }
    return scale * weight * d;
  };
  tile.for_each_pair([&](float left, float right, int tile_row, int tile_column) {
    const int64_t row = first_row + tile_row, column = first_column + tile_column;
    Pack<S, 2> pair;
    pair[0] = narrow<S>(gradient(left, row, column));
    pair[1] = narrow<S>(gradient(right, row, column + 1));
    if (strip && row < p.rows && column < stride) store_pack(strip + (row - first_strip_row) * stride + column, pair);
  });
  const double sum = block_sum_double<threads>(double(weight * dot), scratch);
  if (threadIdx.x == 0) dots[first_row / Traits::rows * column_tiles + blockIdx.x % column_tiles] = sum;
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels

namespace tessera {

template <>
struct Backend<op::contrastive, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;
  using Traits = kernels::contrastive_traits;
  using Tiles = kernels::matrix_tile_traits;

  template <class T>
  static void forward(Context<Device>& ctx, Out<float, 0, Device> loss, Out<float, 1, Device> row_log_sum_exp,
                      Out<float, 1, Device> column_log_sum_exp, In<T, 2, Device> image, In<T, 2, Device> text,
                      In<float, 0, Device> logit_scale, ContrastiveOptions options) {
    using namespace kernels;
    const auto logits = logits_of<T>(image, text, logit_scale, options);
    const int64_t rows = logits.rows, columns = logits.columns;
    const bool symmetric = options.loss == ContrastiveLoss::symmetric;
    const int64_t row_tiles = ceil_div(rows, Tiles::rows), column_tiles = ceil_div(columns, Tiles::columns);
    const int64_t wanted = std::clamp<int64_t>(Traits::wanted_blocks / row_tiles, 1, column_tiles);
    const int64_t tiles_of_split = ceil_div(column_tiles, wanted), splits = ceil_div(column_tiles, tiles_of_split);
    Tensor<LogSum, 2, Device> row_parts(ctx, {splits, rows});
    Tensor<LogSum, 2, Device> column_parts(ctx, {row_tiles, symmetric ? columns : 0});
    Tensor<float, 1, Device> own(ctx, {rows});
    launch("contrastive_forward", contrastive_forward_kernel<T>, blocks_for(row_tiles * splits, 1),
           unsigned(Traits::threads), MatrixTile<T, true, T, true>::shared_bytes, ctx, row_parts.data,
           symmetric ? column_parts.data : nullptr, own.data, logits, row_tiles, column_tiles, tiles_of_split);

    const int64_t row_blocks = ceil_div(rows, Traits::threads);
    const int64_t column_blocks = symmetric ? ceil_div(columns, Traits::threads) : 0;
    Tensor<double, 1, Device> sums(ctx, {row_blocks + column_blocks});
    launch("contrastive_combine", contrastive_combine_kernel, unsigned(row_blocks), unsigned(Traits::threads), 0, ctx,
           row_log_sum_exp.data, sums.data, row_parts.data, own.data, splits, rows);
    if (symmetric)
      launch("contrastive_combine", contrastive_combine_kernel, unsigned(column_blocks), unsigned(Traits::threads), 0,
             ctx, column_log_sum_exp.data, sums.data + row_blocks, column_parts.data, own.data, row_tiles, columns);
    launch("contrastive_sum", contrastive_sum_kernel, 1u, unsigned(contrastive_sum_traits::threads), 0, ctx, loss.data,
           sums.data, sums.size(), mean_of(rows, symmetric), nullptr, 0.0f);
  }

  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 2, Device> d_image, Out<T, 2, Device> d_text,
                       Out<float, 0, Device> d_logit_scale, In<float, 0, Device> d_loss,
                       In<float, 1, Device> row_log_sum_exp, In<float, 1, Device> column_log_sum_exp,
                       In<T, 2, Device> image, In<T, 2, Device> text, In<float, 0, Device> logit_scale,
                       ContrastiveOptions options) {
    using namespace kernels;
    using S = std::conditional_t<std::is_same_v<T, bfloat16>, bfloat16, float>;  // of the strip
    const auto logits = logits_of<T>(image, text, logit_scale, options);
    const int64_t rows = logits.rows, columns = logits.columns, channels = logits.channels;
    const bool symmetric = options.loss == ContrastiveLoss::symmetric, features = d_image || d_text;
    if (!features && !d_logit_scale) return;
    const ContrastiveGradient gradient{d_loss.data, row_log_sum_exp.data, symmetric ? column_log_sum_exp.data : nullptr,
                                       float(mean_of(rows, symmetric))};
    const int64_t row_tiles = ceil_div(rows, Tiles::rows), column_tiles = ceil_div(columns, Tiles::columns);
    const int64_t stride = round_up(columns, Pack<S>::count);
    const int64_t tiles_of_strip =
        std::clamp<int64_t>(Traits::strip_bytes / (stride * int64_t(sizeof(S)) * Tiles::rows), 1, row_tiles);
    const int64_t strip_rows = std::min(rows, tiles_of_strip * Tiles::rows), strips = ceil_div(rows, strip_rows);
    Tensor<S, 2, Device> strip(ctx, {features ? strip_rows : 0, stride});
    Tensor<float, 2, Device> text_sum(ctx, {d_text && strips > 1 ? columns : 0, channels});
    Tensor<double, 2, Device> dots(ctx, {row_tiles, column_tiles});
    for (int64_t first = 0; first < rows; first += strip_rows) {
      const int64_t count = std::min(strip_rows, rows - first);
      launch("contrastive_gradient", contrastive_gradient_kernel<T, S>,
             blocks_for(ceil_div(count, Tiles::rows) * column_tiles, 1), unsigned(Traits::threads),
             MatrixTile<T, true, T, true>::shared_bytes, ctx, features ? strip.data : nullptr, dots.data, logits,
             gradient, first, stride, column_tiles);
      const auto strip_operand = operand_of<S>(strip.data, stride, stride);
      if (d_image) {
        MatrixProduct<S, T, T> product{.c = d_image.data + first * channels,
                                       .a = strip_operand,
                                       .b = logits.text,
                                       .rows = count,
                                       .columns = channels,
                                       .depth = columns};
        matrix_product<true, false>("contrastive_d_image", ctx, product);
      }
      if (d_text) {
        MatrixProduct<S, T, T> product{.c = d_text.data,
                                       .a = strip_operand,
                                       .b = operand_of<T>(image.data + first * channels, channels, channels),
                                       .rows = columns,
                                       .columns = channels,
                                       .depth = count,
                                       .running = text_sum.data,
                                       .first = first == 0,
                                       .last = first + count == rows};
        matrix_product<false, false>("contrastive_d_text", ctx, product);
      }
    }
    if (d_logit_scale)
      launch("contrastive_sum", contrastive_sum_kernel, 1u, unsigned(contrastive_sum_traits::threads), 0, ctx,
             d_logit_scale.data, dots.data, dots.size(), 1.0, logit_scale.data, float(options.largest_scale));
  }

 private:
  template <class T>
  static kernels::ContrastiveLogits<T> logits_of(In<T, 2, Device> image, In<T, 2, Device> text,
                                                 In<float, 0, Device> logit_scale, const ContrastiveOptions& options) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    const int64_t channels = image.shape[1];
    return {kernels::operand_of(image.data, channels, channels),
            kernels::operand_of(text.data, channels, channels),
            image.shape[0],
            text.shape[0],
            channels,
            options.first_label,
            logit_scale.data,
            float(options.largest_scale)};
  }
  static double mean_of(int64_t rows, bool symmetric) { return (symmetric ? 0.5 : 1.0) / double(rows); }
};

}  // namespace tessera

#include <tessera/kernels/multi_text_contrastive.cuh>
