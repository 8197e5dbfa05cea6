// The training loop: a resumed run is the uninterrupted one to the bit; full disks, Ctrl-C and wrong checkpoints.
#include <tessera/train/trainer.hpp>

#include <sys/resource.h>

#include <io/folder.hpp>
#include <support/modules.hpp>
#include <tessera/autograd/contrastive.hpp>
#include <tessera/autograd/similarity.hpp>
#include <tessera/nn/fingerprint.hpp>
#include <tessera/nn/layers.hpp>

using namespace tessera;
using namespace tessera::train;
using namespace tessera_test;

namespace {

// Two linear towers that learn to agree on pairs of random vectors.
struct Towers {
  nn::Linear<float> image, text;
  Parameter<float, 0> logit_scale;
  void members(auto&& visit) {
    visit("image", image);
    visit("text", text);
    visit("logit_scale", logit_scale);
  }
};
constexpr int64_t width = 24;
Towers make_towers(Context<Cpu>& ctx, int64_t channels = width) {
  const auto layer = [&] {
    return nn::Linear<float>{nn::xavier_uniform<float>(ctx, {channels, width}),
                             nn::constant<float, 1>(ctx, {channels}, 0)};
  };
  return {layer(), layer(), nn::constant<float, 0>(ctx, {}, 2)};
}

// A run of its own: context, model and trainer, as a new process would make them.
struct Run {
  Context<Cpu> ctx{{.seed = 3, .memory = {.fill_with_nan = true}}};
  Towers model;
  Trainer<Towers> trainer;

  explicit Run(const TrainerOptions& options, int64_t channels = width)
      : model(make_towers(ctx, channels)), trainer(ctx, model, options) {}

  Trainer<Towers>::Loss loss(Tape<Cpu>& tape, int64_t step) {
    const RandomStream noise = ctx.random.draw();  // of the step, as augmentation would draw it
    auto x = random_tensor<float>(ctx, Shape<2>{8, width}, uint64_t(step % 4));
    for (int64_t i = 0; i < x.size(); ++i) x.data[i] += 0.1f * noise.normal(uint64_t(i));
    const auto y = random_tensor<float>(ctx, Shape<2>{8, width}, uint64_t(step % 4) + 100);
    return contrastive(tape, l2_normalise(tape, model.image(tape, Variable<float, 2>(x))),
                       l2_normalise(tape, model.text(tape, Variable<float, 2>(y))), model.logit_scale);
  }
  // Calls `before(step)` before each step's loss.
  template <class Before>
  bool run(Before&& before) {
    return trainer.run([&](Tape<Cpu>& tape, int64_t step) {
      before(step);
      return loss(tape, step);
    });
  }
  bool run() {
    return run([](int64_t) {});
  }
};

TrainerOptions options_in(const Folder& folder) {
  return {.steps = 20, .batch = 8, .learning_rate = 0.01, .folder = folder / "run", .save_every = 5, .quiet = true};
}

std::vector<io::Json> metrics_of(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::vector<io::Json> lines;
  std::string line;
  while (std::getline(file, line)) lines.push_back(io::Json::parse(line));
  return lines;
}
// Metrics without the clock.
std::vector<io::Json> timeless(std::vector<io::Json> lines) {
  for (auto& line : lines) line.erase("seconds");
  return lines;
}
std::map<std::string, std::vector<float>> checkpoint_tensors(const std::filesystem::path& path) {
  const auto checkpoint = io::load_checkpoint(path);
  std::map<std::string, std::vector<float>> tensors;
  for (const auto& name : checkpoint.tensors.names())
    if (io::is_floating(checkpoint.tensors.dtype(name))) tensors[name] = checkpoint.tensors.read_vector<float>(name);
  return tensors;
}

struct Uninterrupted {
  std::map<std::string, std::vector<float>> parameters, checkpoint;
  std::vector<io::Json> metrics;
};
const Uninterrupted& uninterrupted() {
  static const Uninterrupted result = [] {
    const Folder folder;
    Run run(options_in(folder));
    REQUIRE(run.run());
    return Uninterrupted{parameter_values(run.model), checkpoint_tensors(run.trainer.checkpoint_path()),
                         timeless(metrics_of(run.trainer.metrics_path()))};
  }();
  return result;
}
void check_same_as_uninterrupted(Run& run) {
  CHECK(run.trainer.finished());
  CHECK(parameter_values(run.model) == uninterrupted().parameters);
  CHECK(checkpoint_tensors(run.trainer.checkpoint_path()) == uninterrupted().checkpoint);
  CHECK(timeless(metrics_of(run.trainer.metrics_path())) == uninterrupted().metrics);
}

struct Stopped : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// Files of this program cannot grow beyond `bytes`, as on a full disk.
class FileSizeLimit {
 public:
  FileSizeLimit() : handler_(std::signal(SIGXFSZ, SIG_IGN)) { ::getrlimit(RLIMIT_FSIZE, &before_); }
  ~FileSizeLimit() {
    ::setrlimit(RLIMIT_FSIZE, &before_);
    std::signal(SIGXFSZ, handler_);
  }
  void set(rlim_t bytes) {
    const rlimit limit{bytes, before_.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &limit) == 0);
  }

