// What a checkpoint may not tell by itself: its activation, and where its tokenizer lies.
#pragma once
#include <CLI/CLI.hpp>

#include <optional>
#include <string>

#include <tessera/data/tokenizer.hpp>
#include <tessera/systems/clip_checkpoint.hpp>

#include "common.hpp"

namespace examples {

struct CheckpointOptions {
  std::string tokenizer, activation;

  void add_checkpoint_to(CLI::App& app) {
    app.add_option("--tokenizer", tokenizer,
                   "folder, tokenizer.json or bpe_simple_vocab_16e6.txt.gz; default: the checkpoint's folder");
    app.add_option("--activation", activation,
                   "quick_gelu (OpenAI's weights) or gelu, where the checkpoint does not tell it")
        ->check(CLI::IsMember({"quick_gelu", "gelu", "gelu_tanh", "relu"}));
  }

  std::optional<tessera::Activation> given_activation() const {
    using tessera::Activation;
    if (activation == "quick_gelu") return Activation::quick_gelu;
    if (activation == "gelu") return Activation::gelu;
    if (activation == "gelu_tanh") return Activation::gelu_tanh;
    if (activation == "relu") return Activation::relu;
    return {};
  }
  /// That of --tokenizer, or of the checkpoint's folder.
  tessera::data::Tokenizer load_tokenizer(const std::string& checkpoint) const {
    const fs::path folder = tessera::systems::describe_checkpoint(checkpoint).folder;
    try {
      return tessera::data::Tokenizer::load(!tokenizer.empty() ? fs::path(tokenizer)
                                            : folder.empty()   ? fs::path(".")
                                                               : folder);
    } catch (const tessera::IoError& error) {
      tessera::require<tessera::IoError>(!tokenizer.empty(), error.what(), "; name one with --tokenizer");
      throw;
    }
  }
};

}  // namespace examples
