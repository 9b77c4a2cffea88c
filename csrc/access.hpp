// Walking the canonical view: an item's elements as spans.
#pragma once

#include <utility>

#include "stage.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

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