 private:
  void (*handler_)(int);
  rlimit before_{};
};

int interrupts_seen = 0;

}  // namespace

TEST_CASE("trainer: learns, follows the schedule, writes a line a step and a checkpoint", "[train]") {
  const Folder folder;
  Run run(options_in(folder));
  std::vector<int64_t> steps;
  CHECK(run.trainer.run([&](Tape<Cpu>& tape, int64_t step) { return run.loss(tape, step); },
                        [&](int64_t step, double loss) -> io::Json {
                          steps.push_back(step);
                          return {{"own", loss * 2}};
                        }));
  CHECK(run.trainer.step() == 20);
  CHECK(steps.size() == 20);
  const auto lines = metrics_of(run.trainer.metrics_path());
  REQUIRE(lines.size() == 20);
  for (size_t i = 0; i < 20; ++i) {
    CHECK(lines[i]["step"] == i + 1);
    CHECK(lines[i]["images"] == 8 * (i + 1));
    CHECK(lines[i]["own"].get<double>() == 2 * lines[i]["loss"].get<double>());
    CHECK(lines[i]["gradient_norm"].get<double>() > 0);
    if (i > 0) CHECK(lines[i]["seconds"].get<double>() >= lines[i - 1]["seconds"].get<double>());
  }
  CHECK(lines[0]["learning_rate"].get<double>() == Approx(0.005));  // warm-up over 2 of 20 steps
  CHECK(lines[1]["learning_rate"].get<double>() == Approx(0.01));
  CHECK(lines[19]["learning_rate"].get<double>() < 1e-9);
  CHECK(lines[19]["loss"].get<double>() < lines[0]["loss"].get<double>() / 2);
  CHECK(std::filesystem::exists(run.trainer.checkpoint_path()));
  Run again(options_in(folder));  // a finished run stays finished
  CHECK(again.trainer.finished());
  CHECK(again.run());
  CHECK(parameter_values(again.model) == uninterrupted().parameters);
  CHECK(metrics_of(again.trainer.metrics_path()).size() == 20);
}

TEST_CASE("trainer: without a folder nothing is written", "[train]") {
  const Folder folder;
  auto options = options_in(folder);
  options.folder.clear();
  Run run(options);
  CHECK(run.run());
  CHECK(parameter_values(run.model) == uninterrupted().parameters);
  CHECK(std::filesystem::is_empty(folder.path()));
}

TEST_CASE("trainer: Ctrl-C ends after the step in hand and saves; resuming gives the same bits", "[train]") {
  const Folder folder;
  const auto before = std::signal(SIGINT, [](int) { ++interrupts_seen; });
  {
    Run run(options_in(folder));
    CHECK_FALSE(run.run([](int64_t step) {
      if (step == 6) std::raise(SIGINT);
    }));
    CHECK(run.trainer.step() == 7);
    CHECK(interrupts_seen == 0);
    std::raise(SIGINT);  // the handler that was there before is back
    CHECK(interrupts_seen == 1);
  }
  std::signal(SIGINT, before);
  Run run(options_in(folder));
  CHECK(run.trainer.step() == 7);
  CHECK(run.trainer.seconds() > 0);
  CHECK(run.run());
  check_same_as_uninterrupted(run);
}

