// How a job is cut into work items.
#pragma once

#include "job.hpp"

namespace evenkeel {

// Bytes that may stay in a core's second-level cache between two passes.
inline constexpr Index kSlabBytes = 512 * 1024;

// Elements that are worth a thread of their own (torch's grain size).
inline constexpr Index kGrain = 32768;

// Merges N and S where the strides allow it, and fills job.plan.
void plan_job(Job& job);

// Bytes of x, dy and residual that one tile reads.
Index slab_bytes(const Job& job);

}  // namespace evenkeel
