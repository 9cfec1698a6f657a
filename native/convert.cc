#include "convert.h"

#include <c10/core/ScalarType.h>

#include <cmath>

#include "error.h"

namespace {

constexpr double kMaxSafeInteger = 9007199254740991.0;

// A short rendering of a value for "but received ...". src/torch/error.ts has the same in TypeScript, for what is
// refused before it comes here: calling back into JavaScript for a word of an error message could run a getter in the
// middle of a conversion.
std::string inWords(Engine& engine, napi_value raw) {
  const Napi::Value value(engine.env, raw);
  switch (value.Type()) {
    case napi_undefined:
      return "undefined";
    case napi_null:
      return "null";
    case napi_boolean:
      return value.As<Napi::Boolean>().Value() ? "true" : "false";
    case napi_number:
      return value.ToString().Utf8Value();
    case napi_string: {
      const std::string text = value.As<Napi::String>().Utf8Value();
      return "the string \"" + (text.size() > 60 ? text.substr(0, 60) + "..." : text) + "\"";
    }
    case napi_bigint:
      return "a bigint";
    case napi_symbol:
      return "a symbol";
    case napi_function:
      return "a function";
    default:
      return value.IsArray() ? "an array of " + std::to_string(value.As<Napi::Array>().Length()) : "an object";
  }
}

[[noreturn]] void refuse(Engine& engine, const std::string& expected, const std::string& what, napi_value received) {
  throw BadArgument("Expected " + expected + " for " + what + " but received " + inWords(engine, received));
}

// A JavaScript exception is pending (a getter or proxy threw): hand it on.
void check(Engine& engine, napi_status status) {
  if (status != napi_ok) throw Napi::Error::New(engine.env);
}

uint32_t lengthOf(Engine& engine, napi_value value, const std::string& expected, const std::string& what) {
  bool isArray = false;
  napi_is_array(engine.env, value, &isArray);
  if (!isArray) refuse(engine, expected, what, value);
  uint32_t length = 0;
  napi_get_array_length(engine.env, value, &length);
  return length;
}

napi_value elementOf(Engine& engine, napi_value array, uint32_t index) {
  napi_value element;
  check(engine, napi_get_element(engine.env, array, index, &element));
  return element;
}

bool isNothing(Engine& engine, napi_value value) {
  napi_valuetype type;
  napi_typeof(engine.env, value, &type);
  return type == napi_undefined || type == napi_null;
}

// Calls `convert(element)` for each element of a JavaScript array. One scope per element would cost more than it
// saves on the short lists that operators take; long lists get one per block.
template <typename Convert>
void forEachElement(Engine& engine, napi_value array, uint32_t length, Convert convert) {
  constexpr uint32_t kBlock = 1024;
  for (uint32_t start = 0; start < length; start += kBlock) {
    Napi::HandleScope scope(engine.env);
    const uint32_t end = std::min(length, start + kBlock);
    for (uint32_t i = start; i < end; i++) convert(elementOf(engine, array, i));
  }
}

double doubleOf(Engine& engine, napi_value value, const std::string& what) {
  double number;
  if (napi_get_value_double(engine.env, value, &number) != napi_ok) refuse(engine, "a number", what, value);
  return number;
}

bool boolOf(Engine& engine, napi_value value, const std::string& what) {
  bool flag;
  if (napi_get_value_bool(engine.env, value, &flag) != napi_ok) refuse(engine, "true or false", what, value);
  return flag;
}

// Whole numbers become integers, as a Python int would; -0 stays a float, so that its sign does.
at::Scalar scalarOf(Engine& engine, napi_value value, const std::string& what) {
  double number;
  if (napi_get_value_double(engine.env, value, &number) == napi_ok) {
    const bool whole = number == std::trunc(number) && std::abs(number) <= kMaxSafeInteger;
    if (whole && !(number == 0 && std::signbit(number))) return at::Scalar(static_cast<int64_t>(number));
    return at::Scalar(number);
  }
  bool flag;
  if (napi_get_value_bool(engine.env, value, &flag) == napi_ok) return at::Scalar(flag);
  bool lossless = false;
  int64_t integer;
  if (napi_get_value_bigint_int64(engine.env, value, &integer, &lossless) == napi_ok && lossless) {
    return at::Scalar(integer);
  }
  refuse(engine, "a number", what, value);
}

std::string stringOf(Engine& engine, napi_value value, const std::string& what) {
  const Napi::Value wrapped(engine.env, value);
  if (!wrapped.IsString()) refuse(engine, "a string", what, value);
  return wrapped.As<Napi::String>().Utf8Value();
}

template <typename T, typename Convert>
c10::IValue listFrom(Engine& engine, const Argument& argument, napi_value value, Convert convert) {
  const uint32_t length = lengthOf(engine, value, "an array (" + argument.type + ")", argument.name);
  c10::List<T> list;
  list.reserve(length);
  forEachElement(engine, value, length, [&](napi_value element) { list.push_back(convert(element)); });
  return list;
}

c10::IValue intListFrom(Engine& engine, const Argument& argument, napi_value value) {
  double single;
  if (argument.length > 0 && napi_get_value_double(engine.env, value, &single) == napi_ok) {
    const int64_t size = integerOf(engine, value, argument.name.c_str());
    return c10::IValue(std::vector<int64_t>(argument.length, size));
  }
  return c10::IValue(integersOf(engine, value, argument.name.c_str()));
}

// The dtype's name as src/torch/dtypes.ts has it, where numbers are given to names: error messages are made on this
// side, and must say the words that the caller wrote.
const char* nameOf(at::ScalarType type) {
  switch (type) {
    case at::kByte:
      return "uint8";
    case at::kChar:
      return "int8";
    case at::kShort:
      return "int16";
    case at::kInt:
      return "int32";
    case at::kLong:
      return "int64";
    case at::kHalf:
      return "float16";
    case at::kFloat:
      return "float32";
    case at::kDouble:
      return "float64";
    case at::kBool:
      return "bool";
    case at::kBFloat16:
      return "bfloat16";
    default:
      return c10::toString(type);
  }
}

}  // namespace

