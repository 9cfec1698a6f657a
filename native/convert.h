// Values across the border: JavaScript to c10::IValue as a schema asks, and back.
#pragma once

#include <napi.h>

#include <string>
#include <vector>

#include "engine.h"

// A new slot for a tensor; null for an undefined one.
napi_value slotFor(Engine& engine, at::Tensor tensor);

// The tensor of a slot. Throws BadArgument where there is none; `what` names the argument.
const at::Tensor& tensorAt(Engine& engine, napi_value slot, const char* what);

// A list of slots, and one where null means no tensor.
std::vector<at::Tensor> tensorsAt(Engine& engine, napi_value slots, const char* what);
std::vector<at::Tensor> optionalTensorsAt(Engine& engine, napi_value slots, const char* what);

// A whole number that a double holds exactly, or a bigint of 64 bits. Throws BadArgument otherwise.
int64_t integerOf(Engine& engine, napi_value value, const char* what);
std::vector<int64_t> integersOf(Engine& engine, napi_value value, const char* what);

// An argument of a boxed call. Throws BadArgument, which says what the schema expects.
c10::IValue argumentFrom(Engine& engine, const Argument& argument, napi_value value);

// A result of a boxed call.
napi_value resultFrom(Engine& engine, c10::IValue&& value);

// As "float32[2, 3]", with the device unless it is the CPU.
std::string describeTensor(const at::Tensor& tensor);
