/**
 * The table of operators in use: each line is one operator of libtorch's dispatcher, with the argument types of its
 * schema as far as we pass them. operators.test.ts holds every line against the running libtorch.
 */
import { op } from "./op.js";

// Arithmetic
export const addTensor = op("aten::add.Tensor", ["Tensor", "Tensor"], "Tensor");
export const addScalar = op("aten::add.Scalar", ["Tensor", "Scalar"], "Tensor");
export const subTensor = op("aten::sub.Tensor", ["Tensor", "Tensor"], "Tensor");
export const subScalar = op("aten::sub.Scalar", ["Tensor", "Scalar"], "Tensor");
export const mulTensor = op("aten::mul.Tensor", ["Tensor", "Tensor"], "Tensor");
export const mulScalar = op("aten::mul.Scalar", ["Tensor", "Scalar"], "Tensor");
export const divTensor = op("aten::div.Tensor", ["Tensor", "Tensor"], "Tensor");
export const divScalar = op("aten::div.Scalar", ["Tensor", "Scalar"], "Tensor");
export const powTensor = op("aten::pow.Tensor_Tensor", ["Tensor", "Tensor"], "Tensor");
export const powScalar = op("aten::pow.Tensor_Scalar", ["Tensor", "Scalar"], "Tensor");
export const neg = op("aten::neg", ["Tensor"], "Tensor");
export const square = op("aten::square", ["Tensor"], "Tensor");
export const sqrt = op("aten::sqrt", ["Tensor"], "Tensor");
export const rsqrt = op("aten::rsqrt", ["Tensor"], "Tensor");
export const exp = op("aten::exp", ["Tensor"], "Tensor");
export const log = op("aten::log", ["Tensor"], "Tensor");
export const abs = op("aten::abs", ["Tensor"], "Tensor");
export const sin = op("aten::sin", ["Tensor"], "Tensor");
export const cos = op("aten::cos", ["Tensor"], "Tensor");
export const tanh = op("aten::tanh", ["Tensor"], "Tensor");
export const sigmoid = op("aten::sigmoid", ["Tensor"], "Tensor");
export const round = op("aten::round", ["Tensor"], "Tensor");
export const floor = op("aten::floor", ["Tensor"], "Tensor");
export const clamp = op("aten::clamp", ["Tensor", "Scalar?", "Scalar?"], "Tensor");
export const maximum = op("aten::maximum", ["Tensor", "Tensor"], "Tensor");
export const minimum = op("aten::minimum", ["Tensor", "Tensor"], "Tensor");

// Comparison
export const eqTensor = op("aten::eq.Tensor", ["Tensor", "Tensor"], "Tensor");
export const eqScalar = op("aten::eq.Scalar", ["Tensor", "Scalar"], "Tensor");
export const neTensor = op("aten::ne.Tensor", ["Tensor", "Tensor"], "Tensor");
export const neScalar = op("aten::ne.Scalar", ["Tensor", "Scalar"], "Tensor");
export const ltTensor = op("aten::lt.Tensor", ["Tensor", "Tensor"], "Tensor");
export const ltScalar = op("aten::lt.Scalar", ["Tensor", "Scalar"], "Tensor");
export const leTensor = op("aten::le.Tensor", ["Tensor", "Tensor"], "Tensor");
export const leScalar = op("aten::le.Scalar", ["Tensor", "Scalar"], "Tensor");
export const gtTensor = op("aten::gt.Tensor", ["Tensor", "Tensor"], "Tensor");
export const gtScalar = op("aten::gt.Scalar", ["Tensor", "Scalar"], "Tensor");
export const geTensor = op("aten::ge.Tensor", ["Tensor", "Tensor"], "Tensor");
export const geScalar = op("aten::ge.Scalar", ["Tensor", "Scalar"], "Tensor");
export const logicalNot = op("aten::logical_not", ["Tensor"], "Tensor");
export const isnan = op("aten::isnan", ["Tensor"], "Tensor");
export const equal = op("aten::equal", ["Tensor", "Tensor"], "bool");
export const whereSelf = op("aten::where.self", ["Tensor", "Tensor", "Tensor"], "Tensor");
export const whereScalarOther = op("aten::where.ScalarOther", ["Tensor", "Tensor", "Scalar"], "Tensor");
export const whereScalarSelf = op("aten::where.ScalarSelf", ["Tensor", "Scalar", "Tensor"], "Tensor");
export const whereScalar = op("aten::where.Scalar", ["Tensor", "Scalar", "Scalar"], "Tensor");

