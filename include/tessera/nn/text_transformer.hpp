// The text tower of CLIP: token and position embeddings, causal blocks, ln_final, projection of the end-of-text token.
// Parameter names are those of OpenAI's CLIP (which keeps them at the top level of the checkpoint).
#pragma once
#include <tessera/core/staging.hpp>
#include <tessera/nn/transformer.hpp>

namespace tessera::nn {

/// The sizes of a text tower.
struct TextConfig {
  int64_t vocabulary_size = 49408, context_length = 77;
  TransformerConfig transformer = {.width = 512, .layers = 12, .heads = 8};
  int64_t embed_dim = 512;
  /// The pooled token: the first of this id in a row; -1: the first of the row's largest id (OpenAI's rule, where
  /// end-of-text is the largest).
  int64_t end_of_text = -1;
  /// What the tokenizer begins and fills up texts with; -1: not known. The tower does not need them, but saved
  /// configurations state them for other libraries.
  int64_t start_of_text = -1, padding = -1;

  /// Elements of all parameters together.
  int64_t parameter_count() const {
    const int64_t width = transformer.width;
    return (vocabulary_size + context_length + embed_dim + 2) * width + transformer.parameter_count();
  }
};

/// Where each row of ids [N, L] ends: the position of its end-of-text token.
template <class Device>
Tensor<int32_t, 1, Device> end_positions(Context<Device>& ctx, const Tensor<int32_t, 2, Device>& ids,
                                         int64_t end_of_text) {
  const std::vector<int32_t> all = to_host(view(ids));
  std::vector<int32_t> ends(size_t(ids.shape[0]), 0);
  for (size_t row = 0; row < ends.size(); ++row) {
    const auto first = all.begin() + ptrdiff_t(row) * ids.shape[1], last = first + ids.shape[1];
    const auto at = end_of_text < 0 ? std::max_element(first, last) : std::find(first, last, int32_t(end_of_text));
    require(at != last, "text tower: row ", row, " holds no end-of-text token (id ", end_of_text, ")");
    ends[row] = int32_t(at - first);
  }
  return Tensor<int32_t, 1, Device>::from_host(ctx, {ids.shape[0]}, ends);
}

/// Token ids with the places where the rows end: what the text tower takes without asking a device for anything, so
/// that a step may be captured as a graph.
template <class Device = Cpu>
struct TextInput {
  Tensor<int32_t, 2, Device> ids;   ///< [N, L]
  Tensor<int32_t, 1, Device> ends;  ///< [N]: the position of each row's end-of-text token
  /// [N]: ends + 1. With it the last block is computed for the end-of-text tokens alone; may be absent.
  Tensor<int32_t, 1, Device> lengths = {};
};
/// From ids [N, L] in host memory. Columns behind every row's end are cut off: attention is causal, so they cannot
/// change the result. Throws ValueError for a row without an end.
inline TextInput<Cpu> text_input(Context<Cpu>& ctx, const Tensor<int32_t, 2>& ids, int64_t end_of_text) {
  TextInput<Cpu> input{ids, end_positions(ctx, ids, end_of_text)};
  int64_t length = 1;
  for (int64_t row = 0; row < ids.shape[0]; ++row) length = std::max<int64_t>(length, input.ends(row) + 1);
  if (length < ids.shape[1]) input.ids = copy(ctx, ids.slice(1, 0, length));
  input.lengths = {ctx, input.ends.shape};
  for (int64_t row = 0; row < ids.shape[0]; ++row) input.lengths(row) = input.ends(row) + 1;
  return input;
}
/// The same on the device that `stage` carries to.
template <class Device>
TextInput<Device> on_device(Context<Device>& ctx, Staging<Device>& stage, const TextInput<Cpu>& input) {
  return {stage(ctx, input.ids), stage(ctx, input.ends), stage(ctx, input.lengths)};
}

/// Token ids [N, L] to embeddings [N, E].
template <class T, class Device = Cpu>
struct TextTransformer {
  TextConfig config;
  Embedding<T, Device> token_embedding;          // [V, C]
  Parameter<T, 2, Device> positional_embedding;  // [context length, C]
  Transformer<T, Device> transformer;
  Layernorm<T, Device> ln_final;
  Parameter<T, 2, Device> text_projection;  // [C, E]

