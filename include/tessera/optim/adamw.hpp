// AdamW (Loshchilov & Hutter, "Decoupled weight decay regularization", 2019): Adam whose weight decay shrinks the
// parameter itself. For step t = 1, 2, … of a parameter p with gradient g, in this order:
//
//   p *= 1 - rate * weight_decay
//   m = beta1 m + (1 - beta1) g,   v = beta2 v + (1 - beta2) g²
//   p -= rate / (1 - beta1^t) * m / (sqrt(v) / sqrt(1 - beta2^t) + epsilon)
//
// with rate = learning_rate * the schedule's factor and g already scaled by the clipping factor. m, v and p are float
// (double where the parameter is); a parameter stored narrower has a float master here, rounded to it at each step.
#pragma once
#include <cmath>
#include <limits>
#include <map>

#include <tessera/ops/adamw.hpp>
#include <tessera/optim/parameter_list.hpp>

namespace tessera::optim {

/// Of one group of parameters; PyTorch's defaults.
struct AdamWOptions {
  double learning_rate = 1e-3;
  double beta1 = 0.9, beta2 = 0.999;
  double epsilon = 1e-8;
  double weight_decay = 1e-2;
};

/// What changes from step to step.
struct AdamWStep {
  double learning_rate_factor = 1;  ///< from a schedule
  double gradient_scale = 1;        ///< from clip_factor
};

/// Works on groups of parameters, each with options of its own. A parameter without a gradient is left alone: neither
/// decayed nor counted as stepped.
///
///     optim::AdamW optimizer;
///     optimizer.add_group(matrices, {.learning_rate = 1e-3, .weight_decay = 0.05});
///     optimizer.add_group(others, {.learning_rate = 1e-3, .weight_decay = 0});
///     optimizer.bound("logit_scale", 0, std::log(100.0));
///     …
///     const double norm = optim::gradient_norm(all);
///     optimizer.step({.learning_rate_factor = schedule(step), .gradient_scale = optim::clip_factor(norm, 1.0)});
///     optimizer.clear_gradients();
///
/// On a device, step_clipped computes the norm and the clipping there, without the host waiting for either.
template <class Device>
class BasicAdamW {
 public:
  using ParameterHandle = BasicParameterHandle<Device>;
  using ParameterList = BasicParameterList<Device>;

  /// Adds parameters under these options and returns the group's number. Throws ValueError for options out of range and
  /// for a parameter that is in a group already.
  size_t add_group(const ParameterList& parameters, AdamWOptions options) {
    check(options);
    for (const ParameterHandle& parameter : parameters)
      require(!parameters_.contains(parameter.name()), "AdamW: ", parameter.name(), " is in a group already");
    for (const ParameterHandle& parameter : parameters) {
      parameters_.add(parameter);
      Slot slot;
      slot.group = groups_.size();
      states_.push_back(std::move(slot));
      refresh_master(states_.size() - 1);
    }
    groups_.push_back(options);
    rules_changed_ = true;
    return groups_.size() - 1;
  }
  /// Groups are numbered in the order in which they were added.
  size_t group_count() const { return groups_.size(); }
  const AdamWOptions& group(size_t index) const { return groups_.at(index); }
  /// Changes a group's options from the next step on.
  void set_group(size_t index, AdamWOptions options) {
    check(options);
    groups_.at(index) = options;
    rules_changed_ = true;
  }
  /// All parameters, group after group.
  const ParameterList& parameters() const { return parameters_; }

  /// Keeps every element of a parameter in [low, high] from the next step on (for logit scales).
  void bound(const std::string& name, double low, double high) {
    require(low <= high, "AdamW: the bounds of ", name, " are ", low, " and ", high, ", in the wrong order");
    Slot& slot = states_[index_of(name)];
    slot.low = low;
    slot.high = high;
    rules_changed_ = true;
  }

