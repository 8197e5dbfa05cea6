// Labels refined by superpixels: a model that scores patches knows no edges, superpixels know nothing else. Every
// superpixel gets the label of most of its pixels.
#pragma once
#include <algorithm>
#include <cstdint>
#include <utility>
#include <vector>

#include <tessera/data/felzenszwalb.hpp>
#include <tessera/data/pixels.hpp>

namespace tessera::segmentation {

/// Each segment's pixels with the label that most of them have (of labels that are equally frequent, the smallest).
/// `segments` is of the same size and numbers from 0. Throws ValueError where it is not.
inline data::LabelMap vote_in_segments(const data::LabelMap& labels, const data::SegmentMap& segments) {
  require(labels.width == segments.width && labels.height == segments.height, "vote_in_segments: labels of ",
          labels.width, " x ", labels.height, " pixels, segments of ", segments.width, " x ", segments.height);
  std::vector<std::pair<int32_t, uint16_t>> votes;  // segment, label
  votes.reserve(labels.labels.size());
  int32_t last = -1;
  for (size_t i = 0; i < labels.labels.size(); ++i) {
    require(segments.labels[i] >= 0, "vote_in_segments: segment ", segments.labels[i], " at pixel ", i,
            "; numbers begin at 0");
    last = std::max(last, segments.labels[i]);
    votes.emplace_back(segments.labels[i], labels.labels[i]);
  }
  std::sort(votes.begin(), votes.end());
  std::vector<uint16_t> winner(size_t(last + 1));
  std::vector<size_t> most(size_t(last + 1), 0);
  for (size_t begin = 0; begin < votes.size();) {
    size_t end = begin;
    while (end < votes.size() && votes[end] == votes[begin]) ++end;
    const auto [segment, label] = votes[begin];
    if (end - begin > most[size_t(segment)]) {
      most[size_t(segment)] = end - begin;
      winner[size_t(segment)] = label;
    }
    begin = end;
  }
  data::LabelMap refined(labels.width, labels.height);
  for (size_t i = 0; i < refined.labels.size(); ++i) refined.labels[i] = winner[size_t(segments.labels[i])];
  return refined;
}

}  // namespace tessera::segmentation
