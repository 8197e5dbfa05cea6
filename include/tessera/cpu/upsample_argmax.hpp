// Upsampling and argmax on Cpu. Work is cut into bands, the output rows between two rows of the coarse map, and a band
// into spans of whole cells at least 16 pixels wide. For each span the classes that cannot win are left out first.
#pragma once
#include <cmath>
#include <limits>
#include <vector>

#include <tessera/cpu/interpolate.hpp>
#include <tessera/ops/upsample_argmax.hpp>

namespace tessera {

template <>
struct Backend<op::upsample_argmax, Cpu> {
  template <class T, class Label, class A = accumulate_t<T>>
  static void forward(Context<Cpu>& ctx, Out<Label, 3, Cpu> labels, Out<A, 3, Cpu> best_score, In<T, 4, Cpu> scores,
                      const InterpolateOptions& options) {
    const cpu::AxisTaps<A> rows(scores.shape[2], labels.shape[1], options.mode, options.rows, options.align_corners);
    const cpu::AxisTaps<A> columns(scores.shape[3], labels.shape[2], options.mode, options.columns,
                                   options.align_corners);
    const std::vector<Range> bands = bands_of(rows), spans = spans_of(columns);
    const int64_t count = int64_t(bands.size());
    parallel_for(labels.shape[0] * count, 1, [&](int64_t begin, int64_t end) {
      Band<T, Label, A> band(ctx, rows, columns, spans, scores.shape[1]);
      for (int64_t task = begin; task < end; ++task) {
        const int64_t image = task / count;
        band.run(bands[size_t(task % count)], scores.select(0, image), labels.select(0, image),
                 best_score ? best_score.select(0, image) : TensorView<A, 2>{});
      }
    });
  }

 private:
  static constexpr int64_t lanes = 16, widest_span = 64, tallest_band = 32;

  /// Output cells [begin, end) of one axis and the input cells [first, last] that they are made of.
  struct Range {
    int64_t begin, end, first, last;
    int64_t size() const { return end - begin; }
  };

  /// Neighbouring outputs with the same two inputs; at most tallest_band of them.
  template <class A>
  static std::vector<Range> bands_of(const cpu::AxisTaps<A>& taps) {
    std::vector<Range> bands;
    for (int64_t o = 0; o < taps.output; ++o) {
      const int64_t first = taps.index[0][size_t(o)], last = taps.index[1][size_t(o)];
      if (bands.empty() || bands.back().first != first || bands.back().last != last ||
          bands.back().size() == tallest_band)
        bands.push_back({o, o, first, last});
      ++bands.back().end;
    }
    return bands;
  }
  /// The same, where ranges narrower than a vector are joined with the next.
  template <class A>
  static std::vector<Range> spans_of(const cpu::AxisTaps<A>& taps) {
    std::vector<Range> spans;
    for (int64_t o = 0; o < taps.output; ++o) {
      const int64_t first = taps.index[0][size_t(o)], last = taps.index[1][size_t(o)];
      const bool new_cell = o > 0 && first != taps.index[0][size_t(o) - 1];
      if (spans.empty() || spans.back().size() == widest_span || (new_cell && spans.back().size() >= lanes))
        spans.push_back({o, o, first, last});
      ++spans.back().end;
      spans.back().last = last;
    }
    return spans;
  }

  /// One thread's buffers, and the work on one band.
  template <class T, class Label, class A>
  class Band {
   public:
    Band(Context<Cpu>& ctx, const cpu::AxisTaps<A>& rows, const cpu::AxisTaps<A>& columns,
         const std::vector<Range>& spans, int64_t classes)
        : rows_(rows), columns_(columns), spans_(spans), classes_(classes) {
      const int64_t count = int64_t(spans.size());
      upper_ = {ctx, {classes, count}};
      floor_ = {ctx, {count}};
      column_bounds_ = {ctx, {3, columns.input}};
      top_ = {ctx, {widest_span}};
      slope_ = {ctx, {widest_span}};
      best_ = {ctx, {tallest_band, widest_span}};
      label_ = {ctx, {tallest_band, widest_span}};
    }

    void run(const Range& band, In<T, 3, Cpu> scores, TensorView<Label, 2> labels, TensorView<A, 2> best_score) {
      bound_classes(band, scores);
      for (size_t s = 0; s < spans_.size(); ++s) {
        candidates_.clear();
        for (int64_t c = 0; c < classes_; ++c)
          if (!(upper_(c, s) < floor_(s))) candidates_.push_back(int32_t(c));
        const Range& span = spans_[s];
        if (candidates_.size() == 1 && !best_score) {
          for (int64_t y = band.begin; y < band.end; ++y)
            std::fill_n(&labels(y, span.begin), span.size(), Label(candidates_[0]));
          continue;
        }
        compare_candidates(band, span, scores);
        for (int64_t y = band.begin; y < band.end; ++y) {
          const int32_t* label = label_.data + (y - band.begin) * widest_span;
          Label* to = &labels(y, span.begin);
          for (int64_t x = 0; x < span.size(); ++x) to[x] = Label(label[x]);
          if (best_score)
            std::copy_n(best_.data + (y - band.begin) * widest_span, span.size(), &best_score(y, span.begin));
        }
      }
    }

