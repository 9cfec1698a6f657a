// Operators by name, and the boxed call.
#pragma once

#include "engine.h"

void exposeDispatch(Engine& engine, Napi::Object exports);
