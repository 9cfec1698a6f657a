// An operator of the dispatcher with what a call needs of its schema, read once.
#pragma once

#include <ATen/core/dispatch/Dispatcher.h>

#include <string>
#include <vector>

// How an argument of a schema type is made from a JavaScript value.
enum class ArgumentKind {
  Tensor,
  TensorList,
  OptionalTensorList,
  Scalar,
  ScalarList,
  Int,
  IntList,
  Float,
  FloatList,
  Bool,
  BoolList,
  String,
  Device,
  Generator,
  Unsupported,
};

struct Argument {
  ArgumentKind kind;
  bool optional;
  bool hasDefault;
  // For a list of fixed length: how long. A single number fills it.
  int32_t length;
  c10::IValue defaultValue;
  std::string name;
  // The schema's word, as "int[]?".
  std::string type;
};

struct Operator {
  c10::OperatorHandle handle;
  std::string name;
  std::vector<Argument> arguments;
  // Returns an argument it wrote to (in-place and out variants): nothing new for JavaScript.
  bool returnsArgument;

  explicit Operator(const c10::OperatorHandle& found);
};
