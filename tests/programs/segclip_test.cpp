// SegCLIP as a user runs it: trained from scratch and on a PACL, killed and resumed, segmenting with its groups.
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/programs.hpp>
#include <tessera/data/image.hpp>
#include <tessera/io/json.hpp>

using namespace tessera;
using namespace tessera_test;
namespace fs = std::filesystem;

namespace {

/// Ten small pictures, each of two colours, in a table of captions; a list of nouns.
struct Walls : ProgramFolder {
  Walls() {
    std::string table;
    const std::vector<std::string> colours = {"red", "green", "blue"};
    fs::create_directories(root / "walls");
    for (size_t i = 0; i < 10; ++i) {
      const size_t left = i % 3, right = (i + 1 + i / 5) % 3;
      data::Image image(16, 16, 3, 20);
      for (int y = 0; y < 16; ++y)
        for (int x = 0; x < 16; ++x) image.at(x, y)[x < 5 + int(i) ? left : right] = uint8_t(200 + i);
      const std::string name = sentence("walls/", i, ".png");
      data::write_image(root / name, image);
      table += name + "\ta " + colours[left] + " wall beside a " + colours[right] + " wall\n";
    }
    io::write_text(root / "captions.tsv", table);
    io::write_text(root / "nouns.txt", "red wall\ngreen wall\nblue wall\n");
    io::write_text(root / "walls.json",
                   R"({"name": "walls", "background_id": 0, "classes": ["background", "red wall", "blue wall"]})");
  }
  /// A training; an option in `more` takes the place of the usual one.
  static std::string command(const std::string& program, const std::string& output, int steps, const std::string& more,
                             std::vector<std::pair<std::string, std::string>> usual = {}) {
    for (const auto& option : std::vector<std::pair<std::string, std::string>>{{"--data", "captions.tsv"},
                                                                               {"--nouns", "nouns.txt"},
                                                                               {"--image-size", "16"},
                                                                               {"--patch-size", "4"},
                                                                               {"--width", "16"},
                                                                               {"--layers", "3"}})
      usual.push_back(option);
    std::string text = sentence(program, " --output ", output, " --steps ", steps,
                                " --batch 4 --save-every 7 --text-layers 1 --heads 2 --embed-dim 8 "
                                "--vocabulary 600 --context-length 12 --threads 1 ");
    for (const auto& [name, value] : usual)
      if (more.find(name + " ") == std::string::npos) text += sentence(name, " ", value, " ");
    return text + more;
  }
  static std::string segclip(const std::string& output, int steps, const std::string& more = "") {
    return command("train_segclip", output, steps, more,
                   {{"--group-layer", "2"},
                    {"--centres", "3"},
                    {"--decoder-width", "8"},
                    {"--decoder-layers", "1"},
                    {"--decoder-heads", "2"},
                    {"--reconstruction-layers", "1"},
                    {"--superpixel-scale", "20"},
                    {"--superpixel-min-size", "10"}});
  }
  std::string weights(const std::string& folder) const { return io::read_text(root / folder / "model.safetensors"); }
  /// The lines of a training, one a step.
  std::vector<io::Json> metrics(const std::string& folder) const {
    std::vector<io::Json> lines;
    const std::string text = io::read_text(root / folder / "metrics.jsonl");
    for (size_t begin = 0, end; (end = text.find('\n', begin)) != std::string::npos; begin = end + 1)
      lines.push_back(io::parse_json(text.substr(begin, end - begin), "metrics"));
    return lines;
  }
};

bool programs_are_there() {
  return tessera_test::programs_are_there({"train_segclip", "train_pacl", "segment", "evaluate"});
}

}  // namespace

TEST_CASE("segclip: killed at any moment and started again, a training ends with the same bits", "[programs]") {
  if (!programs_are_there()) return;
  const Walls folder;
  folder.succeed(Walls::segclip("whole", 60));
  int kills = 0, interruptions = 0;
  for (double patience = 0.05;; patience *= 1.3) {
    // by turns without warning, and with Ctrl-C's signal, after which the program says how far it came
    const bool kill = (kills + interruptions) % 2 == 0;
    const auto outcome = folder.run(Walls::segclip("parts", 60),
                                    sentence("timeout --preserve-status -s ", kill ? "KILL " : "INT ", patience, " "));
    if (fs::exists(folder.root / "parts" / "tokenizer_config.json")) break;
    if (outcome.status == 1) FAIL(outcome.error);
    ++(kill ? kills : interruptions);
    REQUIRE(patience < 60);
  }
  CHECK(kills > 0);
  CHECK(folder.weights("parts") == folder.weights("whole"));
  const auto lines = folder.metrics("parts");
  REQUIRE(lines.size() == 60);
  for (size_t i = 0; i < lines.size(); ++i) {
    CHECK(lines[i]["step"] == i + 1);
    double sum = 0;
    for (const char* part : {"contrastive", "superpixels", "reconstruction"}) sum += lines[i].at(part).get<double>();
    CHECK(lines[i]["loss"].get<double>() == Approx(sum).epsilon(1e-5));
  }
}