  /// One step of every parameter that has a gradient. Gradients are left as they are. Throws ValueError, before any
  /// parameter changes, where a factor is not finite (skip such a step).
  void step(Context<Device>& ctx, AdamWStep factors = {}) {
    require(std::isfinite(factors.gradient_scale) && std::isfinite(factors.learning_rate_factor),
            "AdamW: gradient_scale is ", factors.gradient_scale, " and learning_rate_factor ",
            factors.learning_rate_factor, ": skip a step whose gradients are not finite");
    const std::vector<AdamWTensor> tensors = tensors_with_state();
    set_factors(factors);
    adamw_step(ctx, steps_view(), rules_view(), factors_view(), tensors);
  }
  void step(AdamWStep factors = {}) requires std::is_same_v<Device, Cpu> {
    Context<Cpu> ctx;
    step(ctx, factors);
  }

  /// One step whose gradients are scaled down to `largest_norm` together. The norm is computed and used on the device;
  /// a step whose norm is not finite changes nothing and does not count.
  void step_clipped(Context<Device>& ctx, double learning_rate_factor, double largest_norm) {
    prepare();
    set_factors({.learning_rate_factor = learning_rate_factor});
    update_clipped(ctx, largest_norm);
  }
  /// The part of step_clipped that the device does alone: what a captured graph of a training step holds. Outside the
  /// graph, prepare() before the first step and after changes of groups or bounds, and set_factors() before each.
  void update_clipped(Context<Device>& ctx, double largest_norm) {
    const std::vector<AdamWTensor> tensors = tensors_with_state();
    const TensorView<double, 0, Device> norm(norm_.template as<double>(), {});
    gradient_norm_forward(ctx, norm, tensors);
    clip_gradients(ctx, factors_view(), norm, largest_norm);
    adamw_step(ctx, steps_view(), rules_view(), factors_view(), tensors);
  }
  /// Allocates what steps need (moments of all parameters too) and hands the groups' options to the device.
  void prepare() {
    for (size_t p = 0; p < states_.size(); ++p) allocate_moments(p);
    send_rules();
  }
  /// What the next update uses.
  void set_factors(AdamWStep factors) {
    const AdamWFactors values{factors.learning_rate_factor, factors.gradient_scale};
    Memory<Device>::from_host(factors_.template as<void>(), &values, sizeof values);
  }
  /// The norm of all gradients at the last step_clipped or update_clipped; the host waits for it.
  double last_norm() const {
    double norm = 0;
    Memory<Device>::to_host(&norm, norm_.template as<void>(), sizeof norm);
    return norm;
  }
  /// Drops all gradients, as every step needs before the next backward pass.
  void clear_gradients() const { parameters_.clear_gradients(); }

