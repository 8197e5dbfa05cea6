// Rows of what makes and moves tokens: patches, class token and positions, embeddings, chosen tokens, permuted axes.
#include <tessera/ops/embedding.hpp>
#include <tessera/ops/patches.hpp>
#include <tessera/ops/rearrange.hpp>
#include <tessera/ops/segment_reduce.hpp>
#include <tessera/ops/tokens.hpp>

#include "row.hpp"

namespace bench {
namespace {

void add_patchify(int64_t items, int64_t side, int64_t kernel) {
  const std::string shape = sentence(extents({items, 3, side, side}), "k", kernel);
  const int64_t grid = side / kernel;
  const Shape<4> images_shape{items, 3, side, side};
  const Shape<3> patches_shape{items, grid * grid, 3 * kernel * kernel};
  const PatchOptions options{kernel, kernel};
  add_row(row_name<float>("patchify", "forward", shape), [=](Row& row) {
    const auto images = row.input<float>("images", images_shape);
    const auto patches = row.output<float>("patches", patches_shape);
    row.work = [=, &row] { patchify_forward(row.ctx, view(patches), images, options); };
  });
  add_row(row_name<float>("patchify", "backward", shape), [=](Row& row) {
    const auto d_patches = row.input<float>("d_patches", patches_shape);
    const auto d_images = row.output<float>("d_images", images_shape);
    row.work = [=, &row] { patchify_backward(row.ctx, view(d_images), d_patches, options); };
  });
}

void add_assemble_tokens(int64_t items, int64_t patch_count, int64_t channels) {
  const std::string shape = extents({items, patch_count + 1, channels});
  const Shape<3> tokens_shape{items, patch_count + 1, channels}, patches_shape{items, patch_count, channels};
  add_row(row_name<float>("assemble_tokens", "forward", shape), [=](Row& row) {
    const auto class_embedding = row.input<float>("class_embedding", Shape<1>{channels});
    const auto patches = row.input<float>("patches", patches_shape);
    const auto positions = row.input<float>("positions", Shape<2>{patch_count + 1, channels});
    const auto tokens = row.output<float>("tokens", tokens_shape);
    row.work = [=, &row] { assemble_tokens_forward(row.ctx, view(tokens), class_embedding, patches, positions); };
  });
  add_row(row_name<float>("assemble_tokens", "backward", shape), [=](Row& row) {
    const auto d_tokens = row.input<float>("d_tokens", tokens_shape);
    const auto d_class = row.output<float>("d_class_embedding", Shape<1>{channels});
    const auto d_patches = row.output<float>("d_patches", patches_shape);
    const auto d_positions = row.output<float>("d_positions", Shape<2>{patch_count + 1, channels});
    row.work = [=, &row] {
      assemble_tokens_backward(row.ctx, view(d_patches), d_class, view(d_positions), d_tokens, true);
    };
  });
}

void add_embedding(int64_t items, int64_t tokens, int64_t vocabulary, int64_t channels) {
  const std::string shape = sentence(extents({items, tokens}), "v", extents({vocabulary, channels}));
  const Shape<3> out_shape{items, tokens, channels};
  add_row(row_name<float>("embedding", "forward", shape), [=](Row& row) {
    const auto table = row.input<float>("table", Shape<2>{vocabulary, channels});
    const auto ids = row.numbers("ids", Shape<2>{items, tokens}, uint32_t(vocabulary));
    const auto out = row.output<float>("out", out_shape);
    row.bytes_moved = 2 * 4.0 * double(out.size());
    row.work = [=, &row] { embedding_forward(row.ctx, view(out), table, ids); };
  });
  add_row(row_name<float>("embedding", "backward", shape), [=](Row& row) {
    const auto ids = row.numbers("ids", Shape<2>{items, tokens}, uint32_t(vocabulary));
    const auto d_out = row.input<float>("d_out", out_shape);
    const auto d_table = row.output<float>("d_table", Shape<2>{vocabulary, channels});
    row.work = [=, &row] { embedding_backward(row.ctx, view(d_table), view(d_out), ids); };
  });
}

void add_gather_tokens(int64_t items, int64_t tokens, int64_t channels) {
  const std::string shape = extents({items, tokens, channels});
  add_row(row_name<float>("gather_tokens", "forward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", Shape<3>{items, tokens, channels});
    const auto index = row.numbers("index", Shape<1>{items}, uint32_t(tokens));
    const auto y = row.output<float>("y", Shape<2>{items, channels});
    row.work = [=, &row] { gather_tokens_forward(row.ctx, view(y), x, index); };
  });
  add_row(row_name<float>("gather_tokens", "backward", shape), [=](Row& row) {
    const auto d_y = row.input<float>("d_y", Shape<2>{items, channels});
    const auto index = row.numbers("index", Shape<1>{items}, uint32_t(tokens));
    const auto d_x = row.output<float>("d_x", Shape<3>{items, tokens, channels});
    row.work = [=, &row] { gather_tokens_backward(row.ctx, view(d_x), d_y, index); };
  });
}

void add_segment_reduce(int64_t items, int64_t tokens, int64_t channels, int64_t count) {
  const std::string shape = sentence(extents({items, tokens, channels}), "s", count);
  const Shape<3> x_shape{items, tokens, channels}, y_shape{items, count, channels};
  constexpr auto kind = SegmentReduction::mean;
  add_row(row_name<float>("segment_reduce", "forward", shape), [=](Row& row) {
    const auto x = row.input<float>("x", x_shape);
    const auto segments = row.numbers("segments", Shape<2>{items, tokens}, uint32_t(count));
    const auto y = row.output<float>("y", y_shape);
    row.work = [=, &row] { segment_reduce_forward(row.ctx, view(y), {}, {}, x, segments, kind); };
  });
  add_row(row_name<float>("segment_reduce", "backward", shape), [=](Row& row) {
    const auto d_y = row.input<float>("d_y", y_shape);
    const auto segments = row.numbers("segments", Shape<2>{items, tokens}, uint32_t(count));
    const auto d_x = row.output<float>("d_x", x_shape);
    const Tensor<int32_t, 2> counts(row.ctx, {items, count});
    const auto x = Tensor<float, 3>::zeros(row.ctx, x_shape), y = Tensor<float, 3>::zeros(row.ctx, y_shape);
    segment_reduce_forward(row.ctx, view(y), counts, {}, x, segments, kind);
    row.work = [=, &row] { segment_reduce_backward(row.ctx, view(d_x), d_y, counts, {}, segments, kind); };
  });
  add_row(row_name<float>("segment_gather", "forward", shape), [=](Row& row) {
    const auto y = row.input<float>("y", y_shape);
    const auto segments = row.numbers("segments", Shape<2>{items, tokens}, uint32_t(count));
    const auto x = row.output<float>("x", x_shape);
    row.work = [=, &row] { segment_gather_forward(row.ctx, view(x), y, segments); };
  });
}

}  // namespace

