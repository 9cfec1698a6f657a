// Accelerators: how many there are, waiting for one, and its memory.
#pragma once

#include "engine.h"

void exposeDevice(Engine& engine, Napi::Object exports);
