// The contrastive loss over the batches of all ranks: each rank compares its own images with everybody's texts and its
// own texts with everybody's images. The backward pass brings every rank the gradients that all others have for its
// features, so that the mean of the ranks' gradients is that of the mean of their losses.
#pragma once
#include <tessera/autograd/contrastive.hpp>
#include <tessera/autograd/elementwise.hpp>
#include <tessera/core/communicator.hpp>

namespace tessera {

/// Features [B, E] of all ranks, one rank after the other: [size B, E].
template <class T, class Device>
Variable<T, 2, Device> gather_features(Tape<Device>& tape, Communicator<Device>& communicator,
                                       const Variable<T, 2, Device>& mine) {
  using A = accumulate_t<T>;
  if (communicator.size() == 1) return mine;
  const int64_t rows = mine.shape()[0], channels = mine.shape()[1];
  const bool records = tape.records(mine);
  Variable<T, 2, Device> all(Tensor<T, 2, Device>(tape.ctx, {communicator.size() * rows, channels}), records);
  communicator.all_gather(tape.ctx, mine.value().data, all.value().data, rows * channels * int64_t(sizeof(T)));
  if (records)
    tape.record([=, &communicator](Tape<Device>& t) {
      // Every rank takes part, whether or not its own loss used what it gathered.
      auto d_all = take_grad(all);
      if (!d_all) d_all = Tensor<T, 2, Device>::zeros(t.ctx, all.shape());
      t.contribute(mine, [&](auto d_mine) {
        const auto exchange = [&](const auto& from, const auto& to) {
          communicator.reduce_scatter_sum(t.ctx, from.data, to.data, rows * channels, dtype_of<A>);
        };
        if constexpr (std::is_same_v<A, T>) {
          exchange(d_all, d_mine);
        } else {
          const Tensor<A, 2, Device> wide(t.ctx, d_all.shape), sum(t.ctx, d_mine.shape);
          copy_forward(t.ctx, view(wide), view(d_all));
          exchange(wide, sum);
          copy_forward(t.ctx, view(d_mine), view(sum));
        }
      });
    });
  return all;
}

/// This rank's symmetric InfoNCE of L2-normalised image and text [B, E]; row i of both belong together. On one rank it
/// is `contrastive`.
template <class T, class Device>
Variable<accumulate_t<T>, 0, Device> gathered_contrastive(Tape<Device>& tape, Communicator<Device>& communicator,
                                                          const Variable<T, 2, Device>& image,
                                                          const Variable<T, 2, Device>& text,
                                                          const Parameter<accumulate_t<T>, 0, Device>& logit_scale,
                                                          double largest_scale = largest_logit_factor) {
  if (communicator.size() == 1) return contrastive(tape, image, text, logit_scale, {.largest_scale = largest_scale});
  const ContrastiveOptions rows{.largest_scale = largest_scale,
                                .loss = ContrastiveLoss::rows,
                                .first_label = communicator.rank() * image.shape()[0]};
  const auto all_images = gather_features(tape, communicator, image);
  const auto all_texts = gather_features(tape, communicator, text);
  const auto text_to_image = contrastive(tape, text, all_images, logit_scale, rows);
  const auto image_to_text = contrastive(tape, image, all_texts, logit_scale, rows);
  return scale(tape, add(tape, text_to_image, image_to_text), 0.5);
}

}  // namespace tessera
