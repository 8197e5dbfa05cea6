// Rows of maps: resampling scores, positional embeddings on another grid, convolutions, the class of every pixel,
// superpixels.
#include <omp.h>

#include <cmath>

#include <tessera/data/felzenszwalb.hpp>
#include <tessera/ops/conv2d.hpp>
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

/// Maps [B, C, side, side] under a square kernel that keeps their extents.
void add_conv2d(int64_t items, int64_t inputs, int64_t outputs, int64_t side, int64_t kernel) {
  const std::string shape = sentence(extents({items, inputs, side, side}), "to", outputs, "k", kernel);
  const Shape<4> x_shape{items, inputs, side, side}, y_shape{items, outputs, side, side};
  const Shape<4> weight_shape{outputs, inputs, kernel, kernel};
  const double deviation = 1 / std::sqrt(double(inputs * kernel * kernel));
  const double flops = 2 * double(element_count(y_shape)) * double(inputs * kernel * kernel);
  const Conv2dOptions options{.padding = kernel / 2};
  add_row(row_name<float>("conv2d", "forward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", x_shape), weight = row.input<float>("weight", weight_shape, deviation);
    const auto bias = row.input<float>("bias", Shape<1>{outputs});
    const auto y = row.output<float>("y", y_shape);
    row.flops = flops;
    row.work = [=, &row] { conv2d_forward(row.ctx, view(y), x, weight, bias, options); };
  });
  add_row(row_name<float>("conv2d", "backward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", x_shape), weight = row.input<float>("weight", weight_shape, deviation);
    row.input<float>("bias", Shape<1>{outputs});
    const auto d_y = row.input<float>("d_y", y_shape);
    const auto d_x = row.output<float>("d_x", x_shape), d_weight = row.output<float>("d_weight", weight_shape);
    const auto d_bias = row.output<float>("d_bias", Shape<1>{outputs});
    row.flops = 2 * flops;
    row.work = [=, &row] { conv2d_backward(row.ctx, view(d_x), view(d_weight), d_bias, d_y, x, weight, options); };
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

/// On one thread, as its peer is. The picture is like a photo: large shapes of colour, shading, noise.
void add_felzenszwalb(int height, int width) {
  add_row(sentence("felzenszwalb/forward/cpu/u8/", extents({height, width})), [=](Row& row) {
    const Tensor<int32_t, 3> pixels(row.ctx, {height, width, 3});
    const RandomStream random{.seed = 3};
    for (int64_t i = 0; i < pixels.size(); ++i) {
      const double x = double(i / 3 % width) / 40, y = double(i / 3 / width) / 40, c = double(i % 3);
      const double shape = std::sin(x + 2 * std::sin(0.7 * y + c)) + std::cos(1.3 * y + std::sin(x - c)) > 0.4 ? 90 : 0;
      const double value = 60 + shape + 12 * c + 20 * std::sin(0.5 * x * y) + 6 * double(random.normal(uint64_t(i)));
      pixels.data[i] = int32_t(std::clamp(value, 0.0, 255.0));
    }
    row.add_input("pixels", pixels);
    const auto labels = row.output<int32_t>("labels", Shape<2>{height, width});
    data::Image image(width, height);
    std::copy(pixels.data, pixels.data + pixels.size(), image.pixels.begin());
    row.work = [=] {
      const int threads = omp_get_max_threads();
      omp_set_num_threads(1);
      const data::SegmentMap map = data::felzenszwalb(image);
      omp_set_num_threads(threads);
      std::copy(map.labels.begin(), map.labels.end(), labels.data);
    };
  });
}

}  // namespace

void add_map_rows() {
  add_interpolate(Interpolation::bilinear, "bilinear", 150, 28, 448);
  add_interpolate(Interpolation::bicubic, "bicubic", 21, 28, 448);
  add_interpolate(Interpolation::nearest, "nearest", 21, 28, 448);
  add_conv2d(2, 256, 256, 28, 3);
  add_conv2d(2, 512, 256, 28, 1);
  add_positional_embedding(14, 28, 768);
  add_upsample_argmax(150, 28, 448, true);
  add_upsample_argmax(150, 28, 448, false);
  add_felzenszwalb(213, 320);
  add_felzenszwalb(480, 640);
}

}  // namespace bench
