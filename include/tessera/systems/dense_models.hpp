// The systems as segmentation::DenseModel: what the predictor and the programs use without knowing which system, with
// which element type and on which device, a checkpoint holds. What goes in and out lies in host memory; the towers
// compute on the device of the context that loaded them.
//   const auto model = systems::load_dense_model(ctx, "checkpoint/", {.system = "auto"});
//   const auto map = segmentation::score_picture(ctx, *model, embeddings, picture);
#pragma once
#include <filesystem>
#include <memory>
#include <optional>
#include <string>

#include <tessera/segmentation/predictor.hpp>
#include <tessera/systems/maskclip.hpp>
#include <tessera/systems/on_device.hpp>
#include <tessera/systems/pacl.hpp>
#include <tessera/systems/segclip_checkpoint.hpp>
#include <tessera/systems/segclip_readout.hpp>

namespace tessera::systems {

namespace detail {

/// What the systems with two towers have in common.
template <class T, class Device, class Model>
class TwoTowers : public segmentation::DenseModel, protected OnDevice<T, Device> {
 public:
  TwoTowers(const Context<Device>& device, Model model, const data::ImageStatistics& statistics)
      : OnDevice<T, Device>(device), model_(std::move(model)), statistics_(statistics) {}

  Tensor<float, 2> encode_text(Context<Cpu>& ctx, const Tensor<int32_t, 2>& ids) const override {
    Tape<Device> tape(this->device(ctx), false);
    return this->to_floats(ctx, model_.text(tape, this->upload(ctx, ids)).value());
  }
  int64_t image_size() const override { return model_.visual.config.image_size; }
  int64_t patch_size() const override { return model_.visual.config.patch_size; }
  int64_t context_length() const override { return model_.text.config.context_length; }
  int64_t vocabulary_size() const override { return model_.text.config.vocabulary_size; }
  double scale() const override { return logit_factor(double(to_host(view(model_.logit_scale.value()))[0])); }
  data::ImageStatistics statistics() const override { return statistics_; }

 protected:
  Model model_;
  data::ImageStatistics statistics_;
};

template <class T, class Device>
class DenseMaskclip : public TwoTowers<T, Device, Clip<T, Device>> {
 public:
  /// `gate`: factor on the whole image's cosine, added to every patch's; 0: none, as published.
  DenseMaskclip(const Context<Device>& device, Clip<T, Device> clip, const data::ImageStatistics& statistics,
                const MaskclipOptions& options, double gate)
      : TwoTowers<T, Device, Clip<T, Device>>(device, std::move(clip), statistics), options_(options), gate_(gate) {
    require(options_.patch_stride >= 0 && options_.patch_stride <= this->patch_size(), "maskclip: patch stride ",
            options_.patch_stride, " must lie in 0 to the patch size, ", this->patch_size());
  }

  std::string system() const override { return options_.form == MaskclipForm::value ? "maskclip-value" : "maskclip"; }
  segmentation::DenseScores score(Context<Cpu>& ctx, const Tensor<float, 4>& image,
                                  const TensorView<const float, 2>& class_embeddings) const override {
    MaskclipScores result =
        maskclip(this->device(ctx), this->model_, this->input(ctx, image), class_embeddings, options_);
    segmentation::DenseScores dense{result.grid, std::move(result.patch_embeddings), std::move(result.scores), {}};
    if (gate_ != 0) dense.gate = tessera::scale(ctx, view(score_image(ctx, image, class_embeddings)), gate_);
    return dense;
  }
  int64_t stride() const override { return options_.patch_stride ? options_.patch_stride : this->patch_size(); }
  Tensor<float, 1> score_image(Context<Cpu>& ctx, const Tensor<float, 4>& image,
                               const TensorView<const float, 2>& class_embeddings) const override {
    Tape<Device> tape(this->device(ctx), false);
    const Variable<T, 4, Device> input(this->input(ctx, image));
    const auto features = this->to_floats(ctx, this->model_.encode_image(tape, input).value());
    const auto embedding = l2_normalise(ctx, view(features));
    return matmul(ctx, embedding, class_embeddings, {}, {.transpose_b = true})
        .reshaped(Shape<1>{class_embeddings.shape[0]});
  }

