// Mean and variance of each channel: two passes inside a block that stays in cache, blocks merged
// in a fixed order by the update of Chan, Golub and LeVeque (1979), eq. (1), (2) and (4).
#pragma once

#include "sums.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

// Moments of a block of `width` channels with one common count; the mean is hi + lo.
struct Block {
  double count = 0.0;
  EVENKEEL_ALIGNED double hi[kChunk];
  EVENKEEL_ALIGNED double lo[kChunk];
  EVENKEEL_ALIGNED double m2[kChunk];
};

// A partial result in caller's memory: rows of count, hi, lo, m2 and the low part of m2.
struct Partial {
  double &count, *hi, *lo, *m2, *m2_lo;

  Partial(const Job& job, double* memory)
      : count(memory[0]),
        hi(memory + job.plan.width),
        lo(memory + 2 * job.plan.width),
        m2(memory + 3 * job.plan.width),
        m2_lo(memory + 4 * job.plan.width) {}
};

// One block of one channel. Subtracting the first value before summing makes the mean of a
// constant channel exact; the deviations of the second pass correct what the first one rounded.
inline void block_of_values(const double* x, Index count, Block& block) {
  const double n = static_cast<double>(count), first = x[0];
  const double mean = first + lane_sum(count, [=](Index i) { return x[i] - first; }) / n;
  const double rest = lane_sum(count, [=](Index i) { return x[i] - mean; });
  const double squares = lane_sum(count, [=](Index i) { return (x[i] - mean) * (x[i] - mean); });
  block.count = n;
  block.hi[0] = mean;
  block.lo[0] = rest / n;
  const double m2 = squares - rest * (rest / n);
  block.m2[0] = m2 < 0.0 ? 0.0 : m2;
}

// The two passes over one row. They are not inlined because GCC would otherwise unroll the loop
// over rows into them (unroll and jam) and then fail to vectorize either.
template <class T>
EVENKEEL_NOINLINE void add_differences(const T* __restrict x, Index width,
                                       const double* __restrict from, double* __restrict sum) {
  for (Index i = 0; i < width; ++i) sum[i] += widen(x[i]) - from[i];
}

template <class T>
EVENKEEL_NOINLINE void add_deviations(const T* __restrict x, Index width,
                                      const double* __restrict mean, double* __restrict rest,
                                      double* __restrict squares) {
  for (Index i = 0; i < width; ++i) {
    const double deviation = widen(x[i]) - mean[i];
    rest[i] += deviation;
    squares[i] += deviation * deviation;
  }
}

// The same for a block of rows, one channel per lane.
template <class T>
inline void block_of_rows(const T* const* rows, Index count, Index width, Block& block) {
  EVENKEEL_ALIGNED double first[kChunk];
  EVENKEEL_ALIGNED double sum[kChunk] = {};
  EVENKEEL_ALIGNED double rest[kChunk] = {};
  EVENKEEL_ALIGNED double squares[kChunk] = {};
  load_run(rows[0], 1, width, first);
  for (Index r = 0; r < count; ++r) add_differences(rows[r], width, first, sum);
  const double n = static_cast<double>(count);
  for (Index i = 0; i < width; ++i) block.hi[i] = first[i] + sum[i] / n;
  for (Index r = 0; r < count; ++r) add_deviations(rows[r], width, block.hi, rest, squares);
  block.count = n;
  for (Index i = 0; i < width; ++i) {
    block.lo[i] = rest[i] / n;
    const double m2 = squares[i] - rest[i] * block.lo[i];
    block.m2[i] = m2 < 0.0 ? 0.0 : m2;
  }
}

// total += (count, hi, lo, m2 + m2_lo), eq. (4); m2_lo may be null.
inline void merge(Index width, double count, const double* hi, const double* lo, const double* m2,
                  const double* m2_lo, Partial& total) {
  if (count == 0.0) return;
  const double all = total.count + count;
  const double share = count / all, cross = total.count * share;
  for (Index i = 0; i < width; ++i) {
    const double delta = (hi[i] - total.hi[i]) + (lo[i] - total.lo[i]);
    double lost;
    const double mean = two_sum(total.hi[i], delta * share, lost);
    total.hi[i] = two_sum(mean, total.lo[i] + lost, total.lo[i]);
    accumulate(m2[i] + delta * delta * cross, total.m2[i], total.m2_lo[i]);
    if (m2_lo != nullptr) total.m2_lo[i] += m2_lo[i];
  }
  total.count = all;
}

