// The activations of eq. (12) and their derivatives, with torch's values at the kinks.
//
// Comparisons are written so that NaN takes the branch that keeps it.
#pragma once

#include "special.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

// value(z) is the activation, gradient(dy, z) is dy times its derivative.
struct Identity {
  template <class V>
  V value(V z) const {
    return z;
  }
  template <class V>
  V gradient(V dy, V) const {
    return dy;
  }
};

struct Relu {
  template <class V>
  V value(V z) const {
    const V zero = splat<V>(0);
    return z < zero ? zero : z;
  }
  template <class V>
  V gradient(V dy, V z) const {
    const V zero = splat<V>(0);
    return z <= zero ? zero : dy;
  }
};

struct LeakyRelu {
  double slope;

  template <class V>
  V value(V z) const {
    const V bent = z * Element<V>(slope);
    return z > splat<V>(0) ? z : bent;
  }
  template <class V>
  V gradient(V dy, V z) const {
    const V bent = dy * Element<V>(slope);
    return z > splat<V>(0) ? dy : bent;
  }
};

// Where x holds its output y: undo(y) is z.
struct LeakyReluUndone : LeakyRelu {
  template <class V>
  V undo(V y) const {
    const V bent = y * Element<V>(1.0 / slope);
    return y > splat<V>(0) ? y : bent;
  }
};

template <class V>
inline V clamp6(V z) {
  const V zero = splat<V>(0), six = splat<V>(6);
  const V positive = z < zero ? zero : z;
  return positive > six ? six : positive;
}

struct Relu6 {
  template <class V>
  V value(V z) const {
    return clamp6(z);
  }
  template <class V>
  V gradient(V dy, V z) const {
    const V zero = splat<V>(0);
    const V inside = z >= splat<V>(6) ? zero : dy;
    return z <= zero ? zero : inside;
  }
};

struct Silu {
  template <class V>
  V value(V z) const {
    return z * sigmoid(z);
  }
  template <class V>
  V gradient(V dy, V z) const {
    const V s = sigmoid(z);
    const Element<V> one = 1;
    return dy * (s * (one + z * (one - s)));
  }
};

struct Gelu {
  template <class V>
  V value(V z) const {
    return z * Normal<V>(z).cdf;
  }
  template <class V>
  V gradient(V dy, V z) const {
    const Normal<V> normal(z);
    return dy * madd(z, normal.pdf, normal.cdf);
  }
};

struct Hardswish {
  template <class V>
  V value(V z) const {
    using E = Element<V>;
    return z * clamp6(z + E(3)) / E(6);
  }
  template <class V>
  V gradient(V dy, V z) const {
    using E = Element<V>;
    const V inside = dy * (z / E(3) + E(0.5));
    const V right = z >= splat<V>(3) ? dy : inside;
    return z <= splat<V>(-3) ? splat<V>(0) : right;
  }
};

struct Elu {
  double alpha;

  template <class V>
  V value(V z) const {
    const V bent = exponential_less_one(z) * Element<V>(alpha);
    return z <= splat<V>(0) ? bent : z;
  }
  template <class V>
  V gradient(V dy, V z) const {
    const V bent = dy * (exponential(z) * Element<V>(alpha));
    return z <= splat<V>(0) ? bent : dy;
  }
};

// Calls visit(functor) for the activation of the job.
template <class Visit>
inline void with_activation(const Job& job, const Visit& visit) {
  switch (job.activation) {
    case Activation::identity: return visit(Identity{});
    case Activation::relu: return visit(Relu{});
    case Activation::leaky_relu: return visit(LeakyRelu{job.parameter});
    case Activation::relu6: return visit(Relu6{});
    case Activation::silu: return visit(Silu{});
    case Activation::gelu: return visit(Gelu{});
    case Activation::hardswish: return visit(Hardswish{});
    case Activation::elu: return visit(Elu{job.parameter});
    case Activation::leaky_relu_undone: return visit(LeakyReluUndone{{job.parameter}});
  }
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