TEST_CASE("segclip: a model trained on a PACL's towers segments, shows its groups and is evaluated", "[programs]") {
  if (!programs_are_there()) return;
  const Walls folder;
  folder.succeed(Walls::command("train_pacl", "pacl", 2, ""));
  folder.succeed(Walls::segclip("model", 3, "--init pacl"));
  const auto config = io::read_json(folder.root / "model" / "config.json");
  CHECK(config["model_type"] == "segclip");
  CHECK(config["segclip_config"]["group_layer"] == 2);
  CHECK(config["segclip_config"]["centres"] == 3);

  const std::string given = " --checkpoint model --classes walls.json --size 16 --window 16 ";
  folder.succeed("segment" + given + "--background 0.3 --image walls/0.png --output o.png --groups g.png");
  const data::Image groups = data::read_image(folder.root / "g.png");
  CHECK(groups.width == data::read_image(folder.root / "o.png").width);
  for (const std::string how : {"--system segclip --background 0.4", "--system segclip-cosine --background 0.05",
                                "--system segclip --background 0.4 --likely-classes 1 --opencv-resize"}) {
    INFO(how);
    folder.succeed("segment" + given + how + " --image walls --output overlays --labels truth");
    // What the model says is what evaluate finds, with the same options.
    folder.succeed("evaluate" + given + how + " --images walls --labels truth --output m.json");
    const auto metrics = io::read_json(folder.root / "m.json");
    CHECK(metrics["pixel_accuracy"] == 1.0);
    CHECK(metrics["images"] == 10);
  }
  // No cosine reaches 1; of two classes the better has p1 p2 of a quarter at least.
  const auto labelled = [&](const std::string& how) {
    folder.succeed("segment" + given + how + " --image walls/0.png --labels l.png");
    const auto labels = data::read_label_map(folder.root / "l.png").labels;
    return std::any_of(labels.begin(), labels.end(), [](auto label) { return label != 0; });
  };
  CHECK_FALSE(labelled("--system segclip-cosine --background 1"));
  CHECK(labelled("--system segclip --background 0.2"));
  folder.refuse("segment --checkpoint pacl --image walls/0.png --classes 'red wall' --groups g2.png",
                "forms no groups");
  folder.refuse("segment --checkpoint pacl --image walls/0.png --classes 'red wall' --system segclip", "segclip");
}

TEST_CASE("segclip: scenes bring their own nouns, and the paper's ways train too", "[programs]") {
  if (!programs_are_there()) return;
  const Walls folder;
  const auto outcome = folder.succeed(Walls::segclip(
      "model", 2,
      "--data scenes:classic --nouns '' --scenes 16 --image-size 32 --patch-size 8 --paper all --mixed-keys --soft"));
  CHECK(outcome.out.find("16 pictures, 48 nouns") == 0);
  CHECK(io::read_json(folder.root / "model" / "config.json")["segclip_config"]["paper_superpixels"] == true);
}

TEST_CASE("segclip: wrong input is one sentence and exit status 1", "[programs]") {
  if (!programs_are_there()) return;
  const Walls folder;
  for (const auto& [option, words] :
       std::vector<std::pair<std::string, std::string>>{{"--group-layer 9", "after block 9 of 3"},
                                                        {"--mask-ratio 0.95", "leaves none of 16 patches"},
                                                        {"--mask-ratio 1", "--mask-ratio"},
                                                        {"--centres 0", "--centres"},
                                                        {"--temperature 0", "--temperature"},
                                                        {"--decoder-heads 3", "3 heads"},
                                                        {"--decoder-width 6 --decoder-heads 1", "multiple of 4"},
                                                        {"--paper sums", "--paper"},
                                                        {"--stored-superpixels nowhere", "nowhere"},
                                                        {"--init nowhere", "nowhere"},
                                                        {"--init walls", "walls"}})
    folder.refuse(Walls::segclip("model", 2, option), words);
  folder.succeed(Walls::segclip("first", 1));
  folder.refuse(Walls::segclip("model", 2, "--init first"), "a SegCLIP");
  folder.refuse(Walls::segclip("first", 1, "--captions-only"), "with other options");
}
