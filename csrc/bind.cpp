// The Python module evenkeel._cpu: torch tensors in, new torch tensors out.
//
// Each verb refuses, with a ValueError that names the argument, whatever it cannot read safely;
// the caller copies it or explains. Where tensors are small every step between the layer's call
// and the kernel counts, therefore results are made here.

#include <nanobind/nanobind.h>
#include <nanobind/stl/optional.h>
#include <nanobind/stl/string.h>
#include <nanobind/stl/vector.h>

#include <algorithm>

#include "isa.hpp"
#include "running.hpp"
#include "tensor.hpp"
#include "verbs.hpp"

namespace nb = nanobind;
using namespace nb::literals;

namespace {

using evenkeel::DType;
using evenkeel::Index;
using evenkeel::Job;
using evenkeel::Tensor;

using Tensors = nb::typed<nb::tuple, nb::object, nb::ellipsis>;

constexpr Index kFewElements = 16384;  // done in the time that passing on the lock takes

template <class... Objects>
Tensors tensors(const Objects&... objects) {
  return nb::borrow<Tensors>(nb::make_tuple(objects...));
}

bool is_float(DType dtype) { return dtype >= DType::f16; }

Tensor tensor(nb::handle object, const char* name, Index rank) {
  Tensor found;
  const bool readable = evenkeel::read(object, found) && found.has_values();
  if (!readable || found.rank != rank) throw nb::value_error(name);
  return found;
}

// (N, C, *S) as (N, C, S).
Tensor collapsed(nb::handle object, const char* name) {
  Tensor found;
  const bool readable = evenkeel::read(object, found) && found.has_values();
  if (!readable || !found.collapse()) throw nb::value_error(name);
  return found;
}

// A job whose tensors all have the shape and the type of x.
struct Call : Job {
  Call(nb::handle given, nb::handle kept, bool copied) : any_strides_(copied) {
    const Tensor found = collapsed(given, "x");
    dtype = found.dtype;
    if (!is_float(dtype)) throw nb::value_error("x");
    N = found.shape[0];
    C = found.shape[1];
    S = found.shape[2];
    x = {found.data, found.strides[0], found.strides[1], found.strides[2]};
    if (kept.is_none()) return;
    const Tensor bools = tensor(kept, "mask", 2);
    const bool fits = bools.shape[0] == N && bools.shape[1] == S;
    if (bools.dtype != evenkeel::kBool || !fits) throw nb::value_error("mask");
    mask = {static_cast<const std::uint8_t*>(bools.data), bools.strides[0], bools.strides[1]};
  }

  // Another tensor that is walked along with x. That is slow where it has other strides, which the
  // caller may mend.
  evenkeel::Source source(nb::handle object, const char* name) const {
    if (object.is_none()) return {};
    const Tensor found = collapsed(object, name);
    const Index shape[] = {N, C, S}, strides[] = {x.n, x.c, x.s};
    const bool same = any_strides_ || std::equal(strides, strides + 3, found.strides);
    if (found.dtype != dtype || !std::equal(shape, shape + 3, found.shape) || !same) {
      throw nb::value_error(name);
    }
    return {found.data, found.strides[0], found.strides[1], found.strides[2]};
  }

  evenkeel::Channels channels(nb::handle object, const char* name) const {
    if (object.is_none()) return {};
    const Tensor found = tensor(object, name, 1);
    if (!is_float(found.dtype) || found.shape[0] != C) throw nb::value_error(name);
    return {found.data, found.dtype, found.strides[0]};
  }

  void set_affine(nb::handle gamma, nb::handle beta) {
    weight = channels(gamma, "weight");
    bias = channels(beta, "bias");
  }

  // Where the statistics of the batch go, and where the second pass finds them.
  void set_moments(void* mean_at, void* mean_lo_at, void* var_at) {
    out_mean = mean_at;
    out_mean_lo = mean_lo_at;
    out_var = var_at;
    const DType type = dtype == DType::f64 ? DType::f64 : DType::f32;
    mean = {out_mean, type, 1};
    mean_lo = {out_mean_lo, type, 1};
    var = {out_var, type, 1};
  }

