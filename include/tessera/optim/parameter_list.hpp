// The parameters that an optimiser works on: variables of any element type and rank behind one type, by name.
#pragma once
#include <algorithm>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_set>
#include <utility>
#include <vector>

#include <tessera/autograd/variable.hpp>

namespace tessera::optim {

/// A named variable whose type is known at run time. Copies share the variable.
template <class Device>
class BasicParameterHandle {
 public:
  template <class T, int Rank, class G>
  BasicParameterHandle(std::string name, const Variable<T, Rank, Device, G>& variable)
      : name_(std::move(name)), access_(std::make_shared<VariableAccess<Variable<T, Rank, Device, G>>>(variable)) {
    static_assert(std::is_floating_point_v<T> || std::is_same_v<T, bfloat16> || std::is_same_v<T, float16>);
    static_assert(std::is_same_v<G, T> || std::is_same_v<G, accumulate_t<T>>);
    require(bool(variable), "ParameterHandle: ", name_, " is an empty handle: initialise or load the module first");
  }

  /// As in the checkpoint.
  const std::string& name() const { return name_; }
  /// Of the values.
  Dtype dtype() const { return access_->dtype; }
  /// accumulate_t of the values' type.
  Dtype gradient_dtype() const { return access_->gradient_dtype; }
  std::vector<int64_t> shape() const { return access_->shape(); }
  /// The number of axes.
  int rank() const { return access_->rank; }
  int64_t size() const {
    int64_t n = 1;
    for (int64_t extent : shape()) n *= extent;
    return n;
  }
  /// The values, size() of dtype(), in the device's memory.
  void* value() const { return access_->value(); }
  /// size() of gradient_dtype(), or null where no gradient has arrived.
  const void* gradient() const { return access_->gradient(); }
  /// Drops the gradient, so that the next contribution is the first.
  void clear_gradient() const { access_->clear_gradient(); }

 private:
  struct Access {
    Dtype dtype, gradient_dtype;
    int rank;
    Access(Dtype values, Dtype gradients, int axes) : dtype(values), gradient_dtype(gradients), rank(axes) {}
    virtual ~Access() = default;
    virtual std::vector<int64_t> shape() const = 0;
    virtual void* value() const = 0;
    virtual const void* gradient() const = 0;
    virtual void clear_gradient() const = 0;
  };
  template <class V>
  struct VariableAccess : Access {
    V variable;
    explicit VariableAccess(const V& v)
        : Access(dtype_of<typename V::value_type>,
                 dtype_of<typename std::decay_t<decltype(V::State::grad)>::value_type>, V::rank),
          variable(v) {}
    std::vector<int64_t> shape() const override { return {variable.shape().begin(), variable.shape().end()}; }
    void* value() const override { return variable.state().value.data; }
    const void* gradient() const override { return variable.state().grad.data; }
    void clear_gradient() const override { variable.state().grad = {}; }
  };

  std::string name_;
  std::shared_ptr<Access> access_;
};
using ParameterHandle = BasicParameterHandle<Cpu>;

/// Parameters in a fixed order, each name once.
///
///     optim::ParameterList all;
///     nn::for_each_parameter(model, "", [&](const std::string& name, auto& p) { all.add(name, p); });
///     const auto [matrices, others] = all.partition([](const auto& p) { return p.rank() >= 2; });
template <class Device>
class BasicParameterList {
 public:
  using ParameterHandle = BasicParameterHandle<Device>;
  /// Throws ValueError for a name that is there already, and for a variable that is there under another name.
  template <class T, int Rank, class G>
  void add(std::string name, const Variable<T, Rank, Device, G>& variable) {
    add(ParameterHandle(std::move(name), variable));
  }
  void add(ParameterHandle parameter) {
    require(!contains(parameter.name()), "ParameterList: there are two parameters named ", parameter.name());
    if (parameter.size() > 0)
      for (const ParameterHandle& known : handles_)
        require(known.value() != parameter.value(), "ParameterList: ", parameter.name(), " is the same tensor as ",
                known.name(), ": add a shared parameter once");
    names_.insert(parameter.name());
    handles_.push_back(std::move(parameter));
  }

