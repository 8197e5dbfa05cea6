// Products of matrices inside fused losses: a block multiplies a tile of 128 x 128 by the tensor cores, its operands
// arriving in shared memory steps of depth ahead (cp.async). bfloat16 goes through mma m16n8k16; all else is held
// as float and split into two tf32 numbers, so that three products give nearly all of float's 24 bits (Ootomo and
// Yokota, 2022).
//
// What is left in registers can be used at once (MatrixTile), or written (matrix_product).
#pragma once
#include <type_traits>

#include <tessera/device/launch.cuh>
#include <tessera/device/reduce.cuh>

namespace tessera::kernels {
inline namespace TESSERA_PROVIDER {

struct matrix_tile_traits {
  static constexpr int threads = 256;
  static constexpr int rows = 128, columns = 128, depth = 32;
  // Steps of depth that shared memory holds: of floats fewer, so that every GPU has room for a block.
  template <class E>
  static constexpr int stages = sizeof(E) == 4 ? 2 : 3;
  // 2 x 4 warps; a warp's part is 64 x 32: 4 x 4 tiles of 16 x 8.
  static constexpr int warps_down = 2, warps_across = 4, tiles_down = 4, tiles_across = 4;
};

/// One operand. Element (i, k), k along the depth, is at data[i * stride + k], or at data[k * stride + i] where
/// `along_depth` is false (then i runs along memory). packs: every row in memory can be read in packs of 16 bytes.
template <class T>
struct MatrixOperand {
  const T* data;
  int64_t stride;
  bool packs;
};

/// Rows [i, i + 128) or columns of an operand, 32 deep, in shared memory; zeros beyond the operand's end.
template <class T, bool along_depth>
struct MatrixSlice {
  using E = std::conditional_t<std::is_same_v<T, bfloat16>, bfloat16, float>;
  using Traits = matrix_tile_traits;
  static constexpr int outer = along_depth ? Traits::rows : Traits::depth;  // rows in memory
  static constexpr int inner = along_depth ? Traits::depth : Traits::rows;
  // What stands behind each row spreads neighbouring rows over the banks, however fragments are read below.
  static constexpr int stride = inner + (along_depth || sizeof(E) == 2 ? int(16 / sizeof(E)) : 8);
  static constexpr unsigned elements = outer * stride;

  /// Begins to fill `to`; complete after cp_async_wait and a barrier.
  TESSERA_DEVICE static void load(E* to, const MatrixOperand<T>& from, int64_t first_i, int64_t count_i,
                                  int64_t first_k, int64_t count_k) {
    const int64_t first_outer = along_depth ? first_i : first_k, first_inner = along_depth ? first_k : first_i;
    const int64_t outer_left = (along_depth ? count_i : count_k) - first_outer;
    const int64_t inner_left = (along_depth ? count_k : count_i) - first_inner;
    const T* corner = from.data + first_outer * from.stride + first_inner;
    if constexpr (std::is_same_v<T, E>) {
      if (from.packs) {
        constexpr int count = Pack<E>::count, packs_of_row = inner / count;
        for (int p = int(threadIdx.x); p < outer * packs_of_row; p += Traits::threads) {
          const int row = p / packs_of_row, at = p % packs_of_row * count;
          const bool inside = row < outer_left && at < inner_left;
          cp_async16(to + row * stride + at, inside ? corner + row * from.stride + at : from.data, inside);
        }
        return;
      }
    }
    for (int p = int(threadIdx.x); p < outer * inner; p += Traits::threads) {
      const int row = p / inner, at = p % inner;
      const bool inside = row < outer_left && at < inner_left;
      to[row * stride + at] = inside ? narrow<E>(widen(corner[row * from.stride + at])) : narrow<E>(0.0f);
    }
  }
};

/// A block's tile of a product, in its threads' registers. `a_along` and `b_along`: whether the operands' depth runs
/// along memory.
template <class TA, bool a_along, class TB, bool b_along>
class MatrixTile {
  using Traits = matrix_tile_traits;
  using ASlice = MatrixSlice<TA, a_along>;
  using BSlice = MatrixSlice<TB, b_along>;
  using E = typename ASlice::E;
  static_assert(std::is_same_v<E, typename BSlice::E>, "tessera: operands are both bfloat16, or neither is");

 public:
  static constexpr int stages = Traits::template stages<E>;
  static constexpr size_t shared_bytes = size_t(stages) * (ASlice::elements + BSlice::elements) * sizeof(E);
  static_assert(shared_bytes <= least_shared_bytes);

  /// The stages in shared memory that all products of a kernel go through. To be asked for once.
  struct Workspace {
    using AStages = decltype(std::declval<SharedArena&>().template stages<E, stages, ASlice::elements>());
    using BStages = decltype(std::declval<SharedArena&>().template stages<E, stages, BSlice::elements>());
    AStages a;
    BStages b;
    TESSERA_DEVICE explicit Workspace(SharedArena& arena)
        : a(arena.stages<E, stages, ASlice::elements>()), b(arena.stages<E, stages, BSlice::elements>()) {}
  };

  /// The tile at (first_row, first_column) of the product of a [rows, depth] and b [columns, depth].
  TESSERA_DEVICE void multiply(Workspace& work, const MatrixOperand<TA>& a, int64_t first_row, int64_t rows,
                               const MatrixOperand<TB>& b, int64_t first_column, int64_t columns,
                               int64_t depth TESSERA_CALLER) {
    TESSERA_UNROLL
    for (auto& across : sum_) TESSERA_UNROLL
    for (auto& tile : across) TESSERA_UNROLL
    for (float& element : tile) element = 0;
    const int steps = int(ceil_div(depth, Traits::depth));
    const auto load = [&](int step) {
      if (step < steps) {
        const int stage = step % stages;
        const int64_t k = int64_t(step) * Traits::depth;
        ASlice::load(work.a[stage], a, first_row, rows, k, depth);
        BSlice::load(work.b[stage], b, first_column, columns, k, depth);
      }
      cp_async_commit();  // a group a step, so that one number of pending groups fits all steps
    };
    __syncthreads(TESSERA_CALLED);  // an earlier product's last step
    for (int step = 0; step < stages - 1; ++step) load(step);
    for (int step = 0; step < steps; ++step) {
      cp_async_wait<stages - 2>();
      __syncthreads(
          TESSERA_CALLED);  // this step has arrived for all, and all are done with the one whose place is filled next
      load(step + stages - 1);
      accumulate(work.a[step % stages], work.b[step % stages]);
    }
    cp_async_wait<0>();
  }

  /// Calls visit(value, row, column) for this thread's elements, as counted from the tile's corner, and puts back what
  /// it makes of `value`.
  template <class F>
  TESSERA_DEVICE void for_each(F&& visit) {
    TESSERA_UNROLL
    for (int m = 0; m < Traits::tiles_down; ++m) TESSERA_UNROLL
    for (int n = 0; n < Traits::tiles_across; ++n) TESSERA_UNROLL
    for (int e = 0; e < 4; ++e) visit(sum_[m][n][e], row_of(m, e), column_of(n, e));
  }
  /// Calls visit(left, right, row, column) for this thread's pairs of neighbouring columns; `column` is even.
  template <class F>
  TESSERA_DEVICE void for_each_pair(F&& visit) const {
    TESSERA_UNROLL
    for (int m = 0; m < Traits::tiles_down; ++m) TESSERA_UNROLL
    for (int n = 0; n < Traits::tiles_across; ++n) TESSERA_UNROLL
    for (int e = 0; e < 4; e += 2) visit(sum_[m][n][e], sum_[m][n][e + 1], row_of(m, e), column_of(n, e));
  }
  /// The element itself: m < 4 and e / 2 name one of the thread's 8 rows, n < 4 and e % 2 one of its 8 columns.
  TESSERA_DEVICE float& at(int m, int n, int e) { return sum_[m][n][e]; }
  TESSERA_DEVICE static int row_of(int m, int e) {
    return warp_row() * 16 * Traits::tiles_down + m * 16 + lane() / 4 + e / 2 * 8;
  }
  TESSERA_DEVICE static int column_of(int n, int e) {
    return warp_column() * 8 * Traits::tiles_across + n * 8 + lane() % 4 * 2 + e % 2;
  }
  TESSERA_DEVICE static int lane() { return int(threadIdx.x) % warp_size; }
  TESSERA_DEVICE static int warp_row() { return int(threadIdx.x) / warp_size / Traits::warps_across; }
  TESSERA_DEVICE static int warp_column() { return int(threadIdx.x) / warp_size % Traits::warps_across; }

 private:
  TESSERA_DEVICE void accumulate(const E* a, const E* b) {
    const int row = warp_row() * 16 * Traits::tiles_down, column = warp_column() * 8 * Traits::tiles_across;
    if constexpr (std::is_same_v<E, bfloat16>) {
      const int in_matrix = lane() % 8, matrix = lane() / 8;  // of the four that ldmatrix reads at a time
      TESSERA_UNROLL
      for (int k = 0; k < Traits::depth; k += 16) {
        uint32_t left[Traits::tiles_down][4];
        TESSERA_UNROLL
        for (int m = 0; m < Traits::tiles_down; ++m) {
          const int i = row + m * 16 + matrix % 2 * 8, at_k = k + matrix / 2 * 8;
          if constexpr (a_along)
            ldmatrix_x4(left[m], a + (i + in_matrix) * ASlice::stride + at_k);
          else
            ldmatrix_x4_trans(left[m], a + (at_k + in_matrix) * ASlice::stride + i);
        }
        TESSERA_UNROLL
        for (int n = 0; n < Traits::tiles_across; n += 2) {
          uint32_t right[4];
          const int j = column + n * 8 + matrix / 2 * 8, at_k = k + matrix % 2 * 8;
          if constexpr (b_along)
            ldmatrix_x4(right, b + (j + in_matrix) * BSlice::stride + at_k);
          else
            ldmatrix_x4_trans(right, b + (at_k + in_matrix) * BSlice::stride + j);
          TESSERA_UNROLL
          for (int m = 0; m < Traits::tiles_down; ++m) {
            mma_bf16_m16n8k16(sum_[m][n], left[m], right[0], right[1]);
            mma_bf16_m16n8k16(sum_[m][n + 1], left[m], right[2], right[3]);
          }
        }
      }
    } else {
      const int group = lane() / 4, within = lane() % 4;
      const auto element = [](const float* slice, int stride, bool along, int i, int k) {
        return along ? slice[i * stride + k] : slice[k * stride + i];
      };
      TESSERA_NO_UNROLL  // unrolled, the reads ahead would take more registers than there are
          for (int k = 0; k < Traits::depth; k += 8) {
        uint32_t left[Traits::tiles_down][4], left_rest[Traits::tiles_down][4];
        TESSERA_UNROLL
        for (int m = 0; m < Traits::tiles_down; ++m) TESSERA_UNROLL
        for (int e = 0; e < 4; ++e)
          split(left[m][e], left_rest[m][e],
                element(a, ASlice::stride, a_along, row + m * 16 + group + e % 2 * 8, k + within + e / 2 * 4));
        TESSERA_UNROLL
        for (int n = 0; n < Traits::tiles_across; ++n) {
          uint32_t right[2], right_rest[2];
          TESSERA_UNROLL
          for (int e = 0; e < 2; ++e)
            split(right[e], right_rest[e],
                  element(b, BSlice::stride, b_along, column + n * 8 + group, k + within + e * 4));
          TESSERA_UNROLL
          for (int m = 0; m < Traits::tiles_down; ++m) {
            // The smallest first, and added outside the tensor core, which rounds its sums towards zero.
            float part[4] = {0, 0, 0, 0};
            mma_tf32_m16n8k8(part, left_rest[m], right[0], right[1]);
            mma_tf32_m16n8k8(part, left[m], right_rest[0], right_rest[1]);
            mma_tf32_m16n8k8(part, left[m], right[0], right[1]);
            TESSERA_UNROLL
            for (int e = 0; e < 4; ++e) sum_[m][n][e] += part[e];
          }
        }
      }
    }
  }

  /// A float as two tf32 numbers.
  TESSERA_DEVICE static void split(uint32_t& upper, uint32_t& rest, float value) {
    upper = to_tf32(value);
    rest = to_tf32(value - __uint_as_float(upper));
  }

  float sum_[Traits::tiles_down][Traits::tiles_across][4];
};

/// c [rows, columns] = a b, for each item of a batch. Where `running` is given, [rows, columns] of each item, products
/// are summed there in float over several calls: the first overwrites, and the last alone writes c.
template <class TA, class TB, class TC>
struct MatrixProduct {
  TC* c;
  MatrixOperand<TA> a;
  MatrixOperand<TB> b;
  int64_t rows, columns, depth;
  int64_t a_item = 0, b_item = 0, c_item = 0;  // elements from item to item; c's rows are `columns` apart
  int64_t items = 1;
  float* running = nullptr;
  bool first = true, last = true;
  bool pairs = false;  // set by matrix_product: neighbouring columns can be written as one
};

template <class TA, bool a_along, class TB, bool b_along, class TC>
TESSERA_KERNEL void TESSERA_LAUNCH_BOUNDS(matrix_tile_traits::threads)
    matrix_product_kernel(MatrixProduct<TA, TB, TC> p) {
  using Tile = MatrixTile<TA, a_along, TB, b_along>;
  using Traits = matrix_tile_traits;
  SharedArena arena;
  typename Tile::Workspace work(arena);
  const int64_t down = ceil_div(p.rows, Traits::rows), across = ceil_div(p.columns, Traits::columns);
  const int64_t item = blockIdx.x / (down * across), index = blockIdx.x % (down * across);
  const int64_t first_row = index / across * Traits::rows, first_column = index % across * Traits::columns;
  p.a.data += item * p.a_item;
  p.b.data += item * p.b_item;
  Tile tile;
  tile.multiply(work, p.a, first_row, p.rows, p.b, first_column, p.columns, p.depth);
  TC* c = p.c + item * p.c_item;
  float* running = p.running ? p.running + item * p.rows * p.columns : nullptr;
  const auto store = [&](auto count, int64_t at, const float* values) {
    Pack<float, count.value> sums;
    if (!p.first) sums = load_pack<float, count.value>(running + at);
    Pack<TC, count.value> result;
    TESSERA_UNROLL
    for (int i = 0; i < count.value; ++i) {
      sums[i] = p.first ? values[i] : values[i] + sums[i];
      result[i] = narrow<TC>(sums[i]);
    }
    if (p.last)
      store_pack(c + at, result);
    else
      store_pack(running + at, sums);
  };
  tile.for_each_pair([&](float left, float right, int tile_row, int tile_column) {
    const int64_t row = first_row + tile_row, column = first_column + tile_column;
    if (row >= p.rows || column >= p.columns) return;
    const int64_t at = row * p.columns + column;
    const float values[2] = {left, right};
    if (p.pairs) return store(std::integral_constant<int, 2>{}, at, values);
    store(std::integral_constant<int, 1>{}, at, values);
    if (column + 1 < p.columns) store(std::integral_constant<int, 1>{}, at + 1, values + 1);
  });
}

/// Host: queues a product; operands' `packs` as operand_of gives them.
template <bool a_along, bool b_along, class TA, class TB, class TC, class Device>
void matrix_product(const char* name, Context<Device>& ctx, MatrixProduct<TA, TB, TC> p) {
  using Traits = matrix_tile_traits;
  const int64_t blocks = p.items * ceil_div(p.rows, Traits::rows) * ceil_div(p.columns, Traits::columns);
  if (blocks == 0) return;
  const auto fits = [](const void* address, size_t size) { return reinterpret_cast<uintptr_t>(address) % size == 0; };
  p.pairs = p.columns % 2 == 0 && p.c_item % 2 == 0 && fits(p.c, 2 * sizeof(TC)) && fits(p.running, 2 * sizeof(float));
  launch(name, matrix_product_kernel<TA, a_along, TB, b_along, TC>, blocks_for(blocks, 1), unsigned(Traits::threads),
         MatrixTile<TA, a_along, TB, b_along>::shared_bytes, ctx, p);
}

/// Host: an operand whose rows in memory, `stride` elements apart, have `length` elements; items `item` apart.
template <class T>
MatrixOperand<T> operand_of(const T* data, int64_t length, int64_t stride, int64_t item = 0) {
  const bool packs = fits_packs<T>(length, {data}) && stride % Pack<T>::count == 0 && item % Pack<T>::count == 0;
  return {data, stride, packs};
}

}  // namespace TESSERA_PROVIDER
}  // namespace tessera::kernels
