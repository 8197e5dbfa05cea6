// PNG by libpng, from and to memory: pictures as RGB, label maps as class numbers. As with JPEG, errors inside the
// library jump back to the caller, which throws.
#pragma once
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <png.h>

#include <tessera/data/pixels.hpp>

namespace tessera::data {

namespace detail {

struct PngErrors {
  std::jmp_buf back;
  std::string text;

  static void on_error(png_structp png, png_const_charp message) {
    auto& errors = *static_cast<PngErrors*>(png_get_error_ptr(png));
    errors.text = message;
    std::longjmp(errors.back, 1);
  }
  static void on_warning(png_structp, png_const_charp) {}
};

struct PngReader {
  PngErrors errors;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::span<const uint8_t> rest;

  explicit PngReader(std::span<const uint8_t> file) : rest(file) {
    png = png_create_read_struct(PNG_LIBPNG_VER_STRING, &errors, PngErrors::on_error, PngErrors::on_warning);
    if (png) info = png_create_info_struct(png);
    if (!info) {
      png_destroy_read_struct(&png, &info, nullptr);
      fail<IoError>("PNG: libpng could not be started");
    }
  }
  PngReader(const PngReader&) = delete;
  PngReader& operator=(const PngReader&) = delete;
  ~PngReader() { png_destroy_read_struct(&png, &info, nullptr); }

  static void on_read(png_structp png, png_bytep to, size_t count) {
    auto& reader = *static_cast<PngReader*>(png_get_io_ptr(png));
    if (count > reader.rest.size()) png_error(png, "the file ends early");
    std::memcpy(to, reader.rest.data(), count);
    reader.rest = reader.rest.subspan(count);
  }
  bool read_header() {
    if (setjmp(errors.back)) return false;
    png_set_read_fn(png, this, on_read);
    png_set_user_limits(png, 0x7fffffff, 0x7fffffff);  // check_dimensions is the limit, with its own sentence
    png_set_chunk_malloc_max(png, 8u << 20);
    png_read_info(png, info);
    return true;
  }
  bool expand_to_rgb() {
    if (setjmp(errors.back)) return false;
    png_set_strip_16(png);  // the upper byte
    png_set_packing(png);
    const int kind = png_get_color_type(png, info);
    if (kind == PNG_COLOR_TYPE_PALETTE) png_set_palette_to_rgb(png);
    if (kind == PNG_COLOR_TYPE_GRAY) png_set_expand_gray_1_2_4_to_8(png);
    if (kind == PNG_COLOR_TYPE_GRAY || kind == PNG_COLOR_TYPE_GRAY_ALPHA) png_set_gray_to_rgb(png);
    png_set_strip_alpha(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    return true;
  }
  bool keep_indices() {
    if (setjmp(errors.back)) return false;
    png_set_packing(png);
    png_set_interlace_handling(png);
    png_read_update_info(png, info);
    return true;
  }
  bool read_rows(std::vector<png_bytep>& rows) {
    if (setjmp(errors.back)) return false;
    png_read_image(png, rows.data());
    return true;
  }
  /// Deflate shrinks at most 1032 times, so a short file cannot hold a large picture: refused before memory is taken.
  void check_size(size_t file_bytes, const DecodeOptions& options) const {
    const uint64_t width = png_get_image_width(png, info), height = png_get_image_height(png, info);
    check_dimensions("PNG", width, height, options.max_pixels);
    const uint64_t bits = width * height * png_get_bit_depth(png, info) * png_get_channels(png, info);
    require<IoError>(bits / 8 / 1032 <= file_bytes, "PNG: ", width, " x ", height, " pixels cannot be in a file of ",
                     file_bytes, " bytes");
  }
  [[noreturn]] void report() const { fail<IoError>("PNG: ", errors.text); }
};

/// One picture to be written: rows of `bytes_per_row`, with a palette where `palette` is not empty.
struct PngContent {
  int width, height, bit_depth, kind;
  size_t bytes_per_row;
  const uint8_t* data;
  std::vector<png_color> palette;
};

struct PngWriter {
  PngErrors errors;
  png_structp png = nullptr;
  png_infop info = nullptr;
  std::vector<uint8_t> file;

  PngWriter() {
    png = png_create_write_struct(PNG_LIBPNG_VER_STRING, &errors, PngErrors::on_error, PngErrors::on_warning);
    if (png) info = png_create_info_struct(png);
    if (!info) {
      png_destroy_write_struct(&png, &info);
      fail<IoError>("PNG: libpng could not be started");
    }
  }
  PngWriter(const PngWriter&) = delete;
  PngWriter& operator=(const PngWriter&) = delete;
  ~PngWriter() { png_destroy_write_struct(&png, &info); }

