// The programs that segment, classify, evaluate and look at patches, run as a user runs them, on tiny models made here.
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
#include <tessera/segmentation/superpixel_vote.hpp>
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

  // With superpixels each region has one class, in what segment writes as in what evaluate counts.
  const std::string refined = " --superpixels --superpixel-scale 30 --superpixel-min-size 40";
  w.succeed("segment --checkpoint clip --image two --classes cat,dog,grass --output overlays --labels refined" +
            refined);
  w.succeed(common + "--labels refined --classes cat,dog,grass --output m.json" + refined);
  metrics = io::read_json(w.root / "m.json");
  CHECK(metrics["miou"] == 1.0);
  CHECK(metrics["superpixels"] == io::Json({{"scale", 30.0}, {"sigma", 0.9}, {"min_size", 40}}));
  const auto segments = data::felzenszwalb(data::read_image(w.root / "two" / "a.png"), {30, 0.9, 40});
  const auto labels_of = [&](const char* folder) { return data::read_label_map(w.root / folder / "a.png"); };
  CHECK(labels_of("refined").labels != labels_of("truth").labels);
  CHECK(labels_of("refined").labels == segmentation::vote_in_segments(labels_of("truth"), segments).labels);
  w.refuse(common + "--labels truth --classes cat,dog,grass --superpixel-scale 30", "--superpixels");

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

namespace {

/// Two of the pictures with label maps: the left half is class 0, the right half class 1; in a third of the rows
/// nothing is labelled.
void make_halves(const Workshop& w) {
  fs::create_directories(w.root / "pair");
  fs::create_directories(w.root / "halves");
  for (const char* name : {"a.png", "b.jpg"}) {
    fs::copy_file(w.root / "pictures" / name, w.root / "pair" / name, fs::copy_options::overwrite_existing);
    const auto picture = data::read_image(w.root / "pair" / name);
    data::LabelMap halves(picture.width, picture.height, 255);
    for (int y = 0; y < picture.height * 2 / 3; ++y)
      for (int x = 0; x < picture.width; ++x) halves.at(x, y) = x >= picture.width / 2;
    data::write_label_map(w.root / "halves" / (std::string(1, name[0]) + ".png"), halves);
  }
}

}  // namespace

TEST_CASE("coherence: encoders side by side, whatever the number of threads", "[programs]") {
  if (!tessera_test::programs_are_there({"coherence"})) return;
  const Workshop& w = workshop();
  make_halves(w);
  const std::string common = "coherence --encoder one=clip --encoder two=pacl:last_block --classes cat,dog ";
  std::vector<std::string> written;
  for (const int threads : {1, 3}) {
    w.succeed(sentence(common, "--images pair --labels halves --output co --pairs 150 --threads ", threads));
    written.push_back(io::read_text(w.root / "co" / "coherence.json") + io::read_text(w.root / "co" / "report.html"));
  }
  CHECK(written[0] == written[1]);
  const auto json = io::read_json(w.root / "co" / "coherence.json");
  REQUIRE(json["encoders"].size() == 2);
  for (const auto& encoder : json["encoders"]) {
    // 4 x 4 patches a picture, of which rows 0 and 1 are labelled whole and row 2 for the most part
    CHECK(encoder["labelled_patches"] == 24);
    CHECK(encoder["patches_left_out"] == 8);
    CHECK(encoder["within"]["pairs_there_are"] == 2 * 12 * 11 / 2);
    CHECK(encoder["within"]["pairs"] == 132);
    CHECK(encoder["within"]["same_class"] == 2 * 2 * 15);
    CHECK(encoder["across"]["pairs_there_are"] == 144);
    CHECK(encoder["across"]["same_class"] == 72);
    CHECK(encoder["across"]["auc"].get<double>() > 0.1);
    CHECK(encoder["across"]["auc"].get<double>() < 0.9);
  }
  CHECK(json["encoders"][0]["tokens"] == "ln_post");
  CHECK(json["encoders"][1]["tokens"] == "last_block");
  CHECK(data::read_image(w.root / "co" / "coherence.png").width > 700);

  w.refuse(common + "--images pair --labels nowhere", "nowhere is not a folder");
  w.refuse(common + "--images pictures --labels halves", "there is no halves/alpha.png for 'alpha'");
  w.refuse(common + "--images pair --labels halves --encoder one=pacl", "two encoders are called one");
  w.refuse(common + "--images pair --labels halves --encoder x=clip:pixels", "there are no patch tokens 'pixels'");
  w.refuse(common + "--images pair --labels halves --size 33", "--size 33 is not a multiple of the patches");
  w.refuse(common + "--images pair --labels halves --output clip/config.json", "--output clip/config.json");
}

