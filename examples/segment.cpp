// Segments pictures by words: every pixel gets the class whose text fits its place best.
//
//   segment --checkpoint clip-vit-base-patch16 --image photo.jpg --classes "cat,dog,grass"
//   segment --checkpoint demo/model --image photos/ --classes voc21 --background 0.5 --labels labels/
//
// The library does the work: a DenseModel scores patches, score_picture and label_picture do the geometry around it.
#include <tessera/io/safetensors.hpp>
#include <tessera/segmentation/overlay.hpp>
#include <tessera/train/progress.hpp>

#include "segmentation_options.hpp"
#include "superpixel_options.hpp"

namespace examples {

struct SegmentOptions {
  SegmentationOptions segmentation;
  SuperpixelOptions superpixels;
  std::string image, output, labels, scores, groups;
};

}  // namespace examples

namespace {

using namespace examples;
using Options = SegmentOptions;

/// A picture at least 320 pixels wide, so that a legend fits below it, and its labels with it.
void enlarge_small(data::Image& picture, data::LabelMap& labels) {
  constexpr int wanted = 320, tallest = 4096;
  const int factor = std::min((wanted + picture.width - 1) / picture.width, std::max(1, tallest / picture.height));
  if (factor <= 1) return;
  const int width = picture.width * factor, height = picture.height * factor;
  picture = data::resize(picture, width, height, data::Filter::nearest);
  data::LabelMap large(width, height);
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < width; ++x) large.at(x, y) = labels.at(x / factor, y / factor);
  labels = std::move(large);
}

void write_overlay(const fs::path& path, data::Image picture, data::LabelMap labels, const Segmenter& segmenter) {
  std::vector<std::string> names;
  for (const auto& one : segmenter.list.classes) names.push_back(one.name);
  enlarge_small(picture, labels);
  const bool has_background = segmenter.rule.background_threshold > 0 || segmenter.rule.background_entropy > 0;
  const int background = has_background ? int(segmenter.rule.background_label) : -1;
  // No label is "ignored" here: with 256 classes and more, 255 is one of them.
  const auto palette = segmentation::class_palette(int(names.size()));
  data::write_image(path,
                    segmentation::overlay(picture, labels, names, palette, {.untinted = background, .ignored = -1}));
}

void write_labels(const fs::path& path, const data::LabelMap& labels, const Segmenter& segmenter) {
  std::vector<data::Colour> palette;
  for (const auto& one : segmenter.list.classes) palette.push_back(one.colour);
  if (palette.size() > 256) palette.clear();  // the file is then 16-bit grey
  data::write_label_map(path, labels, palette);
}

/// The groups that a picture's patches were gathered into, each in a colour; windows have colours of their own.
void write_groups(const fs::path& path, data::Image picture, const segmentation::ScoreMap& map,
                  const Segmenter& segmenter) {
  data::LabelMap groups = data::resize(map.groups, picture.width, picture.height);
  const int count = 1 + *std::max_element(groups.labels.begin(), groups.labels.end());
  std::vector<std::string> names;
  for (int g = 0; g < count; ++g) {
    names.push_back("group " + std::to_string(g % segmenter.model->groups() + 1));
    if (count > segmenter.model->groups())
      names.back() += ", window " + std::to_string(g / segmenter.model->groups() + 1);
  }
  enlarge_small(picture, groups);
  data::write_image(path,
                    segmentation::overlay(picture, groups, names, segmentation::class_palette(count), {.ignored = -1}));
}