  // mean, mean_lo, var, weight, bias, eps; or `train`'s three in one, None, None, weight, ...
  void set_norm(const Tensors& norm) {
    if (norm[1].is_none()) {
      const Tensor all = tensor(norm[0], "mean", 1);
      if (all.dtype != DType::f32 || all.shape[0] != 3 * C) throw nb::value_error("mean");
      const auto* first = static_cast<const float*>(all.data);
      mean = {first, all.dtype, 1};
      mean_lo = {first + C, all.dtype, 1};
      var = {first + 2 * C, all.dtype, 1};
    } else {
      mean = channels(norm[0], "mean");
      mean_lo = channels(norm[1], "mean_lo");
      var = channels(norm[2], "var");
    }
    set_affine(norm[3], norm[4]);
    eps = nb::cast<double>(norm[5]);
  }

  // What every verb of the backward pass reads.
  void set_backward(nb::handle dy_in, const Tensors& norm, nb::handle residual_in) {
    set_norm(norm);
    dy = source(dy_in, "dy");
    residual = source(residual_in, "residual");
  }

  void set_activation(Index code, double number) {
    activation = static_cast<evenkeel::Activation>(code);
    parameter = number;
  }

 private:
  bool any_strides_;
};

// New tensors: like x, or one number per channel of the accumulation type.
struct Result {
  nb::object object;
  Tensor tensor;

  explicit Result(nb::object made) : object(std::move(made)) {
    if (!evenkeel::describe(object, tensor) || !tensor.has_values()) throw nb::value_error("x");
  }

  void* data() const { return const_cast<void*>(tensor.data); }

  evenkeel::Target target() {
    if (!tensor.collapse()) throw nb::value_error("x");
    return {data(), tensor.strides[0], tensor.strides[1], tensor.strides[2]};
  }

