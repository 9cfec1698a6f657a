// The one catch boundary: every function that JavaScript can call is wrapped by `guarded`, which turns whatever was
// thrown (libtorch's c10::Error, this addon's, out of memory) into a JavaScript TorchError.
#pragma once

#include <napi.h>

#include <stdexcept>
#include <string>
#include <vector>

#include "engine.h"

// Something JavaScript passed is not what was expected. The message is a sentence.
struct BadArgument : std::runtime_error {
  using std::runtime_error::runtime_error;
};

// What an error message says about the call: the operator, and the tensors it was given.
struct ErrorContext {
  std::string operatorName;
  std::vector<std::string> tensors;
  std::string schema;
};

using NativeFunction = Napi::Value (*)(Engine&, const Napi::CallbackInfo&);
using DescribeCall = ErrorContext (*)(Engine&, const Napi::CallbackInfo&);

inline ErrorContext noContext(Engine&, const Napi::CallbackInfo&) { return {}; }

// Throws the exception that is being handled as a JavaScript error.
[[noreturn]] void rethrowToJavaScript(Engine& engine, const ErrorContext& context);

template <NativeFunction function, DescribeCall describe = noContext>
Napi::Value guarded(const Napi::CallbackInfo& info) {
  Engine& engine = *static_cast<Engine*>(info.Data());
  try {
    return function(engine, info);
  } catch (...) {
    rethrowToJavaScript(engine, describe(engine, info));
  }
}

template <NativeFunction function, DescribeCall describe = noContext>
void expose(Engine& engine, Napi::Object exports, const char* name) {
  exports.Set(name, Napi::Function::New<guarded<function, describe>>(exports.Env(), name, &engine));
}
