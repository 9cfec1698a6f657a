// What one process of a group sends to another.
#pragma once

#include "engine.h"

void exposeMessages(Engine& engine, Napi::Object exports);
