#include "isa.hpp"

#include <atomic>

namespace evenkeel {

namespace baseline {
extern const Kernels kernels;
}
#if defined(EVENKEEL_X86)
namespace avx2 {
extern const Kernels kernels;
}
namespace avx512 {
extern const Kernels kernels;
}
#endif
#if defined(EVENKEEL_AARCH64)
namespace neon {
extern const Kernels kernels;
}
#endif

namespace {

std::vector<const Kernels*> find_tables() {
  std::vector<const Kernels*> tables;
#if defined(EVENKEEL_X86)
  if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512vl")) {
    tables.push_back(&avx512::kernels);
  }
  if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) {
    tables.push_back(&avx2::kernels);
  }
#endif
#if defined(EVENKEEL_AARCH64)
  tables.push_back(&neon::kernels);
#endif
  tables.push_back(&baseline::kernels);
  return tables;
}

const std::vector<const Kernels*>& tables() {
  static const std::vector<const Kernels*> found = find_tables();
  return found;
}

std::atomic<const Kernels*>& active() {
  static std::atomic<const Kernels*> table{tables().front()};
  return table;
}

}  // namespace

std::vector<std::string> available_isas() {
  std::vector<std::string> names;
  for (const Kernels* table : tables()) names.emplace_back(table->isa);
  return names;
}

const Kernels& active_kernels() { return *active().load(); }

bool select_isa(const std::string& name) {
  for (const Kernels* table : tables()) {
    if (name == table->isa) {
      active().store(table);
      return true;
    }
  }
  return false;
}

}  // namespace evenkeel
