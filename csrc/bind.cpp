// The Python module evenkeel._cpu: addresses, strides and numbers in, nothing checked.
//
// Tensors come as integers, not as DLPack capsules: there is no copy to make and no ownership to
// pass, a tensor that requires grad exports no capsule, and bfloat16 has no NumPy type.

#include <nanobind/nanobind.h>
#include <nanobind/stl/array.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/tuple.h>
#include <nanobind/stl/vector.h>

#include "isa.hpp"
#include "verbs.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using evenkeel::Index;
using evenkeel::Job;

using Shape = std::array<Index, 3>;         // N, C, S
using ViewArg = std::array<Index, 4>;       // address, strides of n, c, s
using MaskArg = std::array<Index, 3>;       // address, strides of n, s
using ChannelsArg = std::array<Index, 3>;   // address, dtype, stride
using MaybeView = std::optional<ViewArg>;
using MaybeMask = std::optional<MaskArg>;
using MaybeChannels = std::optional<ChannelsArg>;
// mean, mean_lo, var, weight, bias, eps, activation, its parameter
using NormArg = std::tuple<ChannelsArg, ChannelsArg, ChannelsArg, MaybeChannels, MaybeChannels,
                           double, Index, double>;
using SumsArg = std::array<ChannelsArg, 2>;
using MomentsOut = std::array<Index, 3>;  // addresses of mean, mean_lo, var
using SumsOut = std::array<Index, 2>;     // addresses of dz, dz_xhat

void* address(Index value) { return reinterpret_cast<void*>(value); }

evenkeel::Source source(const MaybeView& view) {
  if (!view) return {};
  return {address((*view)[0]), (*view)[1], (*view)[2], (*view)[3]};
}

evenkeel::Target target(const MaybeView& view) {
  if (!view) return {};
  return {address((*view)[0]), (*view)[1], (*view)[2], (*view)[3]};
}

evenkeel::Channels channels(const MaybeChannels& arg) {
  if (!arg) return {};
  return {address((*arg)[0]), static_cast<evenkeel::DType>((*arg)[1]), (*arg)[2]};
}

Job make_job(Index dtype, const Shape& shape, const ViewArg& x, const MaybeMask& mask) {
  Job job;
  job.dtype = static_cast<evenkeel::DType>(dtype);
  job.N = shape[0];
  job.C = shape[1];
  job.S = shape[2];
  job.x = source(x);
  if (mask) {
    job.mask = {static_cast<const std::uint8_t*>(address((*mask)[0])), (*mask)[1], (*mask)[2]};
  }
  return job;
}

void set_norm(Job& job, const NormArg& norm) {
  job.mean = channels(std::get<0>(norm));
  job.mean_lo = channels(std::get<1>(norm));
  job.var = channels(std::get<2>(norm));
  job.weight = channels(std::get<3>(norm));
  job.bias = channels(std::get<4>(norm));
  job.eps = std::get<5>(norm);
  job.activation = static_cast<evenkeel::Activation>(std::get<6>(norm));
  job.parameter = std::get<7>(norm);
}

void set_sums(Job& job, const SumsArg& sums, Index count) {
  job.dz = channels(sums[0]);
  job.dz_xhat = channels(sums[1]);
  job.count = static_cast<double>(count);
}

void set_out(Job& job, const MomentsOut& out) {
  job.out_mean = address(out[0]);
  job.out_mean_lo = address(out[1]);
  job.out_var = address(out[2]);
}

void set_out(Job& job, const SumsOut& out) {
  job.out_dz = address(out[0]);
  job.out_dz_xhat = address(out[1]);
}

// Type of the per-channel results.
Index accumulation(Index dtype) {
  const Index f64 = static_cast<Index>(evenkeel::DType::f64);
  return dtype == f64 ? f64 : static_cast<Index>(evenkeel::DType::f32);
}

void moments(Index dtype, const Shape& shape, const ViewArg& x, const MaybeMask& mask,
             const MomentsOut& out, Index threads) {
  Job job = make_job(dtype, shape, x, mask);
  set_out(job, out);
  evenkeel::run_moments(job, threads);
}

void normalize(Index dtype, const Shape& shape, const ViewArg& x, const ViewArg& y,
               const NormArg& norm, const MaybeView& residual, const MaybeMask& mask,
               Index threads) {
  Job job = make_job(dtype, shape, x, mask);
  set_norm(job, norm);
  job.residual = source(residual);
  job.y = target(y);
  evenkeel::run_normalize(job, threads);
}

