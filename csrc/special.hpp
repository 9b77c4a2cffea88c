// exp and the normal distribution for vectors: no branch, no table, no call.
#pragma once

#include "vector.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

// c[0] + c[1] x + c[2] x^2 + ... (Horner)
template <class V, std::size_t n>
inline V polynomial(V x, const Element<V> (&c)[n]) {
  V sum = splat<V>(c[n - 1]);
  for (std::size_t i = n - 1; i > 0; --i) sum = madd(sum, x, splat<V>(c[i - 1]));
  return sum;
}

// Constants by type. `exp`: polynomial for (e^r - 1) / r on |r| <= ln(2)/2. `tail`: polynomial for
// (1 + 2x) erfc(x) e^(x^2) / 2, x >= 0, in t = (x - 3) / (x + 3). Both interpolate at Chebyshev
// nodes, with relative errors of 2e-17 and 2e-16, or of 2e-10 and 7e-9 for float.
template <class E>
struct Constants;

template <>
struct Constants<double> {
  using Bits = std::uint64_t;
  static constexpr int mantissa = 52;
  static constexpr double round = 0x1.8p52;  // adding it leaves an integer in the low bits
  static constexpr double low = -708.0, high = 709.0;
  static constexpr double ln2_hi = 0x1.62e42fee00000p-1, ln2_lo = 0x1.a39ef35793c76p-33;
  static constexpr double exp[] = {
      1.0,
      0.5000000000000019,
      0.1666666666666668,
      0.04166666666648666,
      0.00833333333331949,
      0.0013888888952696516,
      0.00019841269890340666,
      2.4801485074105115e-05,
      2.7557240604663896e-06,
      2.763279054211718e-07,
      2.511015364692893e-08,
  };
  static constexpr double tail[] = {
      0.6265040291348648,      -0.0678105530622906,     -0.023781147176709486,
      0.06482257935138132,     -0.05963683170840797,    0.03415401367196072,
      -0.011885257445331136,   0.0012646959083998314,   0.0009443450454166452,
      -0.00038991613863712736, -5.257914042733627e-05,  6.254968717957911e-05,
      2.472015607441464e-06,   -1.0050313832203054e-05, -3.593074698151811e-07,
      1.7362601400327595e-06,  1.6824516982649127e-07,  -3.083854746775482e-07,
      -6.019356961808263e-08,  5.097858687895447e-08,   1.3889530799854317e-08,
      -6.680976652202009e-09,  -1.584796019776761e-09,  4.974410473768597e-10,
  };
};

template <>
struct Constants<float> {
  using Bits = Word;
  static constexpr int mantissa = 23;
  static constexpr float round = 0x1.8p23f;
  static constexpr float low = -87.0f, high = 88.0f;
  static constexpr float ln2_hi = 0.693359375f, ln2_lo = -2.12194440e-4f;
  static constexpr float exp[] = {1.0f,          0.500000011f,   0.166666668f,   0.0416662165f,
                                  0.00833328334f, 0.0013948698f, 0.000199077022f};
  static constexpr float tail[] = {
      0.626504028f,    -0.06781055f,    -0.0237810781f,  0.0648223605f,
      -0.0596376407f,  0.0341565984f,   -0.0118817799f,  0.00125338934f,
      0.000937530123f, -0.000367041025f, -4.62688456e-05f, 4.00372749e-05f,
  };
};

// p 2^k, where the low bits of t hold k; no exponent may leave its range.
template <class V>
inline V scale(V p, V t) {
  using Bits = std::conditional_t<
      kIsVector<V>, std::conditional_t<std::is_same_v<V, Doubles>, Longs, Words>,
      typename Constants<Element<V>>::Bits>;
  return copy_bits<V>(copy_bits<Bits>(p) + (copy_bits<Bits>(t) << Constants<Element<V>>::mantissa));
}

// x = k ln 2 + r with k = round(x / ln 2), for x within the range of e^x, or the nearest such x.
template <class V>
struct Reduced {
  V t, r;  // k in the low bits of t

  explicit Reduced(V x) {
    using C = Constants<Element<V>>;
    const V low = splat<V>(C::low), high = splat<V>(C::high);
    const V above = x < low ? low : x;
    const V clamped = above > high ? high : above;
    t = madd(clamped, splat<V>(Element<V>(1.4426950408889634)), splat<V>(C::round));
    const V k = t - C::round;
    r = madd(k, splat<V>(-C::ln2_hi), clamped);
    r = madd(k, splat<V>(-C::ln2_lo), r);
  }
};

// e^x = 2^k e^r; 0 below the normal numbers, Inf above, NaN stays.
template <class V>
inline V exponential(V x) {
  using E = Element<V>;
  using C = Constants<E>;
  const Reduced<V> reduced(x);
  const V power = madd(polynomial(reduced.r, C::exp), reduced.r, splat<V>(E(1)));
  V result = scale(power, reduced.t);
  result = x < splat<V>(C::low) ? splat<V>(E(0)) : result;
  result = x > splat<V>(C::high) ? splat<V>(E(HUGE_VAL)) : result;
  return x == x ? result : x;
}

// e^x - 1 = 2^k (e^r - 1) + (2^k - 1) for x <= 0, to a few roundings of itself also near 0.
template <class V>
inline V exponential_less_one(V x) {
  const Reduced<V> reduced(x);
  const V power = scale(splat<V>(1), reduced.t);
  const V rest = polynomial(reduced.r, Constants<Element<V>>::exp) * reduced.r;
  return madd(power, rest, power - Element<V>(1));
}

template <class V>
inline V sigmoid(V z) {
  using E = Element<V>;
  return E(1) / (E(1) + exponential(-z));
}

// Distribution and density of the standard normal distribution.
template <class V>
struct Normal {
  V cdf, pdf;

  explicit Normal(V z) {
    using E = Element<V>;
    const V zero = splat<V>(E(0)), far = splat<V>(E(1e9));  // far keeps t finite
    const V x = (z < zero ? -z : z) * E(0.70710678118654752440);
    const V near = x > far ? far : x;
    const V bell = exponential(-(x * x));
    const V t = (near - E(3)) / (near + E(3));
    const V tail = bell * polynomial(t, Constants<E>::tail) / (near + near + E(1));
    const V rest = E(1) - tail;
    cdf = z < zero ? tail : rest;
    pdf = bell * E(0.39894228040143267794);
  }
};

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
