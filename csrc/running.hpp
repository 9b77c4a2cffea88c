// Letting a batch enter the running statistics, eq. (6) and (8).
#pragma once

#include <optional>

#include "job.hpp"

namespace evenkeel {

// One number per channel, float or double.
struct Vector {
  void* data;
  bool is_double;
  Index step;
};

struct Entry {
  Vector running_mean{}, running_var{}, mean{}, var{};
  Index channels = 0;
  Index* batches = nullptr;  // counter, or none
  double correction = 1.0;   // what makes the variance the stored estimate, eq. (16)
  double momentum = 0.0;     // weight of the new value
  bool cumulative = false;   // the weight is one over the number of batches instead

  void set_momentum(std::optional<double> given) {
    momentum = given.value_or(0.0);
    cumulative = !given.has_value();
  }
};

// Writes the running statistics and the counter, each number rounded once. With `only_finite`, a
// batch in which a number is NaN or Inf changes nothing, and the result is false.
bool enter(const Entry& entry, bool only_finite);

}  // namespace evenkeel
