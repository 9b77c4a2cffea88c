// Walking the canonical view: an item's elements as spans that lie one after the other in memory.
#pragma once

#include <utility>

#include "vector.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

inline Index least(Index a, Index b) { return a < b ? a : b; }

// One of the N * S positions, counted with S inner.
struct Position {
  Index n, s;

  Position(const Job& job, Index flat) : n(flat / job.S), s(flat % job.S) {}

  void step(const Job& job) {
    if (++s == job.S) {
      s = 0;
      ++n;
    }
  }

  template <class View>
  Index offset(const View& view) const {
    return n * view.n + s * view.s;
  }
};

// The channels and positions of one work item.
struct Item {
  Index channel, width, rows, begin, end;
  bool by_plane;

  Item(const Job& job, Index tile, Index part)
      : channel(tile * job.plan.width),
        width(least(job.plan.width, job.C - channel)),
        rows(job.plan.rows),
        begin(part * job.plan.span),
        end(least(begin + job.plan.span, job.N * job.S)),
        by_plane(job.plan.by_plane) {}

  // Elements of a long row, and where in it a channel comes first.
  Index elements() const { return width * rows; }
  Index first(Index lane) const { return by_plane ? lane * rows : lane; }
};

// Repeats the numbers of a tile's channels for all elements of a long row.
template <class E>
inline void repeat(const Item& item, E* values) {
  if (!item.by_plane) {
    for (Index i = item.width; i < item.elements(); ++i) values[i] = values[i - item.width];
    return;
  }
  for (Index lane = item.width; lane-- > 0;) {
    const E value = values[lane];
    for_vectors<E>(item.rows, [=]<class V>(Index i, auto part) {
      store(splat<V>(value), values + lane * item.rows + i, part);
    });
  }
}

// The tensors of one pass; absent ones have no data.
struct Views {
  Source x, dy, residual;
  Target out, dresidual;
};

// `count` elements in a row, of one channel or of `count` adjacent ones. Lane is the channel within
// the tile, 0 in the second case.
template <class T>
struct Span {
  Index lane, count;
  const T *x, *dy, *residual;
  T *out, *dresidual;

  // The same positions of the next channel; absent tensors have no strides.
  void next(const Views& views) {
    ++lane;
    x += views.x.c;
    dy += views.dy.c;
    residual += views.residual.c;
    out += views.out.c;
    dresidual += views.dresidual.c;
  }
};

// Spans of equal length: rows, or planes of one channel. Bytes from each to the one that stands in
// its place in the next batch, where that is known; in tiles of narrow planes or of pieces of rows
// memory is not walked in order, and the processor does not see what comes.
template <class T>
struct Batch {
  const Span<T>* spans;
  Index number, x_ahead = 0, dy_ahead = 0, out_ahead = 0;

  Batch(const Span<T>* all, Index count) : spans(all), number(count) {}

  // With steps, in elements, from one span to the next; 0 where nothing is to be asked for.
  Batch(const Span<T>* all, Index count, Index x_step, Index dy_step, Index out_step = 0)
      : Batch(all, count) {
    x_ahead = count * x_step * Index{sizeof(T)};
    dy_ahead = count * dy_step * Index{sizeof(T)};
    out_ahead = count * out_step * Index{sizeof(T)};
  }

  // Asks for `count` elements from the i-th on of what is read after this span. GCC takes a
  // function that only prefetches for one without effect, and drops calls of it.
  EVENKEEL_INLINE void fetch(const Span<T>& span, Index i, Index count) const {
    if (x_ahead != 0) fetch<0>(span.x + i, x_ahead, count);
    if (dy_ahead != 0) fetch<0>(span.dy + i, dy_ahead, count);
  }

  // The same for what is written.
  EVENKEEL_INLINE void fetch_out(const Span<T>& span, Index i, Index count) const {
    if (out_ahead != 0) fetch<1>(span.out + i, out_ahead, count);
  }

 private:
  template <int writes>
  EVENKEEL_INLINE static void fetch(const T* from, Index ahead, Index count) {
    const std::intptr_t first = reinterpret_cast<std::intptr_t>(from) + ahead;
    for (Index at = 0; at < count * Index{sizeof(T)}; at += kLineBytes) {
      __builtin_prefetch(reinterpret_cast<const void*>(first + at), writes);
    }
  }
};

// One number for all elements of a span, or one for each.
template <class E>
struct Same {
  E value;

  Same(const E* values, Index lane) : value(values[lane]) {}

  template <class V>
  V at(Index) const {
    return splat<V>(value);
  }
};

template <class E>
struct Each {
  const E* values;

  Each(const E* all, Index) : values(all) {}

  template <class V>
  V at(Index i) const {
    return load<V>(values + i);
  }
};

