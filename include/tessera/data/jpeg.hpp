// JPEG by libjpeg (libjpeg-turbo), from and to memory. libjpeg reports errors by calling back into the program and
// must not return from there: the callbacks below jump back to the caller, which throws.
#pragma once
#include <csetjmp>
#include <cstddef>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include <jpeglib.h>

#include <jerror.h>

#include <tessera/data/pixels.hpp>

namespace tessera::data {

namespace detail {

struct JpegErrors {
  jpeg_error_mgr manager;  // first: libjpeg hands back a pointer to it
  std::jmp_buf back;
  char text[JMSG_LENGTH_MAX] = "";

  static JpegErrors& of(j_common_ptr codec) { return *reinterpret_cast<JpegErrors*>(codec->err); }
  [[noreturn]] static void leave(j_common_ptr codec) {
    of(codec).manager.format_message(codec, of(codec).text);
    std::longjmp(of(codec).back, 1);
  }
  // Damaged entropy data is concealed, as every viewer does; but a file that ends early is an error.
  static void on_message(j_common_ptr codec, int level) {
    if (level < 0 && codec->err->msg_code == JWRN_JPEG_EOF) leave(codec);
  }
  void install(j_common_ptr codec) {
    codec->err = jpeg_std_error(&manager);
    manager.error_exit = leave;
    manager.emit_message = on_message;
    manager.output_message = [](j_common_ptr) {};
  }
};

// A progressive file may hold any number of scans, each of which costs a pass over the whole picture.
struct JpegScanLimit {
  static constexpr int max_scans = 500;
  static void check(j_common_ptr codec) {
    if (!codec->is_decompressor || reinterpret_cast<j_decompress_ptr>(codec)->input_scan_number <= max_scans) return;
    JpegErrors& errors = JpegErrors::of(codec);
    std::snprintf(errors.text, sizeof errors.text, "more than %d scans", max_scans);
    std::longjmp(errors.back, 1);
  }
};

/// Everything that a decoding touches after setjmp, so that no local variable changes between setjmp and longjmp.
struct JpegReader {
  jpeg_decompress_struct codec{};
  jpeg_progress_mgr progress{};
  JpegErrors errors;

  JpegReader() { errors.install(reinterpret_cast<j_common_ptr>(&codec)); }
  JpegReader(const JpegReader&) = delete;
  JpegReader& operator=(const JpegReader&) = delete;
  ~JpegReader() { jpeg_destroy_decompress(&codec); }

  bool read_header(std::span<const uint8_t> file) {
    if (setjmp(errors.back)) return false;
    jpeg_create_decompress(&codec);
    progress.progress_monitor = JpegScanLimit::check;
    codec.progress = &progress;
    jpeg_mem_src(&codec, file.data(), static_cast<unsigned long>(file.size()));
    jpeg_save_markers(&codec, JPEG_APP0 + 1, 0xffff);  // EXIF
    jpeg_read_header(&codec, TRUE);
    return true;
  }
  bool start() {
    if (setjmp(errors.back)) return false;
    const bool inks = codec.jpeg_color_space == JCS_CMYK || codec.jpeg_color_space == JCS_YCCK;
    codec.out_color_space = inks ? JCS_CMYK : codec.jpeg_color_space == JCS_GRAYSCALE ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_start_decompress(&codec);
    return true;
  }
  bool read_rows(Image& image) {
    if (setjmp(errors.back)) return false;
    while (codec.output_scanline < codec.output_height) {
      JSAMPROW row = image.row(int(codec.output_scanline));
      jpeg_read_scanlines(&codec, &row, 1);
    }
    return true;
  }
  [[noreturn]] void report() const { fail<IoError>("JPEG: ", errors.text); }
};

/// The orientation (1 to 8) in an EXIF segment; 1 where it has none or is damaged.
inline int exif_orientation(std::span<const uint8_t> segment) {
  constexpr std::string_view signature("Exif\0\0", 6);
  if (segment.size() < 14 || !std::equal(signature.begin(), signature.end(), segment.begin())) return 1;
  const std::span<const uint8_t> tiff = segment.subspan(6);
  const bool big_endian = tiff[0] == 'M';
  const auto number = [&](size_t at, size_t bytes) -> uint32_t {
    uint32_t value = 0;
    for (size_t i = 0; i < bytes; ++i) value |= uint32_t(tiff[at + i]) << 8 * (big_endian ? bytes - 1 - i : i);
    return value;
  };
  const size_t directory = number(4, 4);
  if (directory > tiff.size() || tiff.size() - directory < 2) return 1;
  const size_t entries = number(directory, 2);
  for (size_t entry = 0; entry < entries; ++entry) {
    const size_t at = directory + 2 + 12 * entry;
    if (at + 12 > tiff.size()) return 1;
    if (number(at, 2) != 0x0112) continue;
    const uint32_t value = number(at + 8, 2);
    return value >= 1 && value <= 8 ? int(value) : 1;
  }
  return 1;
}

/// The picture as it should be seen, given how the camera stored it (EXIF orientation 1 to 8).
inline Image orient(const Image& stored, int orientation) {
  if (orientation <= 1) return stored;
  const bool transpose = orientation >= 5;
  const bool from_right = orientation == 2 || orientation == 3 || orientation == 7 || orientation == 8;
  const bool from_bottom = orientation == 3 || orientation == 4 || orientation == 6 || orientation == 7;
  Image seen(transpose ? stored.height : stored.width, transpose ? stored.width : stored.height, stored.channels);
  for (int y = 0; y < seen.height; ++y)
    for (int x = 0; x < seen.width; ++x) {
      int from_x = transpose ? y : x, from_y = transpose ? x : y;
      if (from_right) from_x = stored.width - 1 - from_x;
      if (from_bottom) from_y = stored.height - 1 - from_y;
      std::copy_n(stored.at(from_x, from_y), stored.channels, seen.at(x, y));
    }
  return seen;
}

/// Printing inks to RGB, with Pillow's rounding. The file holds inverted inks, as Adobe writes them: 255 is no ink.
inline Image inks_to_rgb(const Image& inks) {
  Image rgb(inks.width, inks.height, 3);
  const size_t count = size_t(inks.width) * size_t(inks.height);
  for (size_t i = 0; i < count; ++i) {
    const uint8_t* from = &inks.pixels[4 * i];
    const int light = from[3];
    for (size_t c = 0; c < 3; ++c) {
      const int product = (255 - from[c]) * light + 128;
      rgb.pixels[3 * i + c] = uint8_t(light - ((product + (product >> 8)) >> 8));
    }
  }
  return rgb;
}

struct JpegWriter {
  jpeg_compress_struct codec{};
  JpegErrors errors;
  unsigned char* bytes = nullptr;
  unsigned long size = 0;