void add_token_rows() {
  add_patchify(8, 224, 16);
  add_patchify(32, 64, 8);
  add_assemble_tokens(8, 196, 768);
  add_embedding(8, 77, 49408, 512);
  add_embedding(80, 16, 300, 128);  // the demo's texts
  add_gather_tokens(8, 77, 512);
  add_segment_reduce(8, 196, 8, 60);     // superpixels
  add_segment_reduce(2, 784, 512, 100);  // masks
  add_row(row_name<float>("permute", "forward", "8x197x12x64_0213"), [](Row& row) {
    const auto x = row.input<float>("x", Shape<4>{8, 197, 12, 64});
    const auto y = row.output<float>("y", Shape<4>{8, 12, 197, 64});
    row.work = [=, &row] { permute_forward(row.ctx, view(y), x, {0, 2, 1, 3}); };
  });
  add_row(row_name<float>("permute", "forward", "8x768x196_021"), [](Row& row) {
    const auto x = row.input<float>("x", Shape<3>{8, 768, 196});
    const auto y = row.output<float>("y", Shape<3>{8, 196, 768});
    row.work = [=, &row] { permute_forward(row.ctx, view(y), x, {0, 2, 1}); };
  });
  add_row(row_name<float>("concatenate", "forward", "8x64x768_8x133x768"), [](Row& row) {
    const auto a = row.input<float>("a", Shape<3>{8, 64, 768}), b = row.input<float>("b", Shape<3>{8, 133, 768});
    const auto y = row.output<float>("y", Shape<3>{8, 197, 768});
    row.work = [=, &row] { concatenate_forward(row.ctx, view(y), 1, view(a), view(b)); };
  });
}

}  // namespace bench
