// The training loop on the emulated GPU: steps as on Cpu, a resumed run equal to an uninterrupted one to the bit,
// checkpoints that either device goes on from.
#include <tessera/simt.hpp>
#include <tessera/train/trainer.hpp>

#include <io/folder.hpp>
#include <support/catch.hpp>
#include <support/random.hpp>
#include <tessera/autograd/contrastive.hpp>
#include <tessera/autograd/rearrange.hpp>
#include <tessera/autograd/similarity.hpp>
#include <tessera/core/staging.hpp>
#include <tessera/nn/layers.hpp>

using namespace tessera;
using namespace tessera::train;
using namespace tessera_test;

namespace {

constexpr int64_t width = 24;

// Two linear towers that learn to agree on pairs of random vectors.
template <class T, class Device>
struct Towers {
  nn::Linear<T, Device> image, text;
  Parameter<float, 0, Device> logit_scale;
  void members(auto&& visit) {
    visit("image", image);
    visit("text", text);
    visit("logit_scale", logit_scale);
  }
};

// A run of its own, as a new process would make it.
template <class Device, class T = float>
struct Run {
  Context<Cpu> host;
  Context<Device> ctx{{.seed = 3}};
  Staging<Device> stage;
  Towers<T, Device> model{layer(), layer(), nn::constant<float, 0>(ctx, {}, 2)};
  Trainer<Towers<T, Device>, Device> trainer;
  std::vector<double> losses;

  explicit Run(const TrainerOptions& options) : trainer(ctx, model, options) {}

  nn::Linear<T, Device> layer() {
    return {nn::xavier_uniform<T>(ctx, {width, width}), nn::constant<float, 1>(ctx, {width}, 0)};
  }
  // What augmentation draws comes from the step's random numbers, on any device.
  Variable<T, 2, Device> input(int64_t step, uint64_t seed, const RandomStream& noise) {
    const auto x = random_tensor<float>(host, Shape<2>{8, width}, uint64_t(step % 4) + seed);
    for (int64_t i = 0; i < x.size(); ++i) x.data[i] += 0.1f * noise.normal(uint64_t(i));
    return Variable<T, 2, Device>(convert<T>(ctx, stage(ctx, x)));
  }
  bool run(int64_t stop_before = -1) {
    return trainer.run(
        [&](Tape<Device>& tape, int64_t step) {
          if (step == stop_before) std::raise(SIGINT);
          const auto image = model.image(tape, input(step, 0, ctx.random.draw()));
          const auto text = model.text(tape, input(step, 100, ctx.random.draw()));
          return contrastive(tape, l2_normalise(tape, image), l2_normalise(tape, text), model.logit_scale);
        },
        [&](int64_t, double loss) {
          losses.push_back(loss);
          return io::Json::object();
        });
  }
  std::map<std::string, std::vector<float>> values() {
    std::map<std::string, std::vector<float>> all;
    nn::for_each_parameter(model, [&](const std::string& name, auto& p) {
      for (const auto value : to_host(view(p.value()))) all[name].push_back(widen(value));
    });
    return all;
  }
};

TrainerOptions options_in(const Folder& folder) {
  return {.steps = 12, .batch = 8, .learning_rate = 0.01, .folder = folder / "run", .save_every = 50, .quiet = true};
}

}  // namespace

TEST_CASE("trainer: on a device a run is Cpu's within tolerance, and resumed it is the uninterrupted one to the bit",
          "[train]") {
  const Folder whole_folder, cpu_folder, folder;
  Run<Simt> whole(options_in(whole_folder));
  Run<Cpu> cpu(options_in(cpu_folder));
  REQUIRE(whole.run());
  REQUIRE(cpu.run());
  REQUIRE(whole.losses.size() == 12);
  CHECK(largest_difference(whole.losses, cpu.losses) < 1e-4);
  CHECK(whole.losses.back() < 0.8 * whole.losses.front());
  for (const auto& [name, values] : cpu.values()) CHECK(largest_difference(whole.values().at(name), values) < 1e-4);
  {
    Run<Simt> first(options_in(folder));
    CHECK_FALSE(first.run(4));
    CHECK(first.trainer.step() == 5);
  }
  Run<Simt> rest(options_in(folder));
  CHECK(rest.trainer.step() == 5);
  CHECK(rest.run());
  CHECK(rest.values() == whole.values());
  CHECK(std::vector<double>(whole.losses.begin() + 5, whole.losses.end()) == rest.losses);
}

TEST_CASE("trainer: a run goes on on another device, with bfloat16 weights and their masters too", "[train]") {
  const auto check = []<class Begin, class Rest>(std::type_identity<Begin>, std::type_identity<Rest>,
                                                 double tolerance) {
    const Folder folder;
    std::map<std::string, std::vector<float>> left;
    {
      Begin first(options_in(folder));
      CHECK_FALSE(first.run(6));
      left = first.values();
    }
    Rest second(options_in(folder));
    CHECK(second.trainer.step() == 7);
    CHECK(second.values() == left);
    const Folder whole_folder;
    Begin whole(options_in(whole_folder));
    CHECK(second.run());
    CHECK(whole.run());
    REQUIRE(second.losses.size() == 5);
    CHECK(largest_difference(second.losses, std::vector<double>(whole.losses.begin() + 7, whole.losses.end())) <
          tolerance);
  };
  check(std::type_identity<Run<Simt>>{}, std::type_identity<Run<Cpu>>{}, 1e-4);
  check(std::type_identity<Run<Cpu, bfloat16>>{}, std::type_identity<Run<Simt, bfloat16>>{}, 0.02);
}

TEST_CASE("trainer: gradients that are not finite stop the run with a sentence, before the model is touched",
          "[train]") {
  Run<Simt> run({.steps = 3, .batch = 8, .quiet = true});
  const auto before = run.values();
  REQUIRE_ERROR(run.trainer.run([&](Tape<Simt>& tape, int64_t) {
    const float infinity = std::numeric_limits<float>::infinity();
    const auto x = Tensor<float, 2, Simt>::from_host(run.ctx, {1, width}, std::vector<float>(width, infinity));
    const auto y = run.model.image(tape, Variable<float, 2, Simt>(x));
    Variable<float, 0, Simt> loss(Tensor<float, 0, Simt>::zeros(run.ctx, {}), true);
    tape.record([=](Tape<Simt>& t) {  // as if the loss were finite and its gradient not
      y.state().grad = Tensor<float, 2, Simt>::from_host(t.ctx, {1, width}, std::vector<float>(width, 1));
    });
    return loss;
  }),
                Error, "the gradients' norm of step 1 is");
  CHECK(run.values() == before);
}