template <class T>
inline const T* pointer(const Source& view, Index channel, const Position& at) {
  if (view.data == nullptr) return nullptr;
  return static_cast<const T*>(view.data) + channel * view.c + at.offset(view);
}

template <class T>
inline T* pointer(const Target& view, Index channel, const Position& at) {
  if (view.data == nullptr) return nullptr;
  return static_cast<T*>(view.data) + channel * view.c + at.offset(view);
}

inline bool keeps(const Job& job, const Position& at) {
  return job.mask.data == nullptr || job.mask.data[at.offset(job.mask)] != 0;
}

template <class From, class To>
inline void copy_run(const From* from, Index from_step, Index count, To* to, Index to_step) {
  if constexpr (std::is_same_v<To, double>) {
    if (from_step == 1 && to_step == 1) {
      return for_vectors<double>(count, [=]<class V>(Index i, auto part) {
        store(load<V>(from + i, part), to + i, part);
      });
    }
  }
  for (Index i = 0; i < count; ++i) {
    if constexpr (std::is_same_v<From, To>) {
      to[i * to_step] = from[i * from_step];
    } else {
      narrow(widen(from[i * from_step]), to[i * to_step]);
    }
  }
}

// Splits the positions [begin, end) into runs of one n: visit(position, length).
template <class Visit>
inline void for_runs(const Job& job, Index begin, Index end, const Visit& visit) {
  Position at(job, begin);
  while (begin < end) {
    const Index run = least(end - begin, job.S - at.s);
    visit(at, run);
    begin += run;
    at.s = 0;
    ++at.n;
  }
}

// Kept elements of a channel side by side in memory of our own.
template <class T>
class Stage {
 public:
  Stage(const Job& job, const Views& views) : job_(job), views_(views) {}

  // The kept ones of the given positions of a channel, at most kChunk.
  template <class Visit>
  void positions(Index channel, Index begin, Index end, const Visit& visit) {
    gather(views_.x, channel, begin, end, x_);
    gather(views_.dy, channel, begin, end, dy_);
    gather(views_.residual, channel, begin, end, residual_);
    const Index kept = keep(begin, end);
    const Span<T> kept_values = span(kept);
    visit(Batch<T>(&kept_values, 1));
    scatter(out_, channel, begin, end, views_.out);
    scatter(dresidual_, channel, begin, end, views_.dresidual);
  }

 private:
  Span<T> span(Index count) {
    return {0,
            count,
            x_,
            views_.dy.data == nullptr ? nullptr : dy_,
            views_.residual.data == nullptr ? nullptr : residual_,
            views_.out.data == nullptr ? nullptr : out_,
            views_.dresidual.data == nullptr ? nullptr : dresidual_};
  }

  EVENKEEL_NOINLINE void gather(const Source& view, Index channel, Index begin, Index end, T* to) {
    if (view.data == nullptr) return;
    for_runs(job_, begin, end, [&](const Position& at, Index run) {
      copy_run(pointer<T>(view, channel, at), view.s, run, to, 1);
      to += run;
    });
  }

  // Moves the kept values to the front; returns how many there are.
  EVENKEEL_NOINLINE Index keep(Index begin, Index end) {
    if (job_.mask.data == nullptr) return end - begin;
    Position at(job_, begin);
    Index kept = 0;
    for (Index i = 0; i < end - begin; ++i, at.step(job_)) {
      keep_[i] = keeps(job_, at);
      if (!keep_[i]) continue;
      x_[kept] = x_[i];
      if (views_.dy.data != nullptr) dy_[kept] = dy_[i];
      if (views_.residual.data != nullptr) residual_[kept] = residual_[i];
      ++kept;
    }
    kept_ = kept;
    return kept;
  }

  // Masked positions give 0.
  EVENKEEL_NOINLINE void scatter(T* from, Index channel, Index begin, Index end,
                                 const Target& view) {
    if (view.data == nullptr) return;
    if (job_.mask.data != nullptr) {
      Index kept = kept_;
      for (Index i = end - begin; i-- > 0;) {
        if (keep_[i]) {
          from[i] = from[--kept];
        } else {
          narrow(0.0, from[i]);
        }
      }
    }
    for_runs(job_, begin, end, [&](const Position& at, Index run) {
      copy_run(from, 1, run, pointer<T>(view, channel, at), view.s);
      from += run;
    });
  }

  const Job& job_;
  const Views& views_;
  Index kept_ = 0;
  EVENKEEL_ALIGNED T x_[kChunk];
  EVENKEEL_ALIGNED T dy_[kChunk];
  EVENKEEL_ALIGNED T residual_[kChunk];
  EVENKEEL_ALIGNED T out_[kChunk];
  EVENKEEL_ALIGNED T dresidual_[kChunk];
  bool keep_[kChunk];
};

