// The activations of eq. (12) and their derivatives, with torch's values at the kinks.
//
// Comparisons are written so that NaN takes the branch that keeps it.
#pragma once

#include <math.h>

#include "sums.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

constexpr double kSqrtHalf = 0.70710678118654752440;
constexpr double kInvSqrtTwoPi = 0.39894228040143267794;

inline double sigmoid(double z) { return 1.0 / (1.0 + exp(-z)); }
inline double normal_cdf(double z) { return 0.5 * erfc(-z * kSqrtHalf); }
inline double normal_pdf(double z) { return kInvSqrtTwoPi * exp(-0.5 * z * z); }

inline double clamp6(double z) { return z < 0.0 ? 0.0 : (z > 6.0 ? 6.0 : z); }

template <class Function>
inline void map(Index count, double* __restrict z, const Function& function) {
  for (Index i = 0; i < count; ++i) z[i] = function(z[i]);
}

// dy[i] = function(dy[i], z[i])
template <class Function>
inline void map(Index count, double* __restrict dy, const double* __restrict z,
                const Function& function) {
  for (Index i = 0; i < count; ++i) dy[i] = function(dy[i], z[i]);
}

// z -> activation(z)
inline void activate(const Job& job, Index count, double* z) {
  const double slope = job.parameter;
  switch (job.activation) {
    case Activation::identity: return;
    case Activation::relu: return map(count, z, [](double v) { return v < 0.0 ? 0.0 : v; });
    case Activation::leaky_relu:
      return map(count, z, [=](double v) { return v > 0.0 ? v : v * slope; });
    case Activation::relu6: return map(count, z, [](double v) { return clamp6(v); });
    case Activation::silu: return map(count, z, [](double v) { return v * sigmoid(v); });
    case Activation::gelu: return map(count, z, [](double v) { return v * normal_cdf(v); });
    case Activation::hardswish:
      return map(count, z, [](double v) { return v * clamp6(v + 3.0) / 6.0; });
  }
}

inline double silu_gradient(double dy, double z) {
  const double s = sigmoid(z);
  return dy * (s * (1.0 + z * (1.0 - s)));
}

inline double hardswish_gradient(double dy, double z) {
  return z <= -3.0 ? 0.0 : (z >= 3.0 ? dy : dy * (z / 3.0 + 0.5));
}

// dy -> dz = dy * activation'(z)
inline void differentiate(const Job& job, Index count, double* dy, const double* z) {
  const double slope = job.parameter;
  switch (job.activation) {
    case Activation::identity: return;
    case Activation::relu:
      return map(count, dy, z, [](double d, double v) { return v <= 0.0 ? 0.0 : d; });
    case Activation::leaky_relu:
      return map(count, dy, z, [=](double d, double v) { return v > 0.0 ? d : d * slope; });
    case Activation::relu6:
      return map(count, dy, z, [](double d, double v) {
        return v <= 0.0 ? 0.0 : (v >= 6.0 ? 0.0 : d);
      });
    case Activation::silu: return map(count, dy, z, silu_gradient);
    case Activation::gelu:
      return map(count, dy, z, [](double d, double v) {
        return d * (normal_cdf(v) + v * normal_pdf(v));
      });
    case Activation::hardswish: return map(count, dy, z, hardswish_gradient);
  }
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
