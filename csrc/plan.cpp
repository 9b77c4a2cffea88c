#include "plan.hpp"

#include <algorithm>

namespace evenkeel {

namespace {

constexpr Index kWantedItems = 128;     // enough to keep that many threads busy
constexpr Index kGoodItem = 131072;     // elements of an item that pay for its setup,
constexpr Index kFewItems = 16;         // unless there would be fewer than that
constexpr Index kFewestChannels = 8;    // narrower rows are walked channel by channel
constexpr Index kFewestPositions = 16;  // shorter runs are copied together
constexpr Index kLongRow = 256;         // elements that several narrow rows make together
constexpr Index kSmallPlane = 64;       // smaller planes make long rows, too,
constexpr Index kManyPlanes = 16;       // if a channel has so many, or they are shorter than a run
constexpr Index kRows = 128;            // rows of a block
constexpr Index kExactRows = 64;        // the same for doubles, which are summed as doubles
constexpr Index kBlock = 4096;          // positions of a block otherwise
constexpr Index kExactBlock = 1024;     // the same for doubles
constexpr Index kFirstShare = 32;       // the first block is that much shorter
constexpr Index kExactShare = 8;        // the same for doubles
constexpr Index kSweepItem = 131072;    // elements that are worth the channels' numbers of a tile
constexpr Index kPageBytes = 4096;      // smaller planes are walked several at a time

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

bool positions_adjacent(Job& job) {
  bool adjacent = job.S >= kFewestPositions && job.mask.data == nullptr;
  for_views(job, [&](auto& view) { adjacent = adjacent && view.s == 1; });
  return adjacent;
}

// Small planes that follow each other: those of one n are a row, like a row of adjacent channels.
bool planes_in_rows(Job& job) {
  bool dense = job.mask.data == nullptr && 0 < job.S && job.S < kSmallPlane;
  dense = dense && (job.N >= kManyPlanes || job.S < kFewestPositions);
  for_views(job, [&](auto& view) { dense = dense && view.s == 1 && view.c == job.S; });
  return dense;
}

// Channels per tile. Small planes go together, since memory is fast only where it is read in order.
Index tile_width(const Job& job) {
  if (job.plan.by_plane) return std::min(job.C, kMaxWidth / job.S);
  if (job.plan.channels_inner) return std::min(job.C, kMaxWidth);
  if (!job.plan.positions_inner || job.x.c != job.S) return 1;
  const Index planes = ceil_div(kPageBytes, job.S * element_bytes(job.dtype));
  return std::clamp<Index>(std::min(planes, job.C), 1, kMaxPlanes);
}

// Rows that make a long one: as many as a tile has room for, where they follow each other.
Index rows_together(Job& job) {
  if (job.plan.by_plane) return job.S;
  bool dense = job.plan.channels_inner && job.plan.tiles == 1 && job.N == 1;
  dense = dense && job.mask.data == nullptr;
  for_views(job, [&](auto& view) { dense = dense && view.s == job.C; });
  return dense ? std::max<Index>(1, kLongRow / job.C) : 1;
}

// Blocks are whole rows, or whole runs where these are short.
void plan_blocks(Job& job) {
  Plan& plan = job.plan;
  const bool exact = job.dtype == DType::f64;
  const Index share = exact ? kExactShare : kFirstShare;
  if (plan.channels_inner) {
    plan.block = (exact ? kExactRows : kRows) * plan.rows;
    plan.first_block = plan.block / share;
    return;
  }
  const auto whole = [&](Index size) {
    return 0 < job.S && job.S < size ? ceil_div(size, job.S) * job.S : size;
  };
  plan.block = whole(exact ? kExactBlock : kBlock);
  plan.first_block = whole((exact ? kExactBlock : kBlock) / share);
}

}  // namespace

void plan_job(Job& job) {
  join_positions(job);
  Plan& plan = job.plan;
  const Index positions = job.N * job.S;
  plan.channels_inner = channels_adjacent(job);
  plan.positions_inner = !plan.channels_inner && positions_adjacent(job);
  plan.by_plane = !plan.channels_inner && planes_in_rows(job);
  if (plan.by_plane) plan.channels_inner = true;
  plan.width = tile_width(job);
  plan.tiles = job.C == 0 ? 0 : ceil_div(job.C, plan.width);
  plan.rows = rows_together(job);
  plan_blocks(job);
  const Index elements = positions * plan.width;
  const Index tiles = std::max<Index>(1, plan.tiles);
  const Index few = std::clamp<Index>(elements / kGrain, 1, ceil_div(kFewItems, tiles));
  const Index useful = std::max(few, elements / kGoodItem);
  const Index wanted = ceil_div(kWantedItems, tiles);
  const Index blocks = ceil_div(ceil_div(positions, std::min(wanted, useful)), plan.block);
  plan.span = std::max<Index>(1, blocks) * plan.block;
  plan.parts = std::max<Index>(1, ceil_div(positions, plan.span));
}

bool plan_sweep(Job& job) {
  Plan& plan = job.plan;
  if (plan.channels_inner && !plan.by_plane) {
    if (plan.tiles == 1) return false;
    plan.width = std::min(job.C, kMaxRow);
    plan.span = ceil_div(kSweepItem, plan.width);
  } else {
    if (!plan.positions_inner || job.N == 1) return false;
    plan.channels_inner = plan.by_plane = false;
    plan.rows = 1;
    plan.width = std::min(job.C, kMaxWidth);
    plan.span = ceil_div(kSweepItem, plan.width * job.S) * job.S;
  }
  plan.tiles = ceil_div(job.C, plan.width);
  plan.parts = ceil_div(job.N * job.S, plan.span);
  return true;
}

}  // namespace evenkeel
