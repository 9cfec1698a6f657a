// Attention whose scores are never there all at once.
#pragma once

#include "engine.h"

void exposeAttention(Engine& engine, Napi::Object exports);