  /// A copy of all that the next step depends on besides the parameters, their gradients and the groups' options:
  /// "<name>.first_moment", "<name>.second_moment", "<name>.step" and, for narrow parameters, "<name>.master".
  NamedState state() const {
    NamedState saved;
    const std::vector<int64_t> steps = steps_taken();
    for (size_t p = 0; p < states_.size(); ++p) {
      const Slot& slot = states_[p];
      const ParameterHandle& parameter = parameters_[p];
      if (slot.master) saved.emplace_back(parameter.name() + ".master", slot.master.tensor(parameter.shape()));
      if (steps[p] == 0) continue;
      saved.emplace_back(parameter.name() + ".first_moment", slot.first_moment.tensor(parameter.shape()));
      saved.emplace_back(parameter.name() + ".second_moment", slot.second_moment.tensor(parameter.shape()));
      saved.emplace_back(parameter.name() + ".step", AnyTensor{Dtype::i64, {}, std::make_shared<int64_t>(steps[p])});
    }
    return saved;
  }
  /// Puts a saved state back, so that steps go on to the bit; also sets narrow parameters from their masters. Names of
  /// other things are passed over. Throws, before anything changes, for a parameter whose state is incomplete or of
  /// another shape or type.
  void load_state(const NamedState& saved) {
    std::map<std::string, const AnyTensor*> by_name;
    for (const auto& [name, tensor] : saved) by_name.emplace(name, &tensor);
    const auto find = [&](const std::string& name) {
      const auto found = by_name.find(name);
      return found == by_name.end() ? nullptr : found->second;
    };
    const char* const parts[] = {".first_moment", ".second_moment", ".step"};
    for (size_t p = 0; p < states_.size(); ++p) {
      const ParameterHandle& parameter = parameters_[p];
      const Dtype dtype = detail::accumulate_dtype(parameter.dtype());
      int present = 0;
      for (const char* part : parts)
        if (const AnyTensor* tensor = find(parameter.name() + part)) {
          const bool is_step = part == parts[2];
          detail::expect_state("AdamW", parameter.name() + part, *tensor, is_step ? Dtype::i64 : dtype,
                               is_step ? std::vector<int64_t>{} : parameter.shape());
          require(!is_step || *tensor->as<int64_t>() > 0, "AdamW: ", parameter.name(), ".step is not positive");
          ++present;
        }
      require(present == 0 || present == 3, "AdamW: the saved state of ", parameter.name(), " has ", present,
              " of first_moment, second_moment and step");
      const AnyTensor* master = find(parameter.name() + ".master");
      require(!states_[p].master || master, "AdamW: the saved state has no ", parameter.name(), ".master");
      if (states_[p].master)
        detail::expect_state("AdamW", parameter.name() + ".master", *master, dtype, parameter.shape());
    }
    std::vector<int64_t> steps(states_.size(), 0);
    for (size_t p = 0; p < states_.size(); ++p) {
      Slot& slot = states_[p];
      const std::string& name = parameters_[p].name();
      if (slot.master) {
        slot.master.read(*find(name + ".master"));
        write_from_master(p);
      }
      slot.first_moment = slot.second_moment = {};
      if (const AnyTensor* step = find(name + ".step")) {
        steps[p] = *step->as<int64_t>();
        allocate_moments(p);
        slot.first_moment.read(*find(name + ".first_moment"));
        slot.second_moment.read(*find(name + ".second_moment"));
      }
    }
    set_steps(steps);
  }
  /// Takes narrow parameters' masters from the parameters anew: call it after loading or changing their values.
  void refresh_masters() {
    for (size_t p = 0; p < states_.size(); ++p) refresh_master(p);
  }

 private:
  using Buffer = detail::BasicBuffer<Device>;
  struct Slot {
    size_t group = 0;
    Buffer first_moment, second_moment, master;
    double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  };

  static void check(const AdamWOptions& o) {
    require(o.learning_rate >= 0 && o.weight_decay >= 0 && o.epsilon >= 0, "AdamW: learning_rate ", o.learning_rate,
            ", weight_decay ", o.weight_decay, " and epsilon ", o.epsilon, " must not be negative");
    require(o.beta1 >= 0 && o.beta1 < 1 && o.beta2 >= 0 && o.beta2 < 1, "AdamW: beta1 ", o.beta1, " and beta2 ",
            o.beta2, " must lie in [0, 1)");
  }
  size_t index_of(const std::string& name) const {
    for (size_t p = 0; p < parameters_.size(); ++p)
      if (parameters_[p].name() == name) return p;
    fail<ValueError>("AdamW: there is no parameter named ", name);
  }
  void allocate_moments(size_t p) {
    Slot& slot = states_[p];
    if (slot.first_moment) return;
    const Dtype dtype = detail::accumulate_dtype(parameters_[p].dtype());
    slot.first_moment = Buffer(dtype, parameters_[p].size());
    slot.second_moment = Buffer(dtype, parameters_[p].size());
  }
  void refresh_master(size_t p) {
    const ParameterHandle& parameter = parameters_[p];
    detail::visit_floating(parameter.dtype(), [&]<class T>(T) {
      if constexpr (!std::is_same_v<T, accumulate_t<T>>) {
        if (!states_[p].master) states_[p].master = Buffer(Dtype::f32, parameter.size());
        std::vector<T> values(size_t(parameter.size()));
        std::vector<float> masters;
        Memory<Device>::to_host(values.data(), parameter.value(), values.size() * sizeof(T));
        for (const T& value : values) masters.push_back(widen(value));
        Memory<Device>::from_host(states_[p].master.template as<void>(), masters.data(),
                                  masters.size() * sizeof(float));
      }
    });
  }
  void write_from_master(size_t p) {
    const ParameterHandle& parameter = parameters_[p];
    detail::visit_floating(parameter.dtype(), [&]<class T>(T) {
      std::vector<float> masters(size_t(parameter.size()));
      std::vector<T> values;
      Memory<Device>::to_host(masters.data(), states_[p].master.template as<void>(), masters.size() * sizeof(float));
      for (const float master : masters) values.push_back(narrow<T>(master));
      Memory<Device>::from_host(parameter.value(), values.data(), values.size() * sizeof(T));
    });
  }

