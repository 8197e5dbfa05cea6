// Classifies whole pictures by words: the probabilities of classes, each named by a text.
//
//   classify --checkpoint clip-vit-base-patch32 --image photo.jpg --classes "a diagram,a dog,a cat" --prompts "{}"
//   classify --checkpoint clip-vit-base-patch32 --image photos/ --classes voc20
//
// CLIP's own preprocessing: the short side to the model's size by bicubic, the middle square cut out. The probabilities
// are the softmax over classes of exp(logit_scale) times the cosine of picture and text (PACL: times its
// compatibility).
#include "classification.hpp"
#include "segmentation_options.hpp"

namespace {

using namespace examples;

struct Options {
  ModelOptions model;
  std::string image, classes, json;
  int top = 5;
};

struct Guess {
  std::string name;
  double probability, cosine;
};

/// The classes of one picture, the likeliest first.
std::vector<Guess> classify(Context<Cpu>& ctx, const segmentation::DenseModel& model,
                            const segmentation::ClassEmbeddings& classes, const std::vector<std::string>& names,
                            const data::Image& picture) {
  const auto cosines = image_scores(ctx, model, classes, names.size(), picture);
  std::vector<Guess> guesses;
  for (size_t c = 0; c < names.size(); ++c) guesses.push_back({names[c], 0, cosines[c]});
  double sum = 0;
  const double highest =
      std::max_element(guesses.begin(), guesses.end(), [](auto& a, auto& b) { return a.cosine < b.cosine; })->cosine;
  for (Guess& guess : guesses) sum += guess.probability = std::exp(model.scale() * (guess.cosine - highest));
  for (Guess& guess : guesses) guess.probability /= sum;
  std::stable_sort(guesses.begin(), guesses.end(),
                   [](const Guess& a, const Guess& b) { return a.probability > b.probability; });
  return guesses;
}

void run(const Options& options) {
  use_threads(options.model.threads);
  const auto pictures = pictures_of(options.image);
  if (!options.json.empty()) require_distinct({options.json}, pictures);
  require_writable(options.json);
  const auto list = segmentation::load_class_list(options.classes);
  const auto prompts = options.model.prompt_set("imagenet80");
  Context<Cpu> ctx;
  const auto model = systems::load_dense_model(ctx, options.model.checkpoint, options.model.dense());
  const auto classes = options.model.embed(ctx, *model, list, -1, prompts);
  std::vector<std::string> names;
  size_t widest = 0;
  for (const auto& one : list.classes) {
    names.push_back(one.name);
    widest = std::max(widest, one.name.size());
  }
  tessera::io::Json results = tessera::io::Json::object();
  for (const auto& path : pictures) {
    const auto guesses = classify(ctx, *model, classes, names, data::read_image(path));
    std::printf("%s\n", path.string().c_str());
    for (size_t i = 0; i < std::min(guesses.size(), size_t(options.top)); ++i)
      std::printf("  %-*s  %6.2f %%\n", int(widest), guesses[i].name.c_str(), 100 * guesses[i].probability);
    auto& result = results[path.string()];
    for (const Guess& guess : guesses) result[guess.name] = guess.probability;
  }
  if (!options.json.empty()) tessera::io::write_json(options.json, results);
}

}  // namespace

int main(int argc, char** argv) {
  Options options;
  CLI::App app{
      "Classifies pictures by words: the probability of each class that is named.\n\n"
      "  classify --checkpoint clip-vit-base-patch32 --image photo.jpg --classes \"cat,dog,car\"\n"
      "  classify --checkpoint clip-vit-base-patch32 --image CLIP.png --classes \"a diagram,a dog,a cat\" "
      "--prompts \"{}\"\n\n"
      "The picture is resized to the model's size by its short side and the middle square is looked at, as CLIP does.\n"
      "Probabilities are those among the named classes: with one class it is always 100 %.\n"};
  options.model.add_to(app);
  app.get_option("--prompts")
      ->description(
          "a prompt set (simple1, imagenet80, clip_best7, ...), a file with a template a line, or one template with {} "
          "in "
          "it (\"{}\": the names as they are); default: the checkpoint's own, else imagenet80");
  app.add_option("--image", options.image, "a JPEG or PNG, or a folder of them")->required();
  app.add_option("--classes", options.classes,
                 "names separated by commas, other names of the same class by |; or a benchmark (voc20, ...), or a "
                 "class list FILE.json")
      ->required();
  app.add_option("--top", options.top, "classes printed")->check(CLI::Range(1, 65535))->capture_default_str();
  app.add_option("--output", options.json, "all probabilities as JSON: {picture: {class: probability}}");
  return run_program(app, argc, argv, "classify", [&] { run(options); });
}
