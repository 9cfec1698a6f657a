#include "error.h"

#include <c10/util/Exception.h>

#include <new>

namespace {

// The first paragraph of libtorch's message: what follows is C++ (stack frames, "Exception raised from").
std::string sentenceOf(const std::string& message) {
  std::string text = message.substr(0, message.find("\nException raised from"));
  while (!text.empty() && (text.back() == '\n' || text.back() == ' ')) text.pop_back();
  return text;
}

[[noreturn]] void throwTorchError(Engine& engine, const std::string& problem, const ErrorContext& context) {
  Napi::Env env(engine.env);
  std::string message = context.operatorName.empty() ? problem : context.operatorName + ": " + problem;
  Napi::Array tensors = Napi::Array::New(env, context.tensors.size());
  for (size_t i = 0; i < context.tensors.size(); i++) {
    message += (i == 0 ? "\nReceived " : ", ") + context.tensors[i];
    tensors.Set(static_cast<uint32_t>(i), context.tensors[i]);
  }
  if (!context.schema.empty()) message += "\nExpected " + context.schema;
  if (engine.errorClass.IsEmpty()) throw Napi::Error::New(env, message);
  Napi::Object error =
      engine.errorClass.New({Napi::String::New(env, message), Napi::String::New(env, context.operatorName), tensors});
  throw Napi::Error(env, error);
}

}  // namespace

void rethrowToJavaScript(Engine& engine, const ErrorContext& context) {
  try {
    throw;
  } catch (const Napi::Error&) {
    throw;  // JavaScript's own, as from a getter in an array
  } catch (const c10::Error& error) {
    throwTorchError(engine, sentenceOf(error.what_without_backtrace()), context);
  } catch (const std::bad_alloc&) {
    throwTorchError(engine, "Expected enough memory for the result but the system has none left", context);
  } catch (const std::exception& error) {
    throwTorchError(engine, sentenceOf(error.what()), context);
  } catch (...) {
    throwTorchError(engine, "An unknown native error", context);
  }
}
