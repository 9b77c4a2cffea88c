#include "verbs.hpp"

#include <algorithm>
#include <vector>

#include "isa.hpp"
#include "plan.hpp"

#if defined(_OPENMP)
#include <omp.h>
#endif

namespace evenkeel {

namespace {

// Calls body(thread, begin, end) so that the ranges cover [0, items).
template <class Body>
void share(Index items, Index threads, Index pool, const Body& body) {
#if defined(_OPENMP)
  if (threads > 1) {
#pragma omp parallel num_threads(static_cast<int>(pool))
    {
      const Index team = std::min<Index>(threads, omp_get_num_threads());
      const Index self = omp_get_thread_num();
      if (self < team) body(self, items * self / team, items * (self + 1) / team);
    }
    return;
  }
#endif
  (void)threads, (void)pool;
  body(Index{0}, Index{0}, items);
}

// A planned job with the kernels and the number of threads that it is worth.
struct Run {
  Job job;
  const Kernels& kernels = active_kernels();
  Index threads;
  Index pool;     // threads that torch uses
  Index partial;  // doubles in one partial result

  Run(const Job& given, Index allowed) : job(given), pool(allowed) {
    plan_job(job);
    const Index worth = job.N * job.C * job.S / kGrain;
    const Index items = job.plan.tiles * job.plan.parts;
    threads = std::max<Index>(1, std::min({allowed, worth, items}));
    partial = kPartialRows * job.plan.width;
  }

  // visit(tile, part) for every item.
  template <class Visit>
  void for_items(const Visit& visit) const {
    const Index parts = job.plan.parts;
    share(job.plan.tiles * parts, threads, pool, [&](Index, Index begin, Index end) {
      for (Index item = begin; item < end; ++item) visit(item / parts, item % parts);
    });
  }

  // visit(tile, memory) for every tile, with room for the partial results of one tile.
  template <class Visit>
  void for_tiles(const Visit& visit) const {
    const Index room = partial * job.plan.parts;
    std::vector<double> memory(static_cast<std::size_t>(room * threads));
    share(job.plan.tiles, threads, pool, [&](Index thread, Index begin, Index end) {
      for (Index tile = begin; tile < end; ++tile) visit(tile, memory.data() + room * thread);
    });
  }
};

using Reduce = void (*)(const Job&, Index, Index, double*);
using Finish = void (*)(const Job&, Index, double*);
using Apply = void (*)(const Job&, Index, Index);

void reduce_tile(const Run& run, Reduce reduce, Finish finish, Index tile, double* memory) {
  for (Index part = 0; part < run.job.plan.parts; ++part) {
    reduce(run.job, tile, part, memory + part * run.partial);
  }
  finish(run.job, tile, memory);
}

// A reduction over all items; where a tile is one item, its partial result stays in cache.
void reduce_all(const Run& run, Reduce reduce, Finish finish) {
  const Index parts = run.job.plan.parts;
  if (parts == 1) {
    run.for_tiles([&](Index tile, double* memory) {
      reduce_tile(run, reduce, finish, tile, memory);
    });
    return;
  }
  std::vector<double> memory(static_cast<std::size_t>(run.job.plan.tiles * parts * run.partial));
  const auto at = [&](Index tile, Index part) {
    return memory.data() + (tile * parts + part) * run.partial;
  };
  run.for_items([&](Index tile, Index part) { reduce(run.job, tile, part, at(tile, part)); });
  for (Index tile = 0; tile < run.job.plan.tiles; ++tile) finish(run.job, tile, at(tile, 0));
}

void apply_all(const Run& run, Apply apply) {
  run.for_items([&](Index tile, Index part) { apply(run.job, tile, part); });
}

// Reduction and application. While a tile's slab fits in cache and every thread gets tiles, the
// second pass follows the first tile by tile; the sums and their order are the same either way.
void reduce_and_apply(const Run& run, Reduce reduce, Finish finish, Apply apply) {
  if (slab_bytes(run.job) > kSlabBytes || run.job.plan.tiles < run.threads) {
    reduce_all(run, reduce, finish);
    apply_all(run, apply);
    return;
  }
  run.for_tiles([&](Index tile, double* memory) {
    reduce_tile(run, reduce, finish, tile, memory);
    for (Index part = 0; part < run.job.plan.parts; ++part) apply(run.job, tile, part);
  });
}

}  // namespace

void run_moments(Job job, Index threads) {
  const Run run(job, threads);
  reduce_all(run, run.kernels.moments, run.kernels.finish_moments);
}

void run_normalize(Job job, Index threads) {
  const Run run(job, threads);
  apply_all(run, run.kernels.normalize);
}

void run_backward_reduce(Job job, Index threads) {
  const Run run(job, threads);
  reduce_all(run, run.kernels.backward_reduce, run.kernels.finish_sums);
}

void run_backward_input(Job job, Index threads) {
  const Run run(job, threads);
  apply_all(run, run.kernels.backward_input);
}

void run_forward(Job job, Index threads) {
  const Run run(job, threads);
  reduce_and_apply(run, run.kernels.moments, run.kernels.finish_moments, run.kernels.normalize);
}

void run_backward(Job job, Index threads) {
  const Run run(job, threads);
  reduce_and_apply(run, run.kernels.backward_reduce, run.kernels.finish_sums,
                   run.kernels.backward_input);
}

}  // namespace evenkeel