  // ---- what the device reads at each step ----
  static Buffer bytes(size_t count) { return Buffer(Dtype::u8, int64_t(count)); }
  TensorView<int64_t, 1, Device> steps_view() const {
    return {steps_.template as<int64_t>(), {int64_t(states_.size())}};
  }
  TensorView<AdamWRule, 1, Device> rules_view() const {
    return {rules_.template as<AdamWRule>(), {int64_t(states_.size())}};
  }
  TensorView<AdamWFactors, 1, Device> factors_view() const { return {factors_.template as<AdamWFactors>(), {1}}; }

  std::vector<int64_t> steps_taken() const {
    std::vector<int64_t> steps(states_.size(), 0);
    if (steps_) Memory<Device>::to_host(steps.data(), steps_.template as<void>(), steps_.bytes());
    return steps;
  }
  void set_steps(const std::vector<int64_t>& steps) {
    if (steps_.bytes() != steps.size() * sizeof(int64_t)) steps_ = bytes(steps.size() * sizeof(int64_t));
    Memory<Device>::from_host(steps_.template as<void>(), steps.data(), steps_.bytes());
  }
  /// The groups' options as rules, one a parameter, where something has changed.
  void send_rules() {
    if (!rules_changed_) return;
    std::vector<AdamWRule> rules;
    for (const Slot& slot : states_) {
      const AdamWOptions& o = groups_[slot.group];
      rules.push_back({o.learning_rate, o.beta1, o.beta2, o.epsilon, o.weight_decay, slot.low, slot.high});
    }
    const size_t size = rules.size() * sizeof(AdamWRule);
    if (rules_.bytes() != size) rules_ = bytes(size);
    Memory<Device>::from_host(rules_.template as<void>(), rules.data(), size);
    if (steps_.bytes() != states_.size() * sizeof(int64_t)) {  // new parameters have taken no step
      std::vector<int64_t> steps = steps_taken();
      steps.resize(states_.size(), 0);
      set_steps(steps);
    }
    rules_changed_ = false;
  }
  std::vector<AdamWTensor> tensors_with_state() {
    send_rules();
    std::vector<AdamWTensor> tensors;
    for (size_t p = 0; p < states_.size(); ++p) {
      const ParameterHandle& parameter = parameters_[p];
      const void* gradient = parameter.gradient();
      if (gradient) allocate_moments(p);
      const Slot& slot = states_[p];
      tensors.push_back({.value = parameter.value(),
                         .gradient = gradient,
                         .master = slot.master.template as<void>(),
                         .first_moment = slot.first_moment.template as<void>(),
                         .second_moment = slot.second_moment.template as<void>(),
                         .size = parameter.size(),
                         .dtype = parameter.dtype(),
                         .gradient_dtype = parameter.gradient_dtype()});
    }
    return tensors;
  }

  ParameterList parameters_;
  std::vector<Slot> states_;  // of parameters_
  std::vector<AdamWOptions> groups_;
  bool rules_changed_ = true;
  Buffer steps_, rules_, factors_ = bytes(sizeof(AdamWFactors)), norm_ = bytes(sizeof(double));
};
using AdamW = BasicAdamW<Cpu>;

}  // namespace tessera::optim
