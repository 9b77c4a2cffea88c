// y = activation(xhat weight + bias + residual), eq. (3) and (5).
#pragma once

#include "terms.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

template <class T, template <class> class Access, class Act>
EVENKEEL_NOINLINE void normalize_spans(const Terms<Real<T>>& terms, const Act& act,
                                       const Batch<T>& batch) {
  for (Index k = 0; k < batch.number; ++k) {
    const Span<T> span = batch.spans[k];
    const Centre<T, Access> centre(terms, span.lane);
    const Affine<T, Access> affine(terms, span.lane);
    for_vectors<Real<T>>(span.count, [=]<class V>(Index i, auto part) {
      batch.fetch(span, i, kWidth<V>);
      batch.fetch_out(span, i, kWidth<V>);
      const V z = affine.template at<V>(i, centre.template at<V>(i, span, part), span, part);
      store(act.value(z), span.out + i, part);
    });
  }
}

void normalize(const Job& job, Index tile, Index part) {
  const Item item(job, tile, part);
  if (item.begin >= item.end) return;
  const Views views{job.x, {}, job.residual, job.y, {}};
  with_form(job, [&]<class T, template <class> class Access>(const auto& act) {
    const Terms<Real<T>> terms(job, item);
    for_spans<T>(job, views, item, [&](const Batch<T>& batch) {
      normalize_spans<T, Access>(terms, act, batch);
    });
  });
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
