// Assembling tokens on the tape.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/tokens.hpp>

namespace tessera {

/// Tokens [B, S + P, C] from class_embedding [C] (or an empty handle: S = 0, else 1), patches [B, P, C] and
/// positional_embedding [S + P, C].
template <class T, class Device, class G>
Variable<T, 3, Device> assemble_tokens(Tape<Device>& tape,
                                       const std::type_identity_t<Parameter<T, 1, Device>>& class_embedding,
                                       const Variable<T, 3, Device>& patches,
                                       const Variable<T, 2, Device, G>& positional_embedding) {
  const bool records = tape.records(class_embedding, patches, positional_embedding);
  const bool has_class = bool(class_embedding);
  Variable<T, 3, Device> tokens(assemble_tokens(tape.ctx, has_class ? class_embedding.value() : Tensor<T, 1, Device>{},
                                                view(patches.value()), positional_embedding.value()),
                                records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_tokens = take_grad(tokens);
      if (!d_tokens) return;
      t.contribute(patches, [&](auto d_patches) {
        t.contribute(positional_embedding, [&](auto d_positional_embedding) {
          const auto backward = [&](TensorView<accumulate_t<T>, 1, Device> d_class_embedding) {
            assemble_tokens_backward(t.ctx, view(d_patches), d_class_embedding, d_positional_embedding, d_tokens,
                                     has_class);
          };
          if (has_class)
            t.contribute(class_embedding, backward);
          else
            backward({});
        });
      });
    });
  return tokens;
}

}  // namespace tessera
