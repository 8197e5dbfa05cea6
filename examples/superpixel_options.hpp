// The options of programs that refine their labels by superpixels.
#pragma once
#include <tessera/io/json.hpp>
#include <tessera/segmentation/superpixel_vote.hpp>

#include "common.hpp"

namespace examples {

struct SuperpixelOptions {
  bool on = false;
  tessera::data::FelzenszwalbOptions felzenszwalb;

  void add_to(CLI::App& app) {
    auto* const flag = app.add_flag("--superpixels", on,
                                    "refine: each superpixel of the picture gets the class of most of its pixels");
    app.add_option("--superpixel-scale", felzenszwalb.scale, "larger: larger superpixels")
        ->check(in_range(0, 1e6))
        ->needs(flag)
        ->capture_default_str();
    app.add_option("--superpixel-sigma", felzenszwalb.sigma, "of the Gaussian before, in pixels; 0: none")
        ->check(in_range(0, 100))
        ->needs(flag)
        ->capture_default_str();
    app.add_option("--superpixel-min-size", felzenszwalb.min_size, "pixels of the smallest superpixel")
        ->check(CLI::Range(0, 1'000'000'000))
        ->needs(flag)
        ->capture_default_str();
  }
  /// The labels, refined where that was asked for.
  tessera::data::LabelMap refine(tessera::data::LabelMap labels, const tessera::data::Image& picture) const {
    if (!on) return labels;
    const auto segments = tessera::data::felzenszwalb(tessera::data::to_rgb(picture), felzenszwalb);
    return tessera::segmentation::vote_in_segments(labels, segments);
  }
  /// What a report says of it.
  tessera::io::Json json() const {
    if (!on) return nullptr;
    return {{"scale", felzenszwalb.scale}, {"sigma", felzenszwalb.sigma}, {"min_size", felzenszwalb.min_size}};
  }
};

}  // namespace examples
