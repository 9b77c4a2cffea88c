// Torch tensors without torch's headers: where their values lie, and new ones.
#pragma once

#include <nanobind/nanobind.h>

#include "job.hpp"

namespace evenkeel {

// Element types beyond those of DType.
inline constexpr DType kBool{-1};
inline constexpr DType kInt64{-2};
inline constexpr DType kOther{-3};

inline constexpr Index kMaxRank = 8;

// A tensor of at most kMaxRank dimensions; strides count elements.
struct Tensor {
  const void* data = nullptr;
  DType dtype = kOther;
  bool on_cpu = false;
  Index rank = 0;
  Index shape[kMaxRank] = {};
  Index strides[kMaxRank] = {};

  // Whether its values can be read and written by address.
  bool has_values() const;

  // (N, C, *S) becomes (N, C, S); false where one stride cannot walk S in order.
  bool collapse();
};

// Uses the C interface of the DLPack standard (1.3) that torch offers since 2.10, given as the
// capsule torch.Tensor.__dlpack_c_exchange_api__. It describes a tensor in a few nanoseconds;
// without it (None) attributes are read, which takes microseconds. False for a foreign capsule.
bool use_exchange(nanobind::handle capsule);

// Describes a torch tensor; false, with no Python error set, for anything else.
bool describe(nanobind::handle object, Tensor& tensor);

// The same where its values lie in memory as they read; false for a lazy negation.
bool read(nanobind::handle object, Tensor& tensor);

// torch.empty_like(object), and torch.empty(size) of float32 or float64.
nanobind::object empty_like(nanobind::handle object);
nanobind::object empty(Index size, DType dtype);

}  // namespace evenkeel
