// Attention on kernels' devices: which kernel computes what. See attention_tiles.cuh for the parts that all share.
#pragma once
#include <limits>

#include <tessera/kernels/attention_resident.cuh>
#include <tessera/ops/attention.hpp>

namespace tessera {

template <>
struct Backend<op::attention, kernels::KernelDevice> {
  using Device = kernels::KernelDevice;

  template <class T>
  static void forward(Context<Device>& ctx, Out<T, 4, Device> out, Out<float, 3, Device> log_sum_exp,
                      In<T, 4, Device> query, In<T, 4, Device> key, In<T, 4, Device> value,
                      In<int32_t, 1, Device> key_lengths, const AttentionOptions& options) {
    using Traits = kernels::attention_forward_traits;
    constexpr auto name = "attention_forward";
    const auto problem = describe<T>(name, query, key, key_lengths, options);
    if constexpr (std::is_same_v<T, bfloat16>) {
      using Resident = kernels::attention_resident_forward_traits;
      if (fits_block(problem) && problem.queries > Traits::few_queries)
        return for_key_steps(problem.keys, [&](auto steps) {
          constexpr int KeySteps = decltype(steps)::value;
          kernels::launch(name, kernels::attention_resident_forward_kernel<KeySteps>, heads(name, query),
                          unsigned(Resident::threads), Resident::shared_bytes(KeySteps), ctx, strided(out),
                          log_sum_exp.data, strided(query), strided(key), strided(value), problem);
        });
    }
    for_width(problem.channels, [&](auto width) {
      constexpr int Width = decltype(width)::value;
      using E = kernels::tile_element<T>;
      static_assert(Traits::shared_bytes<E, Width>(1) <= kernels::least_shared_bytes &&
                    Traits::shared_bytes<E, Width>(Traits::most_key_groups<E, Width>) <= kernels::least_shared_bytes);
      const auto start = [&](auto groups) {
        constexpr int KeyGroups = decltype(groups)::value;
        kernels::launch(name, kernels::attention_forward_kernel<T, Width, KeyGroups>,
                        blocks(name, query, Traits::block_queries(KeyGroups)), unsigned(Traits::threads),
                        Traits::shared_bytes<E, Width>(KeyGroups), ctx, strided(out), log_sum_exp.data, strided(query),
                        strided(key), strided(value), problem);
      };
      if (problem.queries <= Traits::few_queries)
        start(Constant<Traits::most_key_groups<E, Width>>{});
      else
        start(Constant<1>{});
    });
  }

  template <class T>
  static void backward(Context<Device>& ctx, Out<T, 4, Device> d_query, Out<T, 4, Device> d_key,
                       Out<T, 4, Device> d_value, In<T, 4, Device> d_out, In<float, 3, Device> log_sum_exp,
                       In<T, 4, Device> out, In<T, 4, Device> query, In<T, 4, Device> key, In<T, 4, Device> value,
                       In<int32_t, 1, Device> key_lengths, const AttentionOptions& options) {
    using QueryTraits = kernels::attention_d_query_traits;
    using KeyTraits = kernels::attention_d_key_value_traits;
    constexpr auto name = "attention_backward";
    const auto problem = describe<T>(name, query, key, key_lengths, options);
    if constexpr (std::is_same_v<T, bfloat16>) {
      bool done = false;  // not where the GPU's shared memory is too small for 209 keys and more
      if (fits_block(problem) && problem.queries <= kernels::attention_resident_traits::most_rows && key.size() > 0)
        for_key_steps(problem.keys, [&](auto steps) {
          constexpr int KeySteps = decltype(steps)::value;
          using Resident = kernels::attention_resident_backward_traits<KeySteps>;
          done = Resident::shared_bytes <= kernels::most_shared_bytes(ctx);
          if (!done) return;
          kernels::launch(name, kernels::attention_resident_backward_kernel<KeySteps>, heads(name, key),
                          unsigned(Resident::threads), Resident::shared_bytes, ctx, strided(d_query), strided(d_key),
                          strided(d_value), strided(d_out), log_sum_exp.data, strided(out), strided(query),
                          strided(key), strided(value), problem);
        });
      if (done) return;
    }
    Tensor<float, 3, Device> dots(ctx, log_sum_exp.shape);
    if (query.size() > 0) start_dots<T>(ctx, dots, d_out, out, problem);
    for_width(problem.channels, [&](auto width) {
      constexpr int Width = decltype(width)::value;
      using E = kernels::tile_element<T>;
      static_assert(
          (sizeof(E) == 4 && Width == 128) ||  // 132 KiB: refused by the smallest GPUs
          (QueryTraits::shared_bytes<E, Width>(1) <= kernels::least_shared_bytes &&
           QueryTraits::shared_bytes<E, Width>(QueryTraits::most_key_groups<E, Width>) <= kernels::least_shared_bytes &&
           KeyTraits::shared_bytes<E, Width>() <= kernels::least_shared_bytes));
      const auto start_d_query = [&](auto groups) {
        constexpr int KeyGroups = decltype(groups)::value;
        kernels::launch("attention_d_query", kernels::attention_d_query_kernel<T, Width, KeyGroups>,
                        blocks(name, query, QueryTraits::block_queries(KeyGroups)), unsigned(QueryTraits::threads),
                        QueryTraits::shared_bytes<E, Width>(KeyGroups), ctx, strided(d_query), strided(d_out),
                        log_sum_exp.data, dots.data, strided(query), strided(key), strided(value), problem);
      };
      if (d_query && query.size() > 0) {
        if (problem.queries <= QueryTraits::few_queries)
          start_d_query(Constant<QueryTraits::most_key_groups<E, Width>>{});
        else
          start_d_query(Constant<1>{});
      }
      if ((d_key || d_value) && key.size() > 0)
        kernels::launch("attention_d_key_value", kernels::attention_d_key_value_kernel<T, Width>,
                        {blocks(name, key, KeyTraits::block_keys), 3u - KeyTraits::outputs_of_block<E, Width>},
                        unsigned(KeyTraits::threads), KeyTraits::shared_bytes<E, Width>(), ctx, strided(d_key),
                        strided(d_value), strided(d_out), log_sum_exp.data, dots.data, strided(query), strided(key),
                        strided(value), problem);
    });
  }