TEST_CASE("patch_accuracy: before and after, counted patch by patch", "[programs]") {
  if (!tessera_test::programs_are_there({"patch_accuracy"})) return;
  const Workshop& w = workshop();
  make_halves(w);
  const std::string common = "patch_accuracy --images pair --labels halves --classes cat,dog,grass ";
  const auto outcome = w.succeed(common + "--encoder before=clip --encoder after=pacl --output pa --prompts '{}'");
  CHECK(outcome.out.find("before (clip, projected") != std::string::npos);
  CHECK(outcome.out.find("after (pacl, aligned") != std::string::npos);
  const auto json = io::read_json(w.root / "pa" / "patch_accuracy.json");
  for (const auto& encoder : json["encoders"]) {
    int64_t right = 0, all = 0;
    for (size_t truth = 0; truth < 3; ++truth)
      for (size_t guess = 0; guess < 3; ++guess) {
        const auto count = encoder["confusion"][truth][guess].get<int64_t>();
        all += count;
        right += truth == guess ? count : 0;
      }
    CHECK(all == 24);
    CHECK(encoder["labelled_patches"] == 24);
    CHECK(encoder["accuracy"].get<double>() == Approx(double(right) / 24));
    CHECK(encoder["accuracy_of_commonest_class"] == 0.5);
    CHECK(encoder["classes"][0]["patches"] == 12);
    CHECK(encoder["classes"][2]["accuracy"].is_null());
    CHECK(encoder["classes"][0]["binary"]["best_balanced_accuracy"].get<double>() >= 0.5);
  }
  for (const char* name : {"accuracy.png", "confusion.png", "patches.png"})
    CHECK(data::read_image(w.root / "pa" / name).width > 300);

  fs::remove_all(w.root / "vit");
  fs::copy(w.root / "clip", w.root / "vit");
  auto config = io::read_json(w.root / "vit" / "config.json");
  config["model_type"] = "vit";
  io::write_json(w.root / "vit" / "config.json", config);
  w.refuse(common + "--encoder vit", "which has no text tower");
  w.refuse(common + "--encoder clip:ln_post", "do not lie in the space of texts");
  // told behind the bar of the pictures that were seen until then
  const auto strangers =
      w.run("patch_accuracy --images pair --labels halves --classes cat --raw-labels --encoder clip");
  CHECK(strangers.status == 1);
  CHECK(strangers.error.find("\npatch_accuracy: no patch of the 2 label maps") != std::string::npos);
}

