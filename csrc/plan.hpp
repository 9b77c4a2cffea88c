// How a job is cut into work items.
#pragma once

#include "job.hpp"

namespace evenkeel {

// Elements that are worth a thread of their own (torch's grain size).
inline constexpr Index kGrain = 32768;

// Results of that size are worth huge pages: they cover at least one, wherever they begin.
inline constexpr Index kHugeBytes = 4 << 20;

inline Index element_bytes(DType dtype) {
  if (dtype == DType::f64) return 8;
  return dtype == DType::f32 ? 4 : 2;
}

// Merges N and S where the strides allow it, and fills job.plan.
void plan_job(Job& job);

// Beyond that size the caches keep nothing of a pass over x that would help the next one.
inline constexpr Index kFarBytes = 32 << 20;

// Whether the elementwise pass can go through memory from end to end where the tiles of the sums do
// not: plane by plane, or row by row; if so, plans it that way.
bool plan_sweep(Job& job);

}  // namespace evenkeel
