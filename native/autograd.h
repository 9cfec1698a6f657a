// Reverse-mode differentiation.
#pragma once

#include "engine.h"

void exposeAutograd(Engine& engine, Napi::Object exports);
