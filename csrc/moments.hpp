// Mean and variance of each channel, eq. (1), (2) and (4), in one pass over nearly all values.
//
// Blocks of values are summed as distances from a shift, in double; elements of 16 bits in float, a
// few at a time. The shift is the mean of a fair share of the values that are summed before it
// moves, so that what the one-pass formula loses, a rounding of (shift - mean)^2, is a rounding of a
// term that the variance contains. Only the first block has to be read twice. Groups of blocks with
// one shift are merged in a fixed order by the update of Chan, Golub and LeVeque (1979).
#pragma once

#include "sums.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

// A partial result in caller's memory: rows of count, hi, lo, m2 and the low part of m2.
struct Partial {
  double &count, *hi, *lo, *m2, *m2_lo;

  Partial(const Job& job, double* memory)
      : count(memory[0]),
        hi(memory + job.plan.width),
        lo(memory + 2 * job.plan.width),
        m2(memory + 3 * job.plan.width),
        m2_lo(memory + 4 * job.plan.width) {}
};

// total += (count, hi, lo, m2 + m2_lo), eq. (4).
inline void merge(Index width, double count, const double* hi, const double* lo, const double* m2,
                  const double* m2_lo, Partial& total) {
  if (count == 0.0) return;
  const double all = total.count + count;
  const double share = count / all, cross = total.count * share;
  for_vectors<double>(width, [=, &total]<class V>(Index i, auto part) {
    V mean = load<V>(total.hi + i, part), rest = load<V>(total.lo + i, part);
    V squares = load<V>(total.m2 + i, part), squares_lo = load<V>(total.m2_lo + i, part), lost;
    const V delta = (load<V>(hi + i, part) - mean) + (load<V>(lo + i, part) - rest);
    mean = two_sum(mean, delta * share, lost);
    mean = two_sum(mean, rest + lost, rest);
    accumulate(madd(delta * delta, splat<V>(cross), load<V>(m2 + i, part)), squares, squares_lo);
    store(mean, total.hi + i, part);
    store(rest, total.lo + i, part);
    store(squares, total.m2 + i, part);
    store(squares_lo + load<V>(m2_lo + i, part), total.m2_lo + i, part);
  });
  total.count = all;
}

// What distances from the shift are computed in, and a few of them and of their squares added.
template <class T>
using Distance = std::conditional_t<sizeof(T) == 2, float, double>;

// The sums of a block of elements of 16 bits, which are added in float first.
struct ShortSums {
  EVENKEEL_ALIGNED double first[kMaxWidth];
  EVENKEEL_ALIGNED double first_lo[kMaxWidth];
  EVENKEEL_ALIGNED double squares[kMaxWidth];
  EVENKEEL_ALIGNED double squares_lo[kMaxWidth];

  explicit ShortSums(Index width) {
    for (Index i = 0; i < width; ++i) first[i] = first_lo[i] = squares[i] = squares_lo[i] = 0.0;
  }

  // Whether no square has left the range of float, neither above nor below. A sum of 2^-80 does not
  // miss what may be lost of up to 2^17 squares; distances that are all 0, or cancel to 0 and have
  // squares of less than 2^-149, have a variance that is 0 in float.
  bool within_range(Index width) const {
    bool all = true;
    for (Index i = 0; i < width; ++i) {
      const bool zero = squares[i] == 0.0 && first[i] == 0.0;
      all &= zero || (squares[i] >= 0x1p-80 && squares[i] < HUGE_VAL);
    }
    return all;
  }
};

// Values with one shift for each channel: their number, sum and sum of squares, compensated.
template <class T, template <class> class Access>
class Group {
 public:
  double count = 0.0;

  explicit Group(const Item& item) : item_(item), width_(item.width), sums_(item) { clear(); }

  // Values that may still be summed around this shift.
  double room() const { return kReach * known_ - count; }

  void add(const Job& job, const Item& block) {
    const double before = count;
    add_spans(job, block, shifts_, sums_);
    if constexpr (!kShort) {
      sums_.fold(sum_, sum_lo_, squares_, squares_lo_);
    } else if (!take_short_sums()) {
      count = before;
      add_wide(job, block);
    }
  }

