// y = activation(xhat weight + bias + residual), eq. (3) and (5).
#pragma once

#include "terms.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

template <class T>
inline void normalize_channel(const Job& job, const Item& item) {
  const Terms<Same> terms(job, item.channel, 1);
  Chunk chunk;
  for (Index begin = item.begin; begin < item.end; begin += kChunk) {
    const Index count = least(kChunk, item.end - begin);
    load_chunk<T>(job, item.channel, begin, count, chunk);
    normalize_chunk(job, terms, count, chunk);
    if (job.mask.data != nullptr) drop_masked(chunk.keep, count, chunk.z);
    scatter<T>(job, chunk.z, item.channel, begin, count, job.y);
  }
}

template <class T>
inline void normalize_tile(const Job& job, const Item& item) {
  const Terms<Each> terms(job, item.channel, item.width);
  Chunk chunk;
  Position at(job, item.begin);
  for (Index i = item.begin; i < item.end; ++i, at.step(job)) {
    T* out = row<T>(job.y, item, at);
    if (keeps(job, at)) {
      load_row<T>(job, item, at, chunk);
      normalize_chunk(job, terms, item.width, chunk);
      store_run(chunk.z, item.width, out, 1);
    } else {
      clear_run(item.width, out);
    }
  }
}

void normalize(const Job& job, Index tile, Index part) {
  const Item item(job, tile, part);
  if (item.begin >= item.end) return;
  with_type(job.dtype, [&]<class T>() {
    if (job.plan.channels_inner) {
      normalize_tile<T>(job, item);
    } else {
      normalize_channel<T>(job, item);
    }
  });
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