// In place
export const addTensor_ = op("aten::add_.Tensor", ["Tensor", "Tensor", "Scalar"], "self");
export const addScalar_ = op("aten::add_.Scalar", ["Tensor", "Scalar"], "self");
export const subTensor_ = op("aten::sub_.Tensor", ["Tensor", "Tensor"], "self");
export const subScalar_ = op("aten::sub_.Scalar", ["Tensor", "Scalar"], "self");
export const mulTensor_ = op("aten::mul_.Tensor", ["Tensor", "Tensor"], "self");
export const mulScalar_ = op("aten::mul_.Scalar", ["Tensor", "Scalar"], "self");
export const divTensor_ = op("aten::div_.Tensor", ["Tensor", "Tensor"], "self");
export const divScalar_ = op("aten::div_.Scalar", ["Tensor", "Scalar"], "self");
export const clamp_ = op("aten::clamp_", ["Tensor", "Scalar?", "Scalar?"], "self");
export const copy_ = op("aten::copy_", ["Tensor", "Tensor"], "self");
export const fillScalar_ = op("aten::fill_.Scalar", ["Tensor", "Scalar"], "self");
export const zero_ = op("aten::zero_", ["Tensor"], "self");
export const addcmul_ = op("aten::addcmul_", ["Tensor", "Tensor", "Tensor", "Scalar"], "self");
export const addcdiv_ = op("aten::addcdiv_", ["Tensor", "Tensor", "Tensor", "Scalar"], "self");
export const lerpScalar_ = op("aten::lerp_.Scalar", ["Tensor", "Tensor", "Scalar"], "self");
export const uniform_ = op("aten::uniform_", ["Tensor", "float", "float", "Generator?"], "self");
export const normal_ = op("aten::normal_", ["Tensor", "float", "float", "Generator?"], "self");

// Reductions
/** In the dtype given, so that the sum of a float16 tensor does not overflow. */
export const sumAs = op("aten::sum", ["Tensor", "ScalarType?"], "Tensor");
export const sum = op("aten::sum.dim_IntList", ["Tensor", "int[]?", "bool"], "Tensor");
export const mean = op("aten::mean.dim", ["Tensor", "int[]?", "bool"], "Tensor");
export const amax = op("aten::amax", ["Tensor", "int[]", "bool"], "Tensor");
export const amin = op("aten::amin", ["Tensor", "int[]", "bool"], "Tensor");
export const std = op("aten::std.dim", ["Tensor", "int[]?", "bool", "bool"], "Tensor");
export const variance = op("aten::var.dim", ["Tensor", "int[]?", "bool", "bool"], "Tensor");
export const argmax = op("aten::argmax", ["Tensor", "int?", "bool"], "Tensor");
export const vectorNorm = op("aten::linalg_vector_norm", ["Tensor", "Scalar", "int[]?", "bool"], "Tensor");
export const all = op("aten::all", ["Tensor"], "Tensor");
export const allDim = op("aten::all.dim", ["Tensor", "int", "bool"], "Tensor");
export const any = op("aten::any", ["Tensor"], "Tensor");
export const anyDim = op("aten::any.dim", ["Tensor", "int", "bool"], "Tensor");
export const cumsum = op("aten::cumsum", ["Tensor", "int"], "Tensor");
export const argsort = op("aten::argsort", ["Tensor", "int", "bool"], "Tensor");

