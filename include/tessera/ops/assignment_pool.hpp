// Pooling by assignment: the mean of the tokens that are assigned to each group,
//   pooled[b, g] = sum over n of a[b, n, g] v[b, n] / divisor(m[b, g]),   m[b, g] = sum over n of a[b, n, g],
// with values v [B, N, D] and assignments a [B, N, G] of any weights, one-hot or soft. The divisor keeps groups without
// tokens finite: max(m, 1) as in SegCLIP (Luo et al., 2023), or m + epsilon as in GroupViT (Xu et al., 2022). The mass
// m is saved.
#pragma once
#include <cmath>

#include <tessera/core/tensor.hpp>

namespace tessera {
namespace op {
struct assignment_pool;
}

/// What a group's sum is divided by, from its mass m.
enum class PoolDivisor : uint8_t {
  at_least_one,  ///< max(m, 1); its gradient is that of m where m >= 1, else 0
  plus_epsilon,  ///< m + epsilon
};

struct AssignmentPoolOptions {
  PoolDivisor divisor = PoolDivisor::at_least_one;
  double epsilon = 1;  ///< > 0, for plus_epsilon
};

namespace detail {
/// The divisor of a group of mass m. A NaN stays.
template <class A>
TESSERA_HOST_DEVICE A pool_divisor(A mass, PoolDivisor divisor, A epsilon) {
  if (divisor == PoolDivisor::plus_epsilon) return mass + epsilon;
  return mass < A(1) ? A(1) : mass;
}
/// d divisor / d m.
template <class A>
TESSERA_HOST_DEVICE A pool_divisor_derivative(A mass, PoolDivisor divisor) {
  return divisor == PoolDivisor::plus_epsilon || !(mass < A(1)) ? A(1) : A(0);
}

/// Checks what both passes share. Returns [B, G, D].
template <class Value, class Assignment>
Shape<3> expect_pool(std::string_view op, const Value& value, const Assignment& assignment,
                     const AssignmentPoolOptions& options) {
  const auto [batch, tokens, channels] = value.shape;
  const int64_t groups = assignment.shape[2];
  require<ShapeError>(tokens > 0 && channels > 0, op, ": value ", to_string(value.shape),
                      " must have at least one token and one channel");
  require<ShapeError>(groups > 0, op, ": assignment ", to_string(assignment.shape), " has no groups");
  require(options.divisor == PoolDivisor::at_least_one || (options.epsilon > 0 && std::isfinite(options.epsilon)), op,
          ": epsilon is ", options.epsilon, " but must be greater than 0");
  expect_shape(op, "assignment", assignment.shape, {batch, tokens, groups}, "B N G", "value");
  expect_contiguous(op, "value", value);
  expect_contiguous(op, "assignment", assignment);
  return {batch, groups, channels};
}
}  // namespace detail

/// pooled [B, G, D] of value [B, N, D] and assignment [B, N, G]. mass [B, G] is written where present; the backward
/// pass needs it. Throws ShapeError where shapes disagree, a view is not contiguous, or N, G or D is 0.
template <class T, class Device>
void assignment_pool_forward(Context<Device>& ctx, TensorView<T, 3, Device> pooled,
                             Out<accumulate_t<T>, 2, Device> mass, In<T, 3, Device> value, In<T, 3, Device> assignment,
                             AssignmentPoolOptions options = {}) {
  constexpr auto name = "assignment_pool_forward";
  const Shape<3> shape = detail::expect_pool(name, value, assignment, options);
  expect_shape(name, "pooled", pooled.shape, shape, "B G D", "value and assignment");
  expect_contiguous(name, "pooled", pooled);
  if (mass) expect_shape(name, "mass", mass.shape, {shape[0], shape[1]}, "B G", "assignment");
  expect_contiguous(name, "mass", mass);
  Backend<op::assignment_pool, Device>::template forward<T>(ctx, pooled, mass, value, assignment, options);
}

/// d_value [B, N, D] and d_assignment [B, N, G], each where present, from d_pooled [B, G, D] and what the forward pass
/// saved.
template <class T, class Device>
void assignment_pool_backward(Context<Device>& ctx, TensorView<T, 3, Device> d_value, Out<T, 3, Device> d_assignment,
                              In<T, 3, Device> d_pooled, In<accumulate_t<T>, 2, Device> mass, In<T, 3, Device> value,
                              In<T, 3, Device> assignment, AssignmentPoolOptions options = {}) {
  constexpr auto name = "assignment_pool_backward";
  const Shape<3> shape = detail::expect_pool(name, value, assignment, options);
  expect_present(name, "mass", mass);
  expect_shape(name, "d_pooled", d_pooled.shape, shape, "B G D", "value and assignment");
  expect_shape(name, "mass", mass.shape, {shape[0], shape[1]}, "B G", "assignment");
  expect_contiguous(name, "d_pooled", d_pooled);
  expect_contiguous(name, "mass", mass);
  if (d_value) expect_shape(name, "d_value", d_value.shape, value.shape, "B N D", "value");
  if (d_assignment) expect_shape(name, "d_assignment", d_assignment.shape, assignment.shape, "B N G", "assignment");
  expect_contiguous(name, "d_value", d_value);
  expect_contiguous(name, "d_assignment", d_assignment);
  Backend<op::assignment_pool, Device>::template backward<T>(ctx, d_value, d_assignment, d_pooled, mass, value,
                                                             assignment, options);
}

/// The groups' pooled values [B, G, D] as a new tensor.
template <class TX, class Device>
auto assignment_pool(Context<Device>& ctx, const TensorView<TX, 3, Device>& value,
                     In<std::remove_const_t<TX>, 3, Device> assignment, AssignmentPoolOptions options = {}) {
  Tensor<std::remove_const_t<TX>, 3, Device> pooled(ctx, {value.shape[0], assignment.shape[2], value.shape[2]});
  assignment_pool_forward(ctx, view(pooled), {}, value, assignment, options);
  return pooled;
}

}  // namespace tessera

#include <tessera/cpu/assignment_pool.hpp>