void backward_reduce(Index dtype, const Shape& shape, const ViewArg& dy, const ViewArg& x,
                     const NormArg& norm, const MaybeView& residual, const MaybeMask& mask,
                     const SumsOut& out, Index threads) {
  Job job = make_job(dtype, shape, x, mask);
  set_norm(job, norm);
  job.dy = source(dy);
  job.residual = source(residual);
  set_out(job, out);
  evenkeel::run_backward_reduce(job, threads);
}

void backward_input(Index dtype, const Shape& shape, const ViewArg& dy, const ViewArg& x,
                    const NormArg& norm, const std::optional<SumsArg>& sums, Index count,
                    const MaybeView& residual, const MaybeMask& mask, const ViewArg& dx,
                    const MaybeView& dresidual, Index threads) {
  Job job = make_job(dtype, shape, x, mask);
  set_norm(job, norm);
  job.dy = source(dy);
  job.residual = source(residual);
  if (sums) set_sums(job, *sums, count);
  job.dx = target(dx);
  job.dresidual = target(dresidual);
  evenkeel::run_backward_input(job, threads);
}

// mean, mean_lo and var of `norm` are results here.
void forward(Index dtype, const Shape& shape, const ViewArg& x, const ViewArg& y,
             const NormArg& norm, const MaybeView& residual, const MaybeMask& mask,
             Index threads) {
  Job job = make_job(dtype, shape, x, mask);
  set_norm(job, norm);
  set_out(job, MomentsOut{std::get<0>(norm)[0], std::get<1>(norm)[0], std::get<2>(norm)[0]});
  job.residual = source(residual);
  job.y = target(y);
  evenkeel::run_forward(job, threads);
}

void backward(Index dtype, const Shape& shape, const ViewArg& dy, const ViewArg& x,
              const NormArg& norm, Index count, const MaybeView& residual, const MaybeMask& mask,
              const SumsOut& out, const ViewArg& dx, const MaybeView& dresidual, Index threads) {
  Job job = make_job(dtype, shape, x, mask);
  const Index acc = accumulation(dtype);
  set_norm(job, norm);
  set_sums(job, {{{out[0], acc, 1}, {out[1], acc, 1}}}, count);
  job.dy = source(dy);
  job.residual = source(residual);
  set_out(job, out);
  job.dx = target(dx);
  job.dresidual = target(dresidual);
  evenkeel::run_backward(job, threads);
}

}  // namespace

NB_MODULE(_cpu, m) {
  using Unlocked = nb::call_guard<nb::gil_scoped_release>;
  m.doc() = "Batch-norm kernels for the CPU, called by evenkeel.kernels._providers._cpu alone.";
  m.def("isas", &evenkeel::available_isas, "Instruction sets that can run here, best first.");
  m.def("isa", [] { return std::string(evenkeel::active_kernels().isa); },
        "The instruction set in use.");
  m.def("select", &evenkeel::select_isa, "isa"_a,
        "Use an instruction set; False when it is not available.");
  m.def("moments", &moments, Unlocked(), "dtype"_a, "shape"_a, "x"_a, "mask"_a.none(), "out"_a,
        "threads"_a);
  m.def("normalize", &normalize, Unlocked(), "dtype"_a, "shape"_a, "x"_a, "y"_a, "norm"_a,
        "residual"_a.none(), "mask"_a.none(), "threads"_a);
  m.def("backward_reduce", &backward_reduce, Unlocked(), "dtype"_a, "shape"_a, "dy"_a, "x"_a,
        "norm"_a, "residual"_a.none(), "mask"_a.none(), "out"_a, "threads"_a);
  m.def("backward_input", &backward_input, Unlocked(), "dtype"_a, "shape"_a, "dy"_a, "x"_a,
        "norm"_a, "sums"_a.none(), "count"_a, "residual"_a.none(), "mask"_a.none(), "dx"_a,
        "dresidual"_a.none(), "threads"_a);
  m.def("forward", &forward, Unlocked(), "dtype"_a, "shape"_a, "x"_a, "y"_a, "norm"_a,
        "residual"_a.none(), "mask"_a.none(), "threads"_a);
  m.def("backward", &backward, Unlocked(), "dtype"_a, "shape"_a, "dy"_a, "x"_a, "norm"_a,
        "count"_a, "residual"_a.none(), "mask"_a.none(), "out"_a, "dx"_a, "dresidual"_a.none(),
        "threads"_a);
}