// Shape
export const reshape = op("aten::reshape", ["Tensor", "int[]"], "Tensor");
export const view = op("aten::view", ["Tensor", "int[]"], "Tensor");
export const viewDtype = op("aten::view.dtype", ["Tensor", "ScalarType"], "Tensor");
export const flatten = op("aten::flatten.using_ints", ["Tensor", "int", "int"], "Tensor");
export const permute = op("aten::permute", ["Tensor", "int[]"], "Tensor");
export const transpose = op("aten::transpose.int", ["Tensor", "int", "int"], "Tensor");
export const unsqueeze = op("aten::unsqueeze", ["Tensor", "int"], "Tensor");
export const squeeze = op("aten::squeeze", ["Tensor"], "Tensor");
export const squeezeDim = op("aten::squeeze.dim", ["Tensor", "int"], "Tensor");
export const expand = op("aten::expand", ["Tensor", "int[]"], "Tensor");
export const contiguous = op("aten::contiguous", ["Tensor", "MemoryFormat"], "Tensor");
export const slice = op("aten::slice.Tensor", ["Tensor", "int", "int?", "int?", "int"], "Tensor");
export const select = op("aten::select.int", ["Tensor", "int", "int"], "Tensor");
export const narrow = op("aten::narrow", ["Tensor", "int", "int", "int"], "Tensor");
export const chunk = op("aten::chunk", ["Tensor", "int", "int"], "Tensor[]");
export const split = op("aten::split.Tensor", ["Tensor", "int", "int"], "Tensor[]");
export const indexSelect = op("aten::index_select", ["Tensor", "int", "Tensor"], "Tensor");
export const gather = op("aten::gather", ["Tensor", "int", "Tensor"], "Tensor");
export const repeatInterleave = op("aten::repeat_interleave.self_int", ["Tensor", "int", "int?"], "Tensor");
export const flip = op("aten::flip", ["Tensor", "int[]"], "Tensor");
export const cat = op("aten::cat", ["Tensor[]", "int"], "Tensor");
export const stack = op("aten::stack", ["Tensor[]", "int"], "Tensor");
export const tril = op("aten::tril", ["Tensor", "int"], "Tensor");
export const triu = op("aten::triu", ["Tensor", "int"], "Tensor");

// Copies
export const to = op(
  "aten::to.dtype_layout",
  ["Tensor", "ScalarType?", "Layout?", "Device?", "bool?", "bool", "bool", "MemoryFormat?"],
  "Tensor",
);
export const detach = op("aten::detach", ["Tensor"], "Tensor");
export const clone = op("aten::clone", ["Tensor", "MemoryFormat?"], "Tensor");

// Creation: shape or bounds, then dtype, layout, device
export const empty = op("aten::empty.memory_format", ["int[]", "ScalarType?", "Layout?", "Device?"], "Tensor");
export const full = op("aten::full", ["int[]", "Scalar", "ScalarType?", "Layout?", "Device?"], "Tensor");
export const zerosLike = op("aten::zeros_like", ["Tensor"], "Tensor");
export const onesLike = op("aten::ones_like", ["Tensor"], "Tensor");
export const emptyLike = op("aten::empty_like", ["Tensor"], "Tensor");
export const arange = op(
  "aten::arange.start_step",
  ["Scalar", "Scalar", "Scalar", "ScalarType?", "Layout?", "Device?"],
  "Tensor",
);
export const linspace = op(
  "aten::linspace",
  ["Scalar", "Scalar", "int", "ScalarType?", "Layout?", "Device?"],
  "Tensor",
);
export const randn = op(
  "aten::randn.generator",
  ["int[]", "Generator?", "ScalarType?", "Layout?", "Device?"],
  "Tensor",
);
export const rand = op("aten::rand.generator", ["int[]", "Generator?", "ScalarType?", "Layout?", "Device?"], "Tensor");
export const randint = op(
  "aten::randint.low_generator",
  ["int", "int", "int[]", "Generator?", "ScalarType?", "Layout?", "Device?"],
  "Tensor",
);
export const randperm = op(
  "aten::randperm.generator",
  ["int", "Generator?", "ScalarType?", "Layout?", "Device?"],
  "Tensor",
);
export const fromFile = op("aten::from_file", ["str", "bool?", "int?", "ScalarType?"], "Tensor");

