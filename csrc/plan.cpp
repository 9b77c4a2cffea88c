#include "plan.hpp"

#include <algorithm>

namespace evenkeel {

namespace {

constexpr Index kWantedItems = 256;    // enough to keep that many threads busy
constexpr Index kLeastItem = 16384;    // elements below which splitting a tile does not pay
constexpr Index kFewestChannels = 8;   // narrower rows are walked channel by channel

Index ceil_div(Index a, Index b) { return (a + b - 1) / b; }

// Applies `visit` to every (data, n, c, s) of the job.
template <class Visit>
void for_views(Job& job, const Visit& visit) {
  for (Source* view : {&job.x, &job.dy, &job.residual}) {
    if (view->data != nullptr) visit(*view);
  }
  for (Target* view : {&job.y, &job.dx, &job.dresidual}) {
    if (view->data != nullptr) visit(*view);
  }
}

// One long axis of positions makes long runs: (N, C, S) -> (1, C, N S) where all strides agree.
void join_positions(Job& job) {
  if (job.S == 1) {
    for_views(job, [](auto& view) { view.s = view.n; });
    job.mask.s = job.mask.n;
  } else {
    bool uniform = job.mask.data == nullptr || job.mask.n == job.S * job.mask.s;
    for_views(job, [&](auto& view) { uniform = uniform && view.n == job.S * view.s; });
    if (!uniform) return;
  }
  job.S *= job.N;
  job.N = 1;
}

bool channels_adjacent(Job& job) {
  bool adjacent = job.C >= kFewestChannels;
  for_views(job, [&](auto& view) { adjacent = adjacent && view.c == 1; });
  return adjacent;
}

Index element_bytes(DType dtype) {
  if (dtype == DType::f64) return 8;
  return dtype == DType::f32 ? 4 : 2;
}

}  // namespace

void plan_job(Job& job) {
  join_positions(job);
  Plan& plan = job.plan;
  const Index positions = job.N * job.S;
  plan.channels_inner = channels_adjacent(job);
  plan.width = plan.channels_inner ? std::min(job.C, kChunk) : 1;
  plan.tiles = job.C == 0 ? 0 : ceil_div(job.C, plan.width);
  const Index block = plan.channels_inner ? kRows : kBlock;
  const Index useful = std::max<Index>(1, positions * plan.width / kLeastItem);
  const Index wanted = plan.tiles == 0 ? 1 : ceil_div(kWantedItems, plan.tiles);
  const Index blocks = ceil_div(ceil_div(positions, std::min(wanted, useful)), block);
  plan.span = std::max<Index>(1, blocks) * block;
  plan.parts = std::max<Index>(1, ceil_div(positions, plan.span));
}

Index slab_bytes(const Job& job) {
  const Index tensors = 1 + (job.dy.data != nullptr) + (job.residual.data != nullptr);
  return tensors * element_bytes(job.dtype) * job.plan.width * job.N * job.S;
}

}  // namespace evenkeel
