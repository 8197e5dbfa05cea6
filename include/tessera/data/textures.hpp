// Backgrounds drawn by formula: grass, sand, water, sky, bricks, wood, snow and night.
#pragma once
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <vector>

#include <tessera/core/error.hpp>
#include <tessera/core/random.hpp>
#include <tessera/data/draws.hpp>

namespace tessera::data {

enum class Texture { grass, sand, water, sky, bricks, wood, snow, night };

namespace detail {

/// One value a pixel.
struct Field {
  int size;
  std::vector<double> values;

  explicit Field(int n) : size(n), values(size_t(n) * size_t(n)) {}
  double& at(int x, int y) { return values[size_t(y) * size_t(size) + size_t(x)]; }
  double at(int x, int y) const { return values[size_t(y) * size_t(size) + size_t(x)]; }
};

/// Enlarges a grid of width x height random numbers in (-0.5, 0.5) to n x n by Keys' cubic; the grid covers the whole
/// picture and taps beyond its border are dropped.
inline Field smooth_noise(Draws& draws, int n, int width, int height) {
  std::vector<double> grid(size_t(width) * size_t(height));
  for (double& value : grid) value = draws.uniform() - 0.5;

  struct Tap {
    int index[4];
    double weight[4];
  };
  const auto taps = [n](int cells) {
    std::vector<Tap> all(static_cast<size_t>(n));
    for (int i = 0; i < n; ++i) {
      Tap& tap = all[size_t(i)];
      const double position = (i + 0.5) * cells / n - 0.5;
      const int base = int(std::floor(position));
      double total = 0;
      for (int k = 0; k < 4; ++k) {
        const int cell = base - 1 + k;
        const double x = std::abs(position - cell);
        const double w = x < 1 ? (1.5 * x - 2.5) * x * x + 1 : x < 2 ? ((-0.5 * x + 2.5) * x - 4) * x + 2 : 0;
        const bool inside = cell >= 0 && cell < cells;
        tap.index[k] = inside ? cell : 0;
        tap.weight[k] = inside ? w : 0;
        total += tap.weight[k];
      }
      for (double& w : tap.weight) w /= total;
    }
    return all;
  };
  const auto across = taps(width), down = taps(height);

  std::vector<double> wide(size_t(n) * size_t(height));
  for (int y = 0; y < height; ++y)
    for (int x = 0; x < n; ++x) {
      double sum = 0;
      for (int k = 0; k < 4; ++k)
        sum += across[size_t(x)].weight[k] * grid[size_t(y * width + across[size_t(x)].index[k])];
      wide[size_t(y * n + x)] = sum;
    }
  Field field(n);
  for (int y = 0; y < n; ++y)
    for (int x = 0; x < n; ++x) {
      double sum = 0;
      for (int k = 0; k < 4; ++k) sum += down[size_t(y)].weight[k] * wide[size_t(down[size_t(y)].index[k] * n + x)];
      field.at(x, y) = sum;
    }
  return field;
}

/// Noise whose features are about `cell` pixels wide.
inline Field smooth_noise(Draws& draws, int n, int cell) {
  const int cells = std::max(2, n / cell + 2);
  return smooth_noise(draws, n, cells, cells);
}

struct Rgb {
  double red = 0, green = 0, blue = 0;

  friend Rgb operator+(Rgb c, double light) { return {c.red + light, c.green + light, c.blue + light}; }
  friend Rgb operator*(Rgb c, double factor) { return {c.red * factor, c.green * factor, c.blue * factor}; }
};

/// Fills a square with one kind of background; colours may leave 0 … 255 and are clamped afterwards. Every kind first
/// draws what varies between pictures (frequencies, phases, noise), then gives each pixel its colour.
class TexturePainter {
 public:
  TexturePainter(Texture kind, int n, RandomStream stream)
      : n_(n), stream_(stream), draws_(stream), pixels_(size_t(n) * size_t(n)) {
    const Field broad = smooth_noise(draws_, n, 24);
    switch (kind) {
      case Texture::grass:
        grass(broad);
        break;
      case Texture::sand:
        sand(broad);
        break;
      case Texture::water:
        water(broad);
        break;
      case Texture::sky:
        sky();
        break;
      case Texture::bricks:
        bricks();
        break;
      case Texture::wood:
        wood(broad);
        break;
      case Texture::snow:
        snow(broad);
        break;
      case Texture::night:
        night(broad);
        break;
    }
  }
  const std::vector<Rgb>& pixels() const { return pixels_; }
  Draws& draws() { return draws_; }

 private:
  template <class Function>
  void paint(Function&& colour) {
    for (int y = 0; y < n_; ++y)
      for (int x = 0; x < n_; ++x) pixels_[size_t(y * n_ + x)] = colour(x, y);
  }
  /// White noise in (-0.5, 0.5).
  double grain() { return draws_.uniform() - 0.5; }

