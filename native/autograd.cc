#include "autograd.h"

#include <ATen/core/grad_mode.h>
#include <torch/csrc/autograd/autograd.h>

#include "convert.h"
#include "error.h"

namespace {

Napi::Value gradEnabled(Engine&, const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), at::GradMode::is_enabled());
}

Napi::Value setGradEnabled(Engine&, const Napi::CallbackInfo& info) {
  at::GradMode::set_enabled(info[0].ToBoolean());
  return info.Env().Undefined();
}

Napi::Value requiresGrad(Engine& engine, const Napi::CallbackInfo& info) {
  return Napi::Boolean::New(info.Env(), tensorAt(engine, info[0], "requiresGrad").requires_grad());
}

Napi::Value setRequiresGrad(Engine& engine, const Napi::CallbackInfo& info) {
  if (!info[1].IsBoolean()) throw BadArgument("Expected true or false for requiresGrad_");
  const at::Tensor& tensor = tensorAt(engine, info[0], "requiresGrad_");
  const bool on = info[1].As<Napi::Boolean>();
  if (on && !at::isFloatingType(tensor.scalar_type())) {
    throw BadArgument("Expected a floating-point tensor for requiresGrad_ but received " + describeTensor(tensor));
  }
  tensor.requires_grad_(on);
  return info.Env().Undefined();
}

Napi::Value grad(Engine& engine, const Napi::CallbackInfo& info) {
  return {info.Env(), slotFor(engine, tensorAt(engine, info[0], "grad").grad())};
}

Napi::Value setGrad(Engine& engine, const Napi::CallbackInfo& info) {
  const at::Tensor& tensor = tensorAt(engine, info[0], "grad");
  if (info[1].IsNull()) {
    tensor.mutable_grad() = at::Tensor();
    return info.Env().Undefined();
  }
  const at::Tensor& value = tensorAt(engine, info[1], "grad");
  if (value.is_same(tensor)) throw BadArgument("Expected another tensor for grad but received the tensor itself");
  if (value.sizes() != tensor.sizes() || value.scalar_type() != tensor.scalar_type() ||
      value.device() != tensor.device()) {
    throw BadArgument("Expected " + describeTensor(tensor) + " for grad but received " + describeTensor(value));
  }
  tensor.mutable_grad() = value;
  return info.Env().Undefined();
}

// backward(outputs, gradients, retainGraph)
Napi::Value backward(Engine& engine, const Napi::CallbackInfo& info) {
  const auto outputs = tensorsAt(engine, info[0], "backward");
  const auto gradients = optionalTensorsAt(engine, info[1], "the gradient of backward");
  torch::autograd::backward(outputs, gradients, /*retain_graph=*/info[2].ToBoolean().Value());
  return info.Env().Undefined();
}

// gradients(outputs, inputs, gradOutputs, retainGraph, createGraph, allowUnused)
Napi::Value gradients(Engine& engine, const Napi::CallbackInfo& info) {
  const auto outputs = tensorsAt(engine, info[0], "the outputs of grad");
  const auto inputs = tensorsAt(engine, info[1], "the inputs of grad");
  const auto gradOutputs = optionalTensorsAt(engine, info[2], "the gradOutputs of grad");
  const auto results =
      torch::autograd::grad(outputs, inputs, gradOutputs, /*retain_graph=*/info[3].ToBoolean().Value(),
                            /*create_graph=*/info[4].ToBoolean().Value(), /*allow_unused=*/info[5].ToBoolean().Value());
  Napi::Array slots = Napi::Array::New(info.Env(), results.size());
  for (uint32_t i = 0; i < results.size(); i++) {
    slots.Set(i, Napi::Value(info.Env(), slotFor(engine, results[i])));
  }
  return slots;
}

ErrorContext inBackward(Engine& engine, const Napi::CallbackInfo& info) {
  ErrorContext context;
  context.operatorName = "backward";
  if (!info[0].IsArray()) return context;
  Napi::Array outputs = info[0].As<Napi::Array>();
  for (uint32_t i = 0; i < outputs.Length(); i++) {
    uint32_t slot;
    if (napi_get_value_uint32(engine.env, outputs.Get(i), &slot) != napi_ok) continue;
    if (const at::Tensor* tensor = engine.tensors.find(slot)) {
      context.tensors.push_back("output " + describeTensor(*tensor));
    }
  }
  return context;
}

ErrorContext inRequiresGrad(Engine&, const Napi::CallbackInfo&) { return {"requiresGrad_", {}, ""}; }
ErrorContext inGrad(Engine&, const Napi::CallbackInfo&) { return {"grad", {}, ""}; }

}  // namespace

void exposeAutograd(Engine& engine, Napi::Object exports) {
  expose<gradEnabled>(engine, exports, "gradEnabled");
  expose<setGradEnabled>(engine, exports, "setGradEnabled");
  expose<requiresGrad>(engine, exports, "requiresGrad");
  expose<setRequiresGrad, inRequiresGrad>(engine, exports, "setRequiresGrad");
  expose<grad, inGrad>(engine, exports, "grad");
  expose<setGrad, inGrad>(engine, exports, "setGrad");
  expose<backward, inBackward>(engine, exports, "backward");
  expose<gradients, inBackward>(engine, exports, "gradients");
}
