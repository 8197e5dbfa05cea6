// Pictures and label maps in memory. A picture is 8-bit, rows from the top, channels interleaved (R G B R G B ...):
// the form that decoders give and that Pillow and OpenCV resize. A label map holds one class number a pixel.
#pragma once
#include <algorithm>
#include <compare>
#include <cstdint>
#include <vector>

#include <tessera/core/error.hpp>

namespace tessera::data {

struct Image {
  int width = 0, height = 0, channels = 3;
  std::vector<uint8_t> pixels;  ///< height * width * channels

  Image() = default;
  /// A picture of one value throughout.
  Image(int w, int h, int c = 3, uint8_t value = 0) : width(w), height(h), channels(c) {
    require(w >= 0 && h >= 0 && c >= 1, "Image: ", w, " x ", h, " pixels of ", c, " channels");
    pixels.assign(size_t(w) * size_t(h) * size_t(c), value);
  }
  bool empty() const { return width == 0 || height == 0; }
  /// Bytes from one row to the next.
  size_t row_bytes() const { return size_t(width) * size_t(channels); }
  uint8_t* row(int y) { return pixels.data() + size_t(y) * row_bytes(); }
  const uint8_t* row(int y) const { return pixels.data() + size_t(y) * row_bytes(); }
  uint8_t* at(int x, int y) { return row(y) + size_t(x) * size_t(channels); }
  const uint8_t* at(int x, int y) const { return row(y) + size_t(x) * size_t(channels); }
};

/// The label that most data sets give to pixels that no score counts.
inline constexpr int ignore_label = 255;

/// A class for every pixel, row by row.
struct LabelMap {
  int width = 0, height = 0;
  std::vector<uint16_t> labels;  ///< height * width

  LabelMap() = default;
  LabelMap(int w, int h, uint16_t value = 0) : width(w), height(h) {
    require(w >= 0 && h >= 0, "LabelMap: ", w, " x ", h, " pixels");
    labels.assign(size_t(w) * size_t(h), value);
  }
  bool empty() const { return width == 0 || height == 0; }
  uint16_t* row(int y) { return labels.data() + size_t(y) * size_t(width); }
  const uint16_t* row(int y) const { return labels.data() + size_t(y) * size_t(width); }
  uint16_t& at(int x, int y) { return row(y)[x]; }
  uint16_t at(int x, int y) const { return row(y)[x]; }
};

/// A rectangle of pixels, left and top included, right and bottom not.
struct Box {
  int left = 0, top = 0, right = 0, bottom = 0;
  int width() const { return right - left; }
  int height() const { return bottom - top; }
  friend bool operator==(const Box&, const Box&) = default;
};

/// An RGB colour.
struct Colour {
  uint8_t red = 0, green = 0, blue = 0;
  friend auto operator<=>(const Colour&, const Colour&) = default;
};

/// The part of `image` inside `box`, which must lie in it (ValueError).
inline Image crop(const Image& image, const Box& box) {
  require(box.left >= 0 && box.top >= 0 && box.left < box.right && box.top < box.bottom && box.right <= image.width &&
              box.bottom <= image.height,
          "crop: box (", box.left, ", ", box.top, ", ", box.right, ", ", box.bottom, ") of a picture of ", image.width,
          " x ", image.height);
  Image part(box.width(), box.height(), image.channels);
  for (int y = 0; y < part.height; ++y) {
    const uint8_t* from = image.at(box.left, box.top + y);
    std::copy(from, from + part.row_bytes(), part.row(y));
  }
  return part;
}

/// Three channels from one (repeated), two (grey and alpha) or four (alpha dropped, as Pillow's convert("RGB") does).
inline Image to_rgb(const Image& image) {
  if (image.channels == 3) return image;
  require(image.channels >= 1 && image.channels <= 4, "to_rgb: a picture of ", image.channels, " channels");
  Image rgb(image.width, image.height, 3);
  const bool grey = image.channels < 3;
  const size_t count = size_t(image.width) * size_t(image.height);
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* from = image.pixels.data() + i * size_t(image.channels);
    for (size_t c = 0; c < 3; ++c) rgb.pixels[3 * i + c] = from[grey ? 0 : c];
  }
  return rgb;
}

/// What is done to a picture while it is read, and what is refused.
struct DecodeOptions {
  /// Turn and mirror a JPEG as its EXIF orientation says. Off: CLIP's preprocessing and Pillow's open() do not.
  bool apply_orientation = false;
  /// A file that declares more pixels is refused before memory is taken for it.
  int64_t max_pixels = int64_t(1) << 27;
};

namespace detail {
inline void check_dimensions(const char* format, uint64_t width, uint64_t height, int64_t max_pixels) {
  require<IoError>(width > 0 && height > 0, format, ": the picture is ", width, " x ", height, " pixels");
  require<IoError>(width < (1u << 30) && height < (1u << 30) && width * height <= uint64_t(max_pixels), format,
                   ": the picture declares ", width, " x ", height, " pixels, more than the limit of ", max_pixels,
                   " (DecodeOptions::max_pixels); scale it down first");
}
}  // namespace detail

}  // namespace tessera::data
