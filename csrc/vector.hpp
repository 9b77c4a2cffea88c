// Vectors of double and of float as wide as the instruction set has them.
//
// A loop body is written once, for a type V that is a vector in the bulk of an array and a plain
// number in its tail; both compute the very same operations, so that an element's result does not
// depend on where it stands. Products and sums are fused only where madd says so
// (-ffp-contract=off).
#pragma once

#include <cmath>

#include "types.hpp"

#if defined(__AVX2__)
#include <immintrin.h>
#elif defined(__aarch64__)
#include <arm_neon.h>
#endif

namespace evenkeel::EVENKEEL_ISA {
namespace {

#if defined(__AVX512F__)
inline constexpr Index kBytes = 64, kRegisters = 32;
#elif defined(__AVX2__)
inline constexpr Index kBytes = 32, kRegisters = 16;
#else
inline constexpr Index kBytes = 16, kRegisters = 16;
#endif

#if !defined(__GNUC__)
#error "the kernels are written with the vector types of GCC and Clang"
#endif

typedef double Doubles __attribute__((vector_size(kBytes)));
typedef float Floats __attribute__((vector_size(kBytes)));
typedef std::uint64_t Longs __attribute__((vector_size(kBytes)));
typedef Word Words __attribute__((vector_size(kBytes)));
typedef std::uint16_t Shorts __attribute__((vector_size(kBytes / 2)));
// As many as there are doubles.
typedef float FewFloats __attribute__((vector_size(kBytes / 2)));
typedef Word FewWords __attribute__((vector_size(kBytes / 2)));
typedef std::uint16_t FewShorts __attribute__((vector_size(kBytes / 4)));

template <class V>
inline constexpr bool kIsVector = !std::is_arithmetic_v<V>;

// The number that a vector is made of, and the vector made of a number.
template <class V>
using Element = std::conditional_t<
    std::is_same_v<V, Doubles> || std::is_same_v<V, double>, double, float>;
template <class E>
using Vector = std::conditional_t<std::is_same_v<E, double>, Doubles, Floats>;

template <class V>
inline constexpr Index kWidth = sizeof(V) / sizeof(Element<V>);

template <class V>
inline V splat(Element<V> value) {
  if constexpr (kIsVector<V>) {
    return value - V{};
  } else {
    return value;
  }
}

// a b + c, rounded once where the processor can.
template <class V>
inline V madd(V a, V b, V c) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<V, Doubles>) return _mm512_fmadd_pd(a, b, c);
  if constexpr (std::is_same_v<V, Floats>) return _mm512_fmadd_ps(a, b, c);
#elif defined(__AVX2__)
  if constexpr (std::is_same_v<V, Doubles>) return _mm256_fmadd_pd(a, b, c);
  if constexpr (std::is_same_v<V, Floats>) return _mm256_fmadd_ps(a, b, c);
#elif defined(__aarch64__)
  if constexpr (std::is_same_v<V, Doubles>) return (Doubles)vfmaq_f64(c, a, b);
  if constexpr (std::is_same_v<V, Floats>) return (Floats)vfmaq_f32(c, a, b);
#endif
#if defined(__FMA__) || defined(__aarch64__)
  if constexpr (std::is_same_v<V, double>) return __builtin_fma(a, b, c);
  if constexpr (std::is_same_v<V, float>) return __builtin_fmaf(a, b, c);
#endif
  return a * b + c;
}

template <class To, class T>
inline To read(const T* from) {
  To to;
  std::memcpy(&to, from, sizeof to);
  return to;
}

template <class From, class T>
inline void write(const From& from, T* to) {
  std::memcpy(to, &from, sizeof from);
}

// GCC makes several instructions of what are single ones of AVX-512.
inline Doubles to_doubles(FewFloats value) {
#if defined(__AVX512F__)
  return _mm512_cvtps_pd(value);
#else
  return __builtin_convertvector(value, Doubles);
#endif
}

#if !defined(__AVX512F__)
inline Words to_words(Shorts value) { return __builtin_convertvector(value, Words); }
inline Shorts to_shorts(Words value) { return __builtin_convertvector(value, Shorts); }
#endif

