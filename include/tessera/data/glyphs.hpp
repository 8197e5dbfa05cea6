// Colour glyphs: the bitmaps of an emoji font (Noto Color Emoji keeps one strike of 136 x 128 pixels), by FreeType.
#pragma once
#include <ft2build.h>
#include FT_FREETYPE_H
#include FT_TRUETYPE_TABLES_H
#include FT_TRUETYPE_TAGS_H

#include <array>
#include <cstdint>
#include <cstdio>
#include <filesystem>
#include <memory>
#include <string>
#include <vector>

#include <tessera/core/error.hpp>
#include <tessera/data/sprites.hpp>

namespace tessera::data {

/// The first emoji font found in the places where systems keep it. Throws IoError when there is none.
inline std::string find_emoji_font() {
  static constexpr std::array places{
      "/usr/share/fonts/truetype/noto/NotoColorEmoji.ttf",      // Debian, Ubuntu
      "/usr/share/fonts/noto/NotoColorEmoji.ttf",               // Arch, Alpine
      "/usr/share/fonts/google-noto-emoji/NotoColorEmoji.ttf",  // Fedora
      "/usr/share/fonts/google-noto-color-emoji-fonts/NotoColorEmoji.ttf",
      "/usr/local/share/fonts/NotoColorEmoji.ttf",
  };
  for (const char* place : places)
    if (std::filesystem::exists(place)) return place;
  fail<IoError>("no emoji font found (looked for ", places[0],
                " and four other places): apt-get install fonts-noto-color-emoji, or name the file of another one");
}

/// An open emoji font. One object may be used by one thread at a time.
class EmojiFont {
 public:
  /// `path` empty: find_emoji_font(). Throws IoError when the file is missing or holds no colour bitmaps.
  explicit EmojiFont(std::string path = {}) : path_(path.empty() ? find_emoji_font() : std::move(path)) {
    FT_Library library = nullptr;
    require<IoError>(FT_Init_FreeType(&library) == 0, "FreeType cannot start");
    library_.reset(library);
    FT_Face face = nullptr;
    require<IoError>(FT_New_Face(library, path_.c_str(), 0, &face) == 0, path_,
                     ": cannot be read as a font (apt-get install fonts-noto-color-emoji)");
    face_.reset(face);
    require<IoError>(FT_HAS_COLOR(face) && face->num_fixed_sizes > 0, path_,
                     ": holds no colour bitmaps; Noto Color Emoji in its bitmap (CBDT) form is needed");
    require<IoError>(FT_Select_Size(face, 0) == 0, path_, ": its first bitmap strike cannot be selected");
  }

  const std::string& path() const { return path_; }

  /// Which edition of the font this is: the revision and the checksum of its head table, as "2.042-1a2b3c4d".
  std::string edition() const {
    std::array<FT_Byte, 12> head{};
    FT_ULong length = head.size();
    require<IoError>(FT_Load_Sfnt_Table(face_.get(), TTAG_head, 0, head.data(), &length) == 0, path_,
                     ": has no head table");
    const auto word = [&](int at) {
      return uint32_t(head[size_t(at)]) << 24 | uint32_t(head[size_t(at + 1)]) << 16 |
             uint32_t(head[size_t(at + 2)]) << 8 | head[size_t(at + 3)];
    };
    char text[40];
    const uint32_t thousandths = uint32_t((uint64_t(word(4)) * 1000 + 32768) >> 16);  // revision, 16.16
    std::snprintf(text, sizeof text, "%u.%03u-%08x", thousandths / 1000, thousandths % 1000, word(8));
    return text;
  }

  bool has(char32_t code_point) const { return FT_Get_Char_Index(face_.get(), code_point) != 0; }

  /// The bitmap of one code point as a sprite, cropped to its non-transparent box. Throws ValueError when the font
  /// has no colour bitmap for it.
  Image glyph(char32_t code_point) const {
    char name[16];
    std::snprintf(name, sizeof name, "U+%04X", unsigned(code_point));
    const FT_UInt index = FT_Get_Char_Index(face_.get(), code_point);
    require(index != 0 && FT_Load_Glyph(face_.get(), index, FT_LOAD_COLOR) == 0, path_, " has no glyph for ", name,
            "; Noto Color Emoji of 2022 or later is needed");
    const FT_Bitmap& bitmap = face_->glyph->bitmap;
    require(bitmap.pixel_mode == FT_PIXEL_MODE_BGRA && bitmap.width > 0 && bitmap.rows > 0 && bitmap.width <= 1024 &&
                bitmap.rows <= 1024,
            path_, ": the glyph of ", name, " is no colour bitmap of at most 1024 x 1024 pixels");
    Image sprite(int(bitmap.width), int(bitmap.rows), 4);
    for (int y = 0; y < sprite.height; ++y) {
      const unsigned char* source = bitmap.buffer + ptrdiff_t(y) * bitmap.pitch;
      uint8_t* to = sprite.at(0, y);
      for (int x = 0; x < sprite.width; ++x, source += 4, to += 4) {
        to[0] = source[2];
        to[1] = source[1];
        to[2] = source[0];
        to[3] = source[3];
      }
    }
    return crop_to_mask(sprite);
  }

 private:
  struct DoneLibrary {
    void operator()(FT_Library library) const { FT_Done_FreeType(library); }
  };
  struct DoneFace {
    void operator()(FT_Face face) const { FT_Done_Face(face); }
  };
  std::string path_;
  std::unique_ptr<FT_LibraryRec_, DoneLibrary> library_;
  std::unique_ptr<FT_FaceRec_, DoneFace> face_;
};

}  // namespace tessera::data
