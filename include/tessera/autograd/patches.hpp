// Patches on the tape.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/patches.hpp>

namespace tessera {

/// Patches [B, P, C * k * k] of images [B, C, H, W].
template <class T, class Device>
Variable<T, 3, Device> patchify(Tape<Device>& tape, const Variable<T, 4, Device>& images, PatchOptions options) {
  const bool records = tape.records(images);
  Variable<T, 3, Device> patches(patchify(tape.ctx, view(images.value()), options), records);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_patches = take_grad(patches);
      if (!d_patches) return;
      t.contribute(images, [&](auto d_images) { patchify_backward(t.ctx, view(d_images), d_patches, options); });
    });
  return patches;
}

}  // namespace tessera