TEST_CASE("trainer: interrupted after the step is done, it saves all the same", "[train]") {
  const Folder folder;
  {
    Run run(options_in(folder));
    CHECK_FALSE(run.trainer.run([&](Tape<Cpu>& tape, int64_t step) { return run.loss(tape, step); },
                                [](int64_t step, double) -> io::Json {
                                  if (step == 8) std::raise(SIGINT);
                                  return io::Json::object();
                                }));
  }
  Run run(options_in(folder));
  CHECK(run.trainer.step() == 8);
  CHECK(run.run());
  check_same_as_uninterrupted(run);
}

TEST_CASE("trainer: a run that broke off goes on from its last checkpoint; later metrics are dropped", "[train]") {
  const Folder folder;
  {
    Run run(options_in(folder));
    CHECK_THROWS_AS(run.run([](int64_t step) {
      if (step == 13) throw Stopped("power cut");
    }),
                    Stopped);
    CHECK(metrics_of(run.trainer.metrics_path()).size() == 13);
  }
  // and a line that the power cut left half written, and one of another program
  std::ofstream(folder / "run/metrics.jsonl", std::ios::app) << "{\"step\": \"three\"}\n[]\n{\"step\": 14, \"lo";
  Run run(options_in(folder));
  CHECK(run.trainer.step() == 10);
  CHECK(metrics_of(run.trainer.metrics_path()).size() == 10);
  CHECK(run.run());
  check_same_as_uninterrupted(run);
}

TEST_CASE("trainer: begins anew where it is told to", "[train]") {
  const Folder folder;
  {
    Run run(options_in(folder));
    CHECK_FALSE(run.run([](int64_t step) {
      if (step == 6) std::raise(SIGINT);
    }));
  }
  auto options = options_in(folder);
  options.resume = false;
  Run run(options);
  CHECK(run.trainer.step() == 0);
  CHECK(metrics_of(run.trainer.metrics_path()).empty());
  CHECK(run.run());
  check_same_as_uninterrupted(run);
}

TEST_CASE("trainer: a checkpoint of other options or of another model is refused", "[train]") {
  const Folder folder;
  {
    Run run(options_in(folder));
    CHECK_FALSE(run.run([](int64_t step) {
      if (step == 6) std::raise(SIGINT);
    }));
  }
  const auto bytes = read_bytes(folder / "run/checkpoint.safetensors");
  auto options = options_in(folder);
  options.learning_rate = 0.02;
  REQUIRE_ERROR(Run{options}, IoError, "written by a run with other options");
  options = options_in(folder);
  options.steps = 30;
  REQUIRE_ERROR(Run{options}, IoError, "--fresh");
  REQUIRE_ERROR((Run{options_in(folder), 16}), IoError, "model.image.weight is [24, 24] but must be [16, 24]");
  options = options_in(folder);
  options.save_every = 3;  // does not change the result
  CHECK(Run(options).trainer.step() == 7);
  CHECK(read_bytes(folder / "run/checkpoint.safetensors") == bytes);
  write_bytes(folder / "run/checkpoint.safetensors", bytes.substr(0, bytes.size() / 2));
  REQUIRE_THROWS_AS(Run(options_in(folder)), IoError);
}

TEST_CASE("trainer: a run goes on only from the trained weights that it began with", "[train]") {
  const Folder folder;
  Context<Cpu> ctx;
  Towers start = make_towers(ctx);
  const uint64_t fingerprint = nn::fingerprint(start);
  auto options = options_in(folder);
  options.start = Start{"encoder", fingerprint};
  {
    Run run(options);
    CHECK_FALSE(run.run([](int64_t step) {
      if (step == 3) std::raise(SIGINT);
    }));
  }
  CHECK(Run(options).trainer.step() == 4);
  // One bit of one weight is another start.
  float& last = start.text.weight.value().data[start.text.weight.value().size() - 1];
  last = std::nextafter(last, 1.0f);
  options.start->fingerprint = nn::fingerprint(start);
  CHECK(options.start->fingerprint != fingerprint);
  REQUIRE_ERROR(Run{options}, IoError, "encoder holds other weights than those that the run in ");
  REQUIRE_ERROR(Run{options}, IoError, "--fresh");
  last = std::nextafter(last, -1.0f);
  CHECK(nn::fingerprint(start) == fingerprint);
  options.resume = false;
  CHECK(Run(options).trainer.step() == 0);
}

TEST_CASE("trainer: options that are not finite survive the checkpoint", "[train]") {
  const Folder folder;
  auto options = options_in(folder);
  options.largest_gradient_norm = std::numeric_limits<double>::infinity();
  {
    Run run(options);
    CHECK_FALSE(run.run([](int64_t step) {
      if (step == 3) std::raise(SIGINT);
    }));
  }
  CHECK(Run(options).trainer.step() == 4);
}

