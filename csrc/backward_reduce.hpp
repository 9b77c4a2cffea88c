// The two sums of the backward pass, eq. (9): dz, and dz xhat.
#pragma once

#include "terms.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

// A partial result in caller's memory: each sum and its low part, one per channel.
struct PartialSums {
  double *dz, *dz_lo, *dz_xhat, *dz_xhat_lo;

  PartialSums(const Job& job, double* memory)
      : dz(memory),
        dz_lo(memory + job.plan.width),
        dz_xhat(memory + 2 * job.plan.width),
        dz_xhat_lo(memory + 3 * job.plan.width) {}
};

inline void clear(Index width, const PartialSums& sums) {
  for (Index i = 0; i < width; ++i) {
    sums.dz[i] = sums.dz_lo[i] = sums.dz_xhat[i] = sums.dz_xhat_lo[i] = 0.0;
  }
}

inline void add(Index width, const double* __restrict dz, const double* __restrict dz_xhat,
                const PartialSums& sums) {
  for (Index i = 0; i < width; ++i) accumulate(dz[i], sums.dz[i], sums.dz_lo[i]);
  for (Index i = 0; i < width; ++i) accumulate(dz_xhat[i], sums.dz_xhat[i], sums.dz_xhat_lo[i]);
}

template <class T>
inline void reduce_channel(const Job& job, const Item& item, const PartialSums& sums) {
  const Terms<Same> terms(job, item.channel, 1);
  Chunk chunk;
  const double *dy = chunk.dy, *x = chunk.x;
  for (Index begin = item.begin; begin < item.end; begin += kChunk) {
    const Index count = least(kChunk, item.end - begin);
    load_chunk<T>(job, item.channel, begin, count, chunk);
    gradient_chunk(job, terms, count, chunk);
    if (job.mask.data != nullptr) {
      drop_masked(chunk.keep, count, chunk.dy);
      drop_masked(chunk.keep, count, chunk.x);
    }
    const double dz = lane_sum(count, [=](Index i) { return dy[i]; });
    const double dz_xhat = lane_sum(count, [=](Index i) { return dy[i] * x[i]; });
    add(1, &dz, &dz_xhat, sums);
  }
}

template <class T>
inline void reduce_tile(const Job& job, const Item& item, const PartialSums& sums) {
  const Terms<Each> terms(job, item.channel, item.width);
  Chunk chunk;
  Position at(job, item.begin);
  for (Index begin = item.begin; begin < item.end; begin += kRows) {
    EVENKEEL_ALIGNED double dz[kChunk] = {};
    EVENKEEL_ALIGNED double dz_xhat[kChunk] = {};
    for (Index i = begin; i < least(begin + kRows, item.end); ++i, at.step(job)) {
      if (!keeps(job, at)) continue;
      load_row<T>(job, item, at, chunk);
      gradient_chunk(job, terms, item.width, chunk);
      for (Index lane = 0; lane < item.width; ++lane) {
        dz[lane] += chunk.dy[lane];
        dz_xhat[lane] += chunk.dy[lane] * chunk.x[lane];
      }
    }
    add(item.width, dz, dz_xhat, sums);
  }
}

void backward_reduce(const Job& job, Index tile, Index part, double* memory) {
  const Item item(job, tile, part);
  const PartialSums sums(job, memory);
  clear(item.width, sums);
  if (item.begin >= item.end) return;
  with_type(job.dtype, [&]<class T>() {
    if (job.plan.channels_inner) {
      reduce_tile<T>(job, item, sums);
    } else {
      reduce_channel<T>(job, item, sums);
    }
  });
}

void finish_sums(const Job& job, Index tile, double* partials) {
  const Item item(job, tile, 0);
  const PartialSums total(job, partials);
  for (Index part = 1; part < job.plan.parts; ++part) {
    const PartialSums next(job, partials + part * kPartialRows * job.plan.width);
    add(item.width, next.dz, next.dz_xhat, total);
    for (Index i = 0; i < item.width; ++i) {
      total.dz_lo[i] += next.dz_lo[i];
      total.dz_xhat_lo[i] += next.dz_xhat_lo[i];
    }
  }
  for (Index i = 0; i < item.width; ++i) {
    total.dz[i] += total.dz_lo[i];
    total.dz_xhat[i] += total.dz_xhat_lo[i];
  }
  store_channels(job, total.dz, item.channel, item.width, job.out_dz);
  store_channels(job, total.dz_xhat, item.channel, item.width, job.out_dz_xhat);
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
