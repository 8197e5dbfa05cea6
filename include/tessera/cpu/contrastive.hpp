// Contrastive losses on Cpu. InfoNCE goes over tiles of logits: the matrix product of a tile uses all threads, then its
// rows and its columns are folded into running maxima and sums, tile after tile in a fixed order.
#pragma once
#include <cmath>
#include <limits>
#include <vector>

#include <tessera/cpu/product.hpp>
#include <tessera/ops/contrastive.hpp>

namespace tessera {
namespace cpu {

/// The scale and whether its gradient passes: as torch.clamp, a scale equal to the bound still passes.
struct LogitScale {
  double value;
  bool passes;
  LogitScale(double logarithm, double largest)
      : value(logit_factor(logarithm, largest)), passes(!(std::exp(logarithm) > largest)) {}
};

/// log(exp(a) + exp(b) + …) in progress: the largest term so far and the sum of exp(term - largest).
template <class A>
struct RunningLogSumExp {
  A largest = -std::numeric_limits<A>::infinity(), sum = 0;
  A value() const { return largest + std::log(sum); }
};

}  // namespace cpu

template <>
struct Backend<op::contrastive, Cpu> {
  static constexpr int64_t tile_rows = 512, tile_columns = 2048, column_grain = 256;

  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>& ctx, Out<A, 0, Cpu> loss, Out<A, 1, Cpu> row_log_sum_exp,
                      Out<A, 1, Cpu> column_log_sum_exp, In<T, 2, Cpu> image, In<T, 2, Cpu> text,
                      In<A, 0, Cpu> logit_scale, ContrastiveOptions options) {
    const cpu::LogitScale scale(double(logit_scale.data[0]), options.largest_scale);
    const int64_t rows = image.shape[0], columns = text.shape[0];
    const bool symmetric = options.loss == ContrastiveLoss::symmetric;
    Tensor<cpu::RunningLogSumExp<A>, 1> of_row(ctx, {rows}), of_column(ctx, {symmetric ? columns : 0});
    std::fill_n(of_row.data, rows, cpu::RunningLogSumExp<A>{});
    std::fill_n(of_column.data, of_column.size(), cpu::RunningLogSumExp<A>{});
    Tensor<A, 1> own(ctx, {rows});  // logits of the pairs
    for_each_tile<T, A>(ctx, image, text, [&](const Tile<A>& tile) {
      multiply_by(tile, A(scale.value));
      parallel_for(tile.rows, row_grain(tile.columns), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          fold_row(of_row.data[tile.first_row + i], tile.row(i), tile.columns);
          const int64_t label = options.first_label + tile.first_row + i - tile.first_column;
          if (label >= 0 && label < tile.columns) own.data[tile.first_row + i] = tile.row(i)[label];
        }
      });
      if (!symmetric) return;
      parallel_for(tile.columns, column_grain, [&](int64_t begin, int64_t end) {
        fold_columns(of_column.data + tile.first_column + begin, tile, begin, end);
      });
    });
    double row_total = 0, column_total = 0;
    for (int64_t i = 0; i < rows; ++i) {
      row_log_sum_exp.data[i] = of_row.data[i].value();
      row_total += double(row_log_sum_exp.data[i]) - double(own.data[i]);
    }
    for (int64_t j = 0; symmetric && j < columns; ++j) {
      column_log_sum_exp.data[j] = of_column.data[j].value();
      column_total += double(column_log_sum_exp.data[j]) - double(own.data[j]);
    }
    loss.data[0] = A((symmetric ? 0.5 * (row_total + column_total) : row_total) / double(rows));
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>& ctx, Out<T, 2, Cpu> d_image, Out<T, 2, Cpu> d_text, Out<A, 0, Cpu> d_logit_scale,
                       In<A, 0, Cpu> d_loss, In<A, 1, Cpu> row_log_sum_exp, In<A, 1, Cpu> column_log_sum_exp,
                       In<T, 2, Cpu> image, In<T, 2, Cpu> text, In<A, 0, Cpu> logit_scale, ContrastiveOptions options) {
    const cpu::LogitScale scale(double(logit_scale.data[0]), options.largest_scale);
    const int64_t rows = image.shape[0], channels = image.shape[1];
    const bool symmetric = options.loss == ContrastiveLoss::symmetric;
    const A weight = A((symmetric ? 0.5 : 1.0) * double(d_loss.data[0]) / double(rows));
    Sum<T, A> image_sum(ctx, d_image), text_sum(ctx, d_text);
    Tensor<A, 2> wide_image(ctx, {std::is_same_v<A, T> ? 0 : tile_rows, channels}),
        wide_text(ctx, {std::is_same_v<A, T> ? 0 : tile_columns, channels});
    auto dot = Tensor<double, 1>::zeros(ctx, {rows});  // of each row's logits with their gradients
    for_each_tile<T, A>(ctx, image, text, [&](const Tile<A>& tile) {
      parallel_for(tile.rows, row_grain(tile.columns), [&](int64_t begin, int64_t end) {
        for (int64_t i = begin; i < end; ++i) {
          const int64_t label = options.first_label + tile.first_row + i - tile.first_column;
          dot.data[tile.first_row + i] += double(logit_gradients(
              tile.row(i), tile.columns, label, A(scale.value), weight, row_log_sum_exp.data[tile.first_row + i],
              symmetric ? column_log_sum_exp.data + tile.first_column : nullptr));
        }
      });
      if (image_sum.data) {
        const A* wide =
            cpu::widened_or_same(text.data + tile.first_column * channels, tile.columns * channels, wide_text.data);
        cpu::multiply<A, A>(ctx, tile.rows, channels, tile.columns, image_sum.data + tile.first_row * channels,
                            channels, {tile.data, tile.columns}, {wide, channels},
                            tile.first_column == 0 ? cpu::Store::overwrite : cpu::Store::add);
      }
      if (text_sum.data) {
        const A* wide =
            cpu::widened_or_same(image.data + tile.first_row * channels, tile.rows * channels, wide_image.data);
        cpu::multiply<A, A>(ctx, tile.columns, channels, tile.rows, text_sum.data + tile.first_column * channels,
                            channels, {tile.data, tile.columns, true}, {wide, channels},
                            tile.first_row == 0 ? cpu::Store::overwrite : cpu::Store::add);
      }
    });
    image_sum.store(d_image);
    text_sum.store(d_text);
    if (!d_logit_scale) return;
    double total = 0;
    for (int64_t i = 0; i < rows; ++i) total += dot.data[i];
    d_logit_scale.data[0] = scale.passes ? A(total) : A(0);
  }

 private:
  template <class A>
  struct Tile {
    int64_t first_row, first_column, rows, columns;
    A* data;  // [rows, columns]
    A* row(int64_t i) const { return data + i * columns; }
  };

  /// A gradient summed in A over tiles: in place, or in a buffer of its own where T is narrower.
  template <class T, class A>
  struct Sum {
    Tensor<A, 2> buffer;
    A* data = nullptr;
    Sum(Context<Cpu>& ctx, const TensorView<T, 2>& out) {
      if (!out) return;
      if constexpr (std::is_same_v<T, A>) {
        data = out.data;
      } else {
        buffer = Tensor<A, 2>(ctx, out.shape);
        data = buffer.data;
      }
    }
    void store(const TensorView<T, 2>& out) const {
      if constexpr (!std::is_same_v<T, A>) {
        if (!out) return;
        parallel_for(out.size(), 16384, [&](int64_t begin, int64_t end) {
#pragma omp simd
          for (int64_t i = begin; i < end; ++i) out.data[i] = narrow<T>(data[i]);
        });
      }
    }
  };

  /// Calls visit(tile) with the products image textᵀ, tile by tile.
  template <class T, class A, class Visit>
  static void for_each_tile(Context<Cpu>& ctx, const TensorView<const T, 2>& image, const TensorView<const T, 2>& text,
                            Visit&& visit) {
    const int64_t rows = image.shape[0], columns = text.shape[0], channels = image.shape[1];
    const int64_t most_rows = std::min(tile_rows, rows), most_columns = std::min(tile_columns, columns);
    Tensor<A, 2> products(ctx, {most_rows, most_columns});
    for (int64_t first_row = 0; first_row < rows; first_row += most_rows)
      for (int64_t first_column = 0; first_column < columns; first_column += most_columns) {
        const Tile<A> tile{first_row, first_column, std::min(most_rows, rows - first_row),
                           std::min(most_columns, columns - first_column), products.data};
        cpu::multiply<A, T>(ctx, tile.rows, tile.columns, channels, tile.data, tile.columns,
                            {image.data + first_row * channels, channels},
                            {text.data + first_column * channels, channels, true});
        visit(tile);
      }
  }

  template <class A>
  static void multiply_by(const Tile<A>& tile, A scale) {
    parallel_for(tile.rows * tile.columns, 65536, [&](int64_t begin, int64_t end) {
#pragma omp simd
      for (int64_t i = begin; i < end; ++i) tile.data[i] *= scale;
    });
  }

  template <class A>
  static void fold_row(cpu::RunningLogSumExp<A>& running, const A* logits, int64_t columns) {
    A largest = running.largest;
#pragma omp simd reduction(max : largest)
    for (int64_t j = 0; j < columns; ++j) largest = logits[j] > largest ? logits[j] : largest;
    A sum = 0;
#pragma omp simd reduction(+ : sum)
    for (int64_t j = 0; j < columns; ++j) sum += math::exp(logits[j] - largest);
    running.sum = running.sum * math::exp(running.largest - largest) + sum;
    running.largest = largest;
  }

  /// The same for columns [begin, end) of a tile; `running` starts at column `begin`.
  template <class A>
  static void fold_columns(cpu::RunningLogSumExp<A>* running, const Tile<A>& tile, int64_t begin, int64_t end) {
    const int64_t n = end - begin;
    A largest[column_grain], sum[column_grain];
    for (int64_t j = 0; j < n; ++j) largest[j] = running[j].largest;
    for (int64_t i = 0; i < tile.rows; ++i) {
      const A* logits = tile.row(i) + begin;
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) largest[j] = logits[j] > largest[j] ? logits[j] : largest[j];
    }
    for (int64_t j = 0; j < n; ++j) sum[j] = running[j].sum * math::exp(running[j].largest - largest[j]);
    for (int64_t i = 0; i < tile.rows; ++i) {
      const A* logits = tile.row(i) + begin;
#pragma omp simd
      for (int64_t j = 0; j < n; ++j) sum[j] += math::exp(logits[j] - largest[j]);
    }
    for (int64_t j = 0; j < n; ++j) running[j] = {largest[j], sum[j]};
  }

  /// Turns one row of products into gradients of the products, in place; columns' log-sum-exps are null for the loss
  /// over rows alone. Returns the sum of logit times gradient of the logit, each logit less its log-sum-exp: gradients
  /// of a row (and of a column) sum to 0, so that the total is the same, but large logits no longer cancel.
  template <class A>
  static A logit_gradients(A* row, int64_t columns, int64_t label, A scale, A weight, A row_log_sum_exp,
                           const A* column_log_sum_exp) {
    A dot = 0;
    const bool holds_label = label >= 0 && label < columns;
    const A own = holds_label ? row[label] : A(0);
    if (column_log_sum_exp) {
#pragma omp simd reduction(+ : dot)
      for (int64_t j = 0; j < columns; ++j) {
        const A logit = scale * row[j];
        const A of_row = logit - row_log_sum_exp, of_column = logit - column_log_sum_exp[j];
        const A d_row = weight * math::exp(of_row), d_column = weight * math::exp(of_column);
        dot += of_row * d_row + of_column * d_column;
        row[j] = scale * (d_row + d_column);
      }
    } else {
#pragma omp simd reduction(+ : dot)
      for (int64_t j = 0; j < columns; ++j) {
        const A of_row = scale * row[j] - row_log_sum_exp, d = weight * math::exp(of_row);
        dot += of_row * d;
        row[j] = scale * d;
      }
    }
    if (holds_label) {
      const A logit = scale * own;
      dot -= weight * (logit - row_log_sum_exp);
      if (column_log_sum_exp) dot -= weight * (logit - column_log_sum_exp[label]);
      row[label] -= scale * (column_log_sum_exp ? A(2) : A(1)) * weight;
    }
    return dot;
  }
};

