// The per-channel numbers of the elementwise verbs, and the steps that use them.
//
// A chunk belongs to one channel (Same) or has one channel per element (Each); the steps are
// written once for both. They are not inlined: forward and backward must compute z with the very
// same instructions, or an element at a kink could fall on different sides.
#pragma once

#include "activation.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

struct Same {
  double value[1];
  double operator[](Index) const { return value[0]; }
};

struct Each {
  EVENKEEL_ALIGNED double value[kChunk];
  double operator[](Index i) const { return value[i]; }
};

template <class Values>
struct Terms {
  Values hi, lo, inv_std, weight, bias;
  Values gain, mean_dz, mean_dz_xhat;  // of eq. (10)

  Terms(const Job& job, Index channel, Index width) {
    load_channels(job.mean, channel, width, 0.0, hi.value);
    load_channels(job.mean_lo, channel, width, 0.0, lo.value);
    load_channels(job.var, channel, width, 1.0, inv_std.value);
    load_channels(job.weight, channel, width, 1.0, weight.value);
    load_channels(job.bias, channel, width, 0.0, bias.value);
    for (Index i = 0; i < width; ++i) inv_std.value[i] = 1.0 / sqrt(inv_std.value[i] + job.eps);
  }

  void load_gradient(const Job& job, Index channel, Index width) {
    const double share = job.count > 0.0 ? job.count : 1.0;
    load_channels(job.dz, channel, width, 0.0, mean_dz.value);
    load_channels(job.dz_xhat, channel, width, 0.0, mean_dz_xhat.value);
    for (Index i = 0; i < width; ++i) {
      gain.value[i] = inv_std.value[i] * weight.value[i];
      mean_dz.value[i] /= share;
      mean_dz_xhat.value[i] /= share;
    }
  }
};

// x -> xhat, eq. (3); the two parts of the mean go one after the other.
template <class Values>
EVENKEEL_NOINLINE void standardize(const Terms<Values>& terms, Index count, double* __restrict x) {
  for (Index i = 0; i < count; ++i) {
    x[i] = ((x[i] - terms.hi[i]) - terms.lo[i]) * terms.inv_std[i];
  }
}

// z = xhat weight + bias (+ residual), eq. (5).
template <class Values>
EVENKEEL_NOINLINE void affine(const Terms<Values>& terms, Index count, const double* xhat,
                              const double* __restrict residual, double* z) {
  for (Index i = 0; i < count; ++i) z[i] = xhat[i] * terms.weight[i] + terms.bias[i];
  if (residual != nullptr) {
    for (Index i = 0; i < count; ++i) z[i] += residual[i];
  }
}

// dz -> dx, eq. (10), or eq. (11) when the statistics are constants.
template <class Values>
EVENKEEL_NOINLINE void input_gradient(const Terms<Values>& terms, Index count, bool constant,
                                      const double* __restrict dz, double* __restrict xhat) {
  if (constant) {
    for (Index i = 0; i < count; ++i) xhat[i] = terms.gain[i] * dz[i];
    return;
  }
  for (Index i = 0; i < count; ++i) {
    const double centred = dz[i] - terms.mean_dz[i];
    xhat[i] = terms.gain[i] * (centred - xhat[i] * terms.mean_dz_xhat[i]);
  }
}

// One chunk in double, whatever the element type.
struct Chunk {
  EVENKEEL_ALIGNED double x[kChunk];
  EVENKEEL_ALIGNED double dy[kChunk];
  EVENKEEL_ALIGNED double residual[kChunk];
  EVENKEEL_ALIGNED double z[kChunk];
  std::uint8_t keep[kChunk];
};

// (x, residual) -> y
template <class Values>
inline void normalize_chunk(const Job& job, const Terms<Values>& terms, Index count, Chunk& chunk) {
  const double* residual = job.residual.data == nullptr ? nullptr : chunk.residual;
  standardize(terms, count, chunk.x);
  affine(terms, count, chunk.x, residual, chunk.z);
  activate(job, count, chunk.z);
}

// (x, dy, residual) -> xhat in place of x, dz in place of dy
template <class Values>
inline void gradient_chunk(const Job& job, const Terms<Values>& terms, Index count, Chunk& chunk) {
  standardize(terms, count, chunk.x);
  if (job.activation == Activation::identity) return;
  const double* residual = job.residual.data == nullptr ? nullptr : chunk.residual;
  affine(terms, count, chunk.x, residual, chunk.z);
  differentiate(job, count, chunk.dy, chunk.z);
}

inline void drop_masked(const std::uint8_t* keep, Index count, double* values) {
  for (Index i = 0; i < count; ++i) values[i] = keep[i] ? values[i] : 0.0;
}

// Loads the chunk of one channel; dy only where the verb has one.
template <class T>
inline void load_chunk(const Job& job, Index channel, Index begin, Index count, Chunk& chunk) {
  gather<T>(job, job.x, channel, begin, count, chunk.x);
  if (job.dy.data != nullptr) gather<T>(job, job.dy, channel, begin, count, chunk.dy);
  if (job.residual.data != nullptr) {
    gather<T>(job, job.residual, channel, begin, count, chunk.residual);
  }
  if (job.mask.data != nullptr) gather_mask(job, begin, count, chunk.keep);
}

// Loads one row of a tile.
template <class T>
inline void load_row(const Job& job, const Item& item, const Position& at, Chunk& chunk) {
  load_run(row<T>(job.x, item, at), 1, item.width, chunk.x);
  if (job.dy.data != nullptr) load_run(row<T>(job.dy, item, at), 1, item.width, chunk.dy);
  if (job.residual.data != nullptr) {
    load_run(row<T>(job.residual, item, at), 1, item.width, chunk.residual);
  }
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
