// Advanced SIMD, which every AArch64 processor has.
#define EVENKEEL_ISA neon
#include "kernels.hpp"