// Networks
export const matmul = op("aten::matmul", ["Tensor", "Tensor"], "Tensor");
export const bmm = op("aten::bmm", ["Tensor", "Tensor"], "Tensor");
export const baddbmm = op("aten::baddbmm", ["Tensor", "Tensor", "Tensor", "Scalar", "Scalar"], "Tensor");
export const linear = op("aten::linear", ["Tensor", "Tensor", "Tensor?"], "Tensor");
export const conv2d = op("aten::conv2d", ["Tensor", "Tensor", "Tensor?", "int[]", "int[]", "int[]", "int"], "Tensor");
export const groupNorm = op("aten::group_norm", ["Tensor", "int", "Tensor?", "Tensor?", "float"], "Tensor");
export const layerNorm = op("aten::layer_norm", ["Tensor", "int[]", "Tensor?", "Tensor?", "float"], "Tensor");
export const relu = op("aten::relu", ["Tensor"], "Tensor");
export const silu = op("aten::silu", ["Tensor"], "Tensor");
export const gelu = op("aten::gelu", ["Tensor", "str"], "Tensor");
export const softmax = op("aten::softmax.int", ["Tensor", "int"], "Tensor");
export const logSoftmax = op("aten::log_softmax.int", ["Tensor", "int"], "Tensor");
export const embedding = op("aten::embedding", ["Tensor", "Tensor"], "Tensor");
export const pad = op("aten::constant_pad_nd", ["Tensor", "int[]", "Scalar"], "Tensor");
export const upsampleNearest2d = op("aten::upsample_nearest2d", ["Tensor", "int[]"], "Tensor");
export const upsampleBicubic2d = op("aten::upsample_bicubic2d", ["Tensor", "int[]", "bool"], "Tensor");
export const upsampleBicubic2dAntialias = op("aten::_upsample_bicubic2d_aa", ["Tensor", "int[]", "bool"], "Tensor");
export const avgPool2d = op("aten::avg_pool2d", ["Tensor", "int[]", "int[]", "int[]"], "Tensor");
export const mseLoss = op("aten::mse_loss", ["Tensor", "Tensor", "int"], "Tensor");
export const crossEntropyLoss = op("aten::cross_entropy_loss", ["Tensor", "Tensor", "Tensor?", "int"], "Tensor");
export const scaledDotProductAttention = op(
  "aten::scaled_dot_product_attention",
  ["Tensor", "Tensor", "Tensor", "Tensor?", "float", "bool"],
  "Tensor",
  { optional: true },
);

// Lists of tensors, for optimisers
export const foreachAddScalar_ = op("aten::_foreach_add_.Scalar", ["Tensor[]", "Scalar"], "void");
export const foreachAddList_ = op("aten::_foreach_add_.List", ["Tensor[]", "Tensor[]", "Scalar"], "void");
export const foreachMulScalar_ = op("aten::_foreach_mul_.Scalar", ["Tensor[]", "Scalar"], "void");
export const foreachMulList_ = op("aten::_foreach_mul_.List", ["Tensor[]", "Tensor[]"], "void");
export const foreachDivScalar_ = op("aten::_foreach_div_.Scalar", ["Tensor[]", "Scalar"], "void");
export const foreachDivList_ = op("aten::_foreach_div_.List", ["Tensor[]", "Tensor[]"], "void");
export const foreachAddcmul_ = op(
  "aten::_foreach_addcmul_.Scalar",
  ["Tensor[]", "Tensor[]", "Tensor[]", "Scalar"],
  "void",
);
export const foreachAddcdiv_ = op(
  "aten::_foreach_addcdiv_.Scalar",
  ["Tensor[]", "Tensor[]", "Tensor[]", "Scalar"],
  "void",
);
export const foreachSqrt = op("aten::_foreach_sqrt", ["Tensor[]"], "Tensor[]");