 private:
  template <int Value>
  using Constant = std::integral_constant<int, Value>;

  /// Calls f with the smallest width of a tile that holds a head's channels.
  template <class F>
  static void for_width(int channels, F&& f) {
    if (channels <= 32)
      f(Constant<32>{});
    else if (channels <= 64)
      f(Constant<64>{});
    else
      f(Constant<128>{});
  }

  /// Whether a block can hold all keys and values of a head, see attention_resident.cuh.
  static bool fits_block(const kernels::AttentionProblem& problem) {
    using Traits = kernels::attention_resident_traits;
    return problem.keys <= Traits::most_rows && problem.channels > Traits::width / 2 &&
           problem.channels <= Traits::width;
  }
  /// Calls f with a number of steps of 16 keys that holds them all: few kinds, chosen for 77, 128, 197 and 256 keys.
  template <class F>
  static void for_key_steps(int keys, F&& f) {
    if (keys <= 5 * 16)
      f(Constant<5>{});
    else if (keys <= 8 * 16)
      f(Constant<8>{});
    else if (keys <= 13 * 16)
      f(Constant<13>{});
    else
      f(Constant<16>{});
  }

  template <class T>
  static kernels::AttentionProblem describe(const char* name, In<T, 4, Device> query, In<T, 4, Device> key,
                                            In<int32_t, 1, Device> key_lengths, const AttentionOptions& options) {
    static_assert(sizeof(T) <= 4, "tessera: kernels store bfloat16, float16 or float");
    constexpr int64_t most_channels = 128, most_rows = std::numeric_limits<int32_t>::max() / 2;
    const int64_t queries = query.shape[1], keys = key.shape[1], heads = query.shape[2], channels = query.shape[3];
    require<ShapeError>(channels <= most_channels, name, ": heads of width ", channels, " in query ",
                        to_string(query.shape), ", but the kernels take at most ", most_channels,
                        "; use more heads or the Cpu device");
    require<ShapeError>(std::max({queries, keys, heads}) <= most_rows, name, ": query ", to_string(query.shape),
                        " and key ", to_string(key.shape), " must have at most ", most_rows, " rows and heads");
    expect_contiguous(name, "key_lengths", key_lengths);
    return {key_lengths.data,
            int(queries),
            int(keys),
            int(heads),
            int(channels),
            options.causal,
            float(options.scale_for(channels))};
  }

  template <class T>
  static kernels::AttentionView<T> strided(const TensorView<T, 4, Device>& view) {
    constexpr int64_t pack = kernels::Pack<std::remove_const_t<T>>::count;
    bool packs = kernels::fits_packs<std::remove_const_t<T>>(view.shape[3], {view.data});
    for (size_t axis = 0; axis < 3; ++axis) packs = packs && (view.shape[axis] <= 1 || view.strides[axis] % pack == 0);
    return {view.data, view.strides[0], view.strides[1], view.strides[2], packs};
  }

  /// One block for every `rows` rows of every head.
  template <class T>
  static unsigned blocks(const char* name, const TensorView<T, 4, Device>& view, int rows) {
    const int64_t count = view.shape[0] * view.shape[2] * kernels::ceil_div(view.shape[1], rows);
    require<ShapeError>(count <= std::numeric_limits<int32_t>::max(), name, ": ", to_string(view.shape), " needs ",
                        count, " blocks, more than a launch may have; split the batch");
    return unsigned(count);
  }

  /// One block for every head.
  template <class T>
  static unsigned heads(const char* name, const TensorView<T, 4, Device>& view) {
    return blocks(name, view, int(std::max<int64_t>(1, view.shape[1])));
  }

  template <class T>
  static void start_dots(Context<Device>& ctx, Out<float, 3, Device> dots, In<T, 4, Device> d_out, In<T, 4, Device> out,
                         const kernels::AttentionProblem& problem) {
    using Traits = kernels::attention_dots_traits;
    const auto d_out_view = strided(d_out), out_view = strided(out);
    const auto start = [&](auto* kernel) {
      kernels::launch("attention_dots", kernel, kernels::blocks_for(dots.size(), Traits::rows_of_block),
                      unsigned(Traits::threads), 0, ctx, dots.data, d_out_view, out_view, problem, dots.size());
    };
    if (d_out_view.packs && out_view.packs)
      start(kernels::attention_dots_kernel<T, kernels::Pack<T>::count>);
    else
      start(kernels::attention_dots_kernel<T, 1>);
  }
};

}  // namespace tessera
