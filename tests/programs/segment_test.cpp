// The programs that segment, classify and evaluate, run as a user runs them, on tiny models made here.
#include <array>
#include <cmath>
#include <filesystem>
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/programs.hpp>
#include <support/skip.hpp>
#include <tessera/data/image.hpp>
#include <tessera/data/tokenizer.hpp>
#include <tessera/io/tensor_source.hpp>
#include <tessera/systems/pacl.hpp>

using namespace tessera;
using namespace tessera_test;
namespace fs = std::filesystem;

namespace {

/// A folder with models, pictures and what the programs write; the programs run inside it.
struct Workshop : ProgramFolder {
  Workshop() {
    fs::create_directories(root / "pictures");
    make_models();
    make_pictures();
  }
  io::TensorSource tensors(const std::string& file) const { return io::TensorSource::open(root / file); }

 private:
  void make_models() const {
    const std::vector<std::string> captions = {"a photo of a cat", "a photo of a dog and grass",
                                               "the sky in a picture"};
    const auto tokenizer = data::Tokenizer::learn(captions, 560);
    systems::ClipConfig config;
    config.vision = {
        .image_size = 32, .patch_size = 8, .transformer = {.width = 64, .layers = 2, .heads = 2}, .embed_dim = 16};
    config.text = {.vocabulary_size = tokenizer.vocabulary_size(),
                   .context_length = 24,
                   .transformer = {.width = 64, .layers = 2, .heads = 2},
                   .embed_dim = 16,
                   .end_of_text = tokenizer.end_of_text()};
    Context<Cpu> ctx({.seed = 3});
    auto clip = systems::make_clip<float>(ctx, config);
    systems::save_clip(clip, {}, root / "clip");
    tokenizer.save(root / "clip");
    config.vision.class_token = config.vision.pre_norm = false;
    auto pacl = systems::make_pacl<float>(ctx, {config.vision, config.text});
    systems::save_pacl(pacl, {}, root / "pacl", "a photo of a {}");
    tokenizer.save(root / "pacl");
  }
  void make_pictures() const {
    const auto picture = [](int width, int height, int channels) {
      data::Image image(width, height, channels);
      const RandomStream random{uint64_t(width), 0, 0};
      for (int y = 0; y < height; ++y)
        for (int x = 0; x < width; ++x)
          for (int c = 0; c < channels; ++c)  // blocks of random colours
            image.at(x, y)[c] = uint8_t(255 * random.uniform(uint64_t((y / 12 * 1000 + x / 12) * 4 + c)));
      return image;
    };
    data::write_image(root / "pictures" / "a.png", picture(90, 61, 3));
    data::write_image(root / "pictures" / "b.jpg", picture(70, 120, 3));
    data::write_image(root / "pictures" / "grey.png", picture(50, 40, 1));
    data::write_image(root / "pictures" / "alpha.png", picture(50, 40, 4));
    data::write_image(root / "pictures" / "one.png", picture(1, 1, 3));
    data::write_image(root / "wide.png", picture(8000, 50, 3));
    io::write_text(root / "damaged.png", "\x89PNG\r\n\x1a\n and nothing more");
    io::write_text(root / "prompts.txt", "a photo of a {}\na picture of the {}\n");
  }
};

bool programs_are_there() { return tessera_test::programs_are_there({"segment", "classify", "evaluate"}); }

Workshop& workshop() {
  static Workshop one;
  return one;
}

}  // namespace

