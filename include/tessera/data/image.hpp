// Pictures from files and to files, and as normalised tensors. JPEG by libjpeg, PNG by libpng; the format is told by
// the file's first bytes, not by its name. Files are hostile until decoded: sizes are limited, damage is an IoError.
#pragma once
#include <array>
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include <tessera/core/parallel.hpp>
#include <tessera/core/tensor.hpp>
#include <tessera/data/jpeg.hpp>
#include <tessera/data/pixels.hpp>
#include <tessera/data/png.hpp>
#include <tessera/data/statistics.hpp>
#include <tessera/io/files.hpp>

namespace tessera::data {

namespace detail {

inline bool starts_with(std::span<const uint8_t> file, std::string_view signature, size_t at = 0) {
  return file.size() >= at + signature.size() &&
         std::equal(signature.begin(), signature.end(), file.begin() + ptrdiff_t(at),
                    [](char a, uint8_t b) { return uint8_t(a) == b; });
}
inline bool is_jpeg(std::span<const uint8_t> file) { return starts_with(file, "\xff\xd8\xff"); }
inline bool is_png(std::span<const uint8_t> file) { return starts_with(file, "\x89PNG\r\n\x1a\n"); }

/// What the file is, for the error that says that it is not read here.
inline std::string_view foreign_format(std::span<const uint8_t> file) {
  if (file.empty()) return "an empty file";
  if (starts_with(file, "RIFF") && starts_with(file, "WEBP", 8)) return "a WebP picture";
  if (starts_with(file, "GIF8")) return "a GIF picture";
  if (starts_with(file, "BM")) return "a BMP picture";
  if (starts_with(file, "II*") || starts_with(file, std::string_view("MM\0*", 4))) return "a TIFF picture";
  if (starts_with(file, "ftyp", 4)) return "a HEIF or AVIF picture";
  return "not a picture that is known here";
}

inline constexpr size_t max_picture_file = size_t(1) << 30;

inline std::string read_picture_file(const std::filesystem::path& path) {
  return io::read_text(path, max_picture_file);
}
inline std::span<const uint8_t> bytes_of(std::string_view text) {
  return {reinterpret_cast<const uint8_t*>(text.data()), text.size()};
}
inline std::string lower_extension(const std::filesystem::path& path) {
  std::string extension = path.extension().string();
  for (char& c : extension)
    if (c >= 'A' && c <= 'Z') c = char(c - 'A' + 'a');
  return extension;
}
inline void write_bytes(const std::filesystem::path& path, std::span<const uint8_t> bytes) {
  io::write_atomically(path, [&](io::FileWriter& file) { file.write(bytes.data(), bytes.size()); });
}

}  // namespace detail

/// Decodes a JPEG or PNG in memory to RGB (see decode_jpeg and decode_png). Throws IoError.
inline Image decode_image(std::span<const uint8_t> file, const DecodeOptions& options = {}) {
  if (detail::is_jpeg(file)) return decode_jpeg(file, options);
  if (detail::is_png(file)) return decode_png(file, options);
  fail<IoError>("this is ", detail::foreign_format(file), "; tessera reads JPEG and PNG, convert it first");
}
inline Image decode_image(std::string_view file, const DecodeOptions& options = {}) {
  return decode_image(detail::bytes_of(file), options);
}

/// Reads a JPEG or PNG file as RGB. Throws IoError, with the path.
inline Image read_image(const std::filesystem::path& path, const DecodeOptions& options = {}) {
  const std::string file = detail::read_picture_file(path);
  try {
    return decode_image(file, options);
  } catch (const IoError& error) {
    fail<IoError>(path.string(), ": ", error.what());
  }
}

/// Reads a label map: the stored indices or grey values of a PNG (see decode_label_map). Throws IoError, with the path.
inline LabelMap read_label_map(const std::filesystem::path& path, const DecodeOptions& options = {}) {
  const std::string text = detail::read_picture_file(path);
  const std::span<const uint8_t> file = detail::bytes_of(text);
  require<IoError>(detail::is_png(file), path.string(), ": a label map must be a PNG (other formats lose labels)");
  try {
    return decode_label_map(file, options);
  } catch (const IoError& error) {
    fail<IoError>(path.string(), ": ", error.what());
  }
}

/// Writes a picture, as JPEG or PNG by the path's ending (.jpg, .jpeg, .png), atomically.
inline void write_image(const std::filesystem::path& path, const Image& image, int jpeg_quality = 90) {
  const std::string extension = detail::lower_extension(path);
  if (extension == ".png") return detail::write_bytes(path, encode_png(image));
  require(extension == ".jpg" || extension == ".jpeg", "write_image: ", path.string(),
          " ends neither in .png nor in .jpg");
  detail::write_bytes(path, encode_jpeg(image, jpeg_quality));
}

/// Writes a label map as PNG (see encode_label_map), atomically.
inline void write_label_map(const std::filesystem::path& path, const LabelMap& map,
                            std::span<const Colour> palette = {}) {
  detail::write_bytes(path, encode_label_map(map, palette));
}

/// Base64 (RFC 4648, with padding).
inline std::string base64(std::span<const uint8_t> bytes) {
  constexpr std::string_view digits = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
  std::string text;
  text.reserve((bytes.size() + 2) / 3 * 4);
  for (size_t at = 0; at < bytes.size(); at += 3) {
    const size_t have = std::min<size_t>(3, bytes.size() - at);
    uint32_t group = 0;
    for (size_t i = 0; i < 3; ++i) group = group << 8 | (i < have ? bytes[at + i] : 0u);
    for (size_t i = 0; i < 4; ++i) text += i <= have ? digits[group >> (18 - 6 * i) & 63] : '=';
  }
  return text;
}

/// The picture as a data URI, for a page that needs no other files: a JPEG of `jpeg_quality`, or a PNG where it is 0.
inline std::string data_uri(const Image& image, int jpeg_quality = 85) {
  if (jpeg_quality == 0) return "data:image/png;base64," + base64(encode_png(image));
  return "data:image/jpeg;base64," + base64(encode_jpeg(image, jpeg_quality));
}

/// out[c, y, x] = (pixel / 255 - mean[c]) / deviation[c]. out [3, height, width]: one picture of a batch, say; RGB
/// only.
inline void normalise_image(TensorView<float, 3, Cpu> out, const Image& image, const ImageStatistics& statistics) {
  require(image.channels == 3, "normalise_image: a picture of ", image.channels, " channels (to_rgb makes 3)");
  expect_shape("normalise_image", "out", out.shape, Shape<3>{3, image.height, image.width}, "channels height width",
               "the picture");
  std::array<std::array<float, 256>, 3> values;
  for (size_t c = 0; c < 3; ++c)
    for (int pixel = 0; pixel < 256; ++pixel)
      values[c][size_t(pixel)] = (float(pixel) / 255.f - statistics.mean[c]) / statistics.deviation[c];
  parallel_for(image.height, row_grain(3 * int64_t(image.width)), [&](int64_t begin, int64_t end) {
    for (int64_t y = begin; y < end; ++y)
      for (size_t c = 0; c < 3; ++c) {
        const uint8_t* from = image.row(int(y)) + c;
        float* to = &out(int64_t(c), y, 0);
        for (int x = 0; x < image.width; ++x) to[x] = values[c][from[3 * x]];
      }
  });
}

/// The picture as a normalised tensor [3, height, width]; see normalise_image.
inline Tensor<float, 3> to_tensor(Context<Cpu>& ctx, const Image& image, const ImageStatistics& statistics) {
  Tensor<float, 3> tensor(ctx, {3, image.height, image.width});
  normalise_image(tensor, image, statistics);
  return tensor;
}

}  // namespace tessera::data