napi_value slotFor(Engine& engine, at::Tensor tensor) {
  napi_value result;
  if (!tensor.defined()) {
    napi_get_null(engine.env, &result);
  } else {
    napi_create_uint32(engine.env, engine.tensors.add(std::move(tensor)), &result);
  }
  return result;
}

const at::Tensor& tensorAt(Engine& engine, napi_value value, const char* what) {
  uint32_t slot;
  if (napi_get_value_uint32(engine.env, value, &slot) != napi_ok) refuse(engine, "a Tensor", what, value);
  const at::Tensor* tensor = engine.tensors.find(slot);
  if (tensor == nullptr) throw BadArgument(std::string("Expected a live Tensor for ") + what + " but it is disposed");
  return *tensor;
}

std::vector<at::Tensor> tensorsAt(Engine& engine, napi_value slots, const char* what) {
  const uint32_t length = lengthOf(engine, slots, "an array of Tensors", what);
  std::vector<at::Tensor> tensors;
  tensors.reserve(length);
  forEachElement(engine, slots, length, [&](napi_value slot) { tensors.push_back(tensorAt(engine, slot, what)); });
  return tensors;
}

std::vector<at::Tensor> optionalTensorsAt(Engine& engine, napi_value slots, const char* what) {
  const uint32_t length = lengthOf(engine, slots, "an array of Tensors", what);
  std::vector<at::Tensor> tensors;
  tensors.reserve(length);
  forEachElement(engine, slots, length, [&](napi_value slot) {
    tensors.push_back(isNothing(engine, slot) ? at::Tensor() : tensorAt(engine, slot, what));
  });
  return tensors;
}

int64_t integerOf(Engine& engine, napi_value value, const char* what) {
  double number;
  if (napi_get_value_double(engine.env, value, &number) == napi_ok) {
    if (number == std::trunc(number) && std::abs(number) <= kMaxSafeInteger) return static_cast<int64_t>(number);
    refuse(engine, "a whole number", what, value);
  }
  int64_t integer;
  bool lossless = false;
  if (napi_get_value_bigint_int64(engine.env, value, &integer, &lossless) == napi_ok && lossless) return integer;
  refuse(engine, "a whole number", what, value);
}

std::vector<int64_t> integersOf(Engine& engine, napi_value value, const char* what) {
  const uint32_t length = lengthOf(engine, value, "an array of whole numbers", what);
  std::vector<int64_t> integers;
  integers.reserve(length);
  forEachElement(engine, value, length,
                 [&](napi_value element) { integers.push_back(integerOf(engine, element, what)); });
  return integers;
}

