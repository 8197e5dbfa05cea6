// Programs on the emulated GPU (--device simt), at toy size, beside the same on cpu.
#include <string>
#include <vector>

#include <support/catch.hpp>
#include <support/programs.hpp>
#include <support/random.hpp>
#include <tessera/data/image.hpp>
#include <tessera/io/json.hpp>

using namespace tessera;
using namespace tessera_test;

namespace {

struct Captions : CaptionFolder {
  Captions() : CaptionFolder(6) {}
  /// The losses of a training run.
  std::vector<double> train(const std::string& program, const std::string& more, const std::string& output) const {
    succeed(sentence(program, " --data captions.tsv --output ", output,
                     " --steps 4 --batch 3 --learning-rate 0.01 --image-size 16 --patch-size 8 --width 16 --layers 1 "
                     "--text-layers 1 --heads 2 --embed-dim 8 --vocabulary 560 --context-length 12 ",
                     more));
    std::vector<double> losses;
    const std::string text = io::read_text(root / output / "metrics.jsonl");
    for (size_t begin = 0; begin < text.size(); begin = text.find('\n', begin) + 1)
      losses.push_back(
          io::parse_json(text.substr(begin, text.find('\n', begin) - begin), "metrics")["loss"].get<double>());
    return losses;
  }
};

}  // namespace

TEST_CASE("devices: train_clip on simt takes the steps of cpu, and segment finds the same labels with its model",
          "[programs]") {
  if (!programs_are_there({"train_clip", "segment", "simt/train_clip", "simt/segment"})) return;
  const Captions folder;
  for (const std::string options : {"", "--nouns nouns.txt", "--nouns nouns.txt --dtype bf16"}) {
    INFO(options);
    const auto cpu = folder.train("train_clip", options + " --fresh", "cpu");
    const auto simt = folder.train("simt/train_clip", options + " --fresh --device simt", "simt");
    REQUIRE(cpu.size() == 4);
    REQUIRE(simt.size() == 4);
    CHECK(largest_difference(simt, cpu) < (options.ends_with("bf16") ? 0.06 : 1e-4));
  }
  // A finished run goes on nowhere: the other device finds the checkpoint, sees that all steps are done, and saves.
  folder.train("train_clip", "--nouns nouns.txt --dtype bf16", "simt");

  const std::string segment = "segment --checkpoint simt --image p4.png --classes 'red wall,green wall,blue wall'";
  for (const std::string options : {"", " --window 16 --size 24"}) {
    INFO(options);
    folder.succeed(segment + options + " --output cpu.png --labels cpu_labels.png");
    folder.succeed("simt/" + segment + options + " --device simt --output simt.png --labels simt_labels.png");
    const auto cpu = data::read_label_map(folder.root / "cpu_labels.png");
    const auto simt = data::read_label_map(folder.root / "simt_labels.png");
    CHECK(simt.labels == cpu.labels);
  }
}

TEST_CASE("devices: a program without a device says so and how to have it", "[programs]") {
  if (!programs_are_there({"simt/train_clip", "simt/segment"})) return;
  const Captions folder;
  const std::string cause = "built without the device cuda; configure with -DTESSERA_CUDA=ON";
  folder.refuse("simt/train_clip --data captions.tsv --output model --device cuda", cause);
  folder.refuse("simt/segment --checkpoint none --image p0.png --classes a --device cuda", cause);
}
