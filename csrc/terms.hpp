// The per-channel numbers of the elementwise steps, and the steps themselves.
#pragma once

#include "access.hpp"
#include "activation.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

// The channels of a tile. The mean is hi + lo; lo is not subtracted element by element, but enters
// what is added anyway: xhat = (x - hi) inv_std + shift, z = (x - hi) scale + bias.
template <class E>
struct Terms {
  EVENKEEL_ALIGNED E hi[kMaxRow];
  EVENKEEL_ALIGNED E inv_std[kMaxRow];
  EVENKEEL_ALIGNED E shift[kMaxRow];
  EVENKEEL_ALIGNED E scale[kMaxRow];
  EVENKEEL_ALIGNED E bias[kMaxRow];

  Terms(const Job& job, const Item& item) {
    double mean[kMaxRow], lo[kMaxRow], r[kMaxRow], weight[kMaxRow], beta[kMaxRow];
    load_channels(job.mean, item.channel, item.width, 0.0, mean);
    load_channels(job.mean_lo, item.channel, item.width, 0.0, lo);
    load_channels(job.var, item.channel, item.width, 1.0, r);
    load_channels(job.weight, item.channel, item.width, 1.0, weight);
    load_channels(job.bias, item.channel, item.width, 0.0, beta);
    const Index width = item.width;
    const double eps = job.eps;
#pragma omp simd
    for (Index i = 0; i < width; ++i) {
      r[i] = 1.0 / std::sqrt(r[i] + eps);  // eq. (3)
      hi[i] = static_cast<E>(mean[i]);
      inv_std[i] = static_cast<E>(r[i]);
      shift[i] = static_cast<E>(-lo[i] * r[i]);
      scale[i] = static_cast<E>(r[i] * weight[i]);
      bias[i] = static_cast<E>(beta[i] - lo[i] * (r[i] * weight[i]));
    }
    for (E* values : {hi, inv_std, shift, scale, bias}) repeat(item, values);
  }
};

// x - hi; 0 beyond the end of the tensor, where nothing may become infinite.
template <class T, template <class> class Access>
struct Centre {
  Access<Real<T>> hi;

  Centre(const Terms<Real<T>>& terms, Index lane) : hi(terms.hi, lane) {}

  template <class V, class Part>
  V at(Index i, const Span<T>& span, Part part) const {
    return of(i, load<V>(span.x + i, part), part);
  }

  template <class V, class Part>
  V of(Index i, V x, Part part) const {
    return keep(x - hi.template at<V>(i), part);
  }
};

// z of eq. (5), with the residual, from x - hi.
template <class T, template <class> class Access>
struct Affine {
  Access<Real<T>> scale, bias;

  Affine(const Terms<Real<T>>& terms, Index lane)
      : scale(terms.scale, lane), bias(terms.bias, lane) {}

  template <class V, class Part>
  V at(Index i, V centred, const Span<T>& span, Part part) const {
    const V z = madd(centred, scale.template at<V>(i), bias.template at<V>(i));
    return span.residual == nullptr ? z : z + load<V>(span.residual + i, part);
  }
};

// x - hi and dz, where the backward pass begins. An activation that can be undone finds its output
// in x; then z stands in the place of x.
template <class T, template <class> class Access, class Act>
struct Upstream {
  Centre<T, Access> centre;
  Affine<T, Access> affine;
  Act act;

  Upstream(const Terms<Real<T>>& terms, const Act& activation, Index lane)
      : centre(terms, lane), affine(terms, lane), act(activation) {}

  template <class V, class Part>
  void at(Index i, const Span<T>& span, Part part, V& centred, V& dz) const {
    const V dy = load<V>(span.dy + i, part);
    if constexpr (requires(V y) { act.undo(y); }) {
      const V z = act.undo(load<V>(span.x + i, part));
      centred = centre.template of<V>(i, z, part);
      dz = act.gradient(dy, z);
    } else {
      centred = centre.template at<V>(i, span, part);
      dz = act.gradient(dy, affine.template at<V>(i, centred, span, part));
    }
  }
};

// Chooses between the forms of an elementwise loop: visit.operator()<T, Access>(activation).
template <class Visit>
inline void with_form(const Job& job, const Visit& visit) {
  with_type(job.dtype, [&]<class T>() {
    with_activation(job, [&](const auto& act) {
      if (job.plan.channels_inner) {
        visit.template operator()<T, Each>(act);
      } else {
        visit.template operator()<T, Same>(act);
      }
    });
  });
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
