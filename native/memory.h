// The processor's memory: counted exactly, reported to V8, refused before the system has none left.
#pragma once

#include "engine.h"

// Takes the place of libtorch's allocator for the processor. Once per process.
void installAllocator();

void exposeMemory(Engine& engine, Napi::Object exports);
