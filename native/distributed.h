// Groups of processes that compute together, over libtorch's c10d. Without Gloo's headers there is no backend, and
// `distributedBackends` returns an empty list.
#pragma once

#include "engine.h"

void exposeDistributed(Engine& engine, Napi::Object exports);
