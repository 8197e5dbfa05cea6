// Exponential moving averages of parameters: average = decay average + (1 - decay) parameter.
#pragma once
#include <tessera/ops/rearrange.hpp>
#include <tessera/optim/parameter_list.hpp>

namespace tessera::optim {

namespace detail {
inline void check_decay(double decay) {
  require(decay >= 0 && decay <= 1, "Ema: decay is ", decay, " but must lie in [0, 1]");
}
/// All elements of an array of the device, in whatever shape they belong.
template <class T, class Device>
TensorView<T, 1, Device> flat_view(void* data, int64_t size) {
  return {static_cast<T*>(data), {size}};
}
}  // namespace detail

/// Averages kept beside the parameters, in float (double where the parameter is). They begin as the parameters. The
/// work is queued on a context of the parameters' device; on Cpu none need be given.
template <class Device>
class BasicEma {
 public:
  using ParameterHandle = BasicParameterHandle<Device>;
  using ParameterList = BasicParameterList<Device>;

  BasicEma(Context<Device>& ctx, ParameterList parameters, double decay)
      : parameters_(std::move(parameters)), decay_(decay) {
    begin(ctx);
  }
  BasicEma(ParameterList parameters, double decay) requires std::is_same_v<Device, Cpu>
      : parameters_(std::move(parameters)), decay_(decay) {
    on_cpu(&BasicEma::begin);
  }

  /// One step of every average. Throws Error while the averages stand in for the parameters.
  void update(Context<Device>& ctx) {
    require<Error>(!applied_, "Ema: update() between apply() and restore() would average the averages");
    move(ctx, decay_);
  }
  /// Puts the averages in the parameters' place, for evaluation; restore() puts the parameters back, to the bit.
  void apply(Context<Device>& ctx) {
    require<Error>(!applied_, "Ema: apply() was called twice without restore()");
    for_each([&]<class T>(size_t p, TensorView<T, 1, Device> value, auto average) {
      saved_values_[p] = ctx.pool->allocate(size_t(value.size()) * sizeof(T));
      copy_forward(ctx, detail::flat_view<T, Device>(saved_values_[p].get(), value.size()), value);
      copy_forward(ctx, value, average);
    });
    applied_ = true;
  }
  /// Puts the trained values back, which apply() had set aside.
  void restore(Context<Device>& ctx) {
    require<Error>(applied_, "Ema: restore() needs apply() before it");
    for_each([&]<class T>(size_t p, TensorView<T, 1, Device> value, auto) {
      copy_forward(ctx, value, detail::flat_view<T, Device>(saved_values_[p].get(), value.size()));
      saved_values_[p] = {};
    });
    applied_ = false;
  }
  void update() requires std::is_same_v<Device, Cpu> { on_cpu(&BasicEma::update); }
  void apply() requires std::is_same_v<Device, Cpu> { on_cpu(&BasicEma::apply); }
  void restore() requires std::is_same_v<Device, Cpu> { on_cpu(&BasicEma::restore); }

  /// Copies of the averages in host memory: "<name>.average".
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
  void begin(Context<Device>& ctx) {
    detail::check_decay(decay_);
    for (const ParameterHandle& parameter : parameters_)
      averages_.emplace_back(detail::accumulate_dtype(parameter.dtype()), parameter.size());
    saved_values_.resize(parameters_.size());
    move(ctx, 0);
  }
  void on_cpu(void (BasicEma::*what)(Context<Cpu>&)) {
    Context<Cpu> ctx;
    (this->*what)(ctx);
  }
  /// Calls body(number, values, averages) for every parameter, both as views of rank 1.
  template <class Body>
  void for_each(Body&& body) {
    for (size_t p = 0; p < parameters_.size(); ++p)
      detail::visit_floating(parameters_[p].dtype(), [&]<class T>(T) {
        using A = accumulate_t<T>;
        const int64_t size = parameters_[p].size();
        body(p, detail::flat_view<T, Device>(parameters_[p].value(), size),
             detail::flat_view<A, Device>(averages_[p].template as<void>(), size));
      });
  }
  void move(Context<Device>& ctx, double decay) {
    for_each([&](size_t, auto value, auto average) { move_average(ctx, average, value, decay); });
  }

  ParameterList parameters_;
  std::vector<detail::BasicBuffer<Device>> averages_;
  std::vector<std::shared_ptr<void>> saved_values_;
  double decay_;
  bool applied_ = false;
};
using Ema = BasicEma<Cpu>;

/// One step of a teacher's parameters towards a student's, by name: for methods that run both. Throws ValueError where
/// the teacher has a parameter that the student lacks or whose size or type differs.
template <class Device>
void average_into(Context<Device>& ctx, const BasicParameterList<Device>& teacher,
                  const BasicParameterList<Device>& student, double decay) {
  detail::check_decay(decay);
  std::vector<const BasicParameterHandle<Device>*> sources;
  for (const auto& parameter : teacher) {
    const auto source =
        std::find_if(student.begin(), student.end(), [&](const auto& s) { return s.name() == parameter.name(); });
    require(source != student.end(), "average_into: the student has no parameter named ", parameter.name());
    require(source->shape() == parameter.shape() && source->dtype() == parameter.dtype(),
            "average_into: ", parameter.name(), " differs in shape or type between teacher and student");
    sources.push_back(&*source);
  }
  for (size_t p = 0; p < sources.size(); ++p)
    detail::visit_floating(teacher[p].dtype(), [&]<class T>(T) {
      move_average(ctx, detail::flat_view<T, Device>(teacher[p].value(), teacher[p].size()),
                   detail::flat_view<const T, Device>(sources[p]->value(), sources[p]->size()), decay);
    });
}
inline void average_into(const ParameterList& teacher, const ParameterList& student, double decay) {
  Context<Cpu> ctx;
  average_into(ctx, teacher, student, decay);
}

}  // namespace tessera::optim
