// Exponential moving averages of parameters: average = decay average + (1 - decay) parameter.
#pragma once
#include <tessera/optim/parameter_list.hpp>

namespace tessera::optim {

namespace detail {
/// average[i] moves towards value[i]; sizes and types as given.
template <class To, class From, class A = accumulate_t<To>>
void average_block(To* average, const From* value, const Block& block, A decay, A rest) {
#pragma omp simd
  for (int64_t i = block.begin; i < block.end; ++i)
    average[i] = narrow<To>(decay * widen(average[i]) + rest * A(widen(value[i])));
}
inline void check_decay(double decay) {
  require(decay >= 0 && decay <= 1, "Ema: decay is ", decay, " but must lie in [0, 1]");
}
}  // namespace detail

/// Averages kept beside the parameters, in float (double where the parameter is). They begin as the parameters.
class Ema {
 public:
  Ema(ParameterList parameters, double decay) : parameters_(std::move(parameters)), decay_(decay) {
    detail::check_decay(decay);
    for (const ParameterHandle& parameter : parameters_) {
      averages_.emplace_back(detail::accumulate_dtype(parameter.dtype()), parameter.size());
      saved_values_.emplace_back();
    }
    move(0);
  }

  /// One step of every average. Throws Error while the averages stand in for the parameters.
  void update() {
    require<Error>(!applied_, "Ema: update() between apply() and restore() would average the averages");
    move(decay_);
  }
  /// Puts the averages in the parameters' place, for evaluation; restore() puts the parameters back, to the bit.
  void apply() {
    require<Error>(!applied_, "Ema: apply() was called twice without restore()");
    for (size_t p = 0; p < parameters_.size(); ++p) {
      const ParameterHandle& parameter = parameters_[p];
      detail::visit_floating(parameter.dtype(), [&]<class T>(T) {
        T* value = static_cast<T*>(parameter.value());
        saved_values_[p] = detail::Buffer(parameter.dtype(), parameter.size());
        std::copy_n(value, parameter.size(), saved_values_[p].template as<T>());
        const auto* average = averages_[p].template as<accumulate_t<T>>();
        for (int64_t i = 0; i < parameter.size(); ++i) value[i] = narrow<T>(average[i]);
      });
    }
    applied_ = true;
  }
  /// Puts the trained values back, which apply() had set aside.
  void restore() {
    require<Error>(applied_, "Ema: restore() needs apply() before it");
    for (size_t p = 0; p < parameters_.size(); ++p) {
      std::memcpy(parameters_[p].value(), saved_values_[p].as<void>(), saved_values_[p].bytes());
      saved_values_[p] = {};
    }
    applied_ = false;
  }

  /// Copies of the averages: "<name>.average".
  NamedState state() const {
    NamedState saved;
    for (size_t p = 0; p < parameters_.size(); ++p)
      saved.emplace_back(parameters_[p].name() + ".average", averages_[p].tensor(parameters_[p].shape()));
    return saved;
  }
  /// Throws, before anything changes, where an average is missing or of another shape or type.
  void load_state(const NamedState& saved) {
    std::vector<const AnyTensor*> found(parameters_.size());
    for (size_t p = 0; p < parameters_.size(); ++p) {
      const std::string name = parameters_[p].name() + ".average";
      for (const auto& [saved_name, tensor] : saved)
        if (saved_name == name) found[p] = &tensor;
      require(found[p] != nullptr, "Ema: the saved state has no ", name);
      detail::expect_state("Ema", name, *found[p], detail::accumulate_dtype(parameters_[p].dtype()),
                           parameters_[p].shape());
    }
    for (size_t p = 0; p < found.size(); ++p) averages_[p].read(*found[p]);
  }

 private:
  void move(double decay) {
    const auto blocks = detail::blocks_of(detail::sizes_of(parameters_), [](size_t) { return true; });
    detail::for_each_block(blocks, [&](const detail::Block& block) {
      detail::visit_floating(parameters_[block.parameter].dtype(), [&]<class T>(T) {
        using A = accumulate_t<T>;
        detail::average_block(averages_[block.parameter].template as<A>(),
                              static_cast<const T*>(parameters_[block.parameter].value()), block, A(decay),
                              A(1 - decay));
      });
    });
  }

  ParameterList parameters_;
  std::vector<detail::Buffer> averages_, saved_values_;
  double decay_;
  bool applied_ = false;
};

/// One step of a teacher's parameters towards a student's, by name: for methods that run both. Throws ValueError where
/// the teacher has a parameter that the student lacks or whose size or type differs.
inline void average_into(const ParameterList& teacher, const ParameterList& student, double decay) {
  detail::check_decay(decay);
  std::vector<const ParameterHandle*> sources;
  for (const ParameterHandle& parameter : teacher) {
    const auto source = std::find_if(student.begin(), student.end(),
                                     [&](const ParameterHandle& s) { return s.name() == parameter.name(); });
    require(source != student.end(), "average_into: the student has no parameter named ", parameter.name());
    require(source->shape() == parameter.shape() && source->dtype() == parameter.dtype(),
            "average_into: ", parameter.name(), " differs in shape or type between teacher and student");
    sources.push_back(&*source);
  }
  const auto blocks = detail::blocks_of(detail::sizes_of(teacher), [](size_t) { return true; });
  detail::for_each_block(blocks, [&](const detail::Block& block) {
    detail::visit_floating(teacher[block.parameter].dtype(), [&]<class T>(T) {
      using A = accumulate_t<T>;
      detail::average_block(static_cast<T*>(teacher[block.parameter].value()),
                            static_cast<const T*>(sources[block.parameter]->value()), block, A(decay), A(1 - decay));
    });
  });
}

}  // namespace tessera::optim
