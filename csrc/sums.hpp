// Sums that keep their rounding error: many lanes inside a chunk, compensated between chunks.
#pragma once

#include "access.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

// a + b as the nearest double, and what that rounding lost (Knuth, TAOCP 2, 4.2.2).
inline double two_sum(double a, double b, double& lost) {
  const double sum = a + b;
  const double part = sum - a;
  lost = (a - (sum - part)) + (b - part);
  return sum;
}

// sum + low += term, for Inf and NaN too: the lost part of a non-finite sum is dropped.
inline void accumulate(double term, double& sum, double& low) {
  double lost;
  sum = two_sum(sum, term, lost);
  low += lost == lost ? lost : 0.0;
}

inline double fold(double* lanes) {
  for (Index width = kLanes / 2; width > 0; width /= 2) {
    for (Index i = 0; i < width; ++i) lanes[i] += lanes[i + width];
  }
  return lanes[0];
}

// Lane sums of term(i) for i < count; a fixed lane count lets the compiler vectorize exactly this.
template <class Term>
inline double lane_sum(Index count, const Term& term) {
  EVENKEEL_ALIGNED double lanes[kLanes] = {};
  Index i = 0;
  for (; i + kLanes <= count; i += kLanes) {
    for (Index lane = 0; lane < kLanes; ++lane) lanes[lane] += term(i + lane);
  }
  for (Index lane = 0; i < count; ++i, ++lane) lanes[lane] += term(i);
  return fold(lanes);
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
