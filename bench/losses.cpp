// Rows of the losses: cross-entropy, CLIP's symmetric InfoNCE, and the multi-text contrastive loss of the demo.
#include <tessera/ops/contrastive.hpp>
#include <tessera/ops/cross_entropy.hpp>
#include <tessera/ops/similarity.hpp>
#include <tessera/ops/symmetric_kl.hpp>

#include "row.hpp"

namespace bench {
namespace {

Tensor<float, 0> scalar(Row& row, float value) { return Tensor<float, 0>::from_host(row.ctx, {}, &value); }

/// An input of rows of length 1.
Tensor<float, 2> unit_rows(Row& row, const std::string& name, int64_t rows, int64_t channels) {
  const auto x = row.input<float>(name, Shape<2>{rows, channels});
  l2_normalise_forward(row.ctx, view(x), {}, x);
  return x;
}

void add_cross_entropy(int64_t rows, int64_t classes) {
  const std::string shape = extents({rows, classes});
  add_row(row_name<float>("cross_entropy", "forward", shape), [=](Row& row) {
    const auto logits = row.input<float>("logits", Shape<2>{rows, classes});
    const auto targets = row.numbers("targets", Shape<1>{rows}, uint32_t(classes));
    const auto loss = row.output<float>("loss", Shape<0>{});
    const Tensor<float, 1> log_sum_exp(row.ctx, {rows});
    row.work = [=, &row] { cross_entropy_forward(row.ctx, loss, {}, log_sum_exp, view(logits), targets); };
  });
  add_row(row_name<float>("cross_entropy", "backward", shape), [=](Row& row) {
    const auto logits = row.input<float>("logits", Shape<2>{rows, classes});
    const auto targets = row.numbers("targets", Shape<1>{rows}, uint32_t(classes));
    const auto d_logits = row.output<float>("d_logits", logits.shape);
    const Tensor<float, 1> log_sum_exp(row.ctx, {rows});
    const auto loss = scalar(row, 0), d_loss = scalar(row, 1);
    cross_entropy_forward(row.ctx, loss, {}, log_sum_exp, view(logits), targets);
    row.work = [=, &row] { cross_entropy_backward(row.ctx, view(d_logits), d_loss, {}, log_sum_exp, logits, targets); };
  });
}

void add_symmetric_kl(int64_t rows, int64_t classes) {
  const std::string shape = extents({rows, classes});
  add_row(row_name<float>("symmetric_kl", "forward", shape), [=](Row& row) {
    const auto p = row.input<float>("p", Shape<2>{rows, classes}), q = row.input<float>("q", Shape<2>{rows, classes});
    const auto loss = row.output<float>("loss", Shape<0>{});
    const Tensor<float, 2> statistics(row.ctx, {rows, 4});
    row.work = [=, &row] { symmetric_kl_forward(row.ctx, loss, statistics, view(p), q); };
  });
  add_row(row_name<float>("symmetric_kl", "backward", shape), [=](Row& row) {
    const auto p = row.input<float>("p", Shape<2>{rows, classes}), q = row.input<float>("q", Shape<2>{rows, classes});
    const auto d_p = row.output<float>("d_p", p.shape), d_q = row.output<float>("d_q", q.shape);
    const Tensor<float, 2> statistics(row.ctx, {rows, 4});
    const auto d_loss = scalar(row, 1);
    symmetric_kl_forward(row.ctx, {}, statistics, view(p), q);
    row.work = [=, &row] { symmetric_kl_backward(row.ctx, view(d_p), d_q, d_loss, statistics, p, q); };
  });
}

void add_contrastive(int64_t batch, int64_t channels) {
  const std::string shape = extents({batch, channels});
  for (const std::string pass : {"forward", "backward", "both"})
    add_row(row_name<float>("contrastive", pass, shape), [=](Row& row) {
      const auto image = unit_rows(row, "image", batch, channels), text = unit_rows(row, "text", batch, channels);
      const auto logit_scale = scalar(row, 3.0f), d_loss = scalar(row, 1);
      row.add_input("logit_scale", logit_scale);
      const Tensor<float, 1> rows(row.ctx, {batch}), columns(row.ctx, {batch});
      const bool forward = pass != "backward", backward = pass != "forward";
      const Tensor<float, 0> loss = forward ? row.output<float>("loss", Shape<0>{}) : scalar(row, 0);
      Tensor<float, 2> d_image, d_text;
      if (backward) {
        d_image = row.output<float>("d_image", image.shape);
        d_text = row.output<float>("d_text", text.shape);
      }
      const auto d_logit_scale = scalar(row, 0);
      const auto run_forward = [=, &row] {
        contrastive_forward(row.ctx, view(loss), rows, columns, view(image), text, logit_scale);
      };
      if (!forward) run_forward();
      row.flops = (forward ? 2.0 : 0.0) * double(batch * batch * channels) +
                  (backward ? 4.0 : 0.0) * double(batch * batch * channels);
      row.work = [=, &row] {
        if (forward) run_forward();
        if (backward)
          contrastive_backward(row.ctx, view(d_image), d_text, d_logit_scale, d_loss, rows, columns, image, text,
                               logit_scale);
      };
    });
}

/// Four texts an image and some more for the first images; a tenth of the pairs is excluded.
void add_multi_text_contrastive(int64_t images, int64_t texts) {
  const std::string shape = extents({images, texts});
  for (const std::string pass : {"forward", "backward"})
    add_row(row_name<float>("multi_text_contrastive", pass, shape), [=](Row& row) {
      const auto scores = row.input<float>("scores", Shape<2>{images, texts}, 0.3);
      std::vector<int32_t> images_of_texts(static_cast<size_t>(texts));
      for (size_t k = 0; k < images_of_texts.size(); ++k) images_of_texts[k] = int32_t(k % size_t(images));
      const auto owner = Tensor<int32_t, 1>::from_host(row.ctx, {texts}, images_of_texts);
      row.add_input("owner", owner);
      const auto draws = row.numbers("draws", Shape<2>{images, texts}, 10);
      const Tensor<uint8_t, 2> excluded(row.ctx, {images, texts});
      for (int64_t i = 0; i < images; ++i)
        for (int64_t k = 0; k < texts; ++k) excluded(i, k) = draws(i, k) == 0 && images_of_texts[size_t(k)] != i;
      row.add_input("excluded", excluded);
      const auto logit_scale = scalar(row, 3.0f), d_loss = scalar(row, 1), d_logit_scale = scalar(row, 0);
      row.add_input("logit_scale", logit_scale);
      const Tensor<float, 1> text_sums(row.ctx, {texts}), negative_sums(row.ctx, {images});
      const bool forward = pass == "forward";
      const Tensor<float, 0> loss = forward ? row.output<float>("loss", Shape<0>{}) : scalar(row, 0);
      const auto run_forward = [=, &row] {
        multi_text_contrastive_forward(row.ctx, view(loss), text_sums, negative_sums, view(scores), owner, excluded,
                                       logit_scale);
      };
      row.work = run_forward;
      if (forward) return;
      run_forward();
      const auto d_scores = row.output<float>("d_scores", scores.shape);
      row.work = [=, &row] {
        multi_text_contrastive_backward(row.ctx, view(d_scores), d_logit_scale, d_loss, text_sums, negative_sums,
                                        scores, owner, excluded, logit_scale);
      };
    });
}

}  // namespace

void add_loss_rows() {
  add_cross_entropy(1024, 1024);
  add_cross_entropy(50176, 21);
  add_symmetric_kl(784, 8);
  add_symmetric_kl(18816, 8);
  add_contrastive(1024, 512);
  add_contrastive(4096, 512);
  add_multi_text_contrastive(32, 130);
}

}  // namespace bench