c10::IValue argumentFrom(Engine& engine, const Argument& argument, napi_value value) {
  // The commonest first, without asking for the value's type.
  if (argument.kind == ArgumentKind::Tensor) {
    uint32_t slot;
    if (napi_get_value_uint32(engine.env, value, &slot) == napi_ok) {
      const at::Tensor* tensor = engine.tensors.find(slot);
      if (tensor != nullptr) return *tensor;
    }
  }
  if (isNothing(engine, value)) {
    if (argument.hasDefault && !argument.optional) return argument.defaultValue;
    if (argument.optional) {
      // undefined asks for the default; null says none.
      napi_valuetype type;
      napi_typeof(engine.env, value, &type);
      return type == napi_undefined && argument.hasDefault ? argument.defaultValue : c10::IValue();
    }
    refuse(engine, argument.type, argument.name, value);
  }
  switch (argument.kind) {
    case ArgumentKind::Tensor:
      return tensorAt(engine, value, argument.name.c_str());
    case ArgumentKind::TensorList:
      return listFrom<at::Tensor>(engine, argument, value,
                                  [&](napi_value slot) { return tensorAt(engine, slot, argument.name.c_str()); });
    case ArgumentKind::OptionalTensorList:
      return listFrom<c10::optional<at::Tensor>>(engine, argument, value, [&](napi_value slot) {
        return isNothing(engine, slot) ? c10::optional<at::Tensor>()
                                       : c10::optional<at::Tensor>(tensorAt(engine, slot, argument.name.c_str()));
      });
    case ArgumentKind::Scalar:
      return scalarOf(engine, value, argument.name);
    case ArgumentKind::ScalarList:
      return listFrom<at::Scalar>(engine, argument, value,
                                  [&](napi_value number) { return scalarOf(engine, number, argument.name); });
    case ArgumentKind::Int:
      return integerOf(engine, value, argument.name.c_str());
    case ArgumentKind::IntList:
      return intListFrom(engine, argument, value);
    case ArgumentKind::Float:
      return doubleOf(engine, value, argument.name);
    case ArgumentKind::FloatList:
      return listFrom<double>(engine, argument, value,
                              [&](napi_value number) { return doubleOf(engine, number, argument.name); });
    case ArgumentKind::Bool:
      return boolOf(engine, value, argument.name);
    case ArgumentKind::BoolList:
      return listFrom<bool>(engine, argument, value,
                            [&](napi_value flag) { return boolOf(engine, flag, argument.name); });
    case ArgumentKind::String:
      return stringOf(engine, value, argument.name);
    case ArgumentKind::Device:
      return c10::Device(stringOf(engine, value, argument.name));
    case ArgumentKind::Generator: {
      uint32_t slot;
      const at::Generator* generator =
          napi_get_value_uint32(engine.env, value, &slot) == napi_ok ? engine.generators.find(slot) : nullptr;
      if (generator == nullptr) refuse(engine, "a Generator", argument.name, value);
      return *generator;
    }
    case ArgumentKind::Unsupported:
      break;
  }
  throw BadArgument("Expected no value for " + argument.name + ": arguments of type " + argument.type +
                    " cannot be passed from JavaScript");
}

napi_value resultFrom(Engine& engine, c10::IValue&& value) {
  napi_value result;
  if (value.isTensor()) return slotFor(engine, std::move(value).toTensor());
  if (value.isTensorList()) {
    const std::vector<at::Tensor> tensors = value.toTensorVector();
    napi_create_array_with_length(engine.env, tensors.size(), &result);
    for (uint32_t i = 0; i < tensors.size(); i++) {
      napi_set_element(engine.env, result, i, slotFor(engine, tensors[i]));
    }
    return result;
  }
  if (value.isBool()) {
    napi_get_boolean(engine.env, value.toBool(), &result);
  } else if (value.isInt()) {
    napi_create_int64(engine.env, value.toInt(), &result);
  } else if (value.isDouble()) {
    napi_create_double(engine.env, value.toDouble(), &result);
  } else if (value.isString()) {
    const std::string text = value.toStringRef();
    napi_create_string_utf8(engine.env, text.data(), text.size(), &result);
  } else if (value.isNone()) {
    napi_get_null(engine.env, &result);
  } else {
    throw BadArgument("Expected a result that JavaScript can hold but received " + value.tagKind());
  }
  return result;
}

std::string describeTensor(const at::Tensor& tensor) {
  std::string text = nameOf(tensor.scalar_type());
  text += "[";
  for (int64_t i = 0; i < tensor.dim(); i++) {
    if (i > 0) text += ", ";
    text += std::to_string(tensor.size(i));
  }
  text += "]";
  if (!tensor.device().is_cpu()) text += " on " + tensor.device().str();
  return text;
}
