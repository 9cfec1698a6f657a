// The sum of all processes' gradients by all-reduce, in buckets that go out while the backward pass goes on.
#pragma once

#include <napi.h>

#include "engine.h"

void exposeGradientBuckets(Engine& engine, Napi::Object exports);
