// SegCLIP as a user runs it: trained from scratch and on a PACL, killed and resumed, segmenting with its groups.
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/programs.hpp>
#include <tessera/data/image.hpp>
#include <tessera/io/json.hpp>
#include <tessera/io/tensor_source.hpp>

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
  /// Scenes in shards, with their nouns.
  void shards(const std::string& name, int count) const {
    const std::string command = sentence("cd '", root.string(), "' && '" TESSERA_PROGRAM_DIR "/scenes' --count ", count,
                                         " --size 32 --shard-size 5 --output ", name, " 2>error.txt");
    REQUIRE(std::system(command.c_str()) == 0);
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

TEST_CASE("segclip: superpixels stored beside shards train as computed ones do, and only what they belong to",
          "[programs]") {
  if (!programs_are_there() || !tessera_test::programs_are_there({"superpixels", "scenes"})) return;
  const Walls folder;
  folder.shards("shards", 9);
  const std::string settings = " --scale 20 --sigma 0.9 --min-size 10 --shard-size 4";
  folder.succeed("superpixels --data shards --output maps" + settings);
  const std::string data = "--data shards --nouns '' --image-size 32 --patch-size 8 ";
  folder.succeed(Walls::segclip("computed", 4, data));
  folder.succeed(Walls::segclip("stored", 4, data + "--stored-superpixels maps"));
  CHECK(folder.weights("stored") == folder.weights("computed"));
  folder.refuse(Walls::segclip("stored", 4, data), "with other options");

  const auto refuse = [&](const std::string& option, const std::string& words) {
    folder.refuse(Walls::segclip("model", 4, option), words);
  };
  refuse(data + "--stored-superpixels maps --superpixel-scale 30",
         "--superpixel-scale 30: the superpixels in maps were");
  refuse(data + "--stored-superpixels maps --superpixel-min-size 11", "were computed with 10; leave the option out");
  refuse(data + "--stored-superpixels maps --no-superpixels", "--no-superpixels");
  refuse("--stored-superpixels maps", "maps holds superpixels of 9 pictures, but the data set has 10;");
  folder.succeed("superpixels --data captions.tsv --output of-walls" + settings);
  folder.shards("ten", 10);
  refuse("--data ten --nouns '' --image-size 32 --patch-size 8 --stored-superpixels of-walls",
         "superpixels of sample 0 belong to another picture than ");
  fs::remove(folder.root / "maps" / "000002.tar");
  refuse(data + "--stored-superpixels maps", "maps holds superpixels of 8 of 9 pictures; run the program superpixels");
}

TEST_CASE("segclip: a run goes on only with the encoder that it began with", "[programs]") {
  if (!programs_are_there()) return;
  const Walls folder;
  folder.succeed(Walls::command("train_pacl", "encoder", 2, ""));
  folder.succeed(Walls::segclip("model", 2, "--init encoder"));
  folder.succeed(Walls::segclip("model", 2, "--init encoder"));  // finished is finished
  folder.succeed(Walls::command("train_pacl", "encoder", 2, "--fresh --seed 1"));
  folder.refuse(Walls::segclip("model", 2, "--init encoder"), "encoder holds other weights than those that the run in");
  folder.succeed(Walls::segclip("model", 2, "--init encoder --fresh"));
  folder.refuse(Walls::segclip("model", 2, "--init encoder --activation gelu"), "--init encoder is a PACL");
  folder.refuse(Walls::segclip("other", 2, "--activation gelu"), "--activation belongs to training with --init");
}

TEST_CASE("segclip: scenes bring their own nouns, and all of the paper's ways train together", "[programs]") {
  if (!programs_are_there()) return;
  const Walls folder;
  const auto outcome = folder.succeed(Walls::segclip(
      "model", 2,
      "--data scenes:classic --nouns '' --scenes 16 --image-size 32 --patch-size 8 --paper all --mixed-keys --soft"));
  CHECK(outcome.out.find("16 pictures, 48 nouns") == 0);
  const auto config = io::read_json(folder.root / "model" / "config.json")["segclip_config"];
  for (const char* choice : {"keys", "assignment", "aggregation", "reconstruction", "superpixels"})
    CHECK(config[sentence("paper_", choice)] == true);
}

TEST_CASE("segclip: each of the paper's ways changes its own losses and no other", "[programs]") {
  if (!programs_are_there()) return;
  const Walls folder;
  folder.succeed(Walls::command("train_pacl", "pacl", 2, ""));
  // One step each, with the same weights, pictures and noise.
  const std::string start = "--init pacl --learning-rate 0.01 --slow 0.01 ";
  folder.succeed(Walls::segclip("released", 2, start));
  using Parts = std::vector<std::string>;
  struct Choice {
    std::string name;
    Parts changed, same;  // of the rest one cannot tell: patches may stay in their groups, new layers begin near zero
  };
  const auto released = folder.metrics("released").front();
  for (const auto& [choice, changed, same] :
       std::vector<Choice>{{"keys", {"contrastive", "reconstruction"}, {}},
                           {"assignment", {"contrastive", "superpixels"}, {}},
                           {"aggregation", {"contrastive", "reconstruction"}, {"superpixels"}},
                           {"reconstruction", {}, {"contrastive", "superpixels"}},
                           {"superpixels", {"superpixels"}, {"contrastive", "reconstruction"}},
                           {"embeddings", {}, {"contrastive", "superpixels", "reconstruction"}}}) {
    INFO(choice);
    folder.succeed(Walls::segclip(choice, 2, start + "--paper " + choice));
    CHECK(folder.weights(choice) != folder.weights("released"));
    const auto line = folder.metrics(choice).front();
    for (const auto& part : changed) CHECK(line[part] != released[part]);
    for (const auto& part : same) CHECK(line[part] == released[part]);
    auto config = io::read_json(folder.root / choice / "config.json")["segclip_config"];
    for (const char* other : {"keys", "assignment", "aggregation", "reconstruction", "superpixels"})
      CHECK(config[sentence("paper_", other)] == (choice == other));
  }

  // Embeddings are frozen as released; in the paper they learn, as slowly as the blocks. (Of two steps the last has a
  // learning rate of 0, and AdamW's first goes by the learning rate wherever there is a gradient.)
  const auto before = io::TensorSource::open(folder.root / "pacl" / "model.safetensors");
  const double pace = 0.01 * released["learning_rate"].get<double>();
  for (const std::string name :
       {"visual.conv1.weight", "visual.positional_embedding", "positional_embedding", "token_embedding.weight"}) {
    INFO(name);
    const auto values = [&](const std::string& run) {
      return io::TensorSource::open(folder.root / run / "model.safetensors").read_vector<float>("clip." + name);
    };
    const auto from = before.read_vector<float>(before.contains(name) ? name : "clip." + name);
    CHECK(values("released") == from);
    const auto learned = values("embeddings");
    double largest = 0;
    for (size_t i = 0; i < from.size(); ++i) largest = std::max(largest, double(std::abs(learned[i] - from[i])));
    CHECK(largest == Approx(pace).epsilon(0.1));
  }
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