  JpegWriter() { errors.install(reinterpret_cast<j_common_ptr>(&codec)); }
  JpegWriter(const JpegWriter&) = delete;
  JpegWriter& operator=(const JpegWriter&) = delete;
  ~JpegWriter() {
    jpeg_destroy_compress(&codec);
    std::free(bytes);
  }
  bool write(const Image& image, int quality) {
    if (setjmp(errors.back)) return false;
    jpeg_create_compress(&codec);
    jpeg_mem_dest(&codec, &bytes, &size);
    codec.image_width = JDIMENSION(image.width);
    codec.image_height = JDIMENSION(image.height);
    codec.input_components = image.channels;
    codec.in_color_space = image.channels == 1 ? JCS_GRAYSCALE : JCS_RGB;
    jpeg_set_defaults(&codec);
    codec.optimize_coding = TRUE;
    jpeg_set_quality(&codec, quality, TRUE);
    jpeg_start_compress(&codec, TRUE);
    while (codec.next_scanline < codec.image_height) {
      JSAMPROW row = const_cast<uint8_t*>(image.row(int(codec.next_scanline)));
      jpeg_write_scanlines(&codec, &row, 1);
    }
    jpeg_finish_compress(&codec);
    return true;
  }
};

}  // namespace detail

/// Decodes a JPEG to RGB. Grey becomes three equal channels, CMYK and YCCK are converted as Pillow does. A file that
/// is cut short, damaged beyond decoding or larger than the limit is an IoError.
inline Image decode_jpeg(std::span<const uint8_t> file, const DecodeOptions& options = {}) {
  detail::JpegReader reader;
  if (!reader.read_header(file)) reader.report();
  detail::check_dimensions("JPEG", reader.codec.image_width, reader.codec.image_height, options.max_pixels);
  if (!reader.start()) reader.report();
  Image image(int(reader.codec.output_width), int(reader.codec.output_height), reader.codec.output_components);
  if (!reader.read_rows(image)) reader.report();
  image = image.channels == 4 ? detail::inks_to_rgb(image) : to_rgb(std::move(image));
  if (options.apply_orientation)
    for (jpeg_saved_marker_ptr marker = reader.codec.marker_list; marker; marker = marker->next) {
      const int orientation = detail::exif_orientation({marker->data, marker->data_length});
      if (orientation != 1) return detail::orient(image, orientation);
    }
  return image;
}

/// A JPEG file, in memory, of a grey or RGB picture; `quality` from 1 to 100.
inline std::vector<uint8_t> encode_jpeg(const Image& image, int quality = 90) {
  require(image.channels == 1 || image.channels == 3, "encode_jpeg: a picture of ", image.channels,
          " channels; JPEG takes 1 or 3 (to_rgb drops alpha)");
  require(!image.empty() && image.width <= JPEG_MAX_DIMENSION && image.height <= JPEG_MAX_DIMENSION,
          "encode_jpeg: a picture of ", image.width, " x ", image.height, " pixels");
  require(quality >= 1 && quality <= 100, "encode_jpeg: quality ", quality, " is not in 1 to 100");
  detail::JpegWriter writer;
  if (!writer.write(image, quality)) fail<IoError>("encode_jpeg: ", writer.errors.text);
  return {writer.bytes, writer.bytes + writer.size};
}

}  // namespace tessera::data
