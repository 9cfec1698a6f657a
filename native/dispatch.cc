#include "dispatch.h"

#include <ATen/core/function_schema.h>

#include "convert.h"
#include "error.h"

namespace {

ArgumentKind kindOf(const c10::Type& type) {
  switch (type.kind()) {
    case c10::TypeKind::TensorType:
      return ArgumentKind::Tensor;
    case c10::TypeKind::NumberType:
      return ArgumentKind::Scalar;
    case c10::TypeKind::IntType:
    case c10::TypeKind::SymIntType:
      return ArgumentKind::Int;
    case c10::TypeKind::FloatType:
      return ArgumentKind::Float;
    case c10::TypeKind::BoolType:
      return ArgumentKind::Bool;
    case c10::TypeKind::StringType:
      return ArgumentKind::String;
    case c10::TypeKind::DeviceObjType:
      return ArgumentKind::Device;
    case c10::TypeKind::GeneratorType:
      return ArgumentKind::Generator;
    case c10::TypeKind::ListType: {
      const c10::Type& element = *type.castRaw<c10::ListType>()->getElementType();
      if (element.kind() == c10::TypeKind::OptionalType) {
        const auto inner = element.castRaw<c10::OptionalType>()->getElementType();
        return inner->kind() == c10::TypeKind::TensorType ? ArgumentKind::OptionalTensorList
                                                          : ArgumentKind::Unsupported;
      }
      switch (kindOf(element)) {
        case ArgumentKind::Tensor:
          return ArgumentKind::TensorList;
        case ArgumentKind::Scalar:
          return ArgumentKind::ScalarList;
        case ArgumentKind::Int:
          return ArgumentKind::IntList;
        case ArgumentKind::Float:
          return ArgumentKind::FloatList;
        case ArgumentKind::Bool:
          return ArgumentKind::BoolList;
        default:
          return ArgumentKind::Unsupported;
      }
    }
    default:
      return ArgumentKind::Unsupported;
  }
}

Argument argumentOf(const c10::Argument& schema) {
  c10::TypePtr type = schema.type();
  const bool optional = type->kind() == c10::TypeKind::OptionalType;
  if (optional) type = type->castRaw<c10::OptionalType>()->getElementType();
  Argument argument;
  argument.kind = kindOf(*type);
  argument.optional = optional;
  argument.hasDefault = schema.default_value().has_value();
  if (argument.hasDefault) argument.defaultValue = *schema.default_value();
  argument.length = schema.N() ? *schema.N() : 0;
  argument.name = schema.name();
  argument.type = schema.real_type()->str();
  return argument;
}

const Operator& operatorAt(Engine& engine, napi_value value) {
  uint32_t number;
  if (napi_get_value_uint32(engine.env, value, &number) == napi_ok && number < engine.operators.size()) {
    return engine.operators[number];
  }
  throw BadArgument("Expected the number of an operator");
}

// findOperator(fullName): its number, or -1.
Napi::Value findOperator(Engine& engine, const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) throw BadArgument("Expected a string for the operator's name");
  const std::string fullName = info[0].As<Napi::String>();
  const auto known = engine.operatorNumbers.find(fullName);
  if (known != engine.operatorNumbers.end()) return Napi::Number::New(info.Env(), known->second);

  // "aten::add.Tensor" is the name "aten::add" and the overload "Tensor".
  const size_t dot = fullName.find('.', fullName.find("::") == std::string::npos ? 0 : fullName.find("::"));
  const std::string name = fullName.substr(0, dot);
  const std::string overload = dot == std::string::npos ? "" : fullName.substr(dot + 1);
  const auto found = c10::Dispatcher::singleton().findSchema({name, overload});
  int32_t number = -1;
  if (found) {
    number = static_cast<int32_t>(engine.operators.size());
    engine.operators.emplace_back(*found);
    engine.operatorNumbers.emplace(fullName, number);
  }
  return Napi::Number::New(info.Env(), number);
}

// schema(operator): { text, arguments, returns }.
Napi::Value schema(Engine& engine, const Napi::CallbackInfo& info) {
  const Operator& op = operatorAt(engine, info[0]);
  const c10::FunctionSchema& schema = op.handle.schema();
  Napi::Env env = info.Env();
  Napi::Array arguments = Napi::Array::New(env, op.arguments.size());
  for (uint32_t i = 0; i < op.arguments.size(); i++) {
    Napi::Object argument = Napi::Object::New(env);
    argument.Set("name", op.arguments[i].name);
    argument.Set("type", op.arguments[i].type);
    argument.Set("hasDefault", op.arguments[i].hasDefault);
    arguments.Set(i, argument);
  }
  Napi::Array returns = Napi::Array::New(env, schema.returns().size());
  for (uint32_t i = 0; i < schema.returns().size(); i++) {
    Napi::Object returned = Napi::Object::New(env);
    returned.Set("type", schema.returns()[i].type()->str());
    const auto* alias = schema.returns()[i].alias_info();
    returned.Set("inPlace", alias != nullptr && alias->isWrite());
    returns.Set(i, returned);
  }
  Napi::Object result = Napi::Object::New(env);
  result.Set("text", c10::toString(schema));
  result.Set("arguments", arguments);
  result.Set("returns", returns);
  return result;
}