void write_scores(const fs::path& path, Context<Cpu>& ctx, const segmentation::ScoreMap& map,
                  const Segmenter& segmenter, const data::Image& picture) {
  using tessera::io::to_any;
  auto embeddings = map.patch_embeddings;
  if (!embeddings) {  // windows leave none: those of the whole picture seen at once
    auto whole = segmenter.predictor;
    whole.window = whole.window_stride = 0;
    embeddings = segmentation::score_picture(ctx, *segmenter.model, segmenter.embeddings.vectors, picture, whole)
                     .patch_embeddings;
  }
  std::vector<tessera::io::NamedTensor> tensors = {{"scores", to_any(map.scores)},
                                                   {"text_embeddings", to_any(segmenter.embeddings.vectors)}};
  if (embeddings) tensors.push_back({"patch_embeddings", to_any(embeddings)});  // SegCLIP scores groups, not patches
  if (map.gate) tensors.push_back({"gate", to_any(map.gate)});
  tessera::io::Json names =
      tessera::io::Json::array();  // of the rows: the background has none, synonyms may have several
  for (const uint16_t label : segmenter.rule.label_of_row) names.push_back(segmenter.list.classes[label].name);
  tessera::io::write_safetensors(path, tensors,
                                 {{"system", segmenter.model->system()},
                                  {"prompts", segmenter.prompts.name},
                                  {"classes", tessera::io::json_text(names, -1)}});
}

void print_shares(const data::LabelMap& labels, const Segmenter& segmenter) {
  std::vector<std::string> names;
  size_t widest = 5;
  for (const auto& one : segmenter.list.classes) {
    names.push_back(one.name);
    widest = std::max(widest, one.name.size());
  }
  std::printf("%-*s  share\n", int(widest), "class");
  for (const auto& entry : segmentation::legend_entries(labels, names, {}, -1))
    std::printf("%-*s  %5.1f %%\n", int(widest), entry.name.c_str(), 100 * entry.share);
}

/// Attention's time grows with the square of the patches that are seen at once.
void note_slow_attention(const Segmenter& segmenter, const data::Image& picture) {
  const auto& given = segmenter.predictor;
  if (given.window > 0) return;
  const auto& model = *segmenter.model;
  const auto size =
      segmentation::resized_size(picture, given.size > 0 ? given.size : int(model.image_size()), given.longest_side);
  const int64_t patches = (size.width / model.stride()) * (size.height / model.stride());
  if (patches > 10000)
    std::fprintf(stderr,
                 "note: %lld patches attend to each other at once, which takes long; --window %lld is quicker\n",
                 static_cast<long long>(patches), static_cast<long long>(4 * model.image_size()));
}

/// Where one kind of result goes: a file, or with a folder of pictures one file each.
fs::path target(const std::string& given, bool many, const std::string& name, const char* extension) {
  return many ? fs::path(given) / (name + extension) : fs::path(given);
}

void run(const Options& options) {
  std::error_code error;
  const bool many = fs::is_directory(options.image, error);
  const auto pictures = pictures_of(options.image);
  const auto names = result_names(pictures);
  const std::string output = !options.output.empty() ? options.output : many ? "overlays" : "overlay.png";
  if (!many) {
    tessera::require(is_picture(output), "--output ", output, " must end in .png or .jpg");
    tessera::require(options.labels.empty() || fs::path(options.labels).extension() == ".png", "--labels ",
                     options.labels, " must end in .png (JPEG would change labels)");
  }
  if (many) {
    for (const auto& folder : {output, options.labels, options.scores, options.groups})
      if (!folder.empty()) make_folder(folder);
  }
  std::vector<fs::path> results;
  for (const auto& name : names) {
    results.push_back(target(output, many, name, ".png"));
    if (!options.labels.empty()) results.push_back(target(options.labels, many, name, ".png"));
    if (!options.scores.empty()) results.push_back(target(options.scores, many, name, ".safetensors"));
    if (!options.groups.empty()) results.push_back(target(options.groups, many, name, ".png"));
  }
  require_distinct(results, pictures);
  Context<Cpu> ctx;
  Context<ThisDevice> device;
  const Segmenter segmenter = make_segmenter(ctx, device, options.segmentation);
  tessera::require(options.groups.empty() || segmenter.model->groups() > 0, "--groups ", options.groups,
                   ": the system ", segmenter.model->system(), " forms no groups; segclip does");
  std::optional<tessera::train::Progress> progress;
  if (many) progress.emplace("segmenting", int64_t(pictures.size()), "pictures");
  std::vector<std::string> damaged;
  for (size_t i = 0; i < pictures.size(); ++i) {
    data::Image picture;
    try {
      picture = data::read_image(pictures[i]);
    } catch (const tessera::Error& unreadable) {
      if (!many) throw;
      damaged.push_back(unreadable.what());  // said at the end: one bad picture does not cost the others
      progress->advance(1, names[i]);
      continue;
    }
    note_slow_attention(segmenter, picture);
    const auto map = segmenter.score(ctx, picture);
    const data::LabelMap labels = options.superpixels.refine(segmenter.label(ctx, map), picture);
    write_overlay(target(output, many, names[i], ".png"), picture, labels, segmenter);
    if (!options.labels.empty()) write_labels(target(options.labels, many, names[i], ".png"), labels, segmenter);
    if (!options.scores.empty())
      write_scores(target(options.scores, many, names[i], ".safetensors"), ctx, map, segmenter, picture);
    if (!options.groups.empty()) write_groups(target(options.groups, many, names[i], ".png"), picture, map, segmenter);
    if (progress) {
      progress->advance(1, names[i]);
      continue;
    }
    std::printf("%s, %d x %d, scored at %d x %d by %s on a grid of %lld x %lld, prompts %s\n",
                pictures[i].string().c_str(), picture.width, picture.height, map.resized.width, map.resized.height,
                segmenter.model->system().c_str(), static_cast<long long>(map.scores.shape[2]),
                static_cast<long long>(map.scores.shape[1]), segmenter.prompts.name.c_str());
    print_shares(labels, segmenter);
  }
  if (progress) progress->finish();
  std::printf("%s: %s\n", many ? "overlays in" : "overlay", output.c_str());
  if (!options.labels.empty()) std::printf("label map%s: %s\n", many ? "s in" : "", options.labels.c_str());
  if (!options.scores.empty()) std::printf("scores%s: %s\n", many ? " in" : "", options.scores.c_str());
  if (!options.groups.empty()) std::printf("groups%s: %s\n", many ? " in" : "", options.groups.c_str());
  tessera::require<tessera::IoError>(
      damaged.empty(), damaged.size(), " of ", pictures.size(),
      " pictures could not be read; the first: ", damaged.empty() ? std::string() : damaged.front());
}

