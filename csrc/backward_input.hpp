// Gradients of x, eq. (10) or (11), and of the residual, which is dz.
#pragma once

#include "terms.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

template <class T>
inline void input_channel(const Job& job, const Item& item) {
  Terms<Same> terms(job, item.channel, 1);
  terms.load_gradient(job, item.channel, 1);
  const bool constant = job.dz.data == nullptr;
  Chunk chunk;
  for (Index begin = item.begin; begin < item.end; begin += kChunk) {
    const Index count = least(kChunk, item.end - begin);
    load_chunk<T>(job, item.channel, begin, count, chunk);
    gradient_chunk(job, terms, count, chunk);
    input_gradient(terms, count, constant, chunk.dy, chunk.x);
    if (job.mask.data != nullptr) {
      drop_masked(chunk.keep, count, chunk.dy);
      drop_masked(chunk.keep, count, chunk.x);
    }
    scatter<T>(job, chunk.x, item.channel, begin, count, job.dx);
    if (job.dresidual.data != nullptr) {
      scatter<T>(job, chunk.dy, item.channel, begin, count, job.dresidual);
    }
  }
}

template <class T>
inline void input_tile(const Job& job, const Item& item) {
  Terms<Each> terms(job, item.channel, item.width);
  terms.load_gradient(job, item.channel, item.width);
  const bool constant = job.dz.data == nullptr;
  Chunk chunk;
  Position at(job, item.begin);
  for (Index i = item.begin; i < item.end; ++i, at.step(job)) {
    T* dx = row<T>(job.dx, item, at);
    T* dresidual = job.dresidual.data == nullptr ? nullptr : row<T>(job.dresidual, item, at);
    if (keeps(job, at)) {
      load_row<T>(job, item, at, chunk);
      gradient_chunk(job, terms, item.width, chunk);
      input_gradient(terms, item.width, constant, chunk.dy, chunk.x);
      store_run(chunk.x, item.width, dx, 1);
      if (dresidual != nullptr) store_run(chunk.dy, item.width, dresidual, 1);
    } else {
      clear_run(item.width, dx);
      if (dresidual != nullptr) clear_run(item.width, dresidual);
    }
  }
}

void backward_input(const Job& job, Index tile, Index part) {
  const Item item(job, tile, part);
  if (item.begin >= item.end) return;
  with_type(job.dtype, [&]<class T>() {
    if (job.plan.channels_inner) {
      input_tile<T>(job, item);
    } else {
      input_channel<T>(job, item);
    }
  });
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
