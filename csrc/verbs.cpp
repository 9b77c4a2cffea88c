#include "verbs.hpp"

#include <algorithm>
#include <cstdlib>
#include <string_view>
#include <vector>

#include "isa.hpp"
#include "plan.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif
#if defined(__linux__)
#include <sys/mman.h>
#endif

namespace evenkeel {

namespace {

using Reduce = void (*)(const Job&, Index, Index, double*);
using Finish = void (*)(const Job&, Index, double*);
using Apply = void (*)(const Job&, Index, Index);

bool wants_huge_pages() {
  const char* setting = std::getenv("EVENKEEL_HUGE_PAGES");
  return setting == nullptr || std::string_view(setting) != "0";
}

// Asks for huge pages under a large result. Fresh memory costs a fault for every page, and with
// pages of 4 KiB the faults take longer than the arithmetic. It is a hint: where the system gives
// no huge pages, or the memory has been used before, nothing changes.
void advise(const Target& result, Index bytes) {
#if defined(__linux__)
  static const bool wanted = wants_huge_pages();
  if (!wanted || result.data == nullptr || bytes < kHugeBytes) return;
  constexpr std::uintptr_t page = 4096;
  const auto begin = reinterpret_cast<std::uintptr_t>(result.data);
  const std::uintptr_t first = (begin + page - 1) / page * page;
  const std::uintptr_t last = (begin + static_cast<std::uintptr_t>(bytes)) / page * page;
  madvise(reinterpret_cast<void*>(first), last - first, MADV_HUGEPAGE);
#else
  (void)result, (void)bytes, (void)wants_huge_pages;
#endif
}

// A part of a range, by equal shares.
struct Share {
  Index begin, end;

  Share(Index items, Index self, Index team)
      : begin(items * self / team), end(items * (self + 1) / team) {}
};

// Calls body(self, team, wait) on `threads` threads of the pool; wait() is a barrier among all.
template <class Body>
void run_team(Index threads, Index pool, const Body& body) {
#if defined(_OPENMP)
  if (threads > 1) {
    // Always the whole pool: another number of threads would make OpenMP build a new one.
#pragma omp parallel num_threads(static_cast<int>(pool))
    {
      const Index here = omp_get_num_threads(), team = std::min(threads, here);
      const Index self = std::min<Index>(omp_get_thread_num(), team);  // beyond: no share
      body(self, team, [] {
#pragma omp barrier
      });
    }
    return;
  }
#endif
  (void)threads, (void)pool;
  body(Index{0}, Index{1}, [] {});
}

// A planned job with the kernels and the number of threads that it is worth.
class Run {
 public:
  Run(const Job& given, Index allowed) : job_(given), pool_(allowed) {
    const Index bytes = job_.N * job_.C * job_.S * element_bytes(job_.dtype);
    for (const Target* result : {&job_.y, &job_.dx, &job_.dresidual}) advise(*result, bytes);
    plan_job(job_);
    bytes_ = bytes;
    const Index worth = job_.N * job_.C * job_.S / kGrain;
    items_ = job_.plan.tiles * job_.plan.parts;
    threads_ = std::max<Index>(1, std::min({allowed, worth, items_}));
    partial_ = kPartialRows * job_.plan.width;
  }

  const Kernels& kernels() const { return kernels_; }

  // A reduction, an application, or both; either may be null.
  void operator()(Reduce reduce, Finish finish, Apply apply) {
    sweeps_ = apply != nullptr && in_order_of_memory(reduce) && plan_sweep(apply_ = job_);
    if (reduce != nullptr && whole_tiles() && !sweeps_) return by_tile(reduce, finish, apply);
    by_item(reduce, finish, apply);
  }

 private:
  // Whether results are better written in the order of memory than tile by tile. Pieces of rows are
  // slow to write. Of planes, a tile has one in every huge page of the result; such a page is
  // cleared as a whole when it is first written to, and by the next tile its lines have left the
  // cache. But a tile's second pass finds in the cache what the first has read, and that weighs
  // more where dy is read as well, or all of x stays there.
  bool in_order_of_memory(Reduce reduce) const {
    if (reduce == nullptr || (job_.plan.channels_inner && !job_.plan.by_plane)) return true;
    return job_.dy.data == nullptr && bytes_ >= kFarBytes;
  }

