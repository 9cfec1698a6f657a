// c10d as this addon uses it: a TCPStore, and process groups of Gloo and NCCL. Hides what differs between libtorch 1.13,
// where ProcessGroupGloo is a ProcessGroup, and 2.x, where it is a Backend.
//
// USE_C10D_GLOO is defined where Gloo's headers were found, USE_C10D_NCCL where nccl.h was and libtorch has CUDA
// (scripts/libtorch/layout.mjs).
#pragma once

#ifdef USE_C10D_GLOO

#include <torch/csrc/distributed/c10d/PrefixStore.hpp>
#include <torch/csrc/distributed/c10d/ProcessGroupGloo.hpp>
#include <torch/csrc/distributed/c10d/TCPStore.hpp>
#ifdef USE_C10D_NCCL
#include <torch/csrc/distributed/c10d/ProcessGroupNCCL.hpp>
#endif
#include <torch/version.h>

#include <chrono>
#include <string>

#if TORCH_VERSION_MAJOR >= 2
using Collectives = c10d::Backend;
#else
using Collectives = c10d::ProcessGroup;
#endif

using StorePointer = c10::intrusive_ptr<c10d::Store>;
using CollectivesPointer = c10::intrusive_ptr<Collectives>;

// A connection to the store at host:port, which this process serves if `isServer`. Waits for a server, not for workers.
inline StorePointer connectStore(const std::string& host, uint16_t port, bool isServer,
                                 std::chrono::milliseconds timeout) {
  c10d::TCPStoreOptions options;
  options.port = port;
  options.isServer = isServer;
  options.waitWorkers = false;
  options.timeout = timeout;
  return c10::make_intrusive<c10d::TCPStore>(host, options);
}

// Gloo's full mesh over the network interface, or else over the one that has the address. Blocks until all ranks have come.
inline CollectivesPointer connectGloo(const StorePointer& store, int rank, int size, const std::string& interface,
                                      const std::string& address, std::chrono::milliseconds timeout) {
  auto options = c10d::ProcessGroupGloo::Options::create(timeout);
  options->devices.push_back(interface.empty() ? c10d::ProcessGroupGloo::createDeviceForHostname(address)
                                               : c10d::ProcessGroupGloo::createDeviceForInterface(interface));
  options->threads = 2;
  return c10::make_intrusive<c10d::ProcessGroupGloo>(store, rank, size, options);
}

#ifdef USE_C10D_NCCL
inline CollectivesPointer connectNccl(const StorePointer& store, int rank, int size,
                                      std::chrono::milliseconds timeout) {
  auto options = c10d::ProcessGroupNCCL::Options::create();
  options->timeout = timeout;
  return c10::make_intrusive<c10d::ProcessGroupNCCL>(store, rank, size, options);
}
#endif

#endif  // USE_C10D_GLOO
