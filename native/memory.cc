#include "memory.h"

#include <c10/core/Allocator.h>
#include <c10/core/impl/alloc_cpu.h>
#include <c10/util/Exception.h>

#include <atomic>
#include <cstdint>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <mutex>

#include "error.h"

#ifdef __APPLE__
#include <malloc/malloc.h>
#define malloc_usable_size malloc_size
#else
#include <malloc.h>
#endif
#ifdef __linux__
#include <sys/mman.h>
#endif

namespace {

std::atomic<int64_t> liveBytes{0};
std::atomic<int64_t> peakLiveBytes{0};
std::atomic<int64_t> reportedBytes{0};

constexpr int64_t kReportStep = int64_t{4} << 20;
// Smaller requests are not worth reading files for.
constexpr size_t kCheckedSize = size_t{128} << 20;

#ifdef __linux__
// A number of bytes from a file with one number in it (a cgroup's); negative where there is none or it says "max".
int64_t numberIn(const char* path) {
  long long value = -1;
  if (FILE* file = std::fopen(path, "r")) {
    if (std::fscanf(file, "%lld", &value) != 1) value = -1;
    std::fclose(file);
  }
  return value;
}
#endif

// Bytes that can still be had, as far as the system says; the largest number where it does not. Linux promises memory
// that it does not have and then ends the process that uses it, so a large request is compared beforehand.
int64_t availableBytes() {
  int64_t available = INT64_MAX;
#ifdef __linux__
  if (FILE* file = std::fopen("/proc/meminfo", "r")) {
    char line[256];
    long long kilobytes;
    while (std::fgets(line, sizeof line, file)) {
      if (std::sscanf(line, "MemAvailable: %lld kB", &kilobytes) == 1) available = kilobytes * 1024;
    }
    std::fclose(file);
  }
  const int64_t limit = numberIn("/sys/fs/cgroup/memory.max");
  const int64_t used = numberIn("/sys/fs/cgroup/memory.current");
  if (limit >= 0 && used >= 0 && limit - used < available) available = limit - used;
#endif
  return available;
}

// Linux has huge pages by default only for those who ask. On them, a forward pass at full size takes half of the
// system's time, which is a few percent of the whole (docs/log.md).
void askForHugePages([[maybe_unused]] void* data, [[maybe_unused]] size_t bytes) {
#ifdef __linux__
  constexpr size_t kWorthIt = size_t{4} << 20;
  constexpr uintptr_t kPage = 4096;
  if (bytes < kWorthIt) return;
  const uintptr_t address = reinterpret_cast<uintptr_t>(data);
  const uintptr_t start = (address + kPage - 1) / kPage * kPage;
  madvise(reinterpret_cast<void*>(start), address + bytes - start, MADV_HUGEPAGE);  // where it fails, nothing is lost
#endif
}

void freeCounted(void* data) {
  if (data == nullptr) return;
  liveBytes.fetch_sub(static_cast<int64_t>(malloc_usable_size(data)), std::memory_order_relaxed);
  c10::free_cpu(data);
}

// On the way through 2.x, libtorch's allocate ceased to be const and copy_data was added. Both forms are here, without
// "override": the one that this libtorch's Allocator declares overrides it.
struct CountingAllocator final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) { return counted(bytes); }
  c10::DataPtr allocate(size_t bytes) const { return counted(bytes); }
  void copy_data(void* to, const void* from, std::size_t count) const { std::memcpy(to, from, count); }
  c10::DeleterFnPtr raw_deleter() const { return &freeCounted; }

 private:
  static c10::DataPtr counted(size_t bytes) {
    if (bytes >= kCheckedSize) {
      const int64_t available = availableBytes();
      TORCH_CHECK(bytes <= static_cast<uint64_t>(available), "out of memory: the result needs ", bytes >> 20,
                  " MB and the system has ", available >> 20, " MB left");
    }
    void* data = c10::alloc_cpu(bytes);
    if (data != nullptr) {
      askForHugePages(data, bytes);
      const auto size = static_cast<int64_t>(malloc_usable_size(data));
      const int64_t live = liveBytes.fetch_add(size, std::memory_order_relaxed) + size;
      int64_t peak = peakLiveBytes.load(std::memory_order_relaxed);
      while (live > peak && !peakLiveBytes.compare_exchange_weak(peak, live, std::memory_order_relaxed)) {
      }
    }
    return {data, data, &freeCounted, c10::Device(c10::DeviceType::CPU)};
  }
};

Napi::Value nativeBytes(Engine&, const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(liveBytes.load()));
}

Napi::Value peakBytes(Engine&, const Napi::CallbackInfo& info) {
  return Napi::Number::New(info.Env(), static_cast<double>(peakLiveBytes.load()));
}

Napi::Value resetPeakBytes(Engine&, const Napi::CallbackInfo& info) {
  peakLiveBytes.store(liveBytes.load());
  return info.Env().Undefined();
}

// What V8 itself believes to be held outside its heap, in this environment.
Napi::Value externalBytes(Engine& engine, const Napi::CallbackInfo& info) {
  int64_t total = 0;
  napi_adjust_external_memory(engine.env, 0, &total);
  return Napi::Number::New(info.Env(), static_cast<double>(total));
}

// Reports to V8 how many bytes tensors hold, when that has changed by enough to matter to its garbage collector.
Napi::Value reportBytes(Engine& engine, const Napi::CallbackInfo& info) {
  const int64_t live = liveBytes.load(std::memory_order_relaxed);
  int64_t before = reportedBytes.load(std::memory_order_relaxed);
  if (std::abs(live - before) >= kReportStep && reportedBytes.compare_exchange_strong(before, live)) {
    int64_t total;
    napi_adjust_external_memory(engine.env, live - before, &total);
  }
  return info.Env().Undefined();
}

}  // namespace

void installAllocator() {
  static std::once_flag once;
  std::call_once(once, [] {
    static CountingAllocator allocator;
    c10::SetAllocator(c10::DeviceType::CPU, &allocator, /*priority=*/1);
  });
}

void exposeMemory(Engine& engine, Napi::Object exports) {
  expose<nativeBytes>(engine, exports, "nativeBytes");
  expose<peakBytes>(engine, exports, "peakBytes");
  expose<resetPeakBytes>(engine, exports, "resetPeakBytes");
  expose<reportBytes>(engine, exports, "reportBytes");
  expose<externalBytes>(engine, exports, "externalBytes");
}