TEST_CASE("trainer: a full disk loses nothing that was saved", "[train]") {
  const Folder folder;
  FileSizeLimit limit;
  // the checkpoint of step 10 does not fit; the metrics do
  {
    Run run(options_in(folder));
    REQUIRE_ERROR(run.run([&](int64_t step) {
      if (step == 7) limit.set(6000);
    }),
                  IoError, "checkpoint.safetensors");
    limit.set(RLIM_INFINITY);
    CHECK(io::load_checkpoint(run.trainer.checkpoint_path()).state["step"] == 5);
  }
  // then not even a line of metrics
  {
    Run run(options_in(folder));
    CHECK(run.trainer.step() == 5);
    REQUIRE_ERROR(run.run([&](int64_t step) {
      if (step == 6) limit.set(10);
    }),
                  IoError, "is the disk full?");
    limit.set(RLIM_INFINITY);
  }
  size_t files = 0;
  for (const auto& entry : std::filesystem::directory_iterator(folder / "run")) files += entry.is_regular_file();
  CHECK(files == 2);  // no temporary file is left
  Run run(options_in(folder));
  CHECK(run.trainer.step() == 5);
  CHECK(run.run());
  check_same_as_uninterrupted(run);
}

TEST_CASE("trainer: a loss that is not finite stops the run with a sentence, before the model is touched", "[train]") {
  const Folder folder;
  Run run(options_in(folder));
  std::map<std::string, std::vector<float>> before;
  REQUIRE_ERROR(run.trainer.run([&](Tape<Cpu>& tape, int64_t step) {
    auto loss = run.loss(tape, step);
    if (step == 3) {
      before = parameter_values(run.model);
      loss.state().value.data[0] = std::nanf("");
    }
    return loss;
  }),
                Error, "the loss of step 4 is nan");
  CHECK(parameter_values(run.model) == before);
}

TEST_CASE("trainer: frozen parameters stay as they are", "[train]") {
  const Folder folder;
  Context<Cpu> ctx({.seed = 3});
  Towers model = make_towers(ctx);
  nn::set_requires_grad(model.text, false);
  const auto before = parameter_values(model);
  Run source(options_in(folder));
  source.model = model;
  Trainer<Towers> trainer(ctx, source.model, {.steps = 3, .batch = 8, .quiet = true});
  CHECK(trainer.run([&](Tape<Cpu>& tape, int64_t step) { return source.loss(tape, step); }));
  const auto after = parameter_values(model);
  CHECK(after.at("text.weight") == before.at("text.weight"));
  CHECK(after.at("text.bias") == before.at("text.bias"));
  CHECK(after.at("image.weight") != before.at("image.weight"));
}

TEST_CASE("trainer: which parameters decay", "[train]") {
  CHECK(usual_rule("visual.transformer.resblocks.0.mlp.c_fc.weight", 2).decays);
  CHECK(usual_rule("visual.conv1.weight", 4).decays);
  CHECK(usual_rule("visual.proj", 2).decays);
  CHECK_FALSE(usual_rule("visual.positional_embedding", 2).decays);
  CHECK_FALSE(usual_rule("token_embedding.weight", 2).decays);
  CHECK_FALSE(usual_rule("ln_final.weight", 1).decays);
  CHECK_FALSE(usual_rule("logit_scale", 0).decays);
}

TEST_CASE("trainer: the logit scale stays between one and a hundred", "[train]") {
  const Folder folder;
  for (const double start : {-0.5, 5.0}) {
    Run run({.steps = 1, .batch = 8, .quiet = true});
    run.model.logit_scale.state().value.data[0] = float(start);
    CHECK(run.run());
    CHECK(run.model.logit_scale.value().data[0] == Approx(start < 0 ? 0.0 : std::log(100.0)).margin(1e-6));
  }
}

TEST_CASE("trainer: options out of range are refused", "[train]") {
  REQUIRE_ERROR(Run({.steps = 0}), ValueError, "must be positive");
  REQUIRE_ERROR(Run({.warmup = 1.5}), ValueError, "warmup 1.5");
  REQUIRE_ERROR(Run({.save_every = 0}), ValueError, "save_every 0");
}
