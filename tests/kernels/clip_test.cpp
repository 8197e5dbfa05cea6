// Whole models on the kernels' device: CLIP's loss with the gradients of all parameters, and MaskCLIP's dense scores,
// are those of Cpu, by the same modules.
#include <map>

#include <tessera/kernels.cuh>
#include <tessera/optim/adamw.hpp>
#include <tessera/systems/maskclip.hpp>
#if defined(__CUDACC__)
#include <tessera/cuda/graph.hpp>
#endif

#include "support/catch.hpp"
#include "support/kernels.hpp"
#include "support/random.hpp"

using namespace tessera;
using namespace tessera::systems;
using namespace tessera_test;

namespace {

ClipConfig tiny() {
  ClipConfig config;
  config.vision = {
      .image_size = 16, .patch_size = 4, .transformer = {.width = 24, .layers = 2, .heads = 3}, .embed_dim = 12};
  config.text = {.vocabulary_size = 40,
                 .context_length = 9,
                 .transformer = {.width = 16, .layers = 2, .heads = 2, .mlp_width = 40},
                 .embed_dim = 12};
  return config;
}
/// Five texts of different lengths; 39 ends them.
std::vector<int32_t> texts() {
  std::vector<int32_t> ids(5 * 9, 0);
  for (size_t text = 0; text < 5; ++text)
    for (size_t i = 0; i < 9; ++i)
      ids[text * 9 + i] = i == 0 ? 38 : i < text + 3 ? int32_t(text * 5 + i) : i == text + 3 ? 39 : 0;
  return ids;
}

template <class Tensor>
std::vector<float> floats(const Tensor& tensor) {
  std::vector<float> values;
  for (const auto value : to_host(view(tensor))) values.push_back(widen(value));
  return values;
}

/// Random values for all parameters, so that no bias is zero and no gain is one; the same on every device and, as
/// numbers that bfloat16 holds, in every type.
template <class Module>
void randomise(Module& module) {
  uint64_t seed = 1;
  nn::for_each_parameter(module, [&](const std::string& name, auto& parameter) {
    auto& value = parameter.state().value;
    using Value = std::remove_reference_t<decltype(value)>;
    using T = typename Value::value_type;
    const bool gain = Value::rank == 1 && name.ends_with("weight");
    const RandomStream random{seed++, 3, 0};
    std::vector<T> values(size_t(value.size()));
    for (size_t i = 0; i < values.size(); ++i)
      values[i] = narrow<T>(widen(narrow<bfloat16>((gain ? 1.0f : 0.0f) + 0.25f * random.normal(i))));
    Memory<typename Value::device_type>::from_host(value.data, values.data(), values.size() * sizeof(T));
  });
}

std::vector<float> pixels() {
  std::vector<float> values(5 * 3 * 16 * 16);
  for (size_t i = 0; i < values.size(); ++i) values[i] = widen(narrow<bfloat16>(RandomStream{7, 0, 0}.normal(i)));
  return values;
}

struct Step {
  float loss;
  std::map<std::string, std::vector<float>> gradients;
};

template <class T, class Device>
Step clip_step(Context<Device>& ctx) {
  std::vector<T> images;
  for (const float pixel : pixels()) images.push_back(narrow<T>(pixel));
  auto clip = make_clip<T>(ctx, tiny());
  randomise(clip);
  Tape<Device> tape(ctx);
  const Variable<T, 4, Device> input(Tensor<T, 4, Device>::from_host(ctx, {5, 3, 16, 16}, images), true);
  const auto ids = Tensor<int32_t, 2, Device>::from_host(ctx, {5, 9}, texts());
  const auto loss = clip.loss(tape, input, ids);
  tape.backward(loss);
  Step step{floats(loss.value())[0], {}};
  nn::for_each_parameter(clip, [&](const std::string& name, auto& parameter) {
    if (parameter.grad()) step.gradients[name] = floats(parameter.grad());
  });
  step.gradients["images"] = floats(input.grad());
  return step;
}

/// Everything that a training step uses, and the step as the device does it alone.
template <class Device>
struct Training {
  Clip<float, Device> clip;
  Variable<float, 4, Device> images;
  nn::TextInput<Device> input;
  optim::BasicAdamW<Device> optimizer;
  Tensor<float, 0, Device> loss;

  explicit Training(Context<Device>& ctx)
      : clip(make_clip<float>(ctx, tiny())),
        images(Tensor<float, 4, Device>::from_host(ctx, {5, 3, 16, 16}, pixels())),
        input{Tensor<int32_t, 2, Device>::from_host(ctx, {5, 9}, texts()),
              Tensor<int32_t, 1, Device>::from_host(ctx, {5}, {3, 4, 5, 6, 7})} {
    randomise(clip);
    optim::BasicParameterList<Device> list;
    nn::for_each_parameter(clip, [&](const std::string& name, auto& parameter) { list.add(name, parameter); });
    optimizer.add_group(list, {.learning_rate = 0.01});
    optimizer.prepare();
    optimizer.set_factors({});
  }
  void step(Context<Device>& ctx) {
    optimizer.clear_gradients();
    Tape<Device> tape(ctx);
    const auto of_batch = clip.loss(tape, images, input);
    tape.backward(of_batch);
    optimizer.update_clipped(ctx, 1.0);
    loss = of_batch.value();
  }
};

#if !defined(__CUDACC__)
/// Half of the block waits where the other half does not.
TESSERA_KERNEL void faulty_kernel() {
  using namespace tessera::kernels;
  if (threadIdx.x < 32) __syncthreads();
}
#endif

}  // namespace

