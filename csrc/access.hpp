// Walking the canonical view: positions, runs of one channel, rows of a tile.
#pragma once

#include "types.hpp"

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

inline bool keeps(const Job& job, const Position& at) {
  return job.mask.data == nullptr || job.mask.data[at.offset(job.mask)] != 0;
}

// The channels and positions of one work item.
struct Item {
  Index channel, width, begin, end;

  Item(const Job& job, Index tile, Index part)
      : channel(tile * job.plan.width),
        width(least(job.plan.width, job.C - channel)),
        begin(part * job.plan.span),
        end(least(begin + job.plan.span, job.N * job.S)) {}
};

template <class T>
inline void load_run(const T* __restrict from, Index step, Index count, double* __restrict to) {
  if (step == 1) {
    for (Index i = 0; i < count; ++i) to[i] = widen(from[i]);
  } else {
    for (Index i = 0; i < count; ++i) to[i] = widen(from[i * step]);
  }
}

template <class T>
inline void store_run(const double* __restrict from, Index count, T* __restrict to, Index step) {
  if (step == 1) {
    for (Index i = 0; i < count; ++i) narrow(from[i], to[i]);
  } else {
    for (Index i = 0; i < count; ++i) narrow(from[i], to[i * step]);
  }
}

template <class T>
inline void clear_run(Index count, T* to) {
  for (Index i = 0; i < count; ++i) narrow(0.0, to[i]);
}

// Splits `count` positions from `begin` into runs of one n: visit(offset in the chunk, at, length).
template <class Visit>
inline void for_runs(const Job& job, Index begin, Index count, const Visit& visit) {
  Position at(job, begin);
  for (Index done = 0; done < count;) {
    const Index run = least(count - done, job.S - at.s);
    visit(done, at, run);
    done += run;
    at.s = 0;
    ++at.n;
  }
}

template <class T>
inline void gather(const Job& job, const Source& view, Index channel, Index begin, Index count,
                   double* to) {
  const T* base = static_cast<const T*>(view.data) + channel * view.c;
  for_runs(job, begin, count, [&](Index done, const Position& at, Index run) {
    load_run(base + at.offset(view), view.s, run, to + done);
  });
}

template <class T>
inline void scatter(const Job& job, const double* from, Index channel, Index begin, Index count,
                    const Target& view) {
  T* base = static_cast<T*>(view.data) + channel * view.c;
  for_runs(job, begin, count, [&](Index done, const Position& at, Index run) {
    store_run(from + done, run, base + at.offset(view), view.s);
  });
}

inline void gather_mask(const Job& job, Index begin, Index count, std::uint8_t* to) {
  for_runs(job, begin, count, [&](Index done, const Position& at, Index run) {
    const std::uint8_t* from = job.mask.data + at.offset(job.mask);
    for (Index i = 0; i < run; ++i) to[done + i] = from[i * job.mask.s];
  });
}

template <class T>
inline const T* row(const Source& view, const Item& item, const Position& at) {
  return static_cast<const T*>(view.data) + item.channel * view.c + at.offset(view);
}

template <class T>
inline T* row(const Target& view, const Item& item, const Position& at) {
  return static_cast<T*>(view.data) + item.channel * view.c + at.offset(view);
}

// Reads `count` per-channel numbers as double; an absent array is `fallback` everywhere.
inline void load_channels(const Channels& from, Index channel, Index count, double fallback,
                          double* to) {
  if (from.data == nullptr) {
    for (Index i = 0; i < count; ++i) to[i] = fallback;
    return;
  }
  with_type(from.dtype, [&]<class T>() {
    load_run(static_cast<const T*>(from.data) + channel * from.step, from.step, count, to);
  });
}

// Per-channel results have double for f64 and float for everything else.
inline void store_channels(const Job& job, const double* from, Index channel, Index count,
                           void* to) {
  if (job.dtype == DType::f64) {
    store_run(from, count, static_cast<double*>(to) + channel, 1);
  } else {
    store_run(from, count, static_cast<float*>(to) + channel, 1);
  }
}

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
