// Resampled positional embeddings and score maps, with gradients, against PyTorch's.
#include <support/golden.hpp>
#include <tessera/ops/interpolate.hpp>

using namespace tessera;
using namespace tessera_test;

namespace {

/// Rows of a table that holds a class token and a square grid.
int64_t square_grid(int64_t rows) {
  const int64_t side = int64_t(std::lround(std::sqrt(double(rows - 1))));
  REQUIRE(side * side + 1 == rows);
  return side;
}

/// Table `parameter` to a grid of height x width: values and the table's gradient for the cotangent `d_name`.
void check_table(const Case& which, const std::string& parameter, const std::string& d_name, const std::string& out,
                 const std::string& grad, int64_t height, int64_t width) {
  Context<Cpu> ctx;
  const auto table = which.read<float, 2>(ctx, parameter);
  const int64_t side = square_grid(table.shape[0]);
  const PositionalGrid grid{.stored_height = side, .stored_width = side, .height = height, .width = width};
  const auto positions = resize_positional_embedding(ctx, table, grid);
  compare(which, out, view(positions));
  Tensor<float, 2> d_table(ctx, table.shape);
  const auto d_positions = which.read<float, 2>(ctx, d_name);
  resize_positional_embedding_backward(ctx, view(d_table), view(d_positions), grid);
  compare(which, grad, view(d_table));
}

/// Maps `input.logits` [C, h, w] or [B, C, h, w], resampled to the extents of the variant's output.
void check_maps(const Case& which, const std::string& variant, InterpolateOptions options) {
  Context<Cpu> ctx;
  const auto as_maps = [&](const std::string& name) {
    std::vector<int64_t> shape = which.shape(name);
    while (shape.size() < 4) shape.insert(shape.begin(), 1);
    return Tensor<float, 4>::from_host(ctx, {shape[0], shape[1], shape[2], shape[3]}, which.values<float>(name));
  };
  std::string out;
  for (const std::string& name : which.tensors.names())
    if (name.starts_with("out." + variant + ".") && !name.ends_with(".loss")) out = name;
  REQUIRE(!out.empty());
  const auto x = as_maps("input.logits"), d_y = as_maps("input.d" + variant);
  const auto y = interpolate(ctx, x, {d_y.shape[2], d_y.shape[3]}, options);
  const auto values = to_host(y);
  compare(which, out, std::span<const float>(values));
  Tensor<float, 4> d_x(ctx, x.shape);
  interpolate_backward(ctx, view(d_x), d_y, options);
  const auto gradient = to_host(d_x);
  compare(which, "grad." + variant + ".input.logits", std::span<const float>(gradient));
}

}  // namespace

TEST_CASE("golden resize: positional embeddings, bilinear and nearest maps with gradients", "[golden]") {
  for (const Case& which : find_cases("resize")) {
    int tables = 0, maps = 0;
    for (; which.has_variant(sentence("pos", tables)); ++tables) {
      const auto target = which.config()["pos_embed"]["targets"][size_t(tables)];
      check_table(which, "param.positional_embedding", sentence("input.dpos", tables),
                  sentence("out.pos", tables, ".table"), sentence("grad.pos", tables, ".param.positional_embedding"),
                  target[0].as<int64_t>(), target[1].as<int64_t>());
    }
    for (; which.has_variant(sentence("bilinear", maps)); ++maps) {
      check_maps(which, sentence("bilinear", maps), {});
      check_maps(which, sentence("bilinear_ac", maps), {.align_corners = true});
      check_maps(which, sentence("nearest", maps), {.mode = Interpolation::nearest});
    }
    CHECK(tables > 0);
    CHECK(maps > 0);
  }
}

TEST_CASE("golden maskclip_dense: the positional table at another grid", "[golden]") {
  for (const Case& which : find_cases("maskclip_dense")) {
    if (!which.has_variant("pos_embed")) continue;
    std::string out;
    for (const std::string& name : which.tensors.names())
      if (name.starts_with("out.pos_embed.") && !name.ends_with(".loss")) out = name;
    REQUIRE(!out.empty());
    const auto grid = which.config()["dense_grid"];
    check_table(which, "param.positional_embedding", "input.dpos", out, "grad.pos_embed.param.positional_embedding",
                grid[0].as<int64_t>(), grid[1].as<int64_t>());
  }
}
