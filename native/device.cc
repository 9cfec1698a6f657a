// Accelerators through c10's interfaces, which every kind of device fills in: no header of CUDA or Metal is needed.

#include "device.h"

#include <ATen/Context.h>
#include <c10/core/impl/VirtualGuardImpl.h>
#include <c10/util/Exception.h>
#include <torch/version.h>

// Counting allocators got an interface of their own in libtorch 2.9.
#if TORCH_VERSION_MAJOR > 2 || (TORCH_VERSION_MAJOR == 2 && TORCH_VERSION_MINOR >= 9)
#define HAS_DEVICE_ALLOCATOR
#include <c10/core/CachingDeviceAllocator.h>
#endif

#include "error.h"

namespace {

// The device that a string names, with its index. Throws for a name that is none, or of a device that is not there.
c10::Device deviceOf(const Napi::Value& name) {
  if (!name.IsString()) throw BadArgument("Expected the name of a device");
  const c10::Device device(name.As<Napi::String>().Utf8Value());
  if (device.is_cpu()) return device;
  const c10::impl::VirtualGuardImpl guard(device.type());
  const c10::Device indexed = device.has_index() ? device : guard.getDevice();
  TORCH_CHECK(indexed.index() < guard.deviceCount(), "Expected one of ", static_cast<int>(guard.deviceCount()),
              " devices but received ", indexed);
  return indexed;
}

Napi::Value deviceCount(Engine&, const Napi::CallbackInfo& info) {
  const std::string kind = info[0].ToString();
  size_t count = 0;
  if (kind == "cuda" && at::hasCUDA()) count = at::getNumGPUs();
  if (kind == "mps" && at::hasMPS()) count = 1;
  return Napi::Number::New(info.Env(), static_cast<double>(count));
}

// Waits for everything that was queued on the device's current stream, which is all that this library queues.
Napi::Value synchronize(Engine&, const Napi::CallbackInfo& info) {
  const c10::Device device = deviceOf(info[0]);
  if (!device.is_cpu()) {
    const c10::impl::VirtualGuardImpl guard(device.type());
    guard.synchronizeStream(guard.getStream(device));
  }
  return info.Env().Undefined();
}

#ifdef HAS_DEVICE_ALLOCATOR
// Nothing for the processor, or an accelerator whose allocator does not count.
c10::DeviceAllocator* countingAllocator(const c10::Device& device) {
  if (device.is_cpu()) return nullptr;
  auto* allocator = dynamic_cast<c10::DeviceAllocator*>(c10::GetAllocator(device.type()));
  return allocator != nullptr && allocator->initialized() ? allocator : nullptr;
}
#endif

// deviceBytes(device): [in tensors now, the most since the last reset], or undefined where nobody counts.
Napi::Value deviceBytes(Engine&, const Napi::CallbackInfo& info) {
  const c10::Device device = deviceOf(info[0]);
#ifdef HAS_DEVICE_ALLOCATOR
  if (auto* allocator = countingAllocator(device)) {
    const auto total = allocator->getDeviceStats(device.index()).allocated_bytes[0];  // [0] is all pools together
    Napi::Array both = Napi::Array::New(info.Env(), 2);
    both.Set(uint32_t{0}, static_cast<double>(total.current));
    both.Set(uint32_t{1}, static_cast<double>(total.peak));
    return both;
  }
#endif
  return info.Env().Undefined();
}

Napi::Value resetPeakDeviceBytes(Engine&, const Napi::CallbackInfo& info) {
  const c10::Device device = deviceOf(info[0]);
#ifdef HAS_DEVICE_ALLOCATOR
  if (auto* allocator = countingAllocator(device)) allocator->resetPeakStats(device.index());
#endif
  return info.Env().Undefined();
}

}  // namespace

void exposeDevice(Engine& engine, Napi::Object exports) {
  expose<deviceCount>(engine, exports, "deviceCount");
  expose<synchronize>(engine, exports, "synchronize");
  expose<deviceBytes>(engine, exports, "deviceBytes");
  expose<resetPeakDeviceBytes>(engine, exports, "resetPeakDeviceBytes");
}
