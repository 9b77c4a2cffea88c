// The two sums of the backward pass, eq. (9): dz, and dz xhat.
#pragma once

#include "sums.hpp"

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

  void clear(Index width) const {
    for (Index i = 0; i < width; ++i) dz[i] = dz_lo[i] = dz_xhat[i] = dz_xhat_lo[i] = 0.0;
  }
};

template <class T, template <class> class Access, class Act>
EVENKEEL_NOINLINE void reduce_spans(const Terms<Real<T>>& terms, const Act& act,
                                    const Batch<T>& batch, BlockSums<Access, Real<T>>& sums) {
  const Index lane = batch.spans->lane;
  const Upstream<T, Access, Act> upstream(terms, act, lane);
  const Access<Real<T>> inv_std(terms.inv_std, lane), shift(terms.shift, lane);
  sums.add(batch, [=]<class V>(Index i, const Span<T>& span, auto part) {
    V centred, dz;
    upstream.template at<V>(i, span, part, centred, dz);
    return Addends<V>{dz, dz, madd(centred, inv_std.template at<V>(i), shift.template at<V>(i))};
  });
}

void backward_reduce(const Job& job, Index tile, Index part, double* memory) {
  const Item item(job, tile, part);
  const PartialSums total(job, memory);
  total.clear(item.width);
  if (item.begin >= item.end) return;
  const Views views{job.x, job.dy, job.residual, {}, {}};
  with_form(job, [&]<class T, template <class> class Access>(const auto& act) {
    const Terms<Real<T>> terms(job, item);
    BlockSums<Access, Real<T>> sums(item);
    for (Item block = item; block.begin < item.end; block.begin = block.end) {
      block.end = least(block.begin + job.plan.block, item.end);
      for_spans<T>(job, views, block, [&](const Batch<T>& batch) {
        reduce_spans<T, Access>(terms, act, batch, sums);
      });
      sums.fold(total.dz, total.dz_lo, total.dz_xhat, total.dz_xhat_lo);
    }
  });
}

void finish_sums(const Job& job, Index tile, double* partials) {
  const Item item(job, tile, 0);
  const PartialSums total(job, partials);
  for (Index part = 1; part < job.plan.parts; ++part) {
    const PartialSums next(job, partials + part * kPartialRows * job.plan.width);
    accumulate(item.width, next.dz, total.dz, total.dz_lo);
    accumulate(item.width, next.dz_xhat, total.dz_xhat, total.dz_xhat_lo);
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
