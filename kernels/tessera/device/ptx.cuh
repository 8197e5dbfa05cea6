// The vocabulary for nvcc. Every line of PTX in tessera is here: when a GPU disagrees with the emulator, look here
// first. Instructions need sm_80 or later. Names of the PTX manual ("Parallel Thread Execution ISA", NVIDIA) stand
// beside each.
#pragma once
#include <cuda_runtime.h>

#include <cstdint>

#include <tessera/core/device.hpp>

#define TESSERA_PROVIDER cuda_provider
// static: a kernel in a header that two files include must not be defined twice (nvcc ignores inline here).
#define TESSERA_KERNEL [[maybe_unused]] static __global__
#define TESSERA_DEVICE __device__ __forceinline__
#define TESSERA_LAUNCH_BOUNDS(...) __launch_bounds__(__VA_ARGS__)
#define TESSERA_UNROLL _Pragma("unroll")
#define TESSERA_NO_UNROLL _Pragma("unroll 1")
#define TESSERA_SHARED(T, name, count) __shared__ __align__(16) T name[count]
// Where a word was called matters to the emulator alone.
#define TESSERA_CALLER
#define TESSERA_PASS_CALLER
#define TESSERA_CALLED

namespace tessera::kernels {
inline namespace cuda_provider {

using KernelDevice = Cuda;

// Operations of these names in namespace tessera would hide CUDA's.
using ::max;
using ::min;

// ---- loads and stores ----
template <class P, class T>
TESSERA_DEVICE P provider_load(const T* from) {
  return *reinterpret_cast<const P*>(from);
}
template <class P, class T>
TESSERA_DEVICE void provider_store(T* to, const P& pack) {
  *reinterpret_cast<P*>(to) = pack;
}

// ---- shared memory whose size the launch gives ----
extern __shared__ __align__(128) unsigned char launched_shared_memory[];

/// `Count` equal parts of shared memory: parts[i] is the i-th. An array of pointers would be kept in slow local memory
/// where i is no constant; a base and a stride are not.
template <class T, unsigned Elements>
struct Stages {
  T* base;
  TESSERA_DEVICE T* operator[](int stage) const { return base + unsigned(stage) * Elements; }
};

/// Hands out the shared memory that the launch gave, in order. One a kernel; all threads ask for the same.
class SharedArena {
 public:
  template <class T>
  TESSERA_DEVICE T* array(unsigned count, unsigned alignment = 16) {
    offset_ = (offset_ + alignment - 1) / alignment * alignment;
    T* data = reinterpret_cast<T*>(launched_shared_memory + offset_);
    offset_ += count * unsigned(sizeof(T));
    return data;
  }
  template <class T, unsigned Count, unsigned Elements>
  TESSERA_DEVICE Stages<T, Elements> stages() {
    static_assert(Elements * sizeof(T) % 16 == 0, "tessera: a stage must be a multiple of 16 bytes");
    return {array<T>(Count * Elements)};
  }

 private:
  unsigned offset_ = 0;
};

TESSERA_DEVICE unsigned shared_address(const void* pointer) { return unsigned(__cvta_generic_to_shared(pointer)); }

// ---- asynchronous copies: cp.async ----
TESSERA_DEVICE void cp_async16(void* shared, const void* global, bool valid = true) {
  const int bytes = valid ? 16 : 0;  // the rest of the 16 becomes zero
  asm volatile("cp.async.cg.shared.global [%0], [%1], 16, %2;" ::"r"(shared_address(shared)), "l"(global), "r"(bytes)
               : "memory");
}
TESSERA_DEVICE void cp_async_commit() { asm volatile("cp.async.commit_group;" ::: "memory"); }
template <int Pending>
TESSERA_DEVICE void cp_async_wait() {
  asm volatile("cp.async.wait_group %0;" ::"n"(Pending) : "memory");
}

// ---- matrices from shared memory: ldmatrix ----
TESSERA_DEVICE void ldmatrix_x1(uint32_t (&r)[1], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(shared_address(row))
               : "memory");
}
TESSERA_DEVICE void ldmatrix_x2(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
TESSERA_DEVICE void ldmatrix_x4(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}
TESSERA_DEVICE void ldmatrix_x1_trans(uint32_t (&r)[1], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x1.trans.shared.b16 {%0}, [%1];"
               : "=r"(r[0])
               : "r"(shared_address(row))
               : "memory");
}
TESSERA_DEVICE void ldmatrix_x2_trans(uint32_t (&r)[2], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x2.trans.shared.b16 {%0, %1}, [%2];"
               : "=r"(r[0]), "=r"(r[1])
               : "r"(shared_address(row))
               : "memory");
}
TESSERA_DEVICE void ldmatrix_x4_trans(uint32_t (&r)[4], const void* row) {
  asm volatile("ldmatrix.sync.aligned.m8n8.x4.trans.shared.b16 {%0, %1, %2, %3}, [%4];"
               : "=r"(r[0]), "=r"(r[1]), "=r"(r[2]), "=r"(r[3])
               : "r"(shared_address(row))
               : "memory");
}

// ---- products of small matrices: mma.sync, d += a b ----
TESSERA_DEVICE void mma_bf16_m16n8k16(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k16.row.col.f32.bf16.bf16.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}
TESSERA_DEVICE void mma_tf32_m16n8k8(float (&d)[4], const uint32_t (&a)[4], uint32_t b0, uint32_t b1) {
  asm volatile(
      "mma.sync.aligned.m16n8k8.row.col.f32.tf32.tf32.f32 {%0, %1, %2, %3}, {%4, %5, %6, %7}, {%8, %9}, "
      "{%0, %1, %2, %3};"
      : "+f"(d[0]), "+f"(d[1]), "+f"(d[2]), "+f"(d[3])
      : "r"(a[0]), "r"(a[1]), "r"(a[2]), "r"(a[3]), "r"(b0), "r"(b1));
}

// ---- conversions and approximations ----
/// Two floats rounded to bfloat16 in one register, `low` in bits 0-15: cvt.rn.bf16x2.
TESSERA_DEVICE uint32_t pack_bf16(float low, float high) {
  uint32_t pair;
  asm("cvt.rn.bf16x2.f32 %0, %1, %2;" : "=r"(pair) : "f"(high), "f"(low));
  return pair;
}
/// A float rounded to tf32's 10 bits of fraction, as mma takes it: cvt.rna.tf32.
TESSERA_DEVICE uint32_t to_tf32(float value) {
  uint32_t bits;
  asm("cvt.rna.tf32.f32 %0, %1;" : "=r"(bits) : "f"(value));
  return bits;
}
/// 2^x to about 2 units in the last place, subnormals as zero: ex2.approx.ftz.
TESSERA_DEVICE float exp2_approximate(float x) {
  float y;
  asm("ex2.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// 1/x to about 1 unit in the last place: rcp.approx.ftz.
TESSERA_DEVICE float reciprocal_approximate(float x) {
  float y;
  asm("rcp.approx.ftz.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}
/// tanh x with an absolute error of about 2^-11: tanh.approx.
TESSERA_DEVICE float tanh_approximate(float x) {
  float y;
  asm("tanh.approx.f32 %0, %1;" : "=f"(y) : "f"(x));
  return y;
}

}  // namespace cuda_provider
}  // namespace tessera::kernels
