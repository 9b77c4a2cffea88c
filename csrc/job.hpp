// What one kernel call works on: plain data, shared by every instruction set.
#pragma once

#include <cstdint>

namespace evenkeel {

using Index = std::int64_t;

enum class DType : Index { f16, bf16, f32, f64 };

enum class Activation : Index {
  identity,
  relu,
  leaky_relu,
  relu6,
  silu,
  gelu,
  hardswish,
  elu,
  leaky_relu_undone,  // backward only: x holds the output of a leaky ReLU, z takes its place
};

// A tensor on the canonical view (N, C, S); strides count elements, data may be null (absent).
struct Source {
  const void* data = nullptr;
  Index n = 0, c = 0, s = 0;
};

struct Target {
  void* data = nullptr;
  Index n = 0, c = 0, s = 0;
};

// Which of the (N, S) positions are kept; null data keeps all of them.
struct Mask {
  const std::uint8_t* data = nullptr;
  Index n = 0, s = 0;
};

// One number per channel, of any of the four types.
struct Channels {
  const void* data = nullptr;
  DType dtype = DType::f32;
  Index step = 1;
};

// How the work is cut: tiles of channels times parts of positions. It follows from the shape and
// the strides alone, never from the number of threads, so that every sum has one fixed order.
struct Plan {
  bool channels_inner = false;   // channels are adjacent in memory: they are the inner loop
  bool positions_inner = false;  // otherwise: positions are adjacent, none is masked
  Index rows = 1;                // positions that make one long row: narrow rows without gaps,
  bool by_plane = false;         // or all of n, where planes are small: channel by channel
  Index block = 1;               // positions that are summed before compensation
  Index first_block = 1;         // the first one is shorter, as it is read twice
  Index width = 1;               // channels per tile
  Index tiles = 0;
  Index span = 0;  // positions per part
  Index parts = 1;
};

struct Job {
  DType dtype = DType::f32;
  Index N = 0, C = 0, S = 0;
  Source x, dy, residual;
  Target y, dx, dresidual;
  Mask mask;
  Channels mean, mean_lo, var, weight, bias;  // absent weight is 1, absent bias 0
  double eps = 0.0;
  Activation activation = Activation::identity;
  double parameter = 0.0;
  Channels dz, dz_xhat;  // the backward sums as input; absent: statistics are constants
  double count = 0.0;    // kept values per channel, for those sums
  void* out_mean = nullptr;     // results: contiguous, double for f64 and float otherwise
  void* out_mean_lo = nullptr;
  void* out_var = nullptr;
  void* out_dz = nullptr;
  void* out_dz_xhat = nullptr;
  Plan plan;
};

inline constexpr Index kMaxWidth = 512;   // widest tile of adjacent channels
inline constexpr Index kMaxRow = 2048;    // the same for elementwise steps, with fewer numbers
inline constexpr Index kMaxPlanes = 32;   // widest tile otherwise
inline constexpr Index kChunk = 512;      // elements copied at a time where they are not adjacent
inline constexpr Index kBatch = 8;        // rows that are summed together
inline constexpr Index kFloatTerms = 4;   // rows, or pairs of vectors, added in float before double
inline constexpr Index kLineBytes = 64;   // of the cache
inline constexpr Index kFarPlaneBytes = 16384;  // beyond, the next plane leaves the cache too soon
inline constexpr Index kPartialRows = 5;  // numbers per channel in a partial result

// Scratch arrays start at a cache line: full-width loads that straddle two lines cost far more.
#define EVENKEEL_ALIGNED alignas(64)

// One table per instruction set. `partial` holds kPartialRows * plan.width doubles; the finish
// verbs read plan.parts of them in order.
struct Kernels {
  const char* isa;
  void (*moments)(const Job& job, Index tile, Index part, double* partial);
  void (*finish_moments)(const Job& job, Index tile, double* partials);
  void (*normalize)(const Job& job, Index tile, Index part);
  void (*backward_reduce)(const Job& job, Index tile, Index part, double* partial);
  void (*finish_sums)(const Job& job, Index tile, double* partials);
  void (*backward_input)(const Job& job, Index tile, Index part);
};

}  // namespace evenkeel
