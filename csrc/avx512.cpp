// AVX-512 F, BW, DQ and VL.
#define EVENKEEL_ISA avx512
#include "kernels.hpp"
