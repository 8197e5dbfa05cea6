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

#include <tessera/core/math.hpp>
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
class AdamW {
 public:
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
    return groups_.size() - 1;
  }
  /// Groups are numbered in the order in which they were added.
  size_t group_count() const { return groups_.size(); }
  const AdamWOptions& group(size_t index) const { return groups_.at(index); }
  /// Changes a group's options from the next step on.
  void set_group(size_t index, AdamWOptions options) {
    check(options);
    groups_.at(index) = options;
  }
  /// All parameters, group after group.
  const ParameterList& parameters() const { return parameters_; }

  /// Keeps every element of a parameter in [low, high] from the next step on (for logit scales).
  void bound(const std::string& name, double low, double high) {
    require(low <= high, "AdamW: the bounds of ", name, " are ", low, " and ", high, ", in the wrong order");
    Slot& slot = states_[index_of(name)];
    slot.low = low;
    slot.high = high;
  }

  /// One step of every parameter that has a gradient. Gradients are left as they are. Throws ValueError, before any
  /// parameter changes, where a factor is not finite (skip such a step).
  void step(AdamWStep factors = {}) {
    require(std::isfinite(factors.gradient_scale) && std::isfinite(factors.learning_rate_factor),
            "AdamW: gradient_scale is ", factors.gradient_scale, " and learning_rate_factor ",
            factors.learning_rate_factor, ": skip a step whose gradients are not finite");
    std::vector<Update> updates(states_.size());
    std::vector<int64_t> sizes;
    for (size_t p = 0; p < states_.size(); ++p) {
      const ParameterHandle& parameter = parameters_[p];
      sizes.push_back(parameter.size());
      updates[p].gradient = parameter.gradient();
      if (!updates[p].gradient) continue;
      allocate_moments(p);
      Slot& slot = states_[p];
      ++slot.step;
      updates[p].value = parameter.value();
      updates[p].set(groups_[slot.group], factors, double(slot.step));
    }
    const auto blocks = detail::blocks_of(sizes, [&](size_t p) { return updates[p].gradient != nullptr; });
    detail::for_each_block(blocks, [&](const detail::Block& block) {
      const ParameterHandle& parameter = parameters_[block.parameter];
      detail::visit_floating(parameter.dtype(), [&]<class T>(T) {
        if (parameter.gradient_dtype() == parameter.dtype())
          update<T, T>(block, updates[block.parameter]);
        else
          update<T, accumulate_t<T>>(block, updates[block.parameter]);
      });
    });
  }
  /// Drops all gradients, as every step needs before the next backward pass.
  void clear_gradients() const { parameters_.clear_gradients(); }

  /// A copy of all that the next step depends on besides the parameters, their gradients and the groups' options:
  /// "<name>.first_moment", "<name>.second_moment", "<name>.step" and, for narrow parameters, "<name>.master".
  NamedState state() const {
    NamedState saved;
    for (size_t p = 0; p < states_.size(); ++p) {
      const Slot& slot = states_[p];
      const ParameterHandle& parameter = parameters_[p];
      if (slot.master) saved.emplace_back(parameter.name() + ".master", slot.master.tensor(parameter.shape()));
      if (slot.step == 0) continue;
      saved.emplace_back(parameter.name() + ".first_moment", slot.first_moment.tensor(parameter.shape()));
      saved.emplace_back(parameter.name() + ".second_moment", slot.second_moment.tensor(parameter.shape()));
      saved.emplace_back(parameter.name() + ".step", AnyTensor{Dtype::i64, {}, std::make_shared<int64_t>(slot.step)});
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
    for (size_t p = 0; p < states_.size(); ++p) {
      Slot& slot = states_[p];
      const std::string& name = parameters_[p].name();
      if (slot.master) {
        slot.master.read(*find(name + ".master"));
        write_from_master(p);
      }
      slot.first_moment = slot.second_moment = {};
      slot.step = 0;
      if (const AnyTensor* step = find(name + ".step")) {
        slot.step = *step->as<int64_t>();
        allocate_moments(p);
        slot.first_moment.read(*find(name + ".first_moment"));
        slot.second_moment.read(*find(name + ".second_moment"));
      }
    }
  }
  /// Takes narrow parameters' masters from the parameters anew: call it after loading or changing their values.
  void refresh_masters() {
    for (size_t p = 0; p < states_.size(); ++p) refresh_master(p);
  }

 private:
  struct Slot {
    size_t group = 0;
    int64_t step = 0;
    detail::Buffer first_moment, second_moment, master;
    double low = -std::numeric_limits<double>::infinity(), high = std::numeric_limits<double>::infinity();
  };
  /// One parameter's numbers for one step.
  struct Update {
    const void* gradient = nullptr;
    void* value = nullptr;
    double keep = 1, gradient_scale = 1, beta1 = 0, beta2 = 0, step_size = 0, second_correction = 1, epsilon = 0;

    void set(const AdamWOptions& options, const AdamWStep& factors, double step) {
      const double rate = options.learning_rate * factors.learning_rate_factor;
      keep = 1 - rate * options.weight_decay;
      gradient_scale = factors.gradient_scale;
      beta1 = options.beta1;
      beta2 = options.beta2;
      step_size = rate / (1 - std::pow(beta1, step));
      second_correction = std::sqrt(1 - std::pow(beta2, step));
      epsilon = options.epsilon;
    }
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
    slot.first_moment = detail::Buffer(dtype, parameters_[p].size());
    slot.second_moment = detail::Buffer(dtype, parameters_[p].size());
  }
  void refresh_master(size_t p) {
    const ParameterHandle& parameter = parameters_[p];
    detail::visit_floating(parameter.dtype(), [&]<class T>(T) {
      if constexpr (!std::is_same_v<T, accumulate_t<T>>) {
        if (!states_[p].master) states_[p].master = detail::Buffer(Dtype::f32, parameter.size());
        const T* value = static_cast<const T*>(parameter.value());
        float* master = states_[p].master.template as<float>();
        for (int64_t i = 0; i < parameter.size(); ++i) master[i] = widen(value[i]);
      }
    });
  }
  void write_from_master(size_t p) {
    const ParameterHandle& parameter = parameters_[p];
    detail::visit_floating(parameter.dtype(), [&]<class T>(T) {
      T* value = static_cast<T*>(parameter.value());
      const float* master = states_[p].master.template as<float>();
      for (int64_t i = 0; i < parameter.size(); ++i) value[i] = narrow<T>(master[i]);
    });
  }

  template <class T, class G, class A = accumulate_t<T>>
  void update(const detail::Block& block, const Update& u) const {
    const Slot& slot = states_[block.parameter];
    const G* gradient = static_cast<const G*>(u.gradient);
    T* value = static_cast<T*>(u.value);
    A* p = nullptr;
    if constexpr (std::is_same_v<T, A>)
      p = value;
    else
      p = slot.master.template as<A>();
    A *m = slot.first_moment.template as<A>(), *v = slot.second_moment.template as<A>();
    const A keep = A(u.keep), scale = A(u.gradient_scale), new_m = A(1 - u.beta1), beta2 = A(u.beta2),
            new_v = A(1 - u.beta2), step_size = A(u.step_size), correction = A(u.second_correction),
            epsilon = A(u.epsilon);
#pragma omp simd
    for (int64_t i = block.begin; i < block.end; ++i) {
      const A g = scale * widen(gradient[i]);
      m[i] += new_m * (g - m[i]);
      v[i] = beta2 * v[i] + new_v * g * g;
      p[i] = keep * p[i] - step_size * m[i] / (math::sqrt(v[i]) / correction + epsilon);
    }
    if (std::isfinite(slot.low) || std::isfinite(slot.high))
      for (int64_t i = block.begin; i < block.end; ++i) p[i] = std::clamp(p[i], A(slot.low), A(slot.high));
    if constexpr (!std::is_same_v<T, A>) {
#pragma omp simd
      for (int64_t i = block.begin; i < block.end; ++i) value[i] = narrow<T>(p[i]);
    }
  }

  ParameterList parameters_;
  std::vector<Slot> states_;  // of parameters_
  std::vector<AdamWOptions> groups_;
};

}  // namespace tessera::optim