TEST_CASE("correspondence: a patch and words, in several pictures", "[programs]") {
  if (!tessera_test::programs_are_there({"correspondence"})) return;
  const Workshop& w = workshop();
  make_halves(w);
  const std::string common = "correspondence --encoder one=clip --encoder two=pacl --image pair/a.png ";
  w.succeed(
      common +
      "--at 70,10 --beside pair/b.jpg --words cat,grass --prompts '{}' --prompts 'a {}' --labels halves --classes "
      "cat,dog --patch-stride 4 --output cor");
  const auto json = io::read_json(w.root / "cor" / "correspondence.json");
  for (const auto& encoder : json["encoders"]) {
    REQUIRE(encoder["maps"].size() == 2);
    const auto& own = encoder["maps"][0];  // 61 rows become 32, 90 columns 47: 7 x 11 patches at stride 4
    CHECK(own["grid"] == io::Json::array({7, 11}));
    CHECK(own["highest"].get<double>() == Approx(1).epsilon(1e-5));
    CHECK(std::abs(own["highest_at"][0].get<double>() - 70) < 4);  // the patch itself
    CHECK(std::abs(own["highest_at"][1].get<double>() - 10) < 4);
    CHECK(own["auc"].is_number());
    CHECK(encoder["maps"][1]["highest"].get<double>() < 1);
  }
  REQUIRE(json["words"].size() == 2 * 2 * 4);  // pictures, words, encoders and prompts
  CHECK(json["words"][0]["auc"].is_number());  // cat
  CHECK(json["words"][4]["auc"].is_null());    // grass, which is none of the classes
  CHECK(fs::exists(w.root / "cor" / "correspondence.png"));
  CHECK(fs::exists(w.root / "cor" / "words.png"));

  w.refuse(common, "name a point with --at x,y");
  w.refuse(common + "--at 90,10", "--at 90,10 lies outside pair/a.png, which is 90 x 61 pixels");
  w.refuse(common + "--at 5", "is no point");
  w.refuse(common + "--at 5,5 --labels halves", "--labels and --classes go together");
  w.refuse(common + "--words cat --encoder x=clip:last_block", "do not lie in the space of texts");
  w.refuse(common + "--at 5,5 --patch-stride 9", "leaves gaps");
}

TEST_CASE("evaluate: classification of folders agrees with classify", "[programs]") {
  if (!programs_are_there()) return;
  const Workshop& w = workshop();
  fs::remove_all(w.root / "zoo");
  for (const auto& [folder, name] : {std::pair{"cat", "a.png"}, {"grass_land", "b.jpg"}, {"grass_land", "grey.png"}}) {
    fs::create_directories(w.root / "zoo" / folder);
    fs::copy_file(w.root / "pictures" / name, w.root / "zoo" / folder / name);
  }
  const std::string common = "evaluate --task classify --checkpoint clip --images zoo ";
  w.succeed(common + "--beside p=pacl --prompts '{}' --output z.json --confusion z.png");
  const auto json = io::read_json(w.root / "z.json");
  CHECK(json["pictures"] == 3);
  REQUIRE(json["checkpoints"].size() == 2);
  for (size_t i = 0; i < 2; ++i) {
    const std::string model = i == 0 ? "clip" : "pacl";
    int right = 0;
    for (const std::string folder : {"cat", "grass_land"}) {
      w.succeed("classify --checkpoint " + model + " --image zoo/" + folder +
                " --classes 'cat,grass land' --prompts '{}' --output c.json");
      for (const auto& picture : io::read_json(w.root / "c.json"))
        right += (picture["cat"].get<double>() > picture["grass land"].get<double>()) == (folder == "cat");
    }
    CHECK(json["checkpoints"][i]["system"] == (i == 0 ? "maskclip" : "pacl"));
    CHECK(json["checkpoints"][i]["top1"].get<double>() == Approx(right / 3.0));
    CHECK(json["checkpoints"][i]["top5"] == 1.0);
    CHECK(json["checkpoints"][i]["classes"][1]["pictures"] == 2);
  }
  CHECK(data::read_image(w.root / "z.png").width > 100);
  w.succeed(common + "--classes 'cat,dog,grass land|meadow' --limit 1 --output z.json");
  CHECK(io::read_json(w.root / "z.json")["pictures"] == 2);

  w.refuse(common + "--classes cat,dog", "the folder zoo/grass_land belongs to no class of the list");
  w.refuse(common + "--beside pacl", "--beside pacl must be NAME=CHECKPOINT");
  w.refuse("evaluate --task classify --checkpoint clip --images pictures", "there is no folder in pictures");
  w.refuse("evaluate --checkpoint clip --images zoo --classes cat", "--labels is required");
  fs::create_directories(w.root / "zoo" / "empty");
  w.refuse(common, "the folder zoo/empty holds no pictures");
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