  // Shifts by the mean of a block, which is then not part of the group.
  void shift_to_mean(const Job& job, const Item& block) {
    first_ = true;
    add(job, block);
    for (Index i = 0; i < width_ && count > 0.0; ++i) shift_[i] += sum_[i] / count;
    spread();
    known_ = count;
    clear();
  }

  // Moves what was gathered into the total, and the shift to the total's mean.
  void close(Partial& total) {
    if (count == 0.0) return;
    EVENKEEL_ALIGNED double rest[kMaxWidth];
    EVENKEEL_ALIGNED double m2[kMaxWidth];
    for_vectors<double>(width_, [&]<class V>(Index i, auto part) {
      const V sum = load<V>(sum_ + i, part) + load<V>(sum_lo_ + i, part), mean = sum / count;
      const V squares = (load<V>(squares_ + i, part) - sum * mean) + load<V>(squares_lo_ + i, part);
      store(mean, rest + i, part);
      store(squares < splat<V>(0.0) ? splat<V>(0.0) : squares, m2 + i, part);
      store(splat<V>(0.0), squares_lo_ + i, part);
    });
    if (total.count == 0.0) {
      start(rest, m2, total);
    } else {
      merge(width_, count, shift_, rest, m2, squares_lo_, total);
    }
    copy_run(total.hi, 1, width_, shift_, 1);
    spread();
    known_ = total.count;
    clear();
  }

 private:
  // What was added in float, unless some channel has left its range; then nothing is taken.
  bool take_short_sums() {
    ShortSums sums(width_);
    sums_.fold(sums.first, sums.first_lo, sums.squares, sums.squares_lo);
    if (!sums.within_range(width_)) return false;
    accumulate(width_, sums.first, sum_, sum_lo_);
    accumulate(width_, sums.squares, squares_, squares_lo_);
    for (Index i = 0; i < width_; ++i) {
      sum_lo_[i] += sums.first_lo[i];
      squares_lo_[i] += sums.squares_lo[i];
    }
    return true;
  }

  // In double, which has room for all squares of bfloat16.
  EVENKEEL_NOINLINE void add_wide(const Job& job, const Item& block) {
    EVENKEEL_ALIGNED double shifts[kMaxWidth];
    copy_run(shift_, 1, width_, shifts, 1);
    repeat(item_, shifts);
    BlockSums<Access, double> sums(item_);
    add_spans(job, block, shifts, sums);
    sums.fold(sum_, sum_lo_, squares_, squares_lo_);
  }

  template <class E>
  void add_spans(const Job& job, const Item& block, const E* shifts, BlockSums<Access, E>& sums) {
    for_spans<T>(job, Views{job.x, {}, {}, {}, {}}, block,
                 [&](const Batch<T>& batch) { add_batch(batch, shifts, sums); });
  }

  template <class E>
  EVENKEEL_NOINLINE void add_batch(const Batch<T>& batch, const E* shifts,
                                   BlockSums<Access, E>& sums) {
    const Span<T>& span = *batch.spans;
    if (first_) take_first(span);
    // Every channel has as many values as the first one.
    const Index values = span.lane == 0 ? batch.number * span.count : 0;
    count += static_cast<double>(kRowwise ? values / width_ : values);
    const Access<E> shift(shifts, span.lane);
    sums.add(batch, [=]<class V>(Index i, const Span<T>& span, auto part) {
      const V distance = keep(load<V>(span.x + i, part) - shift.template at<V>(i), part);
      return Addends<V>{distance, distance, distance};
    });
  }

  // The first span of each channel gives its shift; the channels of a run come in order.
  void take_first(const Span<T>& span) {
    if (span.count == 0) return;
    copy_run(span.x, item_.first(1), kRowwise ? width_ : 1, shift_ + span.lane, 1);
    spread();
    first_ = !kRowwise && span.lane + 1 < width_;
  }

  void start(const double* rest, const double* m2, Partial& total) const {
    total.count = count;
    for_vectors<double>(width_, [&]<class V>(Index i, auto part) {
      V low;
      store(two_sum(load<V>(shift_ + i, part), load<V>(rest + i, part), low), total.hi + i, part);
      store(low, total.lo + i, part);
      store(load<V>(m2 + i, part), total.m2 + i, part);
      store(splat<V>(0.0), total.m2_lo + i, part);
    });
  }

