// Gradients of x, eq. (10) or (11), and of the residual, which is dz.
#pragma once

#include "terms.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

// dx = scale (dz + offset + slope (x - hi)): eq. (10) with xhat multiplied out.
template <class E>
struct GradientTerms {
  EVENKEEL_ALIGNED E offset[kMaxRow];
  EVENKEEL_ALIGNED E slope[kMaxRow];

  GradientTerms(const Job& job, const Item& item, const Terms<E>& terms) {
    const double share = job.count > 0.0 ? job.count : 1.0;
    double dz[kMaxRow], dz_xhat[kMaxRow];
    load_channels(job.dz, item.channel, item.width, 0.0, dz);
    load_channels(job.dz_xhat, item.channel, item.width, 0.0, dz_xhat);
    const Index width = item.width;
#pragma omp simd
    for (Index i = 0; i < width; ++i) {
      const double mean = dz_xhat[i] / share;
      const Index first = item.first(i);
      offset[i] = static_cast<E>(-dz[i] / share - mean * terms.shift[first]);
      slope[i] = static_cast<E>(-mean * terms.inv_std[first]);
    }
    for (E* values : {offset, slope}) repeat(item, values);
  }
};

template <class T, template <class> class Access, class Act>
EVENKEEL_NOINLINE void input_spans(const Terms<Real<T>>& terms,
                                   const GradientTerms<Real<T>>& gradient, const Act& act,
                                   const Batch<T>& batch, bool constant) {
  for (Index k = 0; k < batch.number; ++k) {
    const Span<T> span = batch.spans[k];
    const Upstream<T, Access, Act> upstream(terms, act, span.lane);
    const Access<Real<T>> offset(gradient.offset, span.lane), slope(gradient.slope, span.lane);
    for_vectors<Real<T>>(span.count, [=]<class V>(Index i, auto part) {
      batch.fetch(span, i, kWidth<V>);
      batch.fetch_out(span, i, kWidth<V>);
      V centred, dz;
      upstream.template at<V>(i, span, part, centred, dz);
      const V all = madd(slope.template at<V>(i), centred, dz + offset.template at<V>(i));
      store(upstream.affine.scale.template at<V>(i) * (constant ? dz : all), span.out + i, part);
      if (span.dresidual != nullptr) store(dz, span.dresidual + i, part);
    });
  }
}

void backward_input(const Job& job, Index tile, Index part) {
  const Item item(job, tile, part);
  if (item.begin >= item.end) return;
  const Views views{job.x, job.dy, job.residual, job.dx, job.dresidual};
  const bool constant = job.dz.data == nullptr;
  with_form(job, [&]<class T, template <class> class Access>(const auto& act) {
    const Terms<Real<T>> terms(job, item);
    const GradientTerms<Real<T>> gradient(job, item, terms);
    for_spans<T>(job, views, item, [&](const Batch<T>& batch) {
      input_spans<T, Access>(terms, gradient, act, batch, constant);
    });
  });
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
