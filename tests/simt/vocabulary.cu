// The vocabulary's test as nvcc sees it: compiled, not run.
#include "simt/vocabulary.cuh"

// A kernel is compiled where it is used.
[[maybe_unused]] static void (*const used[])(float*, int*) = {users::cuda_words_kernel};
[[maybe_unused]] static void (*const used_too[])(float*, const float*) = {users::tessera_words_kernel};