TEST_CASE("segment: overlay, labels and scores of one picture agree with each other", "[programs]") {
  if (!programs_are_there()) return;
  const Workshop& w = workshop();
  for (const std::string system : {"maskclip", "maskclip-value", "auto"}) {
    const auto outcome = w.succeed(
        "segment --checkpoint clip --image pictures/a.png --classes 'cat,dog|puppy,grass' "
        "--system " +
        system + " --output o.png --labels l.png --save-scores s.safetensors");
    INFO(system << "\n" << outcome.out);
    CHECK(outcome.out.find("share") != std::string::npos);
    CHECK(outcome.out.find("o.png") != std::string::npos);
    CHECK(data::read_image(w.root / "o.png").height > 61);  // a legend below
    const auto labels = data::read_label_map(w.root / "l.png");
    CHECK(labels.width == 90);
    CHECK(labels.height == 61);
    CHECK(*std::max_element(labels.labels.begin(), labels.labels.end()) <= 2);
    const auto s = w.tensors("s.safetensors");
    // 61 rows become 32, 90 columns 47, padded to 48: a grid of 4 x 6
    REQUIRE(s.shape("scores") == std::vector<int64_t>{3, 4, 6});
    REQUIRE(s.shape("patch_embeddings") == std::vector<int64_t>{4, 6, 16});
    REQUIRE(s.shape("text_embeddings") == std::vector<int64_t>{3, 16});
    const auto scores = s.read_vector<float>("scores"), patches = s.read_vector<float>("patch_embeddings"),
               texts = s.read_vector<float>("text_embeddings");
    double worst = 0;
    for (size_t c = 0; c < 3; ++c)
      for (size_t p = 0; p < 24; ++p) {
        double dot = 0, length = 0;
        for (size_t e = 0; e < 16; ++e) {
          dot += double(texts[c * 16 + e]) * patches[p * 16 + e];
          length += double(patches[p * 16 + e]) * patches[p * 16 + e];
        }
        worst = std::max({worst, std::abs(dot - scores[c * 24 + p]), std::abs(length - 1)});
      }
    CHECK(worst < 1e-5);
  }
}

TEST_CASE("segment: the number of threads changes no byte", "[programs]") {
  if (!programs_are_there()) return;
  const Workshop& w = workshop();
  std::vector<std::string> written;
  for (int threads : {1, 3}) {
    w.succeed(
        sentence("segment --checkpoint clip --image pictures/b.jpg --classes cat,dog,grass --size 60 --window 40 "
                 "--save-scores t.safetensors --labels t.png --background 0.35 --key-smoothing 1 --threads ",
                 threads, " --output o.png"));
    written.push_back(io::read_text(w.root / "t.safetensors") + io::read_text(w.root / "t.png"));
  }
  CHECK(written[0] == written[1]);
}

TEST_CASE("segment: a folder of pictures of all kinds, every refinement, bfloat16", "[programs]") {
  if (!programs_are_there()) return;
  const Workshop& w = workshop();
  w.succeed(
      "segment --checkpoint clip --image pictures --classes cat,dog,grass --output overlays --labels labels "
      "--save-scores scores --key-smoothing 1 --prompt-denoising 0.5 --numerics official --dtype bf16");
  for (const char* name : {"a", "b", "grey", "alpha", "one"}) {
    INFO(name);
    CHECK(fs::exists(w.root / "overlays" / (std::string(name) + ".png")));
    CHECK(fs::exists(w.root / "labels" / (std::string(name) + ".png")));
    CHECK(fs::exists(w.root / "scores" / (std::string(name) + ".safetensors")));
  }
  w.succeed(
      "segment --checkpoint clip --image wide.png --classes cat,dog,grass --output wide_overlay.png --labels "
      "wide_labels.png");
  CHECK(data::read_label_map(w.root / "wide_labels.png").width == 8000);
}

TEST_CASE("segment: background, windows, synonyms, prompts", "[programs]") {
  if (!programs_are_there()) return;
  const Workshop& w = workshop();
  const std::string common =
      "segment --checkpoint clip --image pictures/a.png --output o.png --labels l.png "
      "--save-scores s.safetensors --classes 'cat|kitten,dog,grass' ";
  w.succeed(common + "--background 1");
  const auto all = data::read_label_map(w.root / "l.png");
  CHECK(std::count(all.labels.begin(), all.labels.end(), 0) == 90 * 61);
  CHECK(w.tensors("s.safetensors").metadata().at("classes") == "[\"cat\",\"dog\",\"grass\"]");
  w.succeed(common + "--background 0.001");
  const auto none = data::read_label_map(w.root / "l.png");
  CHECK(*std::min_element(none.labels.begin(), none.labels.end()) >= 1);
  w.succeed(common);
  const auto plain = data::read_label_map(w.root / "l.png");
  for (size_t i = 0; i < plain.labels.size(); ++i) REQUIRE(none.labels[i] == plain.labels[i] + 1);
  w.succeed(common + "--size 64 --window 32 --stride 16");
  CHECK(w.tensors("s.safetensors").shape("scores") == std::vector<int64_t>{3, 64, 94});
  CHECK(w.tensors("s.safetensors").shape("patch_embeddings") == std::vector<int64_t>{8, 12, 16});
  w.succeed(common + "--synonyms best --prompts prompts.txt");
  CHECK(w.tensors("s.safetensors").shape("scores")[0] == 4);
  const auto best = data::read_label_map(w.root / "l.png");
  CHECK(*std::max_element(best.labels.begin(), best.labels.end()) <= 2);
}

