// Rows of CLIP ViT-B/16's towers with random weights, forward, as they serve segmentation: nothing is recorded.
#include <tessera/systems/clip_checkpoint.hpp>

#include "parameters.hpp"

namespace bench {
namespace {

/// The image tower alone, under the name that it has in a CLIP.
template <class T>
struct ImageTower {
  nn::VisionTransformer<T> visual;
  void members(auto&& visit) { visit("visual", visual); }
};

template <class T>
void add_image_tower(int64_t items, int64_t side) {
  add_row(row_name<T>("clip_vit_b16_image", "forward", sentence("b", items, "_", side)), [=](Row& row) {
    const nn::VisionConfig config;
    const auto tower = std::make_shared<ImageTower<T>>(
        ImageTower<T>{nn::make_vision_transformer<T>(row.ctx, config, nn::Initialisation::none)});
    fill_parameters(*tower);
    nn::set_requires_grad(*tower, false);
    row.more_inputs = [tower] { return systems::stored_parameters(*tower, systems::huggingface_names); };
    const Variable<T, 4> images(row.input<T>("images", Shape<4>{items, 3, side, side}));
    const auto embeddings = row.output<T>("embeddings", Shape<2>{items, config.embed_dim});
    const double tokens = 1 + double(side / 16) * double(side / 16), c = 768;
    row.flops = 12 * (24 * tokens * c * c + 4 * tokens * tokens * c) * double(items);
    row.work = [=, &row] {
      Tape<Cpu> tape(row.ctx, false);
      const auto result = tower->visual(tape, images);
      std::copy_n(result.value().data, result.value().size(), embeddings.data);
    };
  });
}

/// Texts of `length` tokens, start and end included, in rows of 77.
template <class T>
void add_text_tower(int64_t items, int64_t length) {
  add_row(row_name<T>("clip_vit_b16_text", "forward", sentence("b", items, "_", length)), [=](Row& row) {
    const nn::TextConfig config;
    const auto tower = std::make_shared<nn::TextTransformer<T>>(
        nn::make_text_transformer<T>(row.ctx, config, nn::Initialisation::none));
    fill_parameters(*tower);
    nn::set_requires_grad(*tower, false);
    row.more_inputs = [tower] { return systems::stored_parameters(*tower, systems::huggingface_names); };
    const auto ids = row.numbers("ids", Shape<2>{items, config.context_length}, 49000);
    for (int64_t i = 0; i < items; ++i) {
      ids(i, 0) = 49406;
      for (int64_t at = length - 1; at < config.context_length; ++at) ids(i, at) = 49407;
    }
    const auto embeddings = row.output<T>("embeddings", Shape<2>{items, config.embed_dim});
    const double tokens = double(length), c = 512;
    row.flops = 12 * (24 * tokens * c * c + 2 * tokens * tokens * c) * double(items);
    row.work = [=, &row] {
      Tape<Cpu> tape(row.ctx, false);
      const auto result = (*tower)(tape, ids);
      std::copy_n(result.value().data, result.value().size(), embeddings.data);
    };
  });
}

}  // namespace

void add_tower_rows() {
  for (int64_t items : {1, 8}) {
    add_image_tower<float>(items, 224);
    add_image_tower<bfloat16>(items, 224);
  }
  add_image_tower<float>(1, 448);
  add_image_tower<bfloat16>(1, 448);
  for (int64_t length : {77, 10}) {
    add_text_tower<float>(8, length);
    add_text_tower<bfloat16>(8, length);
  }
}

}  // namespace bench
