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

// Two sums of terms of type E for each place of a vector, in double.
template <class E>
struct Lanes;

template <>
struct Lanes<double> {
  Pair<Doubles> sums;

  void take(const Pair<Doubles>& terms) {
    sums.first += terms.first;
    sums.second += terms.second;
  }
};

template <>
struct Lanes<float> {
  Pair<Doubles> low, high;

  void take(const Pair<Floats>& terms) {
    add_widened(terms.first, low.first, high.first);
    add_widened(terms.second, low.second, high.second);
  }
};

inline double sum(Index count, const double* values) {
  Doubles lanes{};
  double tail = 0.0;
  for_vectors<double>(count, [&]<class V>(Index i, auto part) {
    if constexpr (kIsVector<V>) {
      lanes += load<V>(values + i, part);
    } else {
      tail += values[i];
    }
  });
  return total(lanes) + tail;
}

// Sums of the channels of a tile over one block, of terms of type E.
template <template <class> class Access, class E>
class BlockSums;

// Spans of one channel each, which has lanes of its own.
template <class E>
class BlockSums<Same, E> {
 public:
  explicit BlockSums(const Item& item) : width_(item.width) { clear(); }

  // One span. term.operator()<V>(i, span, part) gives the Addends of its elements from i on.
  template <class T, class Term>
  EVENKEEL_INLINE void add(const Batch<T>& batch, const Term& term) {
    constexpr Index width = kWidth<V>;
    Sums& sums = sums_[batch.spans->lane];
    Pair<V> even, odd;
    Index pending = 0;
    const auto count_pair = [&] {
      if (std::is_same_v<E, double> || ++pending < kFloatTerms) return;
      sums.take(even, odd);
      even = odd = Pair<V>();
      pending = 0;
    };
    const Span<T> span = *batch.spans;
    Index i = 0;
    for (; i + 2 * width <= span.count; i += 2 * width) {
      batch.fetch(span, i, 2 * width);
      even += term.template operator()<V>(i, span, All());
      odd += term.template operator()<V>(i + width, span, All());
      count_pair();
    }
    if (i + width <= span.count) {
      even += term.template operator()<V>(i, span, All());
      i += width;
    }
#if defined(EVENKEEL_MASKS)
    if (i < span.count) odd += term.template operator()<V>(i, span, First(span.count - i));
#else
    for (; i < span.count; ++i) {
      Pair<E> one;
      one += term.template operator()<E>(i, span, All());
      sums.tail.first += one.first;
      sums.tail.second += one.second;
    }
#endif
    sums.take(even, odd);
  }

  // first + first_lo += the first sum, likewise the second; starts again from zero.
  void fold(double* first, double* first_lo, double* second, double* second_lo) {
    for (Index i = 0; i < width_; ++i) {
      const Pair<double> all = sums_[i].all();
      accumulate(all.first, first[i], first_lo[i]);
      accumulate(all.second, second[i], second_lo[i]);
    }
    clear();
  }

 private:
  using V = Vector<E>;

  struct Sums {
    Lanes<E> lanes;
    Pair<double> tail;

    void take(const Pair<V>& even, const Pair<V>& odd) {
      lanes.take({even.first + odd.first, even.second + odd.second});
    }

    Pair<double> all() const {
      if constexpr (std::is_same_v<E, double>) {
        return {total(lanes.sums.first) + tail.first, total(lanes.sums.second) + tail.second};
      } else {
        return {total(lanes.low.first + lanes.high.first) + tail.first,
                total(lanes.low.second + lanes.high.second) + tail.second};
      }
    }
  };

  void clear() {
    for (Index i = 0; i < width_; ++i) sums_[i] = Sums();
  }

  Index width_;
  Sums sums_[kMaxPlanes];
};

// Spans of one element for each channel. A strip of channels is summed down all rows at once: the
// sums stay in registers, and nothing is stored that a load from the next row could wait for.
template <class E>
class BlockSums<Each, E> {
 public:
  explicit BlockSums(const Item& item) : item_(item) { clear(); }

