// Random number generators, and their state as bytes.
#pragma once

#include "engine.h"

void exposeRandom(Engine& engine, Napi::Object exports);