TEST_CASE("segment: a PACL model is recognised, with its prompt, twice the grid and a gate", "[programs]") {
  if (!programs_are_there()) return;
  const Workshop& w = workshop();
  const auto outcome = w.succeed(
      "segment --checkpoint pacl --image pictures/a.png --classes cat,dog,grass --output o.png "
      "--save-scores s.safetensors");
  CHECK(outcome.out.find("pacl") != std::string::npos);
  CHECK(outcome.out.find("a photo of a {}") != std::string::npos);
  const auto s = w.tensors("s.safetensors");
  CHECK(s.shape("scores") == std::vector<int64_t>{3, 7, 11});
  CHECK(s.shape("gate") == std::vector<int64_t>{3, 1, 1});
}

TEST_CASE("segment: wrong input is one sentence and exit status 1", "[programs]") {
  if (!programs_are_there()) return;
  const Workshop& w = workshop();
  const std::string good = "segment --checkpoint clip --image pictures/a.png --classes cat,dog ";
  w.refuse("segment --checkpoint nowhere --image pictures/a.png --classes cat", "there is no checkpoint nowhere");
  w.refuse("segment --checkpoint clip --image nothing.png --classes cat", "nothing.png");
  w.refuse("segment --checkpoint clip --image damaged.png --classes cat", "damaged.png");
  w.refuse("segment --checkpoint clip/model.safetensors --image pictures/a.png --classes ''", "is empty");
  w.refuse("segment --checkpoint clip --image pictures/a.png --classes cat,,dog", "is empty");
  w.refuse("segment --checkpoint clip --image pictures/a.png", "--classes is required");
  w.refuse("segment --checkpoint clip --image pictures/a.png --classes prompts.txt", "class lists end in .json");
  w.refuse(good + "--prompts none", "'none' is neither a file nor a prompt set");
  w.refuse(good + "--system pacl", "leave --system at auto");
  w.refuse(good + "--system nonsense", "--system");
  w.refuse(good + "--size 0", "--size");
  w.refuse(good + "--window 10 --stride 11", "--stride 11");
  w.refuse(good + "--stride 11", "needs --window");
  w.refuse(good + "--background 1.5", "--background");
  w.refuse(good + "--output overlay.gif", "must end in .png or .jpg");
  w.refuse(good + "--labels labels.jpg", "must end in .png");
  w.refuse(good + "--output no/such/folder/o.png", "no/such/folder/o.png");
  w.refuse(good + "--tokenizer pictures", "pictures");
  w.refuse(good + "--frobnicate", "--frobnicate");
  w.refuse("segment --checkpoint pacl --image pictures/a.png --classes cat --key-smoothing 1", "belong to CLIPs");
  w.refuse("segment --checkpoint pacl --image pictures/a.png --classes cat --activation gelu", "belong to CLIPs");
  w.refuse("segment --checkpoint pacl/config.json --image pictures/a.png --classes cat", "weight_map");
  for (const std::string option : {"gate", "background", "key-smoothing", "prompt-denoising"})
    w.refuse(good + "--" + option + " nan", "nan not in range");
  w.refuse(good + "--output pictures/a.png", "would replace a picture that is read");
  w.refuse(good + "--output x.png --labels x.png", "two results would be written to x.png");
  w.refuse("segment --checkpoint clip --image pictures --classes cat --output pictures", "would replace a picture");
}

