#include "running.hpp"

#include <cmath>

namespace evenkeel {

namespace {

double get(const Vector& vector, Index i) {
  if (vector.is_double) return static_cast<const double*>(vector.data)[i * vector.step];
  return static_cast<const float*>(vector.data)[i * vector.step];
}

void set(const Vector& vector, Index i, double value) {
  if (vector.is_double) {
    static_cast<double*>(vector.data)[i * vector.step] = value;
  } else {
    static_cast<float*>(vector.data)[i * vector.step] = static_cast<float>(value);
  }
}

bool all_finite(const Entry& entry) {
  double rest = 0.0;  // v - v is 0 for every finite v, and NaN otherwise
  for (Index i = 0; i < entry.channels; ++i) {
    const double mean = get(entry.mean, i), var = get(entry.var, i);
    rest += (mean - mean) + (var - var);
  }
  return rest == 0.0;
}

double weight_of_new(const Entry& entry) {
  if (entry.batches != nullptr) ++*entry.batches;
  if (!entry.cumulative) return entry.momentum;
  if (entry.batches == nullptr) return 0.0;  // torch's reading of momentum=None without a counter
  return 1.0 / static_cast<double>(*entry.batches);
}

}  // namespace

bool enter(const Entry& entry, bool only_finite) {
  if (only_finite && !all_finite(entry)) return false;
  const double weight = weight_of_new(entry), rest = 1.0 - weight;  // weight 1 gives the new value
  for (Index i = 0; i < entry.channels; ++i) {
    const double mean = get(entry.running_mean, i), var = get(entry.running_var, i);
    set(entry.running_mean, i, rest * mean + weight * get(entry.mean, i));
    set(entry.running_var, i, rest * var + weight * (get(entry.var, i) * entry.correction));
  }
  return true;
}

}  // namespace evenkeel