  evenkeel::Channels channels() const { return {tensor.data, tensor.dtype, 1}; }
};

Result like(nb::handle x) { return Result(evenkeel::empty_like(x)); }

Result per_channel(const Job& job) { return Result(evenkeel::empty(job.C, job.dtype)); }

// Other Python threads go on meanwhile, where that is worth the change of hands.
void unlocked(void (*run)(Job, Index), const Job& job, Index threads) {
  if (job.N * job.C * job.S < kFewElements) return run(job, threads);
  const nb::gil_scoped_release release;
  run(job, threads);
}

Tensors moments(nb::handle x, nb::handle mask, bool copied, Index threads) {
  Call job(x, mask, copied);
  const Result mean = per_channel(job), mean_lo = per_channel(job), var = per_channel(job);
  job.set_moments(mean.data(), mean_lo.data(), var.data());
  unlocked(evenkeel::run_moments, job, threads);
  return tensors(mean.object, mean_lo.object, var.object);
}

Tensors normalize(nb::handle x, Tensors norm, Index activation, double parameter,
                     nb::handle residual, nb::handle mask, bool copied, Index threads) {
  Call job(x, mask, copied);
  job.set_norm(norm);
  job.set_activation(activation, parameter);
  job.residual = job.source(residual, "residual");
  Result y = like(x);
  job.y = y.target();
  unlocked(evenkeel::run_normalize, job, threads);
  return tensors(y.object);
}

Tensors backward_reduce(nb::handle dy, nb::handle x, Tensors norm, Index activation,
                          double parameter, nb::handle residual, nb::handle mask,
                          bool copied, Index threads) {
  Call job(x, mask, copied);
  job.set_backward(dy, norm, residual);
  job.set_activation(activation, parameter);
  const Result dz = per_channel(job), dz_xhat = per_channel(job);
  job.out_dz = dz.data();
  job.out_dz_xhat = dz_xhat.data();
  unlocked(evenkeel::run_backward_reduce, job, threads);
  return tensors(dz.object, dz_xhat.object);
}

// dx, and d residual where there is a residual.
Tensors input_gradients(Call& job, void (*run)(Job, Index), nb::handle x, nb::handle residual,
                          Index threads) {
  Result dx = like(x);
  job.dx = dx.target();
  if (residual.is_none()) {
    unlocked(run, job, threads);
    return tensors(dx.object, nb::none());
  }
  Result dresidual = like(x);
  job.dresidual = dresidual.target();
  unlocked(run, job, threads);
  return tensors(dx.object, dresidual.object);
}

Tensors backward_input(nb::handle dy, nb::handle x, Tensors norm, Index activation,
                         double parameter, nb::handle residual, nb::handle mask, nb::handle dz,
                         nb::handle dz_xhat, Index count, bool copied, Index threads) {
  Call job(x, mask, copied);
  job.set_backward(dy, norm, residual);
  job.set_activation(activation, parameter);
  job.dz = job.channels(dz, "dz");
  job.dz_xhat = job.channels(dz_xhat, "dz_xhat");
  job.count = static_cast<double>(count);
  return input_gradients(job, evenkeel::run_backward_input, x, residual, threads);
}

Tensors forward(nb::handle x, nb::handle weight, nb::handle bias, double eps, Index activation,
                double parameter, nb::handle residual, nb::handle mask, nb::handle out, bool copied,
                Index threads) {
  Call job(x, mask, copied);
  job.set_affine(weight, bias);
  job.eps = eps;
  job.set_activation(activation, parameter);
  job.residual = job.source(residual, "residual");
  const Result mean = per_channel(job), mean_lo = per_channel(job), var = per_channel(job);
  job.set_moments(mean.data(), mean_lo.data(), var.data());
  job.source(out, "out");  // refuses what is not like x
  Result y = out.is_none() ? like(x) : Result(nb::borrow(out));
  job.y = y.target();
  unlocked(evenkeel::run_forward, job, threads);
  return tensors(y.object, mean.object, mean_lo.object, var.object);
}

Tensors backward(nb::handle dy, nb::handle x, Tensors norm, Index activation,
                   double parameter, nb::handle residual, nb::handle mask,
                   std::optional<Index> count, bool copied, Index threads) {
  Call job(x, mask, copied);
  job.set_backward(dy, norm, residual);
  job.set_activation(activation, parameter);
  const Result dz = per_channel(job), dz_xhat = per_channel(job);
  job.out_dz = dz.data();
  job.out_dz_xhat = dz_xhat.data();
  job.dz = dz.channels();
  job.dz_xhat = dz_xhat.channels();
  job.count = static_cast<double>(count.value_or(job.N * job.S));
  const Tensors found = input_gradients(job, evenkeel::run_backward, x, residual, threads);
  return tensors(found[0], found[1], dz.object, dz_xhat.object);
}

// A vector of float32 or float64.
evenkeel::Vector vector(nb::handle object, const char* name, Index size) {
  const Tensor found = tensor(object, name, 1);
  const bool wide = found.dtype == DType::f32 || found.dtype == DType::f64;
  if (!wide || found.shape[0] != size) throw nb::value_error(name);
  return {const_cast<void*>(found.data), found.dtype == DType::f64, found.strides[0]};
}

evenkeel::Entry entry_of(nb::handle running_mean, nb::handle running_var, nb::handle batches,
                         Index size) {
  evenkeel::Entry entry;
  entry.running_mean = vector(running_mean, "running_mean", size);
  entry.running_var = vector(running_var, "running_var", size);
  entry.channels = size;
  if (batches.is_none()) return entry;
  const Tensor counter = tensor(batches, "batches", 0);
  if (counter.dtype != evenkeel::kInt64) throw nb::value_error("batches");
  entry.batches = static_cast<Index*>(const_cast<void*>(counter.data));
  return entry;
}

bool enter(nb::handle running_mean, nb::handle running_var, nb::handle batches, nb::handle mean,
           nb::handle var, double correction, std::optional<double> momentum, bool only_finite) {
  const Index size = tensor(mean, "mean", 1).shape[0];
  evenkeel::Entry entry = entry_of(running_mean, running_var, batches, size);
  entry.mean = vector(mean, "mean", size);
  entry.var = vector(var, "var", size);
  entry.correction = correction;
  entry.set_momentum(momentum);
  return evenkeel::enter(entry, only_finite);
}

// An ordinary training step, all of it in float32: `forward`, and `enter` where there is a running
// mean. The statistics of the batch, for `backward`, are one tensor: mean, mean_lo, var. With two
// calls and two results less it is for small tensors, where these take the time.
Tensors train(nb::handle x, nb::handle weight, nb::handle bias, double eps, Index activation,
              double parameter, nb::handle residual, nb::handle running_mean,
              nb::handle running_var, nb::handle batches, bool biased,
              std::optional<double> momentum, bool only_finite, Index threads) {
  Call job(x, nb::none(), false);
  const Index count = job.N * job.S;
  if (job.dtype != DType::f32 || count < 2) throw nb::value_error("x");
  job.set_affine(weight, bias);
  const bool same = job.weight.dtype == DType::f32 && job.bias.dtype == DType::f32;
  if (!same) throw nb::value_error("weight");
  job.eps = eps;
  job.set_activation(activation, parameter);
  job.residual = job.source(residual, "residual");
  const bool enters = !running_mean.is_none();
  evenkeel::Entry entry;
  if (enters) entry = entry_of(running_mean, running_var, batches, job.C);  // refuses, if it does
  Result y = like(x);
  job.y = y.target();
  const Result statistics(evenkeel::empty(3 * job.C, DType::f32));
  auto* mean = static_cast<float*>(statistics.data());
  float* var = mean + 2 * job.C;
  job.set_moments(mean, mean + job.C, var);
  unlocked(evenkeel::run_forward, job, threads);
  entry.mean = {mean, false, 1};
  entry.var = {var, false, 1};
  entry.correction = biased ? 1.0 : static_cast<double>(count) / static_cast<double>(count - 1);
  entry.set_momentum(momentum);
  const bool entered = !enters || evenkeel::enter(entry, only_finite);
  return tensors(y.object, statistics.object, nb::bool_(entered));
}

}  // namespace

