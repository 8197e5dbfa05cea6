// Rows of maps of scores: resampling, positional embeddings on another grid, the class of every pixel.
#include <tessera/ops/interpolate.hpp>
#include <tessera/ops/upsample_argmax.hpp>

#include "row.hpp"

namespace bench {
namespace {

void add_interpolate(Interpolation mode, const std::string& mode_name, int64_t channels, int64_t from, int64_t to) {
  const std::string shape = sentence(extents({channels, from, from}), "to", to, "_", mode_name);
  const Shape<4> small{1, channels, from, from}, large{1, channels, to, to};
  const InterpolateOptions options{.mode = mode};
  add_row(row_name<float>("interpolate", "forward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", small), y = row.output<float>("y", large);
    row.work = [=, &row] { interpolate_forward(row.ctx, view(y), x, options); };
  });
  add_row(row_name<float>("interpolate", "backward", shape), [=](Row& row) {
    const auto d_y = row.input<float>("d_y", large), d_x = row.output<float>("d_x", small);
    row.work = [=, &row] { interpolate_backward(row.ctx, view(d_x), d_y, options); };
  });
}

/// Scores as they come from a model: smooth over the map, one class ahead in most places.
void add_upsample_argmax(int64_t classes, int64_t from, int64_t to, bool smooth) {
  const std::string shape = sentence(extents({classes, from, from}), "to", to, smooth ? "" : "_noise");
  add_row(row_name<float>("upsample_argmax", "forward", shape), [=](Row& row) {
    const auto scores = row.input<float>("scores", Shape<4>{1, classes, from, from});
    if (smooth)
      for (int64_t c = 0; c < classes; ++c)
        for (int64_t y = 0; y < from; ++y)
          for (int64_t x = 0; x < from; ++x) {
            const double phase = double(c) * 1.7, scale = 6.0 / double(from);
            scores(0, c, y, x) = 0.1f * scores(0, c, y, x) +
                                 float(std::sin(scale * double(y) + phase) * std::cos(scale * double(x) - 2 * phase));
          }
    const auto labels = row.output<uint16_t>("labels", Shape<3>{1, to, to});
    row.work = [=, &row] { upsample_argmax_forward(row.ctx, view(labels), {}, view(scores)); };
  });
}

void add_positional_embedding(int64_t from, int64_t to, int64_t channels) {
  const PositionalGrid grid{.stored_height = from, .stored_width = from, .height = to, .width = to};
  add_row(row_name<float>("resize_positional_embedding", "forward", extents({from, to, channels})), [=](Row& row) {
    const auto table = row.input<float>("table", Shape<2>{grid.stored_rows(), channels});
    const auto positions = row.output<float>("positions", Shape<2>{grid.rows(), channels});
    row.work = [=, &row] { resize_positional_embedding_forward(row.ctx, view(positions), table, grid); };
  });
}

}  // namespace

void add_map_rows() {
  add_interpolate(Interpolation::bilinear, "bilinear", 150, 28, 448);
  add_interpolate(Interpolation::bicubic, "bicubic", 21, 28, 448);
  add_interpolate(Interpolation::nearest, "nearest", 21, 28, 448);
  add_positional_embedding(14, 28, 768);
  add_upsample_argmax(150, 28, 448, true);
  add_upsample_argmax(150, 28, 448, false);
}

}  // namespace bench