  void spread() {
    copy_run(shift_, 1, width_, shifts_, 1);
    if constexpr (kShort) copy_run(shifts_, 1, width_, shift_, 1);  // as it is subtracted
    repeat(item_, shifts_);
  }

  void clear() {
    count = 0.0;
    for (Index i = 0; i < width_; ++i) {
      sum_[i] = sum_lo_[i] = squares_[i] = squares_lo_[i] = 0.0;
    }
  }

  // What the one-pass formula loses grows with the share of these values: in units of a rounding of
  // double, which is next to nothing unless the elements are double themselves; but the shift also
  // decides how large the distances are that float rounds.
  static constexpr bool kShort = std::is_same_v<Distance<T>, float>;
  static constexpr double kReach = std::is_same_v<T, double> ? 2.0 : kShort ? 8.0 : 64.0;
  static constexpr bool kRowwise = std::is_same_v<Access<double>, Each<double>>;

  const Item& item_;
  Index width_;
  bool first_ = false;
  double known_ = 0.0;  // how many values the shift is the mean of
  BlockSums<Access, Distance<T>> sums_;
  EVENKEEL_ALIGNED double shift_[kMaxWidth] = {};
  EVENKEEL_ALIGNED Distance<T> shifts_[kMaxWidth] = {};  // for each element of a long row
  EVENKEEL_ALIGNED double sum_[kMaxWidth];
  EVENKEEL_ALIGNED double sum_lo_[kMaxWidth];
  EVENKEEL_ALIGNED double squares_[kMaxWidth];
  EVENKEEL_ALIGNED double squares_lo_[kMaxWidth];
};

template <class T, template <class> class Access>
inline void moments_of(const Job& job, const Item& item, Partial& total) {
  Group<T, Access> group(item);
  const Index least_size = job.plan.first_block;
  for (Item block = item; block.begin < item.end; block.begin = block.end) {
    if (group.room() < static_cast<double>(least_size)) group.close(total);
    const double room = std::fmin(group.room(), static_cast<double>(job.plan.block));
    const Index whole = static_cast<Index>(room) / least_size;  // runs stay whole as well
    block.end = least(block.begin + (whole > 0 ? whole : 1) * least_size, item.end);
    if (group.room() < static_cast<double>(block.end - block.begin)) {
      group.shift_to_mean(job, block);
    }
    group.add(job, block);
  }
  group.close(total);
}

void moments(const Job& job, Index tile, Index part, double* memory) {
  const Item item(job, tile, part);
  Partial total(job, memory);
  total.count = 0.0;
  if (item.begin >= item.end) return;
  with_type(job.dtype, [&]<class T>() {
    if (job.plan.channels_inner) {
      moments_of<T, Each>(job, item, total);
    } else {
      moments_of<T, Same>(job, item, total);
    }
  });
}

// hi + lo -> the nearest number of the accumulation type, and the rest.
inline void split_mean(const Job& job, Index width, const double* hi, const double* lo,
                       double* mean, double* rest) {
  for (Index i = 0; i < width; ++i) {
    const double sum = hi[i] + lo[i];
    mean[i] = job.dtype == DType::f64 ? sum : static_cast<double>(static_cast<float>(sum));
    rest[i] = (hi[i] - mean[i]) + lo[i];
  }
}

void finish_moments(const Job& job, Index tile, double* partials) {
  const Item item(job, tile, 0);
  const Index size = kPartialRows * job.plan.width;
  double mean[kMaxWidth] = {}, rest[kMaxWidth] = {}, var[kMaxWidth] = {};
  Index first = 0;
  while (first < job.plan.parts && partials[first * size] == 0.0) ++first;
  if (first < job.plan.parts) {
    Partial total(job, partials + first * size);
    for (Index part = first + 1; part < job.plan.parts; ++part) {
      const Partial next(job, partials + part * size);
      merge(item.width, next.count, next.hi, next.lo, next.m2, next.m2_lo, total);
    }
    split_mean(job, item.width, total.hi, total.lo, mean, rest);
    for (Index i = 0; i < item.width; ++i) {
      var[i] = (total.m2[i] + total.m2_lo[i]) / total.count;
    }
  }
  store_channels(job, mean, item.channel, item.width, job.out_mean);
  store_channels(job, rest, item.channel, item.width, job.out_mean_lo);
  store_channels(job, var, item.channel, item.width, job.out_var);
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
