// The four element types, the numbers that stand for them in arithmetic, and the way back.
//
// Everything here is free of branches, and written for one number or a vector of them alike: there
// is no need for F16C or AVX512-BF16. It does not depend on whether denormals are flushed. A NaN is
// a quiet one, as arithmetic makes it, or was a number of 16 bits before.
#pragma once

#include <cstring>
#include <type_traits>

#include "job.hpp"

#if defined(_MSC_VER)
#define EVENKEEL_NOINLINE __declspec(noinline)
#define EVENKEEL_INLINE __forceinline
#else
#define EVENKEEL_NOINLINE [[gnu::noinline]]
#define EVENKEEL_INLINE [[gnu::always_inline]]
#endif

namespace evenkeel::EVENKEEL_ISA {
namespace {

using Word = std::uint32_t;

struct Half {
  std::uint16_t bits;
};

struct BFloat {
  std::uint16_t bits;
};

// What elements of type T are computed with. All but double are floats without rounding.
template <class T>
using Real = std::conditional_t<std::is_same_v<T, double>, double, float>;

template <class To, class From>
inline To copy_bits(const From& from) {
  static_assert(sizeof(To) == sizeof(From));
  To to;
  std::memcpy(&to, &from, sizeof to);
  return to;
}

// W is Word or a vector of it, F the same of float; numbers stand for their bits.
template <class W, class F>
inline W half_to_float(W half) {
  const W magnitude = half & 0x7fffu;
  const W rebias = magnitude >= 0x7c00u ? W{} + (224u << 23) : W{} + (112u << 23);  // Inf, NaN stay
  const W normal = (magnitude << 13) + rebias;
  // 2^-14 + magnitude 2^-24 is exact, and so is taking 2^-14 away again.
  const F tiny = copy_bits<F>((magnitude << 13) + (113u << 23)) - 0x1p-14f;
  const W chosen = magnitude < 0x0400u ? copy_bits<W>(tiny) : normal;
  return chosen | ((half & 0x8000u) << 16);
}

template <class W, class F>
inline W float_to_half(W bits) {
  const W magnitude = bits & 0x7fffffffu;
  const W normal = (magnitude + 0x0fffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
  // Adding 0.5 leaves the value in units of 2^-24, the spacing of subnormals, rounded to even.
  const W subnormal = copy_bits<W>(copy_bits<F>(magnitude) + 0.5f) - 0x3f000000u;
  const W finite = magnitude < 0x38800000u ? subnormal : normal;
  const W nan = W{} + 0x7e00u, inf = W{} + 0x7c00u;
  const W beyond = magnitude > 0x7f800000u ? nan : inf;  // 65520 and up, or NaN
  const W result = magnitude >= 0x477ff000u ? beyond : finite;
  return result | ((bits >> 16) & 0x8000u);
}

template <class W>
inline W float_to_bfloat(W bits) {
  const W rounded = bits + 0x7fffu + ((bits >> 16) & 1u);
  return ((bits & 0x7fffffffu) > 0x7f800000u ? bits : rounded) >> 16;
}

inline double widen(double value) { return value; }
inline float widen(float value) { return value; }
inline float widen(BFloat value) { return copy_bits<float>(static_cast<Word>(value.bits) << 16); }
inline float widen(Half value) {
  return copy_bits<float>(half_to_float<Word, float>(value.bits));
}

// From double to 16 bits through float: at most 2^-24 is added to the rounding of 2^-8 or 2^-11.
inline void narrow(double value, double& out) { out = value; }
inline void narrow(double value, float& out) { out = static_cast<float>(value); }
inline void narrow(double value, BFloat& out) {
  const Word bits = copy_bits<Word>(static_cast<float>(value));
  out.bits = static_cast<std::uint16_t>(float_to_bfloat(bits));
}
inline void narrow(double value, Half& out) {
  const Word bits = copy_bits<Word>(static_cast<float>(value));
  out.bits = static_cast<std::uint16_t>(float_to_half<Word, float>(bits));
}

// Calls visit.operator()<T>() for the element type behind a DType.
template <class Visit>
inline void with_type(DType dtype, const Visit& visit) {
  switch (dtype) {
    case DType::f16: return visit.template operator()<Half>();
    case DType::bf16: return visit.template operator()<BFloat>();
    case DType::f32: return visit.template operator()<float>();
    case DType::f64: return visit.template operator()<double>();
  }
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