template <>
struct Backend<op::multi_text_contrastive, Cpu> {
  static constexpr int64_t column_grain = 256;

  template <class T, class A = accumulate_t<T>>
  static void forward(Context<Cpu>&, Out<A, 0, Cpu> loss, Out<A, 1, Cpu> text_log_sum_exp,
                      Out<A, 1, Cpu> negative_log_sum_exp, In<T, 2, Cpu> scores, In<int32_t, 1, Cpu> owner,
                      In<uint8_t, 2, Cpu> excluded, In<A, 0, Cpu> logit_scale, MultiTextContrastiveOptions options) {
    const cpu::LogitScale scale(double(logit_scale.data[0]), options.largest_scale);
    const int64_t images = scores.shape[0], texts = scores.shape[1];
    const std::vector<int64_t> owned = texts_owned("multi_text_contrastive_forward", owner, images);
    const Pairs<T, A> pairs{scores.data, excluded.data, owner.data, texts, A(scale.value)};
    parallel_for(texts, column_grain, [&](int64_t begin, int64_t end) {
      for (int64_t j = begin; j < end; ++j)
        text_log_sum_exp.data[j] = log_sum_exp<A>(
            images, [&](int64_t i) { return pairs.removed(i, j); }, [&](int64_t i) { return pairs.logit(i, j); });
    });
    std::vector<double> of_image(static_cast<size_t>(images));
    parallel_for(images, row_grain(texts), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const A negatives = log_sum_exp<A>(
            texts, [&](int64_t j) { return !pairs.negative(i, j); }, [&](int64_t j) { return pairs.logit(i, j); });
        negative_log_sum_exp.data[i] = negatives;
        double sum = 0;
        for (int64_t j = 0; j < texts; ++j)
          if (owner.data[j] == i) sum += double(softplus(negatives - pairs.logit(i, j)));
        of_image[size_t(i)] = owned[size_t(i)] ? sum / double(owned[size_t(i)]) : 0;
      }
    });
    double text_total = 0, image_total = 0;
    for (int64_t j = 0; j < texts; ++j)
      text_total += double(text_log_sum_exp.data[j]) - double(pairs.logit(owner.data[j], j));
    for (double sum : of_image) image_total += sum;
    loss.data[0] = A(0.5 * (text_total / double(texts) + image_total / double(images_with_texts(owned))));
  }

  template <class T, class A = accumulate_t<T>>
  static void backward(Context<Cpu>&, Out<T, 2, Cpu> d_scores, Out<A, 0, Cpu> d_logit_scale, In<A, 0, Cpu> d_loss,
                       In<A, 1, Cpu> text_log_sum_exp, In<A, 1, Cpu> negative_log_sum_exp, In<T, 2, Cpu> scores,
                       In<int32_t, 1, Cpu> owner, In<uint8_t, 2, Cpu> excluded, In<A, 0, Cpu> logit_scale,
                       MultiTextContrastiveOptions options) {
    const cpu::LogitScale scale(double(logit_scale.data[0]), options.largest_scale);
    const int64_t images = scores.shape[0], texts = scores.shape[1];
    const std::vector<int64_t> owned = texts_owned("multi_text_contrastive_backward", owner, images);
    const Pairs<T, A> pairs{scores.data, excluded.data, owner.data, texts, A(scale.value)};
    const A text_weight = A(0.5 * double(d_loss.data[0]) / double(texts));
    const double image_weight = 0.5 * double(d_loss.data[0]) / double(images_with_texts(owned));
    std::vector<double> dot(static_cast<size_t>(images));
    parallel_for(images, row_grain(texts), [&](int64_t begin, int64_t end) {
      for (int64_t i = begin; i < end; ++i) {
        const A negatives = negative_log_sum_exp.data[i];
        const A own_weight = A(image_weight / double(std::max<int64_t>(1, owned[size_t(i)])));
        A d_negatives = 0;
        for (int64_t j = 0; j < texts; ++j)
          if (owner.data[j] == i) d_negatives += own_weight * math::sigmoid(negatives - pairs.logit(i, j));
        for (int64_t j = 0; j < texts; ++j) {
          const A logit = pairs.logit(i, j);
          A d = 0;
          if (!pairs.removed(i, j)) {
            d = text_weight * math::exp(logit - text_log_sum_exp.data[j]);
            if (owner.data[j] == i)
              d -= text_weight + own_weight * math::sigmoid(negatives - logit);
            else
              d += d_negatives * math::exp(logit - negatives);
          }
          dot[size_t(i)] += double(logit * d);
          if (d_scores) d_scores.data[i * texts + j] = narrow<T>(A(scale.value) * d);
        }
      }
    });
    if (!d_logit_scale) return;
    double total = 0;
    for (double d : dot) total += d;
    d_logit_scale.data[0] = scale.passes ? A(total) : A(0);
  }

 private:
  template <class T, class A>
  struct Pairs {
    const T* scores;
    const uint8_t* excluded;
    const int32_t* owner;
    int64_t texts;
    A scale;
    A logit(int64_t i, int64_t j) const { return scale * A(widen(scores[i * texts + j])); }
    bool removed(int64_t i, int64_t j) const { return excluded && excluded[i * texts + j] && owner[j] != i; }
    bool negative(int64_t i, int64_t j) const { return owner[j] != i && !removed(i, j); }
  };

  /// How many texts each image owns.
  static std::vector<int64_t> texts_owned(std::string_view name, const TensorView<const int32_t, 1>& owner,
                                          int64_t images) {
    std::vector<int64_t> owned(static_cast<size_t>(images));
    for (int64_t j = 0; j < owner.shape[0]; ++j) {
      const int64_t image = owner.data[j];
      require(image >= 0 && image < images, name, ": owner[", j, "] is ", image, ", not one of ", images, " images");
      ++owned[size_t(image)];
    }
    return owned;
  }
  static int64_t images_with_texts(const std::vector<int64_t>& owned) {
    int64_t count = 0;
    for (int64_t texts : owned) count += texts > 0;
    return count;
  }

  /// log sum exp of logit(i) over i < n where not skip(i); -infinity where nothing is left.
  template <class A, class Skip, class Logit>
  static A log_sum_exp(int64_t n, Skip&& skip, Logit&& logit) {
    A largest = -std::numeric_limits<A>::infinity(), sum = 0;
    for (int64_t i = 0; i < n; ++i)
      if (!skip(i)) largest = std::max(largest, logit(i));
    for (int64_t i = 0; i < n; ++i)
      if (!skip(i)) sum += math::exp(logit(i) - largest);
    return sum > 0 ? largest + std::log(sum) : largest;
  }
  /// log(1 + exp(x)) without overflow; 0 at -infinity.
  template <class A>
  static A softplus(A x) {
    return x > 0 ? x + std::log1p(std::exp(-x)) : std::log1p(std::exp(x));
  }
};

}  // namespace tessera