NB_MODULE(_cpu, m) {
  m.doc() = "Batch-norm kernels for the CPU, called by evenkeel.kernels._providers._cpu alone.";
  m.def("isas", &evenkeel::available_isas, "Instruction sets that can run here, best first.");
  m.def("isa", [] { return std::string(evenkeel::active_kernels().isa); },
        "The instruction set in use.");
  m.def("select", &evenkeel::select_isa, "isa"_a,
        "Use an instruction set; False when it is not available.");
  m.def("use_exchange", &evenkeel::use_exchange, "capsule"_a.none(),
        "Read tensors through DLPack's C interface, or by attributes (None).");
  m.def("moments", &moments, "x"_a, "mask"_a.none(), "copied"_a, "threads"_a);
  m.def("normalize", &normalize, "x"_a, "norm"_a, "activation"_a, "parameter"_a,
        "residual"_a.none(), "mask"_a.none(), "copied"_a, "threads"_a);
  m.def("backward_reduce", &backward_reduce, "dy"_a, "x"_a, "norm"_a, "activation"_a,
        "parameter"_a, "residual"_a.none(), "mask"_a.none(), "copied"_a, "threads"_a);
  m.def("backward_input", &backward_input, "dy"_a, "x"_a, "norm"_a, "activation"_a,
        "parameter"_a, "residual"_a.none(), "mask"_a.none(), "dz"_a.none(), "dz_xhat"_a.none(),
        "count"_a, "copied"_a, "threads"_a);
  m.def("forward", &forward, "x"_a, "weight"_a.none(), "bias"_a.none(), "eps"_a, "activation"_a,
        "parameter"_a, "residual"_a.none(), "mask"_a.none(), "out"_a.none(), "copied"_a,
        "threads"_a);
  m.def("backward", &backward, "dy"_a, "x"_a, "norm"_a, "activation"_a, "parameter"_a,
        "residual"_a.none(), "mask"_a.none(), "count"_a.none(), "copied"_a, "threads"_a);
  m.def("train", &train, "x"_a, "weight"_a.none(), "bias"_a.none(), "eps"_a, "activation"_a,
        "parameter"_a, "residual"_a.none(), "running_mean"_a.none(), "running_var"_a.none(),
        "batches"_a.none(), "biased"_a, "momentum"_a.none(), "only_finite"_a, "threads"_a,
        "A training step in float32: y, (mean, mean_lo, var) in one, whether the batch entered.");
  m.def("enter", &enter, "running_mean"_a, "running_var"_a, "batches"_a.none(), "mean"_a, "var"_a,
        "correction"_a, "momentum"_a.none(), "only_finite"_a,
        "Move running statistics towards those of a batch; False where it holds NaN or Inf.");
}
