// AdamW in two recipes with clipping, averages and a bounded scale, and the learning-rate tables.
#include <tessera/optim/adamw.hpp>
#include <tessera/optim/ema.hpp>
#include <tessera/optim/gradient_clipping.hpp>
#include <tessera/optim/schedule.hpp>

#include "support/golden.hpp"

using namespace tessera;
using namespace tessera_test;

namespace {

// The case's parameters, each flat: names, values, and the raw gradients of each step.
struct Parameters {
  Context<Cpu> ctx;
  std::vector<std::string> names;
  std::map<std::string, Parameter<float, 1>> values;
  std::map<std::string, std::vector<float>> gradients;
  optim::ParameterList list;

  explicit Parameters(const Case& which) {
    const auto inputs = which.description()["variants"]["segclip"]["inputs"];  // in the order of the rates' columns
    const std::string prefix = "input.p0.";
    for (size_t i = 0; i < inputs.size(); ++i) {
      const auto input = inputs[i].as<std::string>();
      if (!input.starts_with(prefix)) continue;
      const std::string name = input.substr(prefix.size());
      const auto start = which.values<float>("input.p0." + name);
      const Parameter<float, 1> p(Tensor<float, 1>::from_host(ctx, {int64_t(start.size())}, start), true);
      names.push_back(name);
      values.emplace(name, p);
      gradients.emplace(name, which.values<float>("input.g." + name));
      list.add(name, p);
    }
  }
  optim::ParameterList one(const std::string& name) const {
    return list.partition([&](const auto& p) { return p.name() == name; }).first;
  }
  void set_gradients(int64_t step) {
    for (const auto& [name, p] : values)
      p.state().grad = Tensor<float, 1>::from_host(ctx, p.shape(), gradients.at(name).data() + step * p.shape()[0]);
  }
};

// What happened, step after step, to be compared with the case's [steps, …] tensors.
using History = std::map<std::string, std::vector<float>>;
void append(History& history, const std::string& name, const float* values, int64_t count) {
  history[name].insert(history[name].end(), values, values + count);
}
void append(History& history, const Parameters& parameters, const optim::AdamW& optimizer, const optim::Ema& ema) {
  for (const auto& [name, p] : parameters.values) append(history, "p." + name, p.value().data, p.shape()[0]);
  const auto record = [&](const std::string& ending, const std::string& as, const optim::NamedState& state) {
    for (const auto& [full, tensor] : state)
      if (full.ends_with(ending))
        append(history, as + full.substr(0, full.size() - ending.size()), tensor.as<float>(), tensor.size());
  };
  record(".first_moment", "m.", optimizer.state());
  record(".second_moment", "v.", optimizer.state());
  record(".average", "ema.", ema.state());
}
void compare_all(const Case& which, const std::string& variant, const History& history) {
  for (const auto& [name, values] : history)
    compare(which, "out." + variant + "." + name, std::span<const float>(values));
}
bool holds(const io::Json& list, const std::string& name) {
  return std::find(list.begin(), list.end(), name) != list.end();
}

}  // namespace

