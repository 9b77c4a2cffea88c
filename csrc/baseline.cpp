// What every processor of the target architecture has.
#define EVENKEEL_ISA baseline
#include "kernels.hpp"