 private:
  MaskclipOptions options_;
  double gate_;
};

}  // namespace detail

/// PACL's dense read-out.
struct PaclReadout {
  /// Pixels from patch to patch; 0: the paper's 4 where an embedder stands on a trained tower, end to end half the
  /// patch size.
  int64_t stride = 0;
  /// Times the compatibility of image and class, added to every patch's cosine; absent: 0 with an embedder, as in the
  /// paper, end to end 1.
  std::optional<double> gate = {};
};

namespace detail {

template <class T, class Device>
class DensePacl : public TwoTowers<T, Device, Pacl<T, Device>> {
 public:
  DensePacl(const Context<Device>& device, Pacl<T, Device> pacl, const data::ImageStatistics& statistics,
            const PaclReadout& readout)
      : TwoTowers<T, Device, Pacl<T, Device>>(device, std::move(pacl), statistics), readout_(readout) {
    const int64_t patch = this->patch_size();
    const bool as_in_paper = bool(this->model_.embedder);
    if (readout_.stride == 0)
      readout_.stride = as_in_paper ? std::min<int64_t>(4, patch) : std::max<int64_t>(1, patch / 2);
    if (!readout_.gate) readout_.gate = as_in_paper ? 0.0 : 1.0;
    require(readout_.stride > 0 && readout_.stride <= patch, "pacl: patch stride ", readout_.stride,
            " must lie in 1 to the patch size, ", patch);
  }

  std::string system() const override { return "pacl"; }
  int64_t stride() const override { return readout_.stride; }
  segmentation::DenseScores score(Context<Cpu>& ctx, const Tensor<float, 4>& image,
                                  const TensorView<const float, 2>& class_embeddings) const override {
    const auto patches = float_patches(ctx, image, readout_.stride);
    segmentation::DenseScores result;
    result.grid = this->model_.visual.grid(image.shape[2], image.shape[3], readout_.stride);
    result.patch_embeddings = l2_normalise(ctx, patches.rows());
    result.scores = matmul(ctx, result.patch_embeddings, class_embeddings, {}, {.transpose_b = true});
    if (*readout_.gate != 0)
      result.gate = tessera::scale(ctx, view(compatibility(ctx, patches, class_embeddings)), *readout_.gate);
    return result;
  }
  Tensor<float, 1> score_image(Context<Cpu>& ctx, const Tensor<float, 4>& image,
                               const TensorView<const float, 2>& class_embeddings) const override {
    return compatibility(ctx, float_patches(ctx, image, this->patch_size()), class_embeddings);
  }

 private:
  Tensor<float, 3> float_patches(Context<Cpu>& ctx, const Tensor<float, 4>& image, int64_t stride) const {
    Tape<Device> tape(this->device(ctx), false);
    const Variable<T, 4, Device> input(this->input(ctx, image));
    return this->to_floats(ctx, this->model_.patch_embeddings(tape, input, stride).value());
  }
  /// [N]
  Tensor<float, 1> compatibility(Context<Cpu>& ctx, const Tensor<float, 3>& patches,
                                 const TensorView<const float, 2>& class_embeddings) const {
    return pair_compatibility(ctx, view(patches), class_embeddings, this->model_.pair_options())
        .reshaped(Shape<1>{class_embeddings.shape[0]});
  }

  PaclReadout readout_;
};

}  // namespace detail

namespace detail {

template <class T, class Device>
class DenseSegclip : public TwoTowers<T, Device, Segclip<T, Device>> {
 public:
  DenseSegclip(const Context<Device>& device, Segclip<T, Device> model, const data::ImageStatistics& statistics,
               const SegclipReadout& readout)
      : TwoTowers<T, Device, Segclip<T, Device>>(device, std::move(model), statistics), readout_(readout) {}

