// The training loop that the example trainers share: AdamW with warm-up and cosine, clipping, metrics as JSON lines,
// checkpoints that a run resumes from to the bit, Ctrl-C that saves. A model trains on the device that it lies on;
// checkpoints do not tell which: a run may go on on another one.
#pragma once
#include <csignal>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <functional>
#include <map>
#include <optional>
#include <string>

#include <tessera/autograd/tape.hpp>
#include <tessera/io/checkpoint.hpp>
#include <tessera/nn/module.hpp>
#include <tessera/ops/contrastive.hpp>
#include <tessera/optim/adamw.hpp>
#include <tessera/optim/gradient_clipping.hpp>
#include <tessera/optim/schedule.hpp>
#include <tessera/train/progress.hpp>

namespace tessera::train {

/// How one parameter is trained.
struct ParameterRule {
  double learning_rate_factor = 1;
  bool decays = true;  ///< whether weight decay applies
  auto operator<=>(const ParameterRule&) const = default;
};

/// The rule where none is given: weight decay applies to weights of layers and projections, not to biases, norms,
/// embeddings, positions and scales.
inline ParameterRule usual_rule(const std::string& name, int rank) {
  const auto has = [&](const char* part) { return name.find(part) != std::string::npos; };
  return {1, rank >= 2 && !has("positional_embedding") && !has("token_embedding")};
}

/// The trained model that a training begins with.
struct Start {
  std::string from;      ///< its file or folder
  uint64_t fingerprint;  ///< of its values: nn::fingerprint
};

/// What the trainers have in common: schedule, optimiser, where and how often a run is saved.
struct TrainerOptions {
  int64_t steps = 1000, batch = 32;
  double learning_rate = 1e-3;
  double warmup = 0.1;  ///< share of the steps
  double beta1 = 0.9, beta2 = 0.98, epsilon = 1e-6;
  double weight_decay = 0.05;
  std::function<ParameterRule(const std::string& name, int rank)> rule = usual_rule;
  double largest_gradient_norm = 1.0;
  uint64_t seed = 0;
  std::filesystem::path folder = {};  ///< of checkpoint.safetensors and metrics.jsonl; empty: neither is written
  int64_t save_every = 500;           ///< steps between checkpoints; the last step and Ctrl-C save too
  bool resume = true;                 ///< go on from the folder's checkpoint where there is one
  bool quiet = false;                 ///< no progress bar
  /// What else makes the run what it is (data, sizes, losses): a run resumes only where this is equal too.
  io::Json recipe = io::Json::object();
  /// Absent: random weights. A checkpoint holds what is trained; what is frozen comes from the start each time, so a
  /// run resumes only while that is what it was.
  std::optional<Start> start = {};
};

/// Set by Ctrl-C, and by the signal with which clusters end a job (SIGTERM), while an Interruption is alive; the loop
/// ends after the step in hand.
class Interruption {
 public:
  Interruption() {
    requested_ = 0;
    before_interrupt_ = std::signal(SIGINT, [](int) { requested_ = 1; });
    before_terminate_ = std::signal(SIGTERM, [](int) { requested_ = 1; });
  }
  ~Interruption() {
    std::signal(SIGINT, before_interrupt_);
    std::signal(SIGTERM, before_terminate_);
  }
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;
  bool requested() const { return requested_ != 0; }

 private:
  inline static volatile std::sig_atomic_t requested_ = 0;
  void (*before_interrupt_)(int);
  void (*before_terminate_)(int);
};

/// Trains `model` on the loss that `loss_of_step` computes.
///
///     train::Trainer trainer(ctx, model, options);
///     trainer.run([&](Tape<Cpu>& tape, int64_t step) { return model.loss(tape, images(step), texts(step)); });
///
/// The host waits for the device once a step, for the loss and the gradients' norm: the optimiser's work is done while
/// the next batch is made.
template <class Model, class Device = Cpu>
class Trainer {
 public:
  using Loss = Variable<float, 0, Device>;
  using LossOfStep = std::function<Loss(Tape<Device>&, int64_t)>;
  /// Called after each step with its number (from 1) and loss; what it returns is added to the step's metrics line.
  using AfterStep = std::function<io::Json(int64_t, double)>;

