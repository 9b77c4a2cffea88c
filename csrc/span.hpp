// Spans: elements that lie one after the other in memory, in each tensor of a pass.
#pragma once

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

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
