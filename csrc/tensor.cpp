#include "tensor.hpp"

#include <algorithm>
#include <cstdint>
#include <string_view>

namespace nb = nanobind;

namespace evenkeel {

namespace {

// The parts of the DLPack standard that are used here; names and layout are the standard's.
struct DLDevice {
  std::int32_t device_type, device_id;
};

struct DLDataType {
  std::uint8_t code, bits;
  std::uint16_t lanes;
};

struct DLTensor {
  void* data;
  DLDevice device;
  std::int32_t ndim;
  DLDataType dtype;
  std::int64_t *shape, *strides;
  std::uint64_t byte_offset;
};

struct DLPackExchangeAPI {
  std::uint32_t major, minor;
  DLPackExchangeAPI* prev_api;
  void* managed_tensor_allocator;
  void* managed_tensor_from_py_object_no_sync;
  void* managed_tensor_to_py_object_no_sync;
  int (*dltensor_from_py_object_no_sync)(void* py_object, DLTensor* out);
  void* current_work_stream;
};

constexpr std::uint32_t kMajor = 1;
constexpr std::int32_t kDLCPU = 1;
enum : std::uint8_t { kDLInt = 0, kDLFloat = 2, kDLBfloat = 4, kDLBool = 6 };

const DLPackExchangeAPI* exchange = nullptr;

DType element_type(DLDataType type) {
  if (type.lanes != 1) return kOther;
  switch (type.code) {
    case kDLFloat:
      if (type.bits == 64) return DType::f64;
      if (type.bits == 32) return DType::f32;
      return type.bits == 16 ? DType::f16 : kOther;
    case kDLBfloat: return type.bits == 16 ? DType::bf16 : kOther;
    case kDLBool: return kBool;
    case kDLInt: return type.bits == 64 ? kInt64 : kOther;
    default: return kOther;
  }
}

DType element_type(std::string_view name) {
  if (name == "torch.float32") return DType::f32;
  if (name == "torch.float64") return DType::f64;
  if (name == "torch.bfloat16") return DType::bf16;
  if (name == "torch.float16") return DType::f16;
  if (name == "torch.bool") return kBool;
  return name == "torch.int64" ? kInt64 : kOther;
}

bool read_exchanged(nb::handle object, Tensor& tensor) {
  DLTensor from;
  if (exchange->dltensor_from_py_object_no_sync(object.ptr(), &from) != 0) return false;
  tensor.data = static_cast<char*>(from.data) + from.byte_offset;
  tensor.dtype = element_type(from.dtype);
  tensor.on_cpu = from.device.device_type == kDLCPU;
  tensor.rank = from.ndim;
  const Index kept = std::min(tensor.rank, kMaxRank);
  std::copy_n(from.shape, kept, tensor.shape);
  std::copy_n(from.strides, kept, tensor.strides);
  return true;
}

bool read_attributes(nb::handle object, Tensor& tensor) {
  try {
    const auto address = nb::cast<std::uintptr_t>(object.attr("data_ptr")());
    tensor.data = reinterpret_cast<const void*>(address);
    const nb::object dtype = object.attr("dtype");
    tensor.dtype = element_type(nb::str(nb::handle(dtype)).c_str());
    tensor.on_cpu = nb::cast<bool>(object.attr("is_cpu"));
    const nb::object shape = object.attr("shape"), strides = object.attr("stride")();
    tensor.rank = static_cast<Index>(nb::len(shape));
    for (Index i = 0; i < std::min(tensor.rank, kMaxRank); ++i) {
      tensor.shape[i] = nb::cast<Index>(shape[i]);
      tensor.strides[i] = nb::cast<Index>(strides[i]);
    }
    return true;
  } catch (nb::python_error&) {
    return false;
  } catch (nb::cast_error&) {
    return false;
  }
}

// Kept for as long as the process lives: torch is never unloaded.
PyObject* torch_attribute(const char* name) {
  return nb::object(nb::module_::import_("torch").attr(name)).release().ptr();
}

nb::object called(PyObject* result) {
  if (result == nullptr) throw nb::python_error();
  return nb::steal(result);
}

}  // namespace

bool Tensor::has_values() const {
  if (!on_cpu || rank > kMaxRank) return false;
  return data != nullptr || std::find(shape, shape + rank, 0) != shape + rank;
}

bool Tensor::collapse() {
  if (rank < 2 || rank > kMaxRank) return false;
  Index size = 1, step = 1;
  for (Index i = rank; i-- > 2;) {  // inner dimensions first; those of size 1 have any stride
    if (shape[i] == 1) continue;
    if (size != 1 && strides[i] != size * step) return false;
    if (size == 1) step = strides[i];
    size *= shape[i];
  }
  rank = 3;
  shape[2] = size;
  strides[2] = step;
  return true;
}

bool use_exchange(nb::handle capsule) {
  exchange = nullptr;
  if (capsule.is_none()) return true;
  const char* name = "dlpack_exchange_api";
  const auto* found =
      static_cast<const DLPackExchangeAPI*>(PyCapsule_GetPointer(capsule.ptr(), name));
  if (found == nullptr) PyErr_Clear();
  while (found != nullptr && found->major != kMajor) found = found->prev_api;
  exchange = found;
  return found != nullptr;
}

bool describe(nb::handle object, Tensor& tensor) {
  if (exchange == nullptr) return read_attributes(object, tensor);
  if (read_exchanged(object, tensor)) return true;
  PyErr_Clear();
  return false;
}

bool read(nb::handle object, Tensor& tensor) {
  static PyObject* const is_neg = PyUnicode_InternFromString("is_neg");
  if (!describe(object, tensor)) return false;
  const nb::object lazy = nb::steal(PyObject_CallMethodNoArgs(object.ptr(), is_neg));
  if (!lazy.is_valid()) PyErr_Clear();
  return lazy.ptr() == Py_False;
}

nb::object empty_like(nb::handle object) {
  static PyObject* const make = torch_attribute("empty_like");
  return called(PyObject_CallOneArg(make, object.ptr()));
}

nb::object empty(Index size, DType dtype) {
  static PyObject* const make = torch_attribute("empty");
  static PyObject* const f32 = torch_attribute("float32");
  static PyObject* const f64 = torch_attribute("float64");
  static PyObject* const names = nb::make_tuple("dtype").release().ptr();
  const nb::int_ count(size);
  PyObject* arguments[] = {count.ptr(), dtype == DType::f64 ? f64 : f32};
  return called(PyObject_Vectorcall(make, arguments, 1, names));
}

}  // namespace evenkeel