  /// Resumes where the options say so and the folder has a checkpoint. Throws IoError for a checkpoint of another model
  /// or of other options.
  Trainer(Context<Device>& ctx, Model& model, TrainerOptions options) : ctx_(ctx), model_(model), options_(options) {
    require(options.steps > 0 && options.batch > 0, "training: ", options.steps, " steps of ", options.batch,
            " images; both must be positive");
    require(options.warmup >= 0 && options.warmup <= 1, "training: warmup ", options.warmup, " must lie in [0, 1]");
    require(options.save_every > 0, "training: save_every ", options.save_every, " must be positive");
    nn::for_each_parameter(model_, [&](const std::string& name, auto& p) {
      if (p.requires_grad()) parameters_.add(name, p);
    });
    std::map<ParameterRule, decltype(parameters_), std::greater<>> groups;
    for (const auto& p : parameters_) groups[options_.rule(p.name(), p.rank())].add(p);
    for (const auto& [rule, group] : groups)
      optimizer_.add_group(group, {.learning_rate = rule.learning_rate_factor * options_.learning_rate,
                                   .beta1 = options_.beta1,
                                   .beta2 = options_.beta2,
                                   .epsilon = options_.epsilon,
                                   .weight_decay = rule.decays ? options_.weight_decay : 0});
    for (const auto& p : parameters_)
      if (p.name().ends_with("logit_scale")) optimizer_.bound(p.name(), 0, std::log(largest_logit_factor));
    if (options_.folder.empty()) return;
    std::error_code failed;
    std::filesystem::create_directories(options_.folder, failed);
    require<IoError>(!failed, options_.folder.string(), ": cannot make the folder: ", failed.message());
    lock_.emplace(options_.folder);
    if (options_.resume && std::filesystem::exists(checkpoint_path())) load();
    trim_metrics();
  }

  /// Steps done, those of the runs that this one continues included.
  int64_t step() const { return step_; }
  /// Whether all steps are done.
  bool finished() const { return step_ >= options_.steps; }
  /// Seconds spent in run(), resumed runs' included.
  double seconds() const { return seconds_; }

  /// Trains up to the last step; false where Ctrl-C ended it before (the state is saved).
  bool run(const LossOfStep& loss_of_step, const AfterStep& after_step = {}) {
    const optim::CosineSchedule schedule{.total_steps = double(options_.steps),
                                         .warmup_steps = options_.warmup * double(options_.steps)};
    Interruption interruption;
    Progress progress("training", options_.steps * options_.batch, "images", step_ * options_.batch,
                      options_.quiet ? null_stream() : stderr);
    const double seconds_before = seconds_;
    while (!finished() && !interruption.requested()) {
      ctx_.random.begin_step(uint32_t(step_));
      Tape<Device> tape(ctx_);
      const Loss loss = loss_of_step(tape, step_);
      tape.backward(loss);
      const double norm = optim::gradient_norm(ctx_, parameters_), factor = schedule(double(step_ + 1));
      const double value = to_host(view(loss.value()))[0];
      require_finite("loss", value);
      require_finite("gradients' norm", norm);
      optimizer_.step(ctx_, {.learning_rate_factor = factor,
                             .gradient_scale = optim::clip_factor(norm, options_.largest_gradient_norm)});
      optimizer_.clear_gradients();
      ++step_;
      seconds_ = seconds_before + progress.elapsed();
      char note[48];
      std::snprintf(note, sizeof note, "loss %.3f", value);
      progress.advance(options_.batch, note);
      io::Json line = {{"step", step_},         {"images", step_ * options_.batch},
                       {"loss", value},         {"learning_rate", options_.learning_rate * factor},
                       {"gradient_norm", norm}, {"seconds", seconds_}};
      if (after_step) line.update(after_step(step_, value));
      if (!options_.folder.empty()) {
        append_metrics(line);
        if (step_ % options_.save_every == 0 || finished()) save();
      }
    }
    progress.finish();
    if (!options_.folder.empty() && step_ != saved_step_) save();  // Ctrl-C, whenever in the loop it came
    if (finished()) lock_.reset();                                 // nothing more will be written
    return finished();
  }

  std::filesystem::path metrics_path() const { return options_.folder / "metrics.jsonl"; }
  std::filesystem::path checkpoint_path() const { return options_.folder / "checkpoint.safetensors"; }

 private:
  static std::FILE* null_stream() {
    static std::FILE* const stream = std::fopen("/dev/null", "w");
    return stream;
  }
  void require_finite(const char* what, double value) const {
    require<Error>(std::isfinite(value), "training: the ", what, " of step ", step_ + 1, " is ", value,
                   "; lower the learning rate, or resume from the last checkpoint with another seed");
  }
  // What must be equal for a resumed run to be the same run.
  io::Json fingerprint() const {
    return {{"steps", options_.steps},
            {"batch", options_.batch},
            {"learning_rate", options_.learning_rate},
            {"warmup", options_.warmup},
            {"betas", {options_.beta1, options_.beta2}},
            {"epsilon", options_.epsilon},
            {"weight_decay", options_.weight_decay},
            {"largest_gradient_norm", options_.largest_gradient_norm},
            {"seed", options_.seed},
            {"recipe", options_.recipe}};
  }