TEST_CASE("clip: a training step with known ends of texts is work of the device alone", "[kernels]") {
  Context<Cpu> ctx;
  Context<Device> device;
  Training<Cpu> cpu(ctx);
  Training<Device> found(device);
  std::vector<float> expected;
  for (int i = 0; i < 3; ++i) {
    cpu.step(ctx);
    expected.push_back(floats(cpu.loss)[0]);
  }
  CHECK(expected[2] < expected[0]);
  for (int i = 0; i < 2; ++i) {
    found.step(device);
    CHECK(floats(found.loss)[0] == Approx(expected[size_t(i)]).epsilon(1e-4));
  }
#if defined(__CUDACC__)
  cuda::Graph graph = cuda::capture(device, [&] { found.step(device); });
  graph.launch(device);
  CHECK(floats(found.loss)[0] == Approx(expected[2]).epsilon(1e-4));
#else
  // A kernel that faults stands first in the queue: whatever waits for the device throws.
  device.synchronize();
  kernels::launch("faulty", faulty_kernel, 1u, 64u, 0, device);
  found.step(device);
  CHECK_THROWS_AS(device.synchronize(), Fault);
#endif
}

TEST_CASE("clip: loss and all gradients on the device are those of Cpu", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  const Step cpu = clip_step<float>(ctx), found = clip_step<float>(device);
  CHECK(std::abs(found.loss - cpu.loss) < 1e-5 * cpu.loss);
  CHECK(cpu.gradients.size() == 63);  // every parameter, and the images
  REQUIRE(found.gradients.size() == cpu.gradients.size());
  for (const auto& [name, expected] : cpu.gradients) {
    INFO(name);
    REQUIRE(found.gradients.contains(name));
    CHECK(largest_difference(found.gradients.at(name), expected) < 2e-5);
  }
  const InOrder in_order(Order::random);  // another order, the same bits
  const Step again = clip_step<float>(device);
  CHECK(again.loss == found.loss);
  CHECK(again.gradients == found.gradients);
}

TEST_CASE("clip: in bfloat16 the device is about as near to float as Cpu is", "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  const Step exact = clip_step<float>(ctx), cpu = clip_step<bfloat16>(ctx), found = clip_step<bfloat16>(device);
  CHECK(std::abs(found.loss - exact.loss) < 0.02 * exact.loss);
  REQUIRE(found.gradients.size() == exact.gradients.size());
  double of_cpu = 0, of_device = 0;  // mean over all parameters of the largest error
  for (const auto& [name, expected] : exact.gradients) {
    of_cpu += largest_difference(cpu.gradients.at(name), expected) / double(exact.gradients.size());
    of_device += largest_difference(found.gradients.at(name), expected) / double(exact.gradients.size());
  }
  CHECK(of_cpu < 0.06);
  CHECK(of_device <
        1.5 * of_cpu);  // attention's kernels round probabilities, as the tensor cores take them; Cpu does not
}

TEST_CASE("maskclip: dense scores and gradients on the device are those of Cpu, on a grid of another size",
          "[kernels]") {
  auto ctx = nan_filled_context();
  Context<Device> device;
  auto cpu = make_clip<float>(ctx, tiny());
  auto of_kernels = make_clip<float>(device, tiny());
  randomise(cpu);
  randomise(of_kernels);
  auto image = random_tensor<float>(ctx, Shape<4>{1, 3, 20, 24}, 2);
  const auto classes = l2_normalise(ctx, view(random_tensor<float>(ctx, Shape<2>{7, 12}, 3)));
  for (const MaskclipForm form : {MaskclipForm::residual, MaskclipForm::value}) {
    // embeddings and their gradients, with the positions resampled from 4 x 4 to 5 x 6
    const auto step = [&](auto& context, auto& clip) {
      using Device = typename std::decay_t<decltype(clip.logit_scale.value())>::device_type;
      nn::clear_gradients(clip);
      Tape<Device> tape(context);
      const auto input = Tensor<float, 4, Device>::from_host(context, image.shape, image.data);
      const auto embeddings = maskclip_patch_embeddings(tape, clip, Variable<float, 4, Device>(input), form);
      std::vector<float> d(size_t(embeddings.value().size()));
      for (size_t i = 0; i < d.size(); ++i) d[i] = RandomStream{5, 0, 0}.normal(i);
      tape.backward(embeddings, Tensor<float, 3, Device>::from_host(context, embeddings.shape(), d));
      std::map<std::string, std::vector<float>> values{{"embeddings", floats(embeddings.value())}};
      nn::for_each_parameter(clip, [&](const std::string& name, auto& parameter) {
        if (parameter.grad()) values[name] = floats(parameter.grad());
      });
      return values;
    };
    const auto expected = step(ctx, cpu), found = step(device, of_kernels);
    REQUIRE(found.size() == expected.size());
    CHECK(expected.contains("visual.positional_embedding"));
    for (const auto& [name, values] : expected) {
      INFO(name);
      CHECK(largest_difference(found.at(name), values) < 2e-5);
    }
    // the whole method, with both refinements
    const MaskclipOptions options{.form = form, .prompt_denoising = 0.5, .key_smoothing = 0.9, .refinement_scale = 20};
    const auto scores = maskclip(ctx, cpu, image, classes, options);
    const auto scores_s = maskclip(device, of_kernels, on_device(device, image), classes, options);
    CHECK(scores_s.grid == scores.grid);
    CHECK(largest_difference(view(scores_s.patch_embeddings), view(scores.patch_embeddings)) < 2e-5);
    CHECK(largest_difference(view(scores_s.scores), view(scores.scores)) < 2e-5);
  }
}
