#include "tensor.h"

#include <ATen/ATen.h>

#include <cstring>

#include "convert.h"
#include "error.h"

namespace {

Napi::Array arrayOf(Napi::Env env, c10::IntArrayRef values) {
  Napi::Array array = Napi::Array::New(env, values.size());
  for (uint32_t i = 0; i < values.size(); i++) array.Set(i, static_cast<double>(values[i]));
  return array;
}

// Whether elements of a type are plain numbers: not complex, not quantised, not out of the enumeration.
bool isRealNumber(at::ScalarType type) {
  switch (type) {
    case at::kByte:
    case at::kChar:
    case at::kShort:
    case at::kInt:
    case at::kLong:
    case at::kHalf:
    case at::kFloat:
    case at::kDouble:
    case at::kBool:
    case at::kBFloat16:
      return true;
    default:
      return false;
  }
}

Napi::Value shape(Engine& engine, const Napi::CallbackInfo& info) {
  return arrayOf(info.Env(), tensorAt(engine, info[0], "shape").sizes());
}

Napi::Value strides(Engine& engine, const Napi::CallbackInfo& info) {
  return arrayOf(info.Env(), tensorAt(engine, info[0], "strides").strides());
}

Napi::Value scalarType(Engine& engine, const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<int>(tensorAt(engine, info[0], "dtype").scalar_type()));
}

Napi::Value device(Engine& engine, const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), tensorAt(engine, info[0], "device").device().str());
}

Napi::Value item(Engine& engine, const Napi::CallbackInfo& info) {
  const at::Tensor& tensor = tensorAt(engine, info[0], "item");
  if (tensor.numel() != 1) throw BadArgument("Expected one element for item but received " + describeTensor(tensor));
  const at::Scalar scalar = tensor.item();
  if (scalar.isBoolean()) return Napi::Boolean::New(info.Env(), scalar.toBool());
  if (scalar.isComplex()) throw BadArgument("Expected a real number for item but received " + describeTensor(tensor));
  return Napi::Number::New(info.Env(), scalar.toDouble());
}

// fromBuffer(view, scalarType, shape): a new tensor with a copy of the view's bytes. It copies because JavaScript may
// at any time write to its buffer, or give it away to another thread.
Napi::Value fromBuffer(Engine& engine, const Napi::CallbackInfo& info) {
  if (!info[0].IsTypedArray()) throw BadArgument("Expected a typed array for the data of a tensor");
  const Napi::TypedArray view = info[0].As<Napi::TypedArray>();
  const auto scalarType = static_cast<at::ScalarType>(integerOf(engine, info[1], "dtype"));
  if (!isRealNumber(scalarType)) throw BadArgument("Expected a dtype for the data of a tensor");
  const std::vector<int64_t> sizes = integersOf(engine, info[2], "shape");

  // Compared before anything is allocated, in floating point, which does not overflow.
  double bytes = static_cast<double>(c10::elementSize(scalarType));
  for (const int64_t size : sizes) {
    if (size < 0) throw BadArgument("Expected sizes from 0 for shape but received " + std::to_string(size));
    bytes *= static_cast<double>(size);
  }
  void* source = nullptr;
  size_t elements = 0;
  napi_typedarray_type type;
  napi_value buffer;
  size_t offset;
  napi_get_typedarray_info(engine.env, view, &type, &elements, &source, &buffer, &offset);
  const size_t length = elements == 0 || source == nullptr ? 0 : view.ByteLength();
  if (bytes != static_cast<double>(length)) {
    throw BadArgument("Expected " + std::to_string(static_cast<int64_t>(bytes)) + " bytes for a tensor of shape [" +
                      c10::Join(", ", sizes) + "] but received " + std::to_string(length));
  }
  at::Tensor tensor = at::empty(sizes, at::TensorOptions(scalarType));
  if (length > 0) {
    if (scalarType == at::kBool) {
      const auto* from = static_cast<const uint8_t*>(source);
      auto* to = static_cast<bool*>(tensor.data_ptr());
      for (size_t i = 0; i < length; i++) to[i] = from[i] != 0;
    } else {
      std::memcpy(tensor.data_ptr(), source, length);
    }
  }
  return {info.Env(), slotFor(engine, std::move(tensor))};
}

Napi::Value byteLength(Engine& engine, const Napi::CallbackInfo& info) {
  const at::Tensor& tensor = tensorAt(engine, info[0], "toTypedArray");
  return Napi::Number::New(info.Env(), static_cast<double>(tensor.numel()) * static_cast<double>(tensor.itemsize()));
}

// copyInto(tensor, buffer): the elements row-major, into an ArrayBuffer that JavaScript allocated (V8 ends the process
// when an allocation of native code's fails; JavaScript gets a RangeError).
Napi::Value copyInto(Engine& engine, const Napi::CallbackInfo& info) {
  at::Tensor tensor = tensorAt(engine, info[0], "toTypedArray");
  if (!info[1].IsArrayBuffer()) throw BadArgument("Expected an ArrayBuffer to copy into");
  at::Tensor source = tensor.detach().resolve_conj().resolve_neg().to(at::kCPU).contiguous();
  Napi::ArrayBuffer buffer = info[1].As<Napi::ArrayBuffer>();
  if (source.nbytes() != buffer.ByteLength()) {
    throw BadArgument("Expected an ArrayBuffer of " + std::to_string(source.nbytes()) + " bytes but received " +
                      std::to_string(buffer.ByteLength()));
  }
  if (source.nbytes() > 0) std::memcpy(buffer.Data(), source.data_ptr(), source.nbytes());
  return info.Env().Undefined();
}

// release(slots): forgets them. Slots that are free already are passed over.
Napi::Value release(Engine& engine, const Napi::CallbackInfo& info) {
  if (!info[0].IsArray()) throw BadArgument("Expected an array of slots to release");
  uint32_t length = 0;
  napi_get_array_length(engine.env, info[0], &length);
  constexpr uint32_t kBlock = 1024;
  for (uint32_t start = 0; start < length; start += kBlock) {
    Napi::HandleScope scope(info.Env());
    for (uint32_t i = start; i < length && i < start + kBlock; i++) {
      napi_value element;
      uint32_t slot;
      if (napi_get_element(engine.env, info[0], i, &element) != napi_ok) continue;
      if (napi_get_value_uint32(engine.env, element, &slot) == napi_ok) engine.tensors.release(slot);
    }
  }
  return info.Env().Undefined();
}

Napi::Value releaseOne(Engine& engine, const Napi::CallbackInfo& info) {
  uint32_t slot;
  if (napi_get_value_uint32(engine.env, info[0], &slot) == napi_ok) engine.tensors.release(slot);
  return info.Env().Undefined();
}

Napi::Value liveTensors(Engine& engine, const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(engine.tensors.live()));
}

}  // namespace

void exposeTensor(Engine& engine, Napi::Object exports) {
  expose<shape>(engine, exports, "shape");
  expose<strides>(engine, exports, "strides");
  expose<scalarType>(engine, exports, "scalarType");
  expose<device>(engine, exports, "device");
  expose<item>(engine, exports, "item");
  expose<fromBuffer>(engine, exports, "fromBuffer");
  expose<byteLength>(engine, exports, "byteLength");
  expose<copyInto>(engine, exports, "copyInto");
  expose<release>(engine, exports, "release");
  expose<releaseOne>(engine, exports, "releaseOne");
  expose<liveTensors>(engine, exports, "liveTensors");
}