// A stack for one call: the engine's, unless a getter in an argument came back here in the middle of another call.
class BorrowedStack {
 public:
  explicit BorrowedStack(Engine& engine) : engine_(engine), values(std::move(engine.stack)) { values.clear(); }
  ~BorrowedStack() {
    values.clear();
    engine_.stack = std::move(values);
  }

 private:
  Engine& engine_;

 public:
  torch::jit::Stack values;
};

// call(operator, ...arguments): what the operator returns.
Napi::Value call(Engine& engine, const Napi::CallbackInfo& info) {
  const Operator& op = operatorAt(engine, info[0]);
  const size_t given = info.Length() - 1;
  if (given > op.arguments.size()) {
    throw BadArgument("Expected at most " + std::to_string(op.arguments.size()) + " arguments but received " +
                      std::to_string(given));
  }
  BorrowedStack stack(engine);
  for (size_t i = 0; i < op.arguments.size(); i++) {
    const Argument& argument = op.arguments[i];
    if (i < given) {
      stack.values.push_back(argumentFrom(engine, argument, info[i + 1]));
    } else if (argument.hasDefault) {
      stack.values.push_back(argument.defaultValue);
    } else if (argument.optional) {
      stack.values.emplace_back();
    } else {
      throw BadArgument("Expected " + argument.type + " for " + argument.name + " but received nothing");
    }
  }

  op.handle.callBoxed(&stack.values);

  if (op.returnsArgument || stack.values.empty()) return info.Env().Undefined();
  if (stack.values.size() == 1) return {info.Env(), resultFrom(engine, std::move(stack.values[0]))};
  Napi::Array results = Napi::Array::New(info.Env(), stack.values.size());
  for (uint32_t i = 0; i < stack.values.size(); i++) {
    results.Set(i, Napi::Value(info.Env(), resultFrom(engine, std::move(stack.values[i]))));
  }
  return results;
}

// The tensors among a failed call's arguments, in words.
ErrorContext describeCall(Engine& engine, const Napi::CallbackInfo& info) {
  ErrorContext context;
  uint32_t number;
  if (napi_get_value_uint32(engine.env, info[0], &number) != napi_ok || number >= engine.operators.size()) {
    return context;
  }
  const Operator& op = engine.operators[number];
  context.operatorName = op.name;
  context.schema = c10::toString(op.handle.schema());

  const auto describe = [&](napi_value value, const std::string& name) {
    uint32_t slot;
    if (napi_get_value_uint32(engine.env, value, &slot) != napi_ok) return;
    const at::Tensor* tensor = engine.tensors.find(slot);
    context.tensors.push_back(name + " " + (tensor == nullptr ? "(disposed)" : describeTensor(*tensor)));
  };
  for (size_t i = 0; i + 1 < info.Length() && i < op.arguments.size(); i++) {
    const Argument& argument = op.arguments[i];
    if (argument.kind == ArgumentKind::Tensor) describe(info[i + 1], argument.name);
    if (argument.kind == ArgumentKind::TensorList && info[i + 1].IsArray()) {
      Napi::Array list = info[i + 1].As<Napi::Array>();
      constexpr uint32_t kMost = 8;
      for (uint32_t j = 0; j < list.Length() && j < kMost; j++) {
        describe(list.Get(j), argument.name + "[" + std::to_string(j) + "]");
      }
    }
  }
  return context;
}

}  // namespace

Operator::Operator(const c10::OperatorHandle& found) : handle(found), name(c10::toString(found.operator_name())) {
  const c10::FunctionSchema& schema = handle.schema();
  for (const c10::Argument& argument : schema.arguments()) arguments.push_back(argumentOf(argument));
  returnsArgument = !schema.returns().empty() && schema.returns()[0].alias_info() != nullptr &&
                    schema.returns()[0].alias_info()->isWrite();
}

void exposeDispatch(Engine& engine, Napi::Object exports) {
  expose<findOperator>(engine, exports, "findOperator");
  expose<schema>(engine, exports, "schema");
  expose<call, describeCall>(engine, exports, "call");
}