  // Whether equal shares of tiles, all parts of a tile on one thread, keep all threads busy.
  bool whole_tiles() const {
    const Index tiles = job_.plan.tiles;
    return tiles % threads_ == 0 || tiles >= 8 * threads_;
  }

  // Both passes tile by tile: the second one finds in cache what the first one has left there.
  void by_tile(Reduce reduce, Finish finish, Apply apply) const {
    const Index parts = job_.plan.parts;
    run_team(threads_, pool_, [&](Index self, Index team, auto) {
      if (self == team) return;
      std::vector<double> memory(static_cast<std::size_t>(partial_ * parts));
      const Share tiles(job_.plan.tiles, self, team);
      for (Index tile = tiles.begin; tile < tiles.end; ++tile) {
        for (Index part = 0; part < parts; ++part) {
          reduce(job_, tile, part, memory.data() + part * partial_);
        }
        finish(job_, tile, memory.data());
        for (Index part = parts; apply != nullptr && part-- > 0;) apply(job_, tile, part);
      }
    });
  }

  // The first pass over all, then the second, which each thread begins where it has just been.
  void by_item(Reduce reduce, Finish finish, Apply apply) const {
    const Index parts = job_.plan.parts;
    std::vector<double> memory(reduce == nullptr ? 0 : static_cast<std::size_t>(items_ * partial_));
    run_team(threads_, pool_, [&](Index self, Index team, auto wait) {
      const Share items(self < team ? items_ : 0, self, team);
      const Share tiles(self < team ? job_.plan.tiles : 0, self, team);
      if (reduce != nullptr) {
        for (Index item = items.begin; item < items.end; ++item) {
          reduce(job_, item / parts, item % parts, memory.data() + item * partial_);
        }
        wait();
        for (Index tile = tiles.begin; tile < tiles.end; ++tile) {
          finish(job_, tile, memory.data() + tile * parts * partial_);
        }
        wait();
      }
      if (apply == nullptr || self == team) return;
      if (sweeps_) return sweep(apply, self, team);
      for (Index item = items.end; item-- > items.begin;) apply(job_, item / parts, item % parts);
    });
  }

  // The elementwise pass in the order of memory.
  void sweep(Apply apply, Index self, Index team) const {
    const Index tiles = apply_.plan.tiles;
    const Share items(tiles * apply_.plan.parts, self, team);
    for (Index item = items.begin; item < items.end; ++item) {
      apply(apply_, item % tiles, item / tiles);
    }
  }

  Job job_;
  Job apply_;            // the same, planned for an elementwise pass in the order of memory
  bool sweeps_ = false;  // whether that plan is used
  Index bytes_;          // of a tensor like x
  const Kernels& kernels_ = active_kernels();
  Index threads_;
  Index pool_;  // threads that torch uses
  Index items_;
  Index partial_;  // doubles in one partial result
};

}  // namespace

void run_moments(Job job, Index threads) {
  Run run(job, threads);
  run(run.kernels().moments, run.kernels().finish_moments, nullptr);
}

void run_normalize(Job job, Index threads) {
  Run run(job, threads);
  run(nullptr, nullptr, run.kernels().normalize);
}

void run_backward_reduce(Job job, Index threads) {
  Run run(job, threads);
  run(run.kernels().backward_reduce, run.kernels().finish_sums, nullptr);
}

void run_backward_input(Job job, Index threads) {
  Run run(job, threads);
  run(nullptr, nullptr, run.kernels().backward_input);
}

void run_forward(Job job, Index threads) {
  Run run(job, threads);
  run(run.kernels().moments, run.kernels().finish_moments, run.kernels().normalize);
}

void run_backward(Job job, Index threads) {
  Run run(job, threads);
  run(run.kernels().backward_reduce, run.kernels().finish_sums, run.kernels().backward_input);
}

}  // namespace evenkeel
