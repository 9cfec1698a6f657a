// The addon's entry: one Engine per JavaScript environment, and everything it exports to src/torch/native.ts.

#include <ATen/Parallel.h>
#include <dlfcn.h>
#include <napi.h>
#include <torch/version.h>

#include "attention.h"
#include "autograd.h"
#include "convert.h"
#include "device.h"
#include "dispatch.h"
#include "distributed.h"
#include "engine.h"
#include "error.h"
#include "memory.h"
#include "random.h"
#include "tensor.h"

namespace {

Napi::Value setErrorClass(Engine& engine, const Napi::CallbackInfo& info) {
  if (!info[0].IsFunction()) throw BadArgument("Expected a class for setErrorClass");
  engine.errorClass = Napi::Persistent(info[0].As<Napi::Function>());
  return info.Env().Undefined();
}

// OpenBLAS built on threads of its own, as Debian's is, hears nothing of libtorch's setting. Other libtorch have no such
// function.
void setOpenBlasThreads(int threads) {
  static const auto set = reinterpret_cast<void (*)(int)>(dlsym(RTLD_DEFAULT, "openblas_set_num_threads"));
  if (set != nullptr) set(threads);
}

Napi::Value setNumThreads(Engine& engine, const Napi::CallbackInfo& info) {
  const int64_t threads = integerOf(engine, info[0], "setNumThreads");
  if (threads < 1 || threads > 4096) throw BadArgument("Expected 1 to 4096 threads for setNumThreads");
  at::set_num_threads(static_cast<int>(threads));
  setOpenBlasThreads(static_cast<int>(threads));
  return info.Env().Undefined();
}

Napi::Value numThreads(Engine&, const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), at::get_num_threads());
}

Napi::Value version(Engine&, const Napi::CallbackInfo& info) {
  return Napi::String::New(info.Env(), std::to_string(TORCH_VERSION_MAJOR) + "." + std::to_string(TORCH_VERSION_MINOR) +
                                           "." + std::to_string(TORCH_VERSION_PATCH));
}

Napi::Object initialise(Napi::Env env, Napi::Object exports) {
  installAllocator();
  auto* engine = new Engine(env);
  env.SetInstanceData<Engine>(engine);
  expose<setErrorClass>(*engine, exports, "setErrorClass");
  expose<setNumThreads>(*engine, exports, "setNumThreads");
  expose<numThreads>(*engine, exports, "numThreads");
  expose<version>(*engine, exports, "version");
  exposeAttention(*engine, exports);
  exposeDevice(*engine, exports);
  exposeDispatch(*engine, exports);
  exposeDistributed(*engine, exports);
  exposeTensor(*engine, exports);
  exposeAutograd(*engine, exports);
  exposeRandom(*engine, exports);
  exposeMemory(*engine, exports);
  return exports;
}

}  // namespace

NODE_API_MODULE(torch, initialise)