TEST_CASE("segment: a configuration that is far larger than the weights is refused at once", "[programs]") {
  if (!programs_are_there()) return;
  const Workshop& w = workshop();
  for (const std::string model : {"clip", "pacl"}) {
    fs::remove_all(w.root / "wrong");
    fs::copy(w.root / model, w.root / "wrong");
    const io::Json right = io::read_json(w.root / model / "config.json");
    const auto refuse = [&](const char* tower, const char* name, const io::Json& value, const std::string& words) {
      io::Json config = right;
      config[tower][name] = value;
      io::write_json(w.root / "wrong" / "config.json", config);
      w.refuse("segment --checkpoint wrong --image pictures/a.png --classes cat,dog", words);
    };
    refuse("vision_config", "hidden_size", 1048576, "parameters; wrong");
    refuse("vision_config", "image_size", 16384, "parameters; wrong");
    refuse("text_config", "num_hidden_layers", 1000, "parameters; wrong");
    refuse("text_config", "vocab_size", 16777216, "parameters; wrong");
    refuse("text_config", "eos_token_id", -5, "eos_token_id is -5");
    refuse("text_config", "layer_norm_eps", -1, "layer_norm_eps is -1");
  }
}

TEST_CASE("segment: weights that are not numbers, damaged pictures in a folder", "[programs]") {
  if (!programs_are_there()) return;
  const Workshop& w = workshop();
  fs::remove_all(w.root / "nan");
  fs::copy(w.root / "clip", w.root / "nan");
  Context<Cpu> ctx;
  auto loaded = systems::load_clip<float>(ctx, w.root / "clip");
  loaded.model.visual.proj.state().value.data[0] = std::nanf("");
  systems::save_clip(loaded.model, loaded.statistics, w.root / "nan");
  w.refuse("segment --checkpoint nan --image pictures/a.png --classes cat,dog", "not a number");

  fs::create_directories(w.root / "some");
  fs::copy_file(w.root / "damaged.png", w.root / "some" / "a.png");
  fs::copy_file(w.root / "pictures" / "a.png", w.root / "some" / "b.png");
  const auto outcome = w.run("segment --checkpoint clip --image some --classes cat,dog --output seen");
  CHECK(outcome.status == 1);
  CHECK(outcome.error.find("1 of 2 pictures could not be read") != std::string::npos);
  CHECK(fs::exists(w.root / "seen" / "b.png"));
}

TEST_CASE("segment: more classes than a byte counts, a background among the classes", "[programs]") {
  if (!programs_are_there()) return;
  const Workshop& w = workshop();
  std::string many = "c0";
  for (int i = 1; i < 300; ++i) many += sentence(",c", i);
  w.succeed("segment --checkpoint clip --image pictures/one.png --output o.png --labels l.png --classes " + many);
  CHECK(data::read_label_map(w.root / "l.png").width == 1);
  w.succeed(
      "segment --checkpoint clip --image pictures/a.png --classes cat,background,dog --background 1 --output o.png "
      "--labels l.png");
  const auto labels = data::read_label_map(w.root / "l.png");
  CHECK(std::count(labels.labels.begin(), labels.labels.end(), 1) == 90 * 61);
}