  std::string system() const override { return readout_.form == SegclipForm::cosine ? "segclip-cosine" : "segclip"; }
  int groups() const override { return int(this->model_.config.group.centres); }
  bool scores_background() const override { return readout_.form == SegclipForm::official && readout_.background > 0; }
  int64_t usual_window() const override { return this->image_size(); }
  segmentation::DenseScores score(Context<Cpu>& ctx, const Tensor<float, 4>& image,
                                  const TensorView<const float, 2>& class_embeddings) const override {
    return segclip_scores(ctx, embed(ctx, image), image.shape[2], image.shape[3], class_embeddings, this->scale(),
                          readout_);
  }
  Tensor<float, 1> score_image(Context<Cpu>& ctx, const Tensor<float, 4>& image,
                               const TensorView<const float, 2>& class_embeddings) const override {
    return matmul(ctx, embed(ctx, image).image, class_embeddings, {}, {.transpose_b = true})
        .reshaped(Shape<1>{class_embeddings.shape[0]});
  }

 private:
  SegclipEmbeddings embed(Context<Cpu>& ctx, const Tensor<float, 4>& image) const {
    Tape<Device> tape(this->device(ctx), false);
    const Variable<T, 4, Device> input(this->input(ctx, image));
    const auto features = this->model_.encode_image(tape, input);
    const auto regions = this->to_floats(ctx, features.regions.value());
    const auto logits = this->to_floats(ctx, features.logits.value());
    return {l2_normalise(ctx, view(this->to_floats(ctx, features.image.value()))),
            l2_normalise(ctx, view(regions.reshaped(Shape<2>{regions.shape[1], regions.shape[2]}))),
            logits.reshaped(Shape<2>{logits.shape[1], logits.shape[2]}),
            this->model_.visual.grid(image.shape[2], image.shape[3])};
  }

