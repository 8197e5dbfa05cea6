// Pooling by assignment on the tape.
#pragma once
#include <tessera/autograd/tape.hpp>
#include <tessera/ops/assignment_pool.hpp>

namespace tessera {

/// pooled [B, G, D] of value [B, N, D] and assignment [B, N, G]; gradients flow into both.
template <class T, class Device>
Variable<T, 3, Device> assignment_pool(Tape<Device>& tape, const Variable<T, 3, Device>& value,
                                       const std::type_identity_t<Variable<T, 3, Device>>& assignment,
                                       AssignmentPoolOptions options = {}) {
  using A = accumulate_t<T>;
  const bool records = tape.records(value, assignment);
  const int64_t batch = value.shape()[0], groups = assignment.shape()[2], channels = value.shape()[2];
  Variable<T, 3, Device> pooled(Tensor<T, 3, Device>(tape.ctx, {batch, groups, channels}), records);
  Tensor<A, 2, Device> mass;
  if (records) mass = {tape.ctx, {batch, groups}};
  assignment_pool_forward(tape.ctx, view(pooled.value()), mass, value.value(), assignment.value(), options);
  if (records)
    tape.record([=](Tape<Device>& t) {
      const auto d_pooled = take_grad(pooled);
      if (!d_pooled) return;
      t.contribute(value, [&](auto d_value) {
        t.contribute(assignment, [&](auto d_assignment) {
          assignment_pool_backward(t.ctx, view(d_value), d_assignment, d_pooled, mass, value.value(),
                                   assignment.value(), options);
        });
      });
    });
  return pooled;
}

}  // namespace tessera
