// Which instruction set runs: chosen once from what the processor has, unless told otherwise.
#pragma once

#include <string>
#include <vector>

#include "job.hpp"

namespace evenkeel {

// Names of the tables that were built and that this machine can run, best first.
std::vector<std::string> available_isas();

// The table in use.
const Kernels& active_kernels();

// Switches to a table by name; false when it is not among the available ones.
bool select_isa(const std::string& name);

}  // namespace evenkeel