  std::string start_text() const {
    char text[17];
    std::snprintf(text, sizeof text, "%016llx", static_cast<unsigned long long>(options_.start->fingerprint));
    return text;
  }

  void save() {
    std::vector<io::NamedTensor> tensors;
    for (const auto& p : parameters_) {
      auto bytes = std::make_shared<std::vector<char>>(size_t(p.size()) * dtype_size(p.dtype()));
      Memory<Device>::to_host(bytes->data(), p.value(), bytes->size());
      tensors.push_back({"model." + p.name(), {p.dtype(), p.shape(), {bytes, bytes->data()}}});
    }
    for (auto& [name, tensor] : optimizer_.state()) tensors.push_back({"optimizer." + name, tensor});
    io::Json state = {{"step", step_}, {"seconds", seconds_}, {"options", fingerprint()}};
    if (options_.start) state["start"] = start_text();
    io::save_checkpoint(checkpoint_path(), tensors, state);
    saved_step_ = step_;
  }

  void load() {
    const io::Checkpoint checkpoint = io::load_checkpoint(checkpoint_path());
    const io::JsonView state(checkpoint.state, checkpoint.path);
    // As text: an infinite gradient norm is null in both.
    require<IoError>(io::json_text(state["options"].json(), -1) == io::json_text(fingerprint(), -1), checkpoint.path,
                     " was written by a run with other options (", io::json_text(state["options"].json(), -1),
                     "); give the same options, another folder, or --fresh to begin anew");
    if (options_.start && state.has("start"))
      require<IoError>(state.get<std::string>("start") == start_text(), options_.start->from,
                       " holds other weights than those that the run in ", options_.folder.string(),
                       " began with (was it trained anew, or is it read with other settings?); bring those back, name "
                       "another folder, or begin anew with --fresh");
    std::vector<io::WantedParameter> wanted;
    for (const auto& p : parameters_)
      wanted.push_back({"model." + p.name(), p.shape(), [p](const AnyTensor& tensor) {
                          require<IoError>(tensor.dtype == p.dtype(), "checkpoint: ", p.name(), " is ",
                                           dtype_name(tensor.dtype), ", not ", dtype_name(p.dtype()));
                          Memory<Device>::from_host(p.value(), tensor.storage.get(), tensor.bytes());
                        }});
    io::load_parameters(checkpoint.tensors, wanted, {.ignore = {"optimizer.*"}});
    optim::NamedState optimizer_state;
    for (const auto& name : checkpoint.tensors.names())
      if (name.starts_with("optimizer.")) optimizer_state.emplace_back(name.substr(10), checkpoint.tensors.get(name));
    optimizer_.load_state(optimizer_state);
    step_ = saved_step_ = state.get<int64_t>("step", 0, options_.steps);
    seconds_ = state.get<double>("seconds");
  }

  // Lines of steps that the checkpoint does not have are dropped: they are about to be written again.
  void trim_metrics() {
    std::ifstream file(metrics_path());
    if (!file) return;
    std::string kept, line;
    while (std::getline(file, line)) {
      const io::Json json = io::Json::parse(line, nullptr, false);
      const auto step = json.is_object() ? json.find("step") : json.end();
      if (step != json.end() && step->is_number_integer() && step->get<int64_t>() <= step_) kept += line + "\n";
    }
    io::write_text(metrics_path(), kept);
  }
  void append_metrics(const io::Json& line) {
    std::ofstream file(metrics_path(), std::ios::app);
    file << line.dump() << "\n";
    file.flush();
    require<IoError>(bool(file), metrics_path().string(),
                     ": cannot be written (is the disk full?); the last checkpoint, ", checkpoint_path().string(),
                     ", is whole");
  }

  Context<Device>& ctx_;
  Model& model_;
  TrainerOptions options_;
  optim::BasicParameterList<Device> parameters_;
  optim::BasicAdamW<Device> optimizer_;
  std::optional<io::FolderLock> lock_;  // one run at a time writes to a folder
  int64_t step_ = 0, saved_step_ = 0;
  double seconds_ = 0;
};

}  // namespace tessera::train