  static void on_write(png_structp png, png_bytep bytes, size_t count) {
    auto& writer = *static_cast<PngWriter*>(png_get_io_ptr(png));
    bool stored = true;
    try {
      writer.file.insert(writer.file.end(), bytes, bytes + count);
    } catch (const std::bad_alloc&) {
      stored = false;
    }
    if (!stored) png_error(png, "no memory for the file");
  }
  bool write(const PngContent& content) {
    if (setjmp(errors.back)) return false;
    png_set_write_fn(png, this, on_write, [](png_structp) {});
    png_set_IHDR(png, info, png_uint_32(content.width), png_uint_32(content.height), content.bit_depth, content.kind,
                 PNG_INTERLACE_NONE, PNG_COMPRESSION_TYPE_DEFAULT, PNG_FILTER_TYPE_DEFAULT);
    if (!content.palette.empty()) png_set_PLTE(png, info, content.palette.data(), int(content.palette.size()));
    png_write_info(png, info);
    for (int y = 0; y < content.height; ++y)
      png_write_row(png, const_cast<png_bytep>(content.data + size_t(y) * content.bytes_per_row));
    png_write_end(png, nullptr);
    return true;
  }
};

inline std::vector<uint8_t> write_png(const PngContent& content) {
  PngWriter writer;
  if (!writer.write(content)) fail<IoError>("encode_png: ", writer.errors.text);
  return std::move(writer.file);
}

}  // namespace detail

/// Decodes a PNG to RGB as Pillow's convert("RGB") does: palettes are looked up, grey becomes three equal channels,
/// alpha is dropped (not composited), of 16 bits the upper 8 are kept, gamma and colour profiles are ignored.
inline Image decode_png(std::span<const uint8_t> file, const DecodeOptions& options = {}) {
  detail::PngReader reader(file);
  if (!reader.read_header()) reader.report();
  reader.check_size(file.size(), options);
  if (!reader.expand_to_rgb()) reader.report();
  Image image(int(png_get_image_width(reader.png, reader.info)), int(png_get_image_height(reader.png, reader.info)));
  require<IoError>(png_get_rowbytes(reader.png, reader.info) == image.row_bytes(),
                   "PNG: the file's colours could not be converted to RGB");
  std::vector<png_bytep> rows(size_t(image.height));
  for (int y = 0; y < image.height; ++y) rows[size_t(y)] = image.row(y);
  if (!reader.read_rows(rows)) reader.report();
  return image;
}

/// Decodes a palette or grey PNG as class numbers: the stored index or grey value of each pixel, unscaled, whatever
/// colours the palette has. 1 to 16 bits. Pictures in colour are an IoError.
inline LabelMap decode_label_map(std::span<const uint8_t> file, const DecodeOptions& options = {}) {
  detail::PngReader reader(file);
  if (!reader.read_header()) reader.report();
  reader.check_size(file.size(), options);
  const int kind = png_get_color_type(reader.png, reader.info);
  require<IoError>(kind == PNG_COLOR_TYPE_PALETTE || kind == PNG_COLOR_TYPE_GRAY,
                   "PNG: a label map must be a palette or grey picture without alpha; this one is in colour, and "
                   "colours are not turned into classes (several classes may share one)");
  if (!reader.keep_indices()) reader.report();
  LabelMap map(int(png_get_image_width(reader.png, reader.info)), int(png_get_image_height(reader.png, reader.info)));
  const size_t bytes = png_get_bit_depth(reader.png, reader.info) == 16 ? 2 : 1;
  std::vector<uint8_t> values(map.labels.size() * bytes);
  std::vector<png_bytep> rows(size_t(map.height));
  for (size_t y = 0; y < rows.size(); ++y) rows[y] = values.data() + y * size_t(map.width) * bytes;
  if (!reader.read_rows(rows)) reader.report();
  for (size_t i = 0; i < map.labels.size(); ++i)
    map.labels[i] = bytes == 2 ? uint16_t(values[2 * i] << 8 | values[2 * i + 1]) : values[i];
  return map;
}

/// A PNG file, in memory, of a picture with 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGB, alpha) channels.
inline std::vector<uint8_t> encode_png(const Image& image) {
  require(!image.empty() && image.channels >= 1 && image.channels <= 4, "encode_png: a picture of ", image.width, " x ",
          image.height, " pixels and ", image.channels, " channels");
  constexpr int kinds[] = {PNG_COLOR_TYPE_GRAY, PNG_COLOR_TYPE_GRAY_ALPHA, PNG_COLOR_TYPE_RGB,
                           PNG_COLOR_TYPE_RGB_ALPHA};
  return detail::write_png(
      {image.width, image.height, 8, kinds[image.channels - 1], image.row_bytes(), image.pixels.data(), {}});
}

/// A PNG file, in memory, of a label map: 8-bit indices with `palette` (up to 256 colours; labels beyond its end show
/// white). Maps with labels above 255 become 16-bit grey, without colours.
inline std::vector<uint8_t> encode_label_map(const LabelMap& map, std::span<const Colour> palette) {
  require(!map.empty(), "encode_label_map: a map of ", map.width, " x ", map.height, " pixels");
  uint16_t largest = 0;
  for (uint16_t label : map.labels) largest = std::max(largest, label);
  const bool wide = largest > 255;
  std::vector<uint8_t> values;
  values.reserve(map.labels.size() * (wide ? 2 : 1));
  for (uint16_t label : map.labels) {
    if (wide) values.push_back(uint8_t(label >> 8));
    values.push_back(uint8_t(label));
  }
  if (wide)
    return detail::write_png(
        {map.width, map.height, 16, PNG_COLOR_TYPE_GRAY, size_t(map.width) * 2, values.data(), {}});
  std::vector<png_color> colours(256, png_color{255, 255, 255});
  for (size_t i = 0; i < std::min<size_t>(256, palette.size()); ++i)
    colours[i] = {palette[i].red, palette[i].green, palette[i].blue};
  return detail::write_png(
      {map.width, map.height, 8, PNG_COLOR_TYPE_PALETTE, size_t(map.width), values.data(), colours});
}

}  // namespace tessera::data