inline FewWords to_words(FewShorts value) {
#if defined(__AVX512F__)
  return copy_bits<FewWords>(_mm256_cvtepu16_epi32(copy_bits<__m128i>(value)));
#else
  return __builtin_convertvector(value, FewWords);
#endif
}

#if defined(__AVX512F__)
// Where each of 32 short numbers comes from: 16 to become the upper halves of words, and the upper
// halves of 16 words to stand side by side.
struct Places {
  EVENKEEL_ALIGNED std::uint16_t upper[32] = {}, gathered[32] = {};

  constexpr Places() {
    for (std::uint16_t i = 0; i < 16; ++i) {
      upper[2 * i + 1] = i;
      gathered[i] = static_cast<std::uint16_t>(2 * i + 1);
    }
  }
};
inline constexpr Places kPlaces;
#endif

// Elements of 16 bits, T being BFloat or Half, as floats and back.
template <class T>
inline FewFloats to_floats(FewShorts value) {
  const FewWords bits = to_words(value);
  if constexpr (std::is_same_v<T, BFloat>) return copy_bits<FewFloats>(bits << 16);
  return copy_bits<FewFloats>(half_to_float<FewWords, FewFloats>(bits));
}

template <class T>
inline Floats to_floats(Shorts value) {
#if defined(__AVX512F__)
  const __m256i bits = copy_bits<__m256i>(value);
  if constexpr (std::is_same_v<T, Half>) return _mm512_cvtph_ps(bits);
  const __m512i places = _mm512_load_si512(kPlaces.upper);
  const __m512i all = _mm512_castsi256_si512(bits);
  return copy_bits<Floats>(_mm512_maskz_permutexvar_epi16(0xaaaaaaaau, places, all));
#else
  const Words bits = to_words(value);
  if constexpr (std::is_same_v<T, BFloat>) return copy_bits<Floats>(bits << 16);
  return copy_bits<Floats>(half_to_float<Words, Floats>(bits));
#endif
}

template <class T>
inline Shorts to_shorts(Floats value) {
#if defined(__AVX512F__)
  if constexpr (std::is_same_v<T, Half>) {
    return copy_bits<Shorts>(_mm512_cvtps_ph(value, _MM_FROUND_TO_NEAREST_INT));
  }
  // float_to_bfloat, in fewer instructions.
  const Words bits = copy_bits<Words>(value), rounding = ((bits >> 16) & 1u) + 0x7fffu;
  const __mmask16 number = _mm512_cmp_ps_mask(value, value, _CMP_ORD_Q);
  const __m512i word = copy_bits<__m512i>(bits), term = copy_bits<__m512i>(rounding);
  const __m512i rounded = _mm512_mask_add_epi32(word, number, word, term);
  const __m512i places = _mm512_load_si512(kPlaces.gathered);
  const __m512i halves = _mm512_permutexvar_epi16(places, rounded);
  return copy_bits<Shorts>(_mm512_castsi512_si256(halves));
#else
  const Words bits = copy_bits<Words>(value);
  if constexpr (std::is_same_v<T, BFloat>) return to_shorts(float_to_bfloat(bits));
  return to_shorts(float_to_half<Words, Floats>(bits));
#endif
}

inline void load_into(Doubles& to, const double* from) { to = read<Doubles>(from); }
inline void load_into(Doubles& to, const float* from) { to = to_doubles(read<FewFloats>(from)); }
template <class T>
inline void load_into(Doubles& to, const T* from) {
  to = to_doubles(to_floats<T>(read<FewShorts>(from)));
}
inline void load_into(Floats& to, const float* from) { to = read<Floats>(from); }
template <class T>
inline void load_into(Floats& to, const T* from) {
  to = to_floats<T>(read<Shorts>(from));
}

// Which elements of a vector exist: all, or the first few of the last vector of an array.
struct All {};

#if defined(__AVX512F__)
#define EVENKEEL_MASKS
struct First {
  __mmask16 mask;

  explicit First(Index count) : mask(static_cast<__mmask16>((1u << count) - 1u)) {}
};

