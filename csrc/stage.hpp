// Elements that are strided or masked, gathered into spans of our own and scattered back.
#pragma once

#include "span.hpp"

namespace evenkeel::EVENKEEL_ISA {
namespace {

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

}  // namespace
}  // namespace evenkeel::EVENKEEL_ISA
