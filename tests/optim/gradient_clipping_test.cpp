#include <tessera/optim/gradient_clipping.hpp>

#include "support/catch.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera_test;

TEST_CASE("gradient_clipping: the norm is over all parameters, whatever their types", "[optim]") {
  Context<Cpu> ctx;
  Parameter<float, 2> a(Tensor<float, 2>(ctx, {70, 517}), true);
  Parameter<bfloat16, 1> b(Tensor<bfloat16, 1>(ctx, {5}), true);
  Parameter<double, 0> c(Tensor<double, 0>(ctx, {}), true);
  Parameter<float, 1> without(Tensor<float, 1>(ctx, {9}), true);
  a.state().grad = random_tensor<float, 2>(ctx, {70, 517}, 1);
  b.state().grad = random_tensor<float, 1>(ctx, {5}, 2, 100.0);
  c.state().grad = random_tensor<double>(ctx, Shape<0>{}, 3, 1000.0);
  optim::ParameterList list;
  list.add("a", a);
  list.add("b", b);
  list.add("c", c);
  list.add("without", without);
  double squares = c.grad()() * c.grad()();
  for (float g : to_host(a.grad())) squares += double(g) * double(g);
  for (float g : to_host(b.grad())) squares += double(g) * double(g);
  CHECK(optim::gradient_norm(list) == Approx(std::sqrt(squares)).epsilon(1e-14));
  list.clear_gradients();
  CHECK(optim::gradient_norm(list) == 0);
}

TEST_CASE("gradient_clipping: the factor only shrinks", "[optim]") {
  CHECK(optim::clip_factor(0.5, 1) == 1);
  CHECK(optim::clip_factor(0, 1) == 1);
  CHECK(optim::clip_factor(4, 1) == Approx(0.25).epsilon(1e-6));
}
