// The trainers, run as a user runs them: to the end, interrupted, killed at any moment, resumed, and with bad input.
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

struct Captions : CaptionFolder {
  Captions() : CaptionFolder(12) {}
  static std::string command(const std::string& program, const std::string& output, int steps = 60) {
    return sentence(program, " --data captions.tsv --nouns nouns.txt --output ", output, " --steps ", steps,
                    " --batch 4 --save-every 7 --image-size 16 --patch-size 8 --width 16 --layers 1 --text-layers 1 "
                    "--heads 2 --embed-dim 8 --vocabulary 600 --context-length 12 --threads 1");
  }
  std::string weights(const std::string& folder) const { return io::read_text(root / folder / "model.safetensors"); }
};

const std::vector<std::string> programs = {"train_clip", "train_pacl"};

}  // namespace

TEST_CASE("train: killed at any moment and started again, a training ends with the same bits", "[programs]") {
  if (!programs_are_there(programs)) return;
  const Captions folder;
  for (const auto& program : programs) {
    INFO(program);
    folder.succeed(Captions::command(program, "whole", 200));
    int kills = 0, interruptions = 0;
    double patience = 0.02;
    for (;; patience *= 1.3) {
      // by turns without warning, and with Ctrl-C's signal, after which the program says how far it came
      const bool kill = (kills + interruptions) % 2 == 0;
      const auto outcome =
          folder.run(Captions::command(program, "parts", 200),
                     sentence("timeout --preserve-status -s ", kill ? "KILL " : "INT ", patience, " "));
      if (fs::exists(folder.root / "parts" / "tokenizer_config.json")) break;
      if (outcome.status == 1) FAIL(outcome.error);
      if (outcome.status == 0) CHECK(outcome.out.find("the same command goes on from there") != std::string::npos);
      ++(kill ? kills : interruptions);
      REQUIRE(patience < 60);
    }
    CHECK(kills > 0);
    CHECK(interruptions > 0);
    CHECK(folder.weights("parts") == folder.weights("whole"));
    // one line a step, none lost, none twice
    int64_t step = 0;
    const std::string text = io::read_text(folder.root / "parts" / "metrics.jsonl");
    for (size_t begin = 0; begin < text.size(); begin = text.find('\n', begin) + 1)
      CHECK(io::parse_json(text.substr(begin, text.find('\n', begin) - begin), "metrics")["step"] == ++step);
    CHECK(step == 200);
    fs::remove_all(folder.root / "parts");
    fs::remove_all(folder.root / "whole");
  }
}

TEST_CASE("train: a finished model segments and says how its nouns were prompted", "[programs]") {
  if (!programs_are_there(programs) || !programs_are_there({"segment"})) return;
  const Captions folder;
  folder.succeed(Captions::command("train_pacl", "model", 4) + " --snapshots 2");
  CHECK(io::read_json(folder.root / "model" / "config.json")["prompts"] == "a photo of {article} {}");
  CHECK(fs::exists(folder.root / "model" / "snapshots" / "step-000004" / "model.safetensors"));
  folder.succeed("segment --checkpoint model --image p0.png --classes 'red wall,blue wall' --output o.png");
}

TEST_CASE("train: a run goes on with its own options only, and one run writes to a folder at a time", "[programs]") {
  if (!programs_are_there(programs)) return;
  const Captions folder;
  const std::string command = Captions::command("train_pacl", "model", 100000);
  CHECK(folder.run(command, "timeout --preserve-status -s INT 0.5 ").status == 0);
  for (const std::string option : {"--logit-scale 3", "--attention-scale 1", "--prompt 'the {}'", "--seed 1"})
    folder.refuse(command + " " + option, "with other options");

  // Begun anew and interrupted, no model of an earlier run is left to be taken for this one's.
  folder.succeed(Captions::command("train_pacl", "again", 4));
  CHECK(
      folder
          .run(Captions::command("train_pacl", "again", 100000) + " --fresh", "timeout --preserve-status -s TERM 0.5 ")
          .status == 0);
  CHECK(fs::exists(folder.root / "again" / "checkpoint.safetensors"));
  CHECK_FALSE(fs::exists(folder.root / "again" / "model.safetensors"));

  const io::FolderLock running(folder.root / "model");
  folder.refuse(command, "another process is writing to model");
}

TEST_CASE("train: wrong input is one sentence and exit status 1", "[programs]") {
  if (!programs_are_there(programs)) return;
  const Captions folder;
  for (const auto& program : programs) {
    const std::string good = Captions::command(program, "model", 4);
    for (const auto& [option, words] :
         std::vector<std::pair<std::string, std::string>>{{"--seed -1", "whole number"},
                                                          {"--learning-rate nan", "--learning-rate"},
                                                          {"--logit-scale 0", "--logit-scale"},
                                                          {"--snapshots -1", "--snapshots"},
                                                          {"--warmup 2", "--warmup"},
                                                          {"--prompt nothing", "{}"},
                                                          {"--frobnicate", "--frobnicate"}})
      folder.refuse(good + " " + option, words);
    folder.refuse(program + " --data nowhere --output model", "nowhere");
    folder.refuse(program + " --data scenes:none --output model", "none");
    folder.refuse(program + " --data captions.tsv --nouns none.txt --output model", "none.txt");
  }
  folder.refuse("train_pacl --data captions.tsv --output model", "--nouns");
  fs::remove(folder.root / "p7.png");
  const auto outcome = folder.run(Captions::command("train_pacl", "other", 4));
  CHECK(outcome.status == 1);
  CHECK(outcome.error.find("captions.tsv: line 8: ") != std::string::npos);
}