inline void start(Index width, const Block& block, Partial& total) {
  total.count = block.count;
  for (Index i = 0; i < width; ++i) {
    total.hi[i] = block.hi[i];
    total.lo[i] = block.lo[i];
    total.m2[i] = block.m2[i];
    total.m2_lo[i] = 0.0;
  }
}

inline void add_block(Index width, const Block& block, Partial& total) {
  if (total.count == 0.0) return start(width, block, total);
  merge(width, block.count, block.hi, block.lo, block.m2, nullptr, total);
}

// Moves the kept values to the front; returns how many there are.
inline Index compact(const std::uint8_t* keep, Index count, double* x) {
  Index kept = 0;
  for (Index i = 0; i < count; ++i) {
    if (keep[i]) x[kept++] = x[i];
  }
  return kept;
}

template <class T>
inline void moments_by_channel(const Job& job, const Item& item, Partial& total) {
  EVENKEEL_ALIGNED double x[kBlock];
  std::uint8_t keep[kBlock];
  Block block;
  for (Index begin = item.begin; begin < item.end; begin += kBlock) {
    Index count = least(kBlock, item.end - begin);
    gather<T>(job, job.x, item.channel, begin, count, x);
    if (job.mask.data != nullptr) {
      gather_mask(job, begin, count, keep);
      count = compact(keep, count, x);
    }
    if (count == 0) continue;
    block_of_values(x, count, block);
    add_block(1, block, total);
  }
}

template <class T>
inline void moments_by_tile(const Job& job, const Item& item, Partial& total) {
  const T* rows[kRows];
  Block block;
  Position at(job, item.begin);
  for (Index begin = item.begin; begin < item.end; begin += kRows) {
    Index kept = 0;
    for (Index i = begin; i < least(begin + kRows, item.end); ++i, at.step(job)) {
      if (keeps(job, at)) rows[kept++] = row<T>(job.x, item, at);
    }
    if (kept == 0) continue;
    block_of_rows(rows, kept, item.width, block);
    add_block(item.width, block, total);
  }
}

void moments(const Job& job, Index tile, Index part, double* memory) {
  const Item item(job, tile, part);
  Partial total(job, memory);
  total.count = 0.0;
  if (item.begin >= item.end) return;
  with_type(job.dtype, [&]<class T>() {
    if (job.plan.channels_inner) {
      moments_by_tile<T>(job, item, total);
    } else {
      moments_by_channel<T>(job, item, total);
    }
  });
}

// hi + lo -> the nearest number of the accumulation type, and the rest.
inline void split_mean(const Job& job, Index width, const double* hi, const double* lo,
                       double* mean, double* rest) {
  for (Index i = 0; i < width; ++i) {
    const double sum = hi[i] + lo[i];
    mean[i] = job.dtype == DType::f64 ? sum : static_cast<double>(static_cast<float>(sum));
    rest[i] = (hi[i] - mean[i]) + lo[i];
  }
}

void finish_moments(const Job& job, Index tile, double* partials) {
  const Item item(job, tile, 0);
  const Index size = kPartialRows * job.plan.width;
  double mean[kChunk] = {}, rest[kChunk] = {}, var[kChunk] = {};
  Index first = 0;
  while (first < job.plan.parts && partials[first * size] == 0.0) ++first;
  if (first < job.plan.parts) {
    Partial total(job, partials + first * size);
    for (Index part = first + 1; part < job.plan.parts; ++part) {
      const Partial next(job, partials + part * size);
      merge(item.width, next.count, next.hi, next.lo, next.m2, next.m2_lo, total);
    }
    split_mean(job, item.width, total.hi, total.lo, mean, rest);
    for (Index i = 0; i < item.width; ++i) {
      var[i] = (total.m2[i] + total.m2_lo[i]) / total.count;
    }
  }
  store_channels(job, mean, item.channel, item.width, job.out_mean);
  store_channels(job, rest, item.channel, item.width, job.out_mean_lo);
  store_channels(job, var, item.channel, item.width, job.out_var);
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