inline void load_into(Doubles& to, const double* from, First part) {
  to = _mm512_maskz_loadu_pd(static_cast<__mmask8>(part.mask), from);
}
inline void load_into(Doubles& to, const float* from, First part) {
  to = to_doubles(_mm256_maskz_loadu_ps(static_cast<__mmask8>(part.mask), from));
}
inline void load_into(Floats& to, const float* from, First part) {
  to = _mm512_maskz_loadu_ps(part.mask, from);
}
template <class T>
inline void load_into(Doubles& to, const T* from, First part) {
  const __m128i bits = _mm_maskz_loadu_epi16(static_cast<__mmask8>(part.mask), from);
  to = to_doubles(to_floats<T>(copy_bits<FewShorts>(bits)));
}
template <class T>
inline void load_into(Floats& to, const T* from, First part) {
  to = to_floats<T>(copy_bits<Shorts>(_mm256_maskz_loadu_epi16(part.mask, from)));
}
#endif

template <class V, class T>
inline V load(const T* from) {
  if constexpr (kIsVector<V>) {
    V to;
    load_into(to, from);
    return to;
  } else {
    return static_cast<V>(widen(*from));
  }
}

inline void store(double value, double* to) { *to = value; }
inline void store(float value, float* to) { *to = value; }
inline void store(float value, BFloat* to) { narrow(value, *to); }
inline void store(float value, Half* to) { narrow(value, *to); }
inline void store(Doubles value, double* to) { write(value, to); }
inline void store(Floats value, float* to) { write(value, to); }
inline void store(Floats value, BFloat* to) { write(to_shorts<BFloat>(value), to); }
inline void store(Floats value, Half* to) { write(to_shorts<Half>(value), to); }

inline FewFloats upper_half(Floats value) {
#if defined(__AVX512DQ__)
  return _mm512_extractf32x8_ps(value, 1);
#elif defined(__AVX2__)
  return _mm256_extractf128_ps(value, 1);
#else
  FewFloats half;
  std::memcpy(&half, reinterpret_cast<const char*>(&value) + sizeof half, sizeof half);
  return half;
#endif
}

// Adds the elements of a vector to those of two, or of one where it holds doubles itself.
inline void add_widened(Doubles value, Doubles& low, Doubles&) { low += value; }
inline void add_widened(Floats value, Doubles& low, Doubles& high) {
  low += to_doubles(read<FewFloats>(&value));
  high += to_doubles(upper_half(value));
}

// Elements of a tensor, of which the last vector may not have all.
template <class V, class T>
inline V load(const T* from, All) {
  return load<V>(from);
}

template <class V, class T>
inline void store(V value, T* to, All) {
  store(value, to);
}

template <class V>
inline V keep(V value, All) {
  return value;
}

#if defined(EVENKEEL_MASKS)
template <class V, class T>
inline V load(const T* from, First part) {
  V to;
  load_into(to, from, part);
  return to;
}

inline void store(Doubles value, double* to, First part) {
  _mm512_mask_storeu_pd(to, static_cast<__mmask8>(part.mask), value);
}
inline void store(Floats value, float* to, First part) {
  _mm512_mask_storeu_ps(to, part.mask, value);
}
template <class T>
inline void store(Floats value, T* to, First part) {
  _mm256_mask_storeu_epi16(to, part.mask, copy_bits<__m256i>(to_shorts<T>(value)));
}

// 0 in the place of the elements that do not exist.
inline Doubles keep(Doubles value, First part) {
  return _mm512_maskz_mov_pd(static_cast<__mmask8>(part.mask), value);
}
inline Floats keep(Floats value, First part) { return _mm512_maskz_mov_ps(part.mask, value); }
#endif

// Calls body.operator()<V>(i, part) for all i < count, with vectors of E as far as they go.
template <class E, class Body>
inline void for_vectors(Index count, const Body& body) {
  constexpr Index width = kWidth<Vector<E>>;
  Index i = 0;
  for (; i + width <= count; i += width) body.template operator()<Vector<E>>(i, All());
#if defined(EVENKEEL_MASKS)
  if (i < count) body.template operator()<Vector<E>>(i, First(count - i));
#else
  for (; i < count; ++i) body.template operator()<E>(i, All());
#endif
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
