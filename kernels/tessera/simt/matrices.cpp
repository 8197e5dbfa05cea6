// ldmatrix and mma. Which lane holds which element of a fragment is taken from the PTX manual (sections "ldmatrix" and
// "Matrix Fragments for mma.m16n8k16 / mma.m16n8k8"). With g = lane / 4 and t = lane % 4:
//
//   m16n8k16 (two bf16 a register):  a0 = A[g][2t, 2t+1]      a1 = A[g+8][2t, 2t+1]
//                                    a2 = A[g][2t+8, 2t+9]    a3 = A[g+8][2t+8, 2t+9]
//                                    b0 = B[2t, 2t+1][g]      b1 = B[2t+8, 2t+9][g]
//   m16n8k8 (one tf32 a register):   a0 = A[g][t]  a1 = A[g+8][t]  a2 = A[g][t+4]  a3 = A[g+8][t+4]
//                                    b0 = B[t][g]  b1 = B[t+4][g]
//   both:                            d0, d1 = D[g][2t, 2t+1]  d2, d3 = D[g+8][2t, 2t+1]
#include <tessera/simt/matrices.hpp>

#include <bit>
#include <cstring>

#include <tessera/simt/shadow.hpp>

namespace tessera::simt {
namespace {
constexpr int rows = 16, columns = 8;

struct Operands {
  alignas(64) float a[rows][16];  // [row][k]
  alignas(64) float b[16][columns];
  alignas(64) float d[rows][columns];
};

float low_half(uint32_t pair) { return std::bit_cast<float>(pair << 16); }
float high_half(uint32_t pair) { return std::bit_cast<float>(pair & 0xffff0000u); }
float tf32(uint32_t bits) { return std::bit_cast<float>(bits & 0xffffe000u); }  // the low 13 bits are not read

void gather_bf16(const Thread& me, Operands& m) {
  const int g = me.lane / 4, t = me.lane % 4;
  const auto put_a = [&](int row, int k, uint32_t pair) {
    m.a[row][k] = low_half(pair);
    m.a[row][k + 1] = high_half(pair);
  };
  const auto put_b = [&](int k, uint32_t pair) {
    m.b[k][g] = low_half(pair);
    m.b[k + 1][g] = high_half(pair);
  };
  put_a(g, 2 * t, me.a[0]);
  put_a(g + 8, 2 * t, me.a[1]);
  put_a(g, 2 * t + 8, me.a[2]);
  put_a(g + 8, 2 * t + 8, me.a[3]);
  put_b(2 * t, me.b[0]);
  put_b(2 * t + 8, me.b[1]);
}

void gather_tf32(const Thread& me, Operands& m) {
  const int g = me.lane / 4, t = me.lane % 4;
  m.a[g][t] = tf32(me.a[0]);
  m.a[g + 8][t] = tf32(me.a[1]);
  m.a[g][t + 4] = tf32(me.a[2]);
  m.a[g + 8][t + 4] = tf32(me.a[3]);
  m.b[t][g] = tf32(me.b[0]);
  m.b[t + 4][g] = tf32(me.b[1]);
}
}  // namespace

void finish_multiply(Warp& warp) {
  Operands m;
  const Multiply kind = Multiply(warp.lane[0]->value);
  const int depth = kind == Multiply::bf16_m16n8k16 ? 16 : 8;
  for (const Thread* me : warp.lane) {
    const int g = me->lane / 4, t = me->lane % 4;
    kind == Multiply::bf16_m16n8k16 ? gather_bf16(*me, m) : gather_tf32(*me, m);
    m.d[g][2 * t] = me->accumulator[0];
    m.d[g][2 * t + 1] = me->accumulator[1];
    m.d[g + 8][2 * t] = me->accumulator[2];
    m.d[g + 8][2 * t + 1] = me->accumulator[3];
  }
  for (int i = 0; i < rows; ++i)
    for (int k = 0; k < depth; ++k) {
      const float a = m.a[i][k];
      for (int j = 0; j < columns; ++j) m.d[i][j] += a * m.b[k][j];
    }
  for (const Thread* me : warp.lane) {
    const int g = me->lane / 4, t = me->lane % 4;
    me->accumulator[0] = m.d[g][2 * t];
    me->accumulator[1] = m.d[g][2 * t + 1];
    me->accumulator[2] = m.d[g + 8][2 * t];
    me->accumulator[3] = m.d[g + 8][2 * t + 1];
  }
}

// Matrix i has 8 rows of 8 elements of 2 bytes; lane 8 i + r brings the address of row r. Lane (g, t) receives elements
// 2t and 2t+1 of row g, or of column g where transposed.
void finish_load_matrices(Warp& warp) {
  const int count = warp.lane[0]->argument;
  const bool transposed = warp.lane[0]->value != 0;
  for (int i = 0; i < count; ++i) {
    uint16_t matrix[8][8];
    for (int r = 0; r < 8; ++r) {
      Thread& owner = *warp.lane[8 * i + r];
      if (reinterpret_cast<uintptr_t>(owner.row) % 16 != 0)
        fault(sentence("ldmatrix at ", place(owner.site), ": lane ", owner.lane,
                       " gives an address that is no multiple of 16"));
      if (!in_arena(owner.row, 16))
        fault(sentence("ldmatrix at ", place(owner.site), ": lane ", owner.lane,
                       " gives an address that is not in shared memory"));
      check_access(owner, owner.row, 16, Access::read, owner.site);
      std::memcpy(matrix[r], owner.row, 16);
    }
    for (Thread* me : warp.lane) {
      const int g = me->lane / 4, t = me->lane % 4;
      const uint32_t low = transposed ? matrix[2 * t][g] : matrix[g][2 * t];
      const uint32_t high = transposed ? matrix[2 * t + 1][g] : matrix[g][2 * t + 1];
      me->registers[i] = low | high << 16;
    }
  }
}

}  // namespace tessera::simt