  template <class T, class Term>
  void add(const Batch<T>& rows, const Term& term) {
    constexpr Index strip = kStrip * kWidth<V>;
    const Index count = rows.spans->count;
    Index i = 0;
    if (rows.number == kBatch) {  // nearly always
      for (; i + strip <= count; i += strip) add_strip<kStrip, kBatch>(rows, i, term, All());
    }
    for (; i + strip <= count; i += strip) add_strip<kStrip>(rows, i, term, All());
    for (; i + kWidth<V> <= count; i += kWidth<V>) add_strip<1>(rows, i, term, All());
#if defined(EVENKEEL_MASKS)
    if (i < count) add_strip<1>(rows, i, term, First(count - i));
#else
    for (; i < count; ++i) add_column(rows, i, term);
#endif
  }

  void fold(double* first, double* first_lo, double* second, double* second_lo) {
    if (item_.by_plane) {
      for (Index i = 0; i < item_.width; ++i) {
        accumulate(sum(item_.rows, first_ + item_.first(i)), first[i], first_lo[i]);
        accumulate(sum(item_.rows, second_ + item_.first(i)), second[i], second_lo[i]);
      }
    } else {
      for (Index i = 0; i < item_.elements(); i += item_.width) {
        accumulate(item_.width, first_ + i, first, first_lo);
        accumulate(item_.width, second_ + i, second, second_lo);
      }
    }
    clear();
  }

 private:
  using V = Vector<E>;
  // Vectors side by side: as many as there are registers for sums, terms and the channels' numbers.
  static constexpr Index kStrip = kRegisters / (std::is_same_v<E, double> ? 8 : 16);

  // `known` is the number of rows, or 0 where it is not known in advance.
  template <Index strip, Index known = 0, class T, class Term, class Part>
  void add_strip(const Batch<T>& rows, Index i, const Term& term, Part part) {
    constexpr Index width = kWidth<V>;
    const Index number = known > 0 ? known : rows.number;
    Lanes<E> sums[strip];
#pragma GCC unroll 4
    for (Index k = 0; k < strip; ++k) sums[k] = read_lanes(i + k * width);
    const Index together = std::is_same_v<E, double> ? number : kFloatTerms;
    for (Index begin = 0; begin < number; begin += together) {
      const Index end = least(begin + together, number);
      Pair<V> terms[strip];
#pragma GCC unroll 4
      for (Index row = begin; row < end; ++row) {
        const Span<T> local = rows.spans[row];
        rows.fetch(local, i, strip * width);
#pragma GCC unroll 4
        for (Index k = 0; k < strip; ++k) {
          terms[k] += term.template operator()<V>(i + k * width, local, part);
        }
      }
#pragma GCC unroll 4
      for (Index k = 0; k < strip; ++k) sums[k].take(terms[k]);
    }
#pragma GCC unroll 4
    for (Index k = 0; k < strip; ++k) write_lanes(sums[k], i + k * width);
  }

  template <class T, class Term>
  void add_column(const Batch<T>& rows, Index i, const Term& term) {
    for (Index row = 0; row < rows.number; ++row) {
      Pair<E> one;
      one += term.template operator()<E>(i, rows.spans[row], All());
      first_[i] += one.first;
      second_[i] += one.second;
    }
  }

  Lanes<E> read_lanes(Index i) const {
    if constexpr (std::is_same_v<E, double>) {
      return {load<Doubles>(first_ + i), load<Doubles>(second_ + i)};
    } else {
      const Index next = i + kWidth<Doubles>;
      return {{load<Doubles>(first_ + i), load<Doubles>(second_ + i)},
              {load<Doubles>(first_ + next), load<Doubles>(second_ + next)}};
    }
  }

  void write_lanes(const Lanes<E>& sums, Index i) {
    if constexpr (std::is_same_v<E, double>) {
      store(sums.sums.first, first_ + i);
      store(sums.sums.second, second_ + i);
    } else {
      const Index next = i + kWidth<Doubles>;
      store(sums.low.first, first_ + i);
      store(sums.low.second, second_ + i);
      store(sums.high.first, first_ + next);
      store(sums.high.second, second_ + next);
    }
  }

  void clear() {
    for (Index i = 0; i < item_.elements(); ++i) first_[i] = second_[i] = 0.0;
  }

  const Item& item_;
  // Room for the vector that holds the last channels.
  EVENKEEL_ALIGNED double first_[kMaxWidth + 16];
  EVENKEEL_ALIGNED double second_[kMaxWidth + 16];
};

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
