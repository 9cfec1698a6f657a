// Main memory: counted exactly, reported to V8, refused before the system has none left.
#pragma once

#include "engine.h"

// Takes the place of libtorch's allocator for the CPU. Once per process.
void installAllocator();

void exposeMemory(Engine& engine, Napi::Object exports);
