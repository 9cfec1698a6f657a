// Tensors in slots: what they are, their data in and out, their release.
#pragma once

#include "engine.h"

void exposeTensor(Engine& engine, Napi::Object exports);
