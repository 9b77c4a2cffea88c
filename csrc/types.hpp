// The four element types and their exact widening to, and rounding from, double.
//
// Everything here is branch-free on purpose, so that the loops around it vectorize without F16C
// or AVX512-BF16, and it does not depend on whether denormals are flushed.
#pragma once

#include "job.hpp"

#if defined(_MSC_VER)
#define EVENKEEL_NOINLINE __declspec(noinline)
#else
#define EVENKEEL_NOINLINE [[gnu::noinline]]
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

inline float as_float(Word bits) { return __builtin_bit_cast(float, bits); }
inline Word as_word(float value) { return __builtin_bit_cast(Word, value); }

inline double widen(double value) { return value; }
inline double widen(float value) { return static_cast<double>(value); }
inline double widen(BFloat value) {
  return static_cast<double>(as_float(static_cast<Word>(value.bits) << 16));
}

inline double widen(Half value) {
  const Word magnitude = value.bits & 0x7fffu;
  const Word sign = static_cast<Word>(value.bits & 0x8000u) << 16;
  const Word rebias = magnitude >= 0x7c00u ? 224u << 23 : 112u << 23;  // Inf and NaN stay so
  const Word normal = (magnitude << 13) + rebias;
  const float units = static_cast<float>(static_cast<std::int32_t>(magnitude));
  const Word subnormal = as_word(units * 0x1p-24f);
  return static_cast<double>(as_float((magnitude < 0x0400u ? subnormal : normal) | sign));
}

// 16-bit results pass through float: at most 2^-24 is added to their own rounding of 2^-8 or 2^-11.
inline void narrow(double value, double& out) { out = value; }
inline void narrow(double value, float& out) { out = static_cast<float>(value); }

inline void narrow(double value, BFloat& out) {
  const Word bits = as_word(static_cast<float>(value));
  const Word rounded = (bits + 0x7fffu + ((bits >> 16) & 1u)) >> 16;
  const Word nan = (bits >> 16) | 0x0040u;
  out.bits = static_cast<std::uint16_t>((bits & 0x7fffffffu) > 0x7f800000u ? nan : rounded);
}

inline void narrow(double value, Half& out) {
  const Word bits = as_word(static_cast<float>(value));
  const Word magnitude = bits & 0x7fffffffu;
  const Word normal = (magnitude + 0x0fffu + ((magnitude >> 13) & 1u) - (112u << 23)) >> 13;
  // Adding 0.5 leaves the value in units of 2^-24, the spacing of subnormals, rounded to even.
  const Word subnormal = as_word(as_float(magnitude) + 0.5f) - as_word(0.5f);
  const Word finite = magnitude < 0x38800000u ? subnormal : normal;
  const Word beyond = magnitude > 0x7f800000u ? 0x7e00u : 0x7c00u;  // 65520 and up, or NaN
  const Word result = magnitude >= 0x477ff000u ? beyond : finite;
  out.bits = static_cast<std::uint16_t>(result | ((bits >> 16) & 0x8000u));
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