   private:
    /// upper[c][span]: no pixel of class c in the span is above it. floor[span]: some class is nowhere below it. With
    /// corners of magnitude up to M a computed value leaves the corners' range by less than 5 epsilon M, plus a few of
    /// the smallest subnormals where products underflow; 16 epsilon (M + smallest normal) covers both. A NaN or an
    /// infinity, or an M so great that a difference may overflow, makes both bounds NaN: the class is then kept.
    void bound_classes(const Range& band, In<T, 3, Cpu> scores) {
      const int64_t width = columns_.input, count = int64_t(spans_.size());
      A *low = column_bounds_.data, *high = low + width, *odd = high + width;
      std::fill_n(floor_.data, count, -std::numeric_limits<A>::infinity());
      for (int64_t c = 0; c < classes_; ++c) {
        const T *r0 = &scores(c, band.first, 0), *r1 = &scores(c, band.last, 0);
#pragma omp simd
        for (int64_t i = 0; i < width; ++i) {
          const A a = widen(r0[i]), b = widen(r1[i]);
          low[i] = a < b ? a : b;
          high[i] = a < b ? b : a;
          odd[i] = (a - a) + (b - b);
        }
        A* upper = upper_.data + c * count;
        for (int64_t s = 0; s < count; ++s) {
          const Range& span = spans_[size_t(s)];
          A least = low[span.first], most = high[span.first], wrong = odd[span.first];
          for (int64_t i = span.first + 1; i <= span.last; ++i) {
            least = low[i] < least ? low[i] : least;
            most = high[i] > most ? high[i] : most;
            wrong += odd[i];
          }
          const A magnitude = most > -least ? most : -least;
          wrong += magnitude * 8 - magnitude * 8;
          const A margin = 16 * std::numeric_limits<A>::epsilon() * (magnitude + std::numeric_limits<A>::min()) + wrong;
          upper[s] = most + margin;
          const A lower = least - margin;
          floor_.data[s] = lower > floor_.data[s] ? lower : floor_.data[s];
        }
      }
    }

    /// best_ and label_ [band, span] over the candidates, lowest class first.
    void compare_candidates(const Range& band, const Range& span, In<T, 3, Cpu> scores) {
      const int64_t padded = (span.size() + lanes - 1) / lanes * lanes;
      std::fill_n(top_.data, padded, A(0));
      std::fill_n(slope_.data, padded, A(0));
      const A* fractions = rows_.weight[1].data() + band.begin;
      for (size_t i = 0; i < candidates_.size(); ++i) {
        resample_rows(span, &scores(candidates_[i], band.first, 0), &scores(candidates_[i], band.last, 0));
        for (int64_t y = 0; y < band.size(); ++y)
          for (int64_t x = 0; x < padded; x += lanes) {
            const int64_t at = y * widest_span + x;
            if (i == 0)
              start(best_.data + at, label_.data + at, top_.data + x, slope_.data + x, fractions[y], candidates_[i]);
            else
              improve(best_.data + at, label_.data + at, top_.data + x, slope_.data + x, fractions[y], candidates_[i]);
          }
      }
    }

    /// top_ and slope_ [span]: the upper row resampled across columns, and the lower one's difference from it.
    void resample_rows(const Range& span, const T* r0, const T* r1) {
      const int32_t *i0 = columns_.index[0].data() + span.begin, *i1 = columns_.index[1].data() + span.begin;
      const A* fraction = columns_.weight[1].data() + span.begin;
      A *top = top_.data, *slope = slope_.data;
#pragma omp simd
      for (int64_t x = 0; x < span.size(); ++x) {
        const A above = cpu::blend<A>(widen(r0[i0[x]]), widen(r0[i1[x]]), fraction[x]);
        const A below = cpu::blend<A>(widen(r1[i0[x]]), widen(r1[i1[x]]), fraction[x]);
        top[x] = above;
        slope[x] = below - above;
      }
    }

    static void start(A* best, int32_t* label, const A* top, const A* slope, A fraction, int32_t candidate) {
#pragma omp simd
      for (int64_t x = 0; x < lanes; ++x) {
        best[x] = top[x] + fraction * slope[x];
        label[x] = candidate;
      }
    }
    /// Strictly better wins, so that ties stay with the lower class; a first NaN wins and stays.
    static void improve(A* best, int32_t* label, const A* top, const A* slope, A fraction, int32_t candidate) {
#pragma omp simd
      for (int64_t x = 0; x < lanes; ++x) {
        const A value = top[x] + fraction * slope[x], old = best[x];
        const int32_t old_label = label[x];
        const bool better = !(value <= old) & (old == old);
        best[x] = better ? value : old;
        label[x] = better ? candidate : old_label;
      }
    }

    const cpu::AxisTaps<A>&rows_, &columns_;
    const std::vector<Range>& spans_;
    int64_t classes_;
    std::vector<int32_t> candidates_;
    Tensor<A, 2> upper_, column_bounds_, best_;
    Tensor<A, 1> floor_, top_, slope_;
    Tensor<int32_t, 2> label_;
  };
};

}  // namespace tessera