  SegclipReadout readout_;
};

/// Whether a config.json's model_type is one that tessera writes.
inline bool is_model_type(const std::string& type) { return type == "clip" || type == "pacl" || type == "segclip"; }
/// What the model_type in config.json is segmented by where nothing else is asked for.
inline std::string usual_system(const std::string& model_type) {
  return model_type.empty() || model_type == "clip" ? "maskclip" : model_type;
}
/// The model_type of the checkpoints that a system reads.
inline std::string model_type_of(const std::string& system) {
  if (system.starts_with("maskclip")) return "clip";
  return system.starts_with("segclip") ? "segclip" : system;
}

}  // namespace detail

/// The names of systems, beside auto.
inline constexpr std::array<const char*, 5> dense_systems = {"maskclip", "maskclip-value", "pacl", "segclip",
                                                             "segclip-cosine"};

struct DenseModelOptions {
  /// maskclip, maskclip-value, pacl, segclip, segclip-cosine; auto: what config.json's model_type names
  std::string system = "auto";
  Dtype dtype = Dtype::f32;                   ///< of weights and activations: f32 or bf16
  std::optional<Activation> activation = {};  ///< where the checkpoint does not tell it
  MaskclipNumerics numerics = MaskclipNumerics::clip;
  MaskclipOptions maskclip = {};  ///< its form follows from `system`
  double maskclip_gate = 0;       ///< factor on the image's own cosine, added to every patch's
  PaclReadout pacl = {};
  SegclipReadout segclip = {};  ///< its form follows from `system`
};

namespace detail {

template <class T, class Device>
std::unique_ptr<segmentation::DenseModel> load_dense(Context<Device>& ctx, const std::filesystem::path& checkpoint,
                                                     const std::string& system, const DenseModelOptions& options) {
  if (system == "pacl") {
    auto loaded = load_pacl<T>(ctx, checkpoint);
    return std::make_unique<DensePacl<T, Device>>(ctx, std::move(loaded.model), loaded.statistics, options.pacl);
  }
  if (model_type_of(system) == "segclip") {
    auto loaded = load_segclip<T>(ctx, checkpoint);
    SegclipReadout readout = options.segclip;
    readout.form = system == "segclip-cosine" ? SegclipForm::cosine : SegclipForm::official;
    return std::make_unique<DenseSegclip<T, Device>>(ctx, std::move(loaded.model), loaded.statistics, readout);
  }
  auto loaded = load_clip<T>(ctx, checkpoint, options.activation);
  if (options.numerics == MaskclipNumerics::official) {
    loaded.model = with_official_numerics(std::move(loaded.model));
    loaded.statistics = data::imagenet_statistics;
  }
  MaskclipOptions maskclip = options.maskclip;
  maskclip.form = system == "maskclip-value" ? MaskclipForm::value : MaskclipForm::residual;
  return std::make_unique<DenseMaskclip<T, Device>>(ctx, std::move(loaded.model), loaded.statistics, maskclip,
                                                    options.maskclip_gate);
}

#if defined(TESSERA_COMPILED_MODELS)  // by files of their own, once for all programs of a build (cmake/models_*.cpp)
extern template std::unique_ptr<segmentation::DenseModel> load_dense<float, Cpu>(Context<Cpu>&,
                                                                                 const std::filesystem::path&,
                                                                                 const std::string&,
                                                                                 const DenseModelOptions&);
extern template std::unique_ptr<segmentation::DenseModel> load_dense<bfloat16, Cpu>(Context<Cpu>&,
                                                                                    const std::filesystem::path&,
                                                                                    const std::string&,
                                                                                    const DenseModelOptions&);
#endif

}  // namespace detail

/// Loads a checkpoint (a folder, or one safetensors file) for dense prediction on the context's device. Throws IoError
/// or ValueError with a sentence.
template <class Device>
std::unique_ptr<segmentation::DenseModel> load_dense_model(Context<Device>& ctx,
                                                           const std::filesystem::path& checkpoint,
                                                           const DenseModelOptions& options = {}) {
  const CheckpointDescription description = describe_checkpoint(checkpoint);
  const std::string& type = description.model_type;
  std::string system = options.system;
  if (system == "auto") {
    require<IoError>(type.empty() || detail::is_model_type(type), (description.folder / "config.json").string(),
                     ": model_type is \"", type,
                     "\"; known are clip, pacl and segclip (or name the --system that reads it)");
    system = detail::usual_system(type);
  }
  require(std::find(dense_systems.begin(), dense_systems.end(), system) != dense_systems.end(), "there is no system '",
          system,
          "'; there are auto, maskclip, maskclip-value, pacl, segclip and "
          "segclip-cosine");
  const std::string wanted = detail::model_type_of(system);
  // CLIPs come under many types, or under none.
  require(wanted == "clip" ? !detail::is_model_type(type) || type == "clip" : type == wanted, "the checkpoint ",
          checkpoint.string(), " is ", type.empty() ? "of a type that no config.json tells" : "a \"" + type + "\"",
          ", which --system ", system, " does not read; leave --system at auto");
  require(wanted == "clip" || (options.maskclip.key_smoothing == 0 && options.maskclip.prompt_denoising == 0 &&
                               options.numerics == MaskclipNumerics::clip && !options.activation),
          "key smoothing, prompt denoising, --numerics and --activation belong to CLIPs; the checkpoint ",
          checkpoint.string(), " is a \"", wanted, "\"");
  require(options.dtype == Dtype::f32 || options.dtype == Dtype::bf16, "models run in f32 or bf16, not ",
          dtype_name(options.dtype));
  return options.dtype == Dtype::bf16 ? detail::load_dense<bfloat16>(ctx, checkpoint, system, options)
                                      : detail::load_dense<float>(ctx, checkpoint, system, options);
}

}  // namespace tessera::systems