TEST_CASE("evaluate: a model agrees with its own label maps, however they are numbered", "[programs]") {
  if (!programs_are_there()) return;
  const Workshop& w = workshop();
  fs::create_directories(w.root / "two");
  for (const char* name : {"a.png", "b.jpg"})
    fs::copy_file(w.root / "pictures" / name, w.root / "two" / name, fs::copy_options::overwrite_existing);
  w.succeed("segment --checkpoint clip --image two --classes cat,dog,grass --output overlays --labels truth");
  const std::string common = "evaluate --checkpoint clip --images two ";
  const auto outcome = w.succeed(common + "--labels truth --classes cat,dog,grass --output m.json");
  CHECK(outcome.out.find("100.00") != std::string::npos);
  auto metrics = io::read_json(w.root / "m.json");
  CHECK(metrics["miou"] == 1.0);
  CHECK(metrics["pixel_accuracy"] == 1.0);
  CHECK(metrics["images"] == 2);
  CHECK(metrics["classes"].size() == 3);

  // numbered from 1, with 0 for what does not count: the first row is left out
  fs::create_directories(w.root / "shifted");
  io::write_json(w.root / "classes.json", {{"reduce_zero_label", true}, {"classes", {"cat", "dog", "grass"}}});
  for (const char* name : {"a.png", "b.png"}) {
    auto labels = data::read_label_map(w.root / "truth" / name);
    for (auto& label : labels.labels) ++label;
    std::fill_n(labels.row(0), labels.width, uint16_t(0));
    data::write_label_map(w.root / "shifted" / name, labels);
  }
  w.succeed(common + "--labels shifted --classes classes.json --output m.json");
  metrics = io::read_json(w.root / "m.json");
  CHECK(metrics["miou"] == 1.0);
  int64_t counted = 0;
  for (const auto& one : metrics["classes"]) counted += one["labelled_pixels"].get<int64_t>();
  CHECK(counted == 90 * 60 + 70 * 119);

  // every label replaced by the next class: nothing agrees
  io::write_json(w.root / "raw.json", {{"classes",
                                        {{{"name", "cat"}, {"raw_ids", {2}}},
                                         {{"name", "dog"}, {"raw_ids", {0}}},
                                         {{"name", "grass"}, {"raw_ids", {1}}}}}});
  w.succeed(common + "--labels truth --classes raw.json --raw-labels --rule detectron2 --output m.json");
  CHECK(io::read_json(w.root / "m.json")["miou"] == 0.0);

  w.refuse(common + "--labels nowhere --classes cat,dog", "nowhere is not a folder");
  w.refuse(common + "--labels pictures --classes cat,dog", "there is no pictures/b.png for 'b'");
  w.refuse(common + "--labels truth --classes cat,dog,grass --background 0.5", "background_id");
  w.refuse(common + "--labels truth --classes cat,dog,grass --output no/such/m.json", "missing or read-only");
  for (const char* name : {"a.png", "b.png"}) {
    auto labels = data::read_label_map(w.root / "truth" / name);
    std::fill(labels.labels.begin(), labels.labels.end(), uint16_t(77));
    data::write_label_map(w.root / "shifted" / name, labels);
  }
  CHECK(w.run(common + "--labels shifted --classes cat,dog,grass").error.find("no pixel of the 2 label maps") !=
        std::string::npos);
}

TEST_CASE("classify: probabilities of a picture sum to one, the likeliest first", "[programs]") {
  if (!programs_are_there()) return;
  const Workshop& w = workshop();
  for (const std::string model : {"clip", "pacl"}) {
    INFO(model);
    const auto outcome = w.succeed("classify --checkpoint " + model +
                                   " --image pictures --classes 'a cat,a dog,grass' --prompts '{}' --output c.json");
    const auto results = io::read_json(w.root / "c.json");
    REQUIRE(results.size() == 5);
    for (const auto& picture : results) {
      double sum = 0;
      for (const auto& probability : picture) sum += probability.get<double>();
      CHECK(picture.size() == 3);
      CHECK(sum == Approx(1));
    }
    CHECK(outcome.out.find("pictures/a.png") != std::string::npos);
  }
  w.refuse("classify --checkpoint clip --image damaged.png --classes cat", "damaged.png");
  w.refuse("classify --checkpoint clip --image pictures/a.png", "required");
  w.refuse("classify --checkpoint clip --image wide.png --classes cat --output wide.png", "would replace a picture");
  w.refuse("classify --checkpoint clip --image wide.png --classes cat --output no/such/c.json", "missing or read-only");
}

TEST_CASE("programs: --version and --help", "[programs]") {
  if (!programs_are_there()) return;
  const Workshop& w = workshop();
  for (const std::string program : {"segment", "classify", "evaluate"}) {
    CHECK(w.succeed(program + " --version").out.find(program + " ") == 0);
    CHECK(w.succeed(program + " --help").out.find("--checkpoint") != std::string::npos);
  }
}

TEST_CASE("segment: real photos", "[programs]") {
  if (!programs_are_there()) return;
  const fs::path photos = fs::path(TESSERA_SOURCE_DIR).parent_path() / "shared" / "data" / "photos";
  if (!fs::is_directory(photos)) return tessera_test::skip("no photos in " + photos.string());
  const Workshop& w = workshop();
  w.succeed("segment --checkpoint clip --image '" + photos.string() +
            "' --classes cat,dog,grass,sky --output photo_overlays --labels photo_labels");
  size_t found = 0;
  for (const auto& entry : fs::directory_iterator(photos)) {
    const auto ending = entry.path().extension();
    if (ending != ".jpg" && ending != ".png") continue;
    const auto picture = data::read_image(entry.path());
    const auto labels = data::read_label_map(w.root / "photo_labels" / (entry.path().stem().string() + ".png"));
    CHECK(labels.width == picture.width);
    CHECK(labels.height == picture.height);
    ++found;
  }
  CHECK(found > 0);
}