TEST_CASE("train_pacl: an embedder on a frozen CLIP, from pictures or from features that are computed once",
          "[programs]") {
  if (!programs_are_there(programs) || !programs_are_there({"segment"})) return;
  const Captions folder;
  folder.succeed(Captions::command("train_clip", "clip", 4));
  const auto embedder = [](const std::string& output, const std::string& more) {
    return "train_pacl --encoder clip --data captions.tsv --nouns nouns.txt --steps 60 --batch 4 --save-every 7 "
           "--threads 1 --output " +
           output + " " + more;
  };
  folder.succeed(embedder("pictures", ""));
  const auto first = folder.succeed(embedder("features", "--features cache --feature-dtype f32"));
  CHECK(first.out.find("of them are trained: the embedder, of ln_post tokens") != std::string::npos);
  const auto last_loss = [&](const std::string& output) {
    const std::string text = io::read_text(folder.root / output / "metrics.jsonl");
    const size_t begin = text.rfind('\n', text.size() - 2) + 1;
    const auto line = io::parse_json(text.substr(begin), "metrics");
    CHECK(line["step"] == 60);
    return line["loss"].get<double>();
  };
  CHECK(last_loss("features") == Approx(last_loss("pictures")).epsilon(1e-4));

  // Interrupted and gone on with, from the cache that is there, the run ends with the same bits.
  const std::string again = embedder("parts", "--features cache --feature-dtype f32");
  double patience = 0.1;
  for (; !fs::exists(folder.root / "parts" / "config.json"); patience *= 1.3) {  // written last
    const auto outcome = folder.run(again, sentence("timeout --preserve-status -s KILL ", patience, " "));
    if (outcome.status == 1) FAIL(outcome.error);
    REQUIRE(patience < 60);
  }
  CHECK(folder.weights("parts") == folder.weights("features"));
  CHECK(io::read_json(folder.root / "parts" / "config.json")["prompts"] == "pacl7_reported");

  // The model needs neither the encoder nor the cache.
  fs::rename(folder.root / "clip", folder.root / "other");
  folder.succeed("segment --checkpoint parts --image p0.png --classes 'red wall,blue wall' --output o.png");
  folder.succeed(
      "segment --checkpoint parts --image p0.png --classes 'red wall,blue wall' --background-entropy 0.5 "
      "--window 16 --output o2.png");
  folder.refuse(
      "segment --checkpoint parts --image p0.png --classes wall --background-entropy 1 --background 0.5 "
      "--output o3.png",
      "give one of them");
  folder.succeed(Captions::command("train_clip", "clip", 4) + " --seed 1");
  folder.refuse(embedder("parts", "--features cache --feature-dtype f32"), "clip holds other weights");
  fs::create_directory(folder.root / "begun");
  folder.refuse(embedder("begun", "--features cache --feature-dtype f32"), "cache holds features of another encoder");

  // What the settings do not allow is refused before features are computed.
  folder.succeed(embedder("pictures", "--fresh"));
  folder.refuse(embedder("pictures", "--features early --seed 1"), "with other options");
  folder.refuse(
      "train_pacl --encoder clip --data captions.tsv --nouns nouns.txt --batch 13 --features early --output new",
      "less than one batch of 13");
  folder.refuse(embedder("p0.png/model", "--features early"), "cannot make the folder");
  folder.refuse(embedder("begun", "--features begun"), "name the same folder");
  CHECK_FALSE(fs::exists(folder.root / "early"));
  folder.refuse(embedder("pictures", "--text other"), "clip with --text other holds other weights");
  io::write_text(folder.root / "zebras.txt", "zebra\n");
  folder.refuse("train_pacl --encoder clip --data captions.tsv --nouns zebras.txt --output new", "none of the nouns");

  // The encoder read with other settings is another one; its tokenizer may lie elsewhere.
  folder.refuse(embedder("pictures", "--activation relu"), "read with other settings");
  folder.refuse(Captions::command("train_pacl", "new") + " --activation gelu", "belongs to training with --encoder");

  folder.refuse(embedder("new", "--width 32"), "--width is that of the encoder");
  folder.refuse(embedder("new", "--features new --random-crop"), "leave --random-crop out");
  folder.refuse(embedder("new", "--fixed-scale 100 --logit-scale 20"), "give one of them");
  folder.refuse(Captions::command("train_pacl", "new") + " --features cache",
                "--features belongs to training with --encoder");
  const std::string vit = TESSERA_SOURCE_DIR "/tests/golden/vit";
  folder.refuse("train_pacl --encoder " + vit + " --data captions.tsv --output new", "name a CLIP with --text");
  folder.refuse("train_pacl --encoder parts --data captions.tsv --output new", "is a \"pacl\"; name a CLIP or a ViT");
  folder.succeed("train_pacl --encoder " + vit +
                 " --text clip --data captions.tsv --output dino --steps 2 --batch 4 "
                 "--fixed-scale 100");
  folder.succeed("segment --checkpoint dino --image p0.png --classes 'red wall,blue wall' --output o4.png");
  folder.refuse("train_pacl --encoder clip --data captions.tsv --nouns wordnet:absent --output new",
                "install the package wordnet-base");
}
