// Two sums at once, of a and of b c. A few terms are added in the type they come in, the rest in
// double: in many lanes inside a block, with compensation between blocks.
#pragma once

#include "access.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

// a + b as the nearest double, and what that rounding lost (Knuth, TAOCP 2, 4.2.2).
template <class V>
inline V two_sum(V a, V b, V& lost) {
  const V sum = a + b;
  const V part = sum - a;
  lost = (a - (sum - part)) + (b - part);
  return sum;
}

// sum + low += term, for Inf and NaN too: the lost part of a non-finite sum is dropped.
template <class V>
inline void accumulate(V term, V& sum, V& low) {
  V lost;
  sum = two_sum(sum, term, lost);
  low += lost == lost ? lost : splat<V>(0.0);
}

// The same for each channel of a tile.
inline void accumulate(Index width, const double* term, double* sum, double* low) {
  for_vectors<double>(width, [=]<class V>(Index i, auto part) {
    V high = load<V>(sum + i, part), rest = load<V>(low + i, part);
    accumulate(load<V>(term + i, part), high, rest);
    store(high, sum + i, part);
    store(rest, low + i, part);
  });
}

// What one element adds: a to the first sum, b c to the second.
template <class V>
struct Addends {
  V a, b, c;
};

// The two sums of some terms, in their own type.
template <class V>
struct Pair {
  V first = V{}, second = V{};

  void operator+=(const Addends<V>& term) {
    first += term.a;
    second = madd(term.b, term.c, second);
  }
};

inline double total(Doubles lanes) {
  constexpr Index width = kWidth<Doubles>;
  double values[width];
  write(lanes, values);
  for (Index half = width / 2; half > 0; half /= 2) {
    for (Index i = 0; i < half; ++i) values[i] += values[i + half];
  }
  return values[0];
}

// Sums of the channels of a tile over one block, of terms of type E.
template <template <class> class Access, class E>
class BlockSums;

// Spans of one channel each, which has lanes of its own.
template <class E>
class BlockSums<Same, E> {
 public:
  explicit BlockSums(const Item& item) : width_(item.width) { clear(); }

  // term.operator()<V>(i, span) gives the Addends of the elements from i on.
  template <class S, class Term>
  void add(const S* span, Index, const Term& term) {
    using V = Vector<E>;
    constexpr Index width = kWidth<V>;
    const S local = *span;
    Lanes& lanes = lanes_[local.lane];
    Pair<V> even, odd;
    Index i = 0, pending = 0;
    for (; i + 2 * width <= local.count; i += 2 * width) {
      even += term.template operator()<V>(i, local, All());
      odd += term.template operator()<V>(i + width, local, All());
      if (std::is_same_v<E, float> && ++pending == kBatch) {
        lanes.take(even, odd);
        even = odd = Pair<V>();
        pending = 0;
      }
    }
    if (i + width <= local.count) {
      even += term.template operator()<V>(i, local, All());
      i += width;
    }
#if defined(EVENKEEL_MASKS)
    if (i < local.count) odd += term.template operator()<V>(i, local, First(local.count - i));
#else
    for (; i < local.count; ++i) {
      Pair<E> one;
      one += term.template operator()<E>(i, local, All());
      lanes.first_tail += one.first;
      lanes.second_tail += one.second;
    }
#endif
    lanes.take(even, odd);
  }

  // first + first_lo += the first sum, likewise the second; starts again from zero.
  void fold(double* first, double* first_lo, double* second, double* second_lo) {
    for (Index i = 0; i < width_; ++i) {
      const Lanes& lanes = lanes_[i];
      accumulate(total(lanes.first + lanes.first_high) + lanes.first_tail, first[i], first_lo[i]);
      accumulate(total(lanes.second + lanes.second_high) + lanes.second_tail, second[i],
                 second_lo[i]);
    }
    clear();
  }

 private:
  struct Lanes {
    Doubles first, first_high, second, second_high;
    double first_tail, second_tail;

    template <class V>
    void take(Pair<V> even, Pair<V> odd) {
      add_widened(even.first + odd.first, first, first_high);
      add_widened(even.second + odd.second, second, second_high);
    }
  };

  void clear() {
    for (Index i = 0; i < width_; ++i) lanes_[i] = Lanes{};
  }

  Index width_;
  Lanes lanes_[kMaxPlanes];
};

// Spans of one element for each channel.
template <class E>
class BlockSums<Each, E> {
 public:
  explicit BlockSums(const Item& item) : width_(item.width), all_(item.width * item.rows) {
    clear();
  }

  template <class S, class Term>
  void add(const S* rows, Index number, const Term& term) {
    if (number == kBatch) {
      add_rows<kBatch>(rows, kBatch, term);
    } else {
      add_rows<1>(rows, number, term);
    }
  }

  void fold(double* first, double* first_lo, double* second, double* second_lo) {
    for (Index i = 0; i < all_; i += width_) {
      accumulate(width_, first_ + i, first, first_lo);
      accumulate(width_, second_ + i, second, second_lo);
    }
    clear();
  }

 private:
  // All rows, `together` at a time.
  template <Index together, class S, class Term>
  void add_rows(const S* rows, Index number, const Term& term) {
    double *first = first_, *second = second_;
    for (const S* row = rows; row < rows + number; row += together) {
      S local[together];
      for (Index k = 0; k < together; ++k) local[k] = row[k];
      for_vectors<E>(rows->count, [=]<class V>(Index i, auto part) {
        Pair<V> pair;
#pragma GCC unroll 8
        for (Index k = 0; k < together; ++k) pair += term.template operator()<V>(i, local[k], part);
        add_to(pair.first, first + i);
        add_to(pair.second, second + i);
      });
    }
  }

  template <class V>
  static void add_to(V value, double* sums) {
    if constexpr (kIsVector<V>) {
      Doubles low = load<Doubles>(sums), high = Doubles{};
      double* next = sums + kWidth<Doubles>;
      if constexpr (kWidth<V> > kWidth<Doubles>) high = load<Doubles>(next);
      add_widened(value, low, high);
      store(low, sums);
      if constexpr (kWidth<V> > kWidth<Doubles>) store(high, next);
    } else {
      *sums += value;
    }
  }

  void clear() {
    for (Index i = 0; i < all_; ++i) first_[i] = second_[i] = 0.0;
  }

  Index width_, all_;
  // Apart by no multiple of 4096 bytes: a load would wait for a store with the same lower bits.
  EVENKEEL_ALIGNED double first_[kMaxWidth + 128];
  EVENKEEL_ALIGNED double second_[kMaxWidth + 128];
};

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