  /// The parameters, in the order in which they were added.
  auto begin() const { return handles_.begin(); }
  auto end() const { return handles_.end(); }
  size_t size() const { return handles_.size(); }
  const ParameterHandle& operator[](size_t index) const { return handles_[index]; }
  bool contains(const std::string& name) const { return names_.count(name) > 0; }
  /// Elements of all parameters together.
  int64_t element_count() const {
    int64_t n = 0;
    for (const ParameterHandle& parameter : handles_) n += parameter.size();
    return n;
  }
  /// Those for which predicate(handle) holds, and the others; both in this list's order.
  template <class Predicate>
  std::pair<BasicParameterList, BasicParameterList> partition(Predicate&& predicate) const {
    std::pair<BasicParameterList, BasicParameterList> parts;
    for (const ParameterHandle& parameter : handles_)
      (predicate(parameter) ? parts.first : parts.second).add(parameter);
    return parts;
  }
  void clear_gradients() const {
    for (const ParameterHandle& parameter : handles_) parameter.clear_gradient();
  }

 private:
  std::vector<ParameterHandle> handles_;
  std::unordered_set<std::string> names_;
};
using ParameterList = BasicParameterList<Cpu>;

/// Names and tensors: what optimisers save, for a checkpoint.
using NamedState = std::vector<std::pair<std::string, AnyTensor>>;

namespace detail {

/// Calls body(type) with a value of the C++ type that a parameter's dtype stands for.
template <class Body>
decltype(auto) visit_floating(Dtype dtype, Body&& body) {
  switch (dtype) {
    case Dtype::f64:
      return body(double{});
    case Dtype::bf16:
      return body(bfloat16{});
    case Dtype::f16:
      return body(float16{});
    default:
      return body(float{});
  }
}

/// Numbers of an optimiser's own in the device's memory: float, or double beside a parameter in double.
template <class Device>
class BasicBuffer {
 public:
  BasicBuffer() = default;
  BasicBuffer(Dtype dtype, int64_t size) : dtype_(dtype), size_(size), data_(allocate<Device>(bytes())) {
    Memory<Device>::fill(data_.get(), 0, bytes());
  }
  explicit operator bool() const { return data_ != nullptr; }
  template <class A>
  A* as() const {
    return static_cast<A*>(data_.get());
  }
  size_t bytes() const { return size_t(size_) * dtype_size(dtype_); }
  /// A copy in host memory, as a tensor of `shape`.
  AnyTensor tensor(std::vector<int64_t> shape) const {
    auto copy = allocate<Cpu>(bytes());
    Memory<Device>::to_host(copy.get(), data_.get(), bytes());
    return {dtype_, std::move(shape), std::move(copy)};
  }
  void read(const AnyTensor& tensor) { Memory<Device>::from_host(data_.get(), tensor.storage.get(), bytes()); }

 private:
  template <class Where>
  static std::shared_ptr<void> allocate(size_t bytes) {
    return {Memory<Where>::allocate(std::max<size_t>(1, bytes)), [](void* p) { Memory<Where>::release(p); }};
  }

  Dtype dtype_ = Dtype::f32;
  int64_t size_ = 0;
  std::shared_ptr<void> data_;
};
using Buffer = BasicBuffer<Cpu>;

inline Dtype accumulate_dtype(Dtype dtype) { return dtype == Dtype::f64 ? Dtype::f64 : Dtype::f32; }

/// Throws unless a saved tensor is what belongs there.
inline void expect_state(std::string_view owner, const std::string& name, const AnyTensor& tensor, Dtype dtype,
                         const std::vector<int64_t>& shape) {
  require(tensor.dtype == dtype, owner, ": ", name, " is saved as ", dtype_name(tensor.dtype), " but must be ",
          dtype_name(dtype));
  require<ShapeError>(tensor.shape == shape, owner, ": ", name, " is saved with shape ", to_string(tensor.shape),
                      " but must have ", to_string(shape));
}

}  // namespace detail
}  // namespace tessera::optim