TEST_CASE("optimiser: SegCLIP's recipe", "[golden]") {
  for (const Case& which : find_cases("optimiser")) {
    if (!which.has_variant("segclip")) continue;
    const auto recipe = which.config()["segclip"];
    Parameters parameters(which);
    optim::AdamW optimizer;
    const auto betas = recipe["betas"];
    for (const auto& name : parameters.names) {
      const bool slow = holds(recipe["groups"]["slow"].json(), name);
      optimizer.add_group(
          parameters.one(name),
          {.learning_rate = recipe.get<double>(slow ? "lr_slow" : "lr_fast"),
           .beta1 = betas[0].as<double>(),
           .beta2 = betas[1].as<double>(),
           .epsilon = recipe.get<double>("eps"),
           .weight_decay = holds(recipe["no_decay"].json(), name) ? 0 : recipe.get<double>("weight_decay")});
    }
    optimizer.bound("logit_scale", -std::numeric_limits<double>::infinity(), recipe.get<double>("logit_scale_max"));
    optim::Ema ema(parameters.list, recipe.get<double>("ema_alpha"));
    const double total = recipe.get<double>("T");
    const optim::CosineSchedule schedule{.total_steps = total, .warmup_steps = recipe.get<double>("warmup") * total};
    History history;
    for (int64_t step = 0; step < which.config().get<int64_t>("steps"); ++step) {
      parameters.set_gradients(step);
      const double norm = optim::gradient_norm(parameters.list), factor = schedule(double(step + 1));
      optimizer.step(
          {.learning_rate_factor = factor, .gradient_scale = optim::clip_factor(norm, recipe.get<double>("clip"))});
      ema.update();
      append(history, parameters, optimizer, ema);
      history["total_norm"].push_back(float(norm));
      for (size_t p = 0; p < parameters.names.size(); ++p)
        history["lr"].push_back(float(optimizer.group(p).learning_rate * factor));
    }
    compare_all(which, "segclip", history);
  }
}

TEST_CASE("optimiser: PixelCLIP's recipe", "[golden]") {
  for (const Case& which : find_cases("optimiser")) {
    if (!which.has_variant("pixelclip")) continue;
    const auto recipe = which.config()["pixelclip"];
    Parameters parameters(which);
    optim::AdamW optimizer;
    const auto betas = recipe["betas"];
    for (const auto& name : parameters.names)
      optimizer.add_group(
          parameters.one(name),
          {.learning_rate = recipe["lr"].get<double>(name),
           .beta1 = betas[0].as<double>(),
           .beta2 = betas[1].as<double>(),
           .epsilon = recipe.get<double>("eps"),
           .weight_decay = holds(recipe["wd_zero"].json(), name) ? 0 : recipe.get<double>("weight_decay")});
    optim::Ema ema(parameters.list, recipe.get<double>("ema_alpha"));
    const optim::CosineSchedule schedule{.total_steps = recipe.get<double>("T"), .end = 0.5};
    History history;
    for (int64_t step = 0; step < which.config().get<int64_t>("steps"); ++step) {
      parameters.set_gradients(step);
      const double norm = optim::gradient_norm(parameters.list), factor = schedule(double(step));
      optimizer.step(
          {.learning_rate_factor = factor, .gradient_scale = optim::clip_factor(norm, recipe.get<double>("clip"))});
      ema.update();
      append(history, parameters, optimizer, ema);
      history["total_norm"].push_back(float(norm));
      for (size_t p = 0; p < parameters.names.size(); ++p)
        history["lr"].push_back(float(optimizer.group(p).learning_rate * factor));
    }
    compare_all(which, "pixelclip", history);
  }
}

TEST_CASE("optimiser: learning-rate tables", "[golden]") {
  for (const Case& which : find_cases("optimiser")) {
    if (!which.has_variant("schedules")) continue;
    // The tables' constants stand in the case's descriptions only: 60 steps; warm-up of 15 % or 8 steps; GroupViT's
    // base 1.6e-3, first 4e-6 and last 4e-5, as rates.
    const double base = 1.6e-3;
    const optim::CosineSchedule segclip{.total_steps = 60, .warmup_steps = 0.15 * 60},
        pixelclip{.total_steps = 60, .end = 0.5}, mgca{.total_steps = 60, .warmup_steps = 8},
        groupvit{
            .total_steps = 60, .warmup_steps = 8, .start = 4e-6 / base, .end = 4e-5 / base, .cosine_from_zero = true};
    History history;
    for (int64_t step = 0; step < which.shape("out.schedules.segclip")[0]; ++step) {
      history["segclip"].push_back(float(segclip(double(step))));
      history["pixelclip"].push_back(float(pixelclip(double(step))));
      history["warmup_cosine"].push_back(float(mgca(double(step))));
      history["groupvit"].push_back(float(base * groupvit(double(step))));
    }
    compare_all(which, "schedules", history);
  }
}