template <class T>
inline Span<T> span_at(const Views& views, Index channel, Index lane, Index count,
                       const Position& at) {
  channel += lane;
  return {lane,
          count,
          pointer<T>(views.x, channel, at),
          pointer<T>(views.dy, channel, at),
          pointer<T>(views.residual, channel, at),
          pointer<T>(views.out, channel, at),
          pointer<T>(views.dresidual, channel, at)};
}

template <class T>
inline void clear_row(const Target& view, const Item& item, const Position& at) {
  T* to = pointer<T>(view, item.channel, at);
  for (Index i = 0; to != nullptr && i < item.width; ++i) narrow(0.0, to[i]);
}

template <class T, class Visit>
inline void for_rows(const Job& job, const Views& views, const Item& item, const Visit& visit) {
  Span<T> rows[kBatch];
  Index kept = 0;
  const bool ahead = views.out.data == nullptr || item.width < job.C;
  const auto flush = [&] {
    const Index number = std::exchange(kept, 0);
    visit(ahead ? Batch<T>(rows, number, views.x.s, views.dy.s) : Batch<T>(rows, number));
  };
  Position at(job, item.begin);
  for (Index i = item.begin; i < item.end; ++i, at.step(job)) {
    if (keeps(job, at)) {
      rows[kept++] = span_at<T>(views, item.channel, 0, item.width, at);
      if (kept == kBatch) flush();
    } else {
      clear_row<T>(views.out, item, at);
      clear_row<T>(views.dresidual, item, at);
    }
  }
  if (kept > 0) flush();
}

// The same, where several positions at a time make one row; the last may be shorter.
template <class T, class Visit>
inline void for_long_rows(const Job& job, const Views& views, const Item& item,
                          const Visit& visit) {
  const Index whole = (item.end - item.begin) / item.rows;
  const Position next(job, item.rows);
  const auto at = [&](Index row, Index rows) {
    const Position position(job, item.begin + row * item.rows);
    return span_at<T>(views, item.channel, 0, rows * item.width, position);
  };
  Span<T> rows[kBatch];
  for (Index row = 0; row < whole; row += kBatch) {
    const Index number = least(kBatch, whole - row);
    for (Index i = 0; i < number; ++i) rows[i] = at(row + i, item.rows);
    visit(Batch<T>(rows, number, next.offset(views.x), next.offset(views.dy)));
  }
  const Index rest = item.end - item.begin - whole * item.rows;
  if (rest == 0) return;  // never where planes make a row
  rows[0] = at(whole, rest);
  visit(Batch<T>(rows, 1));
}

template <class T, class Visit>
inline void for_planes(const Job& job, const Views& views, const Item& item, const Visit& visit) {
  const bool near = job.S * Index{sizeof(T)} <= kFarPlaneBytes;
  // An elementwise pass finds in the cache what it reads.
  const bool reads = near && views.out.data == nullptr, writes = near && !reads;
  const Index x_step = reads ? views.x.n : 0, dy_step = reads ? views.dy.n : 0;
  const Index out_step = writes ? views.out.n : 0;
  for_runs(job, item.begin, item.end, [&](const Position& at, Index run) {
    Span<T> plane = span_at<T>(views, item.channel, 0, run, at);
    for (; plane.lane < item.width; plane.next(views)) {
      visit(Batch<T>(&plane, 1, x_step, dy_step, out_step));
    }
  });
}

// All kept elements of an item, in an order that the shape alone decides: visit(batch).
// With adjacent channels the spans are rows, otherwise runs of one channel.
template <class T, class Visit>
inline void for_spans(const Job& job, const Views& views, const Item& item, const Visit& visit) {
  if (item.rows > 1) {
    for_long_rows<T>(job, views, item, visit);
  } else if (job.plan.channels_inner) {
    for_rows<T>(job, views, item, visit);
  } else if (job.plan.positions_inner) {
    for_planes<T>(job, views, item, visit);
  } else {
    Stage<T> stage(job, views);
    for (Index begin = item.begin; begin < item.end; begin += kChunk) {
      stage.positions(item.channel, begin, least(begin + kChunk, item.end), visit);
    }
  }
}

// Reads `count` per-channel numbers as double; an absent array is `fallback` everywhere.
inline void load_channels(const Channels& from, Index channel, Index count, double fallback,
                          double* to) {
  if (from.data == nullptr) {
    for (Index i = 0; i < count; ++i) to[i] = fallback;
    return;
  }
  with_type(from.dtype, [&]<class T>() {
    copy_run(static_cast<const T*>(from.data) + channel * from.step, from.step, count, to, 1);
  });
}

// Per-channel results have double for f64 and float for everything else.
inline void store_channels(const Job& job, const double* from, Index channel, Index count,
                           void* to) {
  if (job.dtype == DType::f64) {
    copy_run(from, 1, count, static_cast<double*>(to) + channel, 1);
  } else {
    copy_run(from, 1, count, static_cast<float*>(to) + channel, 1);
  }
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
