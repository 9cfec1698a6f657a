#include "random.h"

#include <ATen/ATen.h>
#include <ATen/CPUGeneratorImpl.h>
#include <ATen/Context.h>

#include <cstring>
#include <mutex>

#include "convert.h"
#include "error.h"

namespace {

// JavaScript has checked it: a whole number from 0, as a number or a bigint.
uint64_t seedOf(Engine& engine, const Napi::Value& value) {
  if (!value.IsBigInt()) return static_cast<uint64_t>(integerOf(engine, value, "the seed"));
  bool lossless = false;
  return value.As<Napi::BigInt>().Uint64Value(&lossless);
}

at::Generator generatorAt(Engine& engine, napi_value value) {
  uint32_t slot;
  const at::Generator* generator =
      napi_get_value_uint32(engine.env, value, &slot) == napi_ok ? engine.generators.find(slot) : nullptr;
  if (generator == nullptr) throw BadArgument("Expected a Generator");
  return *generator;
}

// newGenerator(device, seed): its slot.
Napi::Value newGenerator(Engine& engine, const Napi::CallbackInfo& info) {
  if (!info[0].IsString()) throw BadArgument("Expected a device for the generator");
  const c10::Device device(info[0].As<Napi::String>().Utf8Value());
  const uint64_t seed = seedOf(engine, info[1]);
  at::Generator generator;
  if (device.is_cpu()) {
    generator = at::detail::createCPUGenerator(seed);
  } else {
    at::Generator byDefault = at::globalContext().defaultGenerator(device);
    std::lock_guard<std::mutex> lock(byDefault.mutex());
    generator = byDefault.clone();
    generator.set_current_seed(seed);
  }
  return Napi::Number::New(info.Env(), engine.generators.add(std::move(generator)));
}

Napi::Value seedGenerator(Engine& engine, const Napi::CallbackInfo& info) {
  at::Generator generator = generatorAt(engine, info[0]);
  const uint64_t seed = seedOf(engine, info[1]);
  std::lock_guard<std::mutex> lock(generator.mutex());
  generator.set_current_seed(seed);
  return info.Env().Undefined();
}

Napi::Value generatorState(Engine& engine, const Napi::CallbackInfo& info) {
  at::Generator generator = generatorAt(engine, info[0]);
  std::lock_guard<std::mutex> lock(generator.mutex());
  const at::Tensor state = generator.get_state().to(at::kCPU).contiguous();
  Napi::ArrayBuffer buffer = Napi::ArrayBuffer::New(info.Env(), state.nbytes());
  std::memcpy(buffer.Data(), state.data_ptr(), state.nbytes());
  return buffer;
}

Napi::Value setGeneratorState(Engine& engine, const Napi::CallbackInfo& info) {
  at::Generator generator = generatorAt(engine, info[0]);
  if (!info[1].IsTypedArray()) throw BadArgument("Expected a Uint8Array for the generator's state");
  const Napi::Uint8Array bytes = info[1].As<Napi::Uint8Array>();
  std::lock_guard<std::mutex> lock(generator.mutex());
  const int64_t expected = generator.get_state().numel();
  if (static_cast<int64_t>(bytes.ByteLength()) != expected) {
    throw BadArgument("Expected " + std::to_string(expected) + " bytes for the generator's state but received " +
                      std::to_string(bytes.ByteLength()));
  }
  at::Tensor state = at::empty({expected}, at::kByte);
  std::memcpy(state.data_ptr(), bytes.Data(), bytes.ByteLength());
  generator.set_state(state);
  return info.Env().Undefined();
}

Napi::Value releaseGenerator(Engine& engine, const Napi::CallbackInfo& info) {
  uint32_t slot;
  if (napi_get_value_uint32(engine.env, info[0], &slot) == napi_ok) engine.generators.release(slot);
  return info.Env().Undefined();
}

Napi::Value seedAll(Engine& engine, const Napi::CallbackInfo& info) {
  at::manual_seed(seedOf(engine, info[0]));
  return info.Env().Undefined();
}

ErrorContext inGenerator(Engine&, const Napi::CallbackInfo&) { return {"Generator", {}, ""}; }

}  // namespace

void exposeRandom(Engine& engine, Napi::Object exports) {
  expose<newGenerator, inGenerator>(engine, exports, "newGenerator");
  expose<seedGenerator, inGenerator>(engine, exports, "seedGenerator");
  expose<generatorState, inGenerator>(engine, exports, "generatorState");
  expose<setGeneratorState, inGenerator>(engine, exports, "setGeneratorState");
  expose<releaseGenerator, inGenerator>(engine, exports, "releaseGenerator");
  expose<seedAll, inGenerator>(engine, exports, "seedAll");
}
