// AVX2 and FMA (x86-64 since about 2013).
#define EVENKEEL_ISA avx2
#include "kernels.hpp"