  void members(auto&& visit) {
    visit("positional_embedding", positional_embedding);
    visit("text_projection", text_projection);
    visit("token_embedding", token_embedding);
    visit("transformer", transformer);
    visit("ln_final", ln_final);
  }

  /// Texts' embeddings [N, E] (not normalised) from ids [N, L], L <= the context length, and where they end. `hidden`
  /// receives the tokens before the first block and after every block.
  Variable<T, 2, Device> operator()(Tape<Device>& tape, const TextInput<Device>& text,
                                    std::vector<Variable<T, 3, Device>>* hidden = nullptr) const {
    const auto& [ids, ends, lengths] = text;
    require<ShapeError>(ids.shape[1] >= 1 && ids.shape[1] <= config.context_length, "text tower: ", ids.shape[1],
                        " tokens in a row; the context length is ", config.context_length);
    const auto positions = slice(tape, positional_embedding, 0, 0, ids.shape[1]);
    auto x = add(tape, token_embedding(tape, ids), positions);
    if (hidden) hidden->push_back(x);
    const auto pooled = lengths && !hidden ? reshape(tape, transformer.at_token(tape, x, ends, lengths),
                                                     Shape<2>{x.shape()[0], x.shape()[2]})
                                           : gather_tokens(tape, transformer(tape, x, true, -1, hidden), ends);
    return matmul(tape, ln_final(tape, pooled), text_projection);
  }
  /// The same from ids [N, L] alone: the ends are looked for on the host, which waits for the device. What lies behind
  /// every row's end is not computed, but where `hidden` asks for it.
  Variable<T, 2, Device> operator()(Tape<Device>& tape, const Tensor<int32_t, 2, Device>& ids,
                                    std::vector<Variable<T, 3, Device>>* hidden = nullptr) const {
    require<ShapeError>(ids.shape[1] >= 1 && ids.shape[1] <= config.context_length, "text tower: ", ids.shape[1],
                        " tokens in a row; the context length is ", config.context_length);
    if (hidden) return (*this)(tape, TextInput<Device>{ids, end_positions(tape.ctx, ids, config.end_of_text)}, hidden);
    if constexpr (std::is_same_v<Device, Cpu>) {
      return (*this)(tape, text_input(tape.ctx, ids, config.end_of_text));
    } else {
      Context<Cpu> host;
      const auto input =
          text_input(host, Tensor<int32_t, 2>::from_host(host, ids.shape, to_host(view(ids))), config.end_of_text);
      return (*this)(
          tape,
          TextInput<Device>{Tensor<int32_t, 2, Device>::from_host(tape.ctx, input.ids.shape, input.ids.data),
                            Tensor<int32_t, 1, Device>::from_host(tape.ctx, input.ends.shape, input.ends.data),
                            Tensor<int32_t, 1, Device>::from_host(tape.ctx, input.lengths.shape, input.lengths.data)});
    }
  }
};

/// A tower with random weights: CLIP's rule (token embedding 0.02, positions 0.01), or Glorot's with token embedding
/// 0.1 and positions 0.01.
template <class T, class Device>
TextTransformer<T, Device> make_text_transformer(Context<Device>& ctx, const TextConfig& config,
                                                 Initialisation initialisation) {
  const int64_t width = config.transformer.width;
  const bool clip = initialisation != Initialisation::xavier;
  TextTransformer<T, Device> t;
  t.config = config;
  const Shape<2> table{config.vocabulary_size, width};
  t.token_embedding.weight =
      initialisation == Initialisation::none ? unset<T, 2>(ctx, table) : normal<T, 2>(ctx, table, clip ? 0.02 : 0.1);
  t.positional_embedding = normal<T, 2>(ctx, {config.context_length, width}, 0.01);
  t.transformer = make_transformer<T>(ctx, config.transformer, initialisation);
  t.ln_final = make_layernorm<T>(ctx, width, config.transformer.epsilon);
  t.text_projection = clip ? normal<T, 2>(ctx, {width, config.embed_dim}, std::pow(double(width), -0.5))
                           : xavier_uniform<T>(ctx, {width, config.embed_dim});
  return t;
}

}  // namespace tessera::nn
