// Included once by the source file of each instruction set, which names the namespace.
#pragma once

#include "backward_input.hpp"
#include "backward_reduce.hpp"
#include "moments.hpp"
#include "normalize.hpp"

#define EVENKEEL_TEXT_(name) #name
#define EVENKEEL_TEXT(name) EVENKEEL_TEXT_(name)

namespace evenkeel::EVENKEEL_ISA {

// The only symbol that leaves such a file: all else has internal linkage, so that the linker
// cannot put code for a newer processor in the place of a function of the same name elsewhere.
extern const Kernels kernels;
const Kernels kernels = {
    EVENKEEL_TEXT(EVENKEEL_ISA), moments,        finish_moments, normalize,
    backward_reduce,             finish_sums,    backward_input,
};

}  // namespace evenkeel::EVENKEEL_ISA