  void grass(const Field& broad) {
    const Field blades = smooth_noise(draws_, n_, n_, std::max(2, n_ / 6));  // one column wide, six rows long
    paint([&](int x, int y) { return Rgb{70, 140, 50} + (broad.at(x, y) * 40 + blades.at(x, y) * 90 + grain() * 25); });
  }
  void sand(const Field& broad) {
    const Field bend = smooth_noise(draws_, n_, 20);
    const double frequency = draws_.uniform(0.4, 0.7), phase = draws_.uniform(0, 6);
    paint([&](int x, int y) {
      const double ripple = std::sin((y + 32 * bend.at(x, y)) * frequency + phase);
      return Rgb{214, 186, 130} + (broad.at(x, y) * 30 + ripple * 8 + grain() * 38);
    });
  }
  void water(const Field& broad) {
    const double down = draws_.uniform(0.5, 0.9), across = draws_.uniform(0.08, 0.2), phase = draws_.uniform(0, 6);
    const Field bend = smooth_noise(draws_, n_, 16);
    paint([&](int x, int y) {
      const double wave = std::sin(y * down + 3 * std::sin(x * across + phase) + bend.at(x, y) * 6);
      return Rgb{40, 110, 180} + (wave * 28 + broad.at(x, y) * 30 + grain() * 8);
    });
  }
  void sky() {
    const Field large = smooth_noise(draws_, n_, 20), small = smooth_noise(draws_, n_, 9);
    paint([&](int x, int y) {
      const double cloud = 0.8 * std::clamp((large.at(x, y) + 0.5 * small.at(x, y)) * 3, 0.0, 1.0);
      const Rgb blue = Rgb{120, 180, 235} + double(y) / n_ * 40;  // lighter towards the horizon
      return blue * (1 - cloud) + 245 * cloud;
    });
  }
  void bricks() {
    const double height = draws_.uniform(8, 12), width = 2 * height, offset = draws_.uniform(0, 9), joint = 1.6;
    paint([&](int x, int y) {
      const int row = int(std::floor(y / height));
      const double along = x + row % 2 * width / 2 + offset;
      const int column = int(std::floor(along / width));
      const bool mortar = y - row * height < joint || along - column * width < joint;
      // Each brick has a shade of its own, found from its place.
      const double shade = double(stream_.uniform((uint64_t(1) << 32) + uint64_t(row) * 4096 + uint64_t(column)));
      return (mortar ? Rgb{190, 180, 170} : Rgb{160, 70, 50} + (shade * 40 - 20)) + grain() * 18;
    });
  }
  void wood(const Field& broad) {
    const Field bend = smooth_noise(draws_, n_, 30);
    const double frequency = draws_.uniform(0.35, 0.6), offset = draws_.uniform(0, 20), plank = 26, gap = 1.5;
    paint([&](int x, int y) {
      const double vein = std::sin((x + 26 * bend.at(x, y)) * frequency + 0.02 * y);
      const Rgb colour = Rgb{140, 92, 50} + (vein * 20 + broad.at(x, y) * 24 + grain() * 10);
      const double within = x + offset - plank * std::floor((x + offset) / plank);
      return within < gap ? colour * 0.55 : colour;
    });
  }
  void snow(const Field& broad) {
    paint([&](int x, int y) { return Rgb{232, 238, 246} + (broad.at(x, y) * 26 + grain() * 10); });
  }
  void night(const Field& broad) {
    paint([&](int x, int y) { return Rgb{16, 18, 48} + (broad.at(x, y) * 18 + double(y) / n_ * 14); });
    std::vector<double> light(pixels_.size(), 0);
    for (int star = 0; star < n_ * n_ / 90; ++star) {
      const int x = draws_.below(n_), y = draws_.below(n_);
      light[size_t(y * n_ + x)] = draws_.uniform(80, 220);
    }
    for (size_t i = 0; i < pixels_.size(); ++i) pixels_[i] = pixels_[i] + light[i];
  }

  int n_;
  RandomStream stream_;
  Draws draws_;
  std::vector<Rgb> pixels_;
};

}  // namespace detail

/// One background of n x n pixels, RGB interleaved. Half of them are mirrored; brightness and tint vary.
/// `stream` must be the picture's own.
inline std::vector<uint8_t> paint_texture(Texture kind, int n, RandomStream stream) {
  require(n >= 16 && n <= 4096, "paint_texture: size ", n, " must lie in 16 … 4096");
  detail::TexturePainter painter(kind, n, stream);
  Draws& draws = painter.draws();
  const bool mirrored = draws.chance(0.5);
  const double gain = draws.uniform(0.85, 1.12);
  const std::array tint{draws.uniform(-6, 6), draws.uniform(-6, 6), draws.uniform(-6, 6)};
  const auto level = [&](double value, size_t channel) {
    return uint8_t(std::clamp(value * gain + tint[channel], 0.0, 255.0) + 0.5);
  };
  std::vector<uint8_t> rgb(size_t(n) * size_t(n) * 3);
  for (int y = 0; y < n; ++y)
    for (int x = 0; x < n; ++x) {
      const detail::Rgb& colour = painter.pixels()[size_t(y * n + (mirrored ? n - 1 - x : x))];
      uint8_t* to = rgb.data() + (size_t(y) * size_t(n) + size_t(x)) * 3;
      to[0] = level(colour.red, 0);
      to[1] = level(colour.green, 1);
      to[2] = level(colour.blue, 2);
    }
  return rgb;
}

}  // namespace tessera::data
