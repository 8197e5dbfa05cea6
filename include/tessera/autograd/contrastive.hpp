// Contrastive losses on the tape.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/contrastive.hpp>

namespace tessera {

/// InfoNCE of L2-normalised image [R, D] and text [C, D] with logit_scale [], a parameter in logarithm.
template <class T, class Device>
Variable<accumulate_t<T>, 0, Device> contrastive(
    Tape<Device>& tape, const Variable<T, 2, Device>& image, const std::type_identity_t<Variable<T, 2, Device>>& text,
    const std::type_identity_t<Parameter<accumulate_t<T>, 0, Device>>& logit_scale, ContrastiveOptions options = {}) {
  using A = accumulate_t<T>;
  const bool records = tape.records(image, text, logit_scale);
  Variable<A, 0, Device> loss(Tensor<A, 0, Device>(tape.ctx, {}), records);
  const Tensor<A, 1, Device> rows(tape.ctx, {image.shape()[0]}), columns(tape.ctx, {text.shape()[0]});
  contrastive_forward(tape.ctx, view(loss.value()), rows, columns, view(image.value()), text.value(),
                      logit_scale.value(), options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_loss = take_grad(loss);
      if (!d_loss) return;
      t.contribute(image, [&](auto d_image) {
        t.contribute(text, [&](auto d_text) {
          t.contribute(logit_scale, [&](auto d_logit_scale) {
            contrastive_backward(t.ctx, view(d_image), d_text, d_logit_scale, d_loss, rows, columns, image.value(),
                                 text.value(), logit_scale.value(), options);
          });
        });
      });
    });
  return loss;
}

/// The loss of scores [B, K] whose texts belong to images `owner` [K]; excluded [B, K] may be absent. Both are kept
/// (shared) until the backward pass.
template <class T, class Device>
Variable<accumulate_t<T>, 0, Device> multi_text_contrastive(
    Tape<Device>& tape, const Variable<T, 2, Device>& scores, const Tensor<int32_t, 1, Device>& owner,
    const Tensor<uint8_t, 2, Device>& excluded,
    const std::type_identity_t<Parameter<accumulate_t<T>, 0, Device>>& logit_scale,
    MultiTextContrastiveOptions options = {}) {
  using A = accumulate_t<T>;
  const bool records = tape.records(scores, logit_scale);
  Variable<A, 0, Device> loss(Tensor<A, 0, Device>(tape.ctx, {}), records);
  const Tensor<A, 1, Device> texts(tape.ctx, {scores.shape()[1]}), negatives(tape.ctx, {scores.shape()[0]});
  multi_text_contrastive_forward(tape.ctx, view(loss.value()), texts, negatives, view(scores.value()), owner, excluded,
                                 logit_scale.value(), options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_loss = take_grad(loss);
      if (!d_loss) return;
      t.contribute(scores, [&](auto d_scores) {
        t.contribute(logit_scale, [&](auto d_logit_scale) {
          multi_text_contrastive_backward(t.ctx, view(d_scores), d_logit_scale, d_loss, texts, negatives,
                                          scores.value(), owner, excluded, logit_scale.value(), options);
        });
      });
    });
  return loss;
}

}  // namespace tessera