const Devices<Options> on_this_device(ThisDevice{}, run);

}  // namespace

#if !defined(EXAMPLES_SECOND_DEVICE)
int main(int argc, char** argv) {
  Options options;
  CLI::App app{
      "Segments pictures by words: each pixel gets the class whose text fits its place best.\n\n"
      "  segment --checkpoint clip-vit-base-patch16 --image photo.jpg --classes \"cat,dog,grass\"\n"
      "  segment --checkpoint demo/model --image photos/ --classes \"person|man|woman,sky,road\" --labels labels\n"
      "  segment --checkpoint clip-vit-base-patch16 --image photo.jpg --classes voc20 --size 448 --window 224\n\n"
      "A checkpoint is what transformers' save_pretrained writes for a CLIP, an OpenAI or OpenCLIP safetensors file,\n"
      "or what the training programs leave. Classes should cover the picture: whatever is not named goes to the\n"
      "nearest class that is, unless --background sets such places aside. docs/segment.md explains all options.\n"};
  options.segmentation.add_to(
      app,
      "what to look for: names separated by commas, other names of the same class by | (\"person|man,sky\"); or a "
      "benchmark (voc20, voc21, context59, ...), or a class list FILE.json");
  options.superpixels.add_to(app);
  app.add_option("--image", options.image, "a JPEG or PNG, or a folder of them")->required();
  app.add_option("--output", options.output,
                 "the tinted picture with its legend (.png, .jpg); for a folder of pictures a folder; default "
                 "overlay.png, or overlays/");
  app.add_option("--labels", options.labels,
                 "the label map: a PNG of the picture's size, pixel value = number of the class from 0 (with "
                 "--background, 0 is the background and classes count from 1); a folder for a folder");
  app.add_option("--save-scores", options.scores,
                 "a safetensors file with scores [classes, h, w], patch_embeddings [h, w, d] and text_embeddings "
                 "[classes, d]; a folder for a folder");
  app.add_option("--groups", options.groups,
                 "segclip: the picture tinted by the groups that its patches were gathered into (.png, .jpg); a folder "
                 "for a folder");
  return run_program(app, argc, argv, "segment", [&] { Devices<Options>::run(options.segmentation.device, options); });
}
#endif
