// Convolutions for XLA's CPU backend through oneDNN, called by XLA's foreign-function interface.
//
// Three operations, each bilinear: the output of a convolution, the gradient of its input, the gradient of its kernel.
// Activations are channels-last [N, S..., C], kernels [S..., C / groups, O] as flax stores them; 1 to 3 spatial axes; f32, bf16.
//
// One thread issues every call, so that there is one OpenMP team however many XLA threads and simulated devices call in,
// and neither the plans nor the scratch memory needs a lock.
#include <condition_variable>
#include <cstdint>
#include <cstdlib>
#include <functional>
#include <list>
#include <mutex>
#include <string>
#include <thread>
#include <unordered_map>
#include <utility>
#include <vector>

#include "oneapi/dnnl/dnnl.hpp"
#include "xla/ffi/api/ffi.h"

extern "C" void omp_set_num_threads(int);  // libgomp's, which libdnnl brings

namespace {

namespace ffi = xla::ffi;
using dnnl::memory;
using Span = ffi::Span<const int64_t>;

enum Kind : int64_t { kOutput = 0, kInputGrad = 1, kKernelGrad = 2 };

constexpr size_t kMaxPlans = 512;                   // a large network has some 200; each holds its compiled code
constexpr size_t kMaxKeptScratch = size_t{256} << 20;  // a larger one is freed after the call
constexpr size_t kPage = 4096;

struct Problem {
  Kind kind;
  memory::data_type type;
  Span input, kernel, output;  // shapes
  Span strides, low, high, dilation;
  int64_t groups;
};

struct Plan {
  dnnl::primitive conv, reorder;
  memory::desc source, result, kernel, kernel_inside, scratch;
  bool reorders = false;
  size_t kernel_at = 0, bytes = 0;
};

size_t RoundUp(size_t n) { return (n + kPage - 1) / kPage * kPage; }

const dnnl::engine& Engine() {
  static const auto* engine = [] {
    // The plans below hold the primitives: a second cache inside oneDNN would only double the memory.
    dnnl::set_primitive_cache_capacity(0);
    return new dnnl::engine(dnnl::engine::kind::cpu, 0);
  }();
  return *engine;
}

std::vector<int64_t> RowMajor(Span shape) {
  std::vector<int64_t> strides(shape.size());
  int64_t step = 1;
  for (size_t i = shape.size(); i-- > 0;) {
    strides[i] = step;
    step *= shape[i];
  }
  return strides;
}

// [N, S..., C] in memory, seen as oneDNN's (N, C, S...).
memory::desc Activation(Span shape, memory::data_type type) {
  const auto steps = RowMajor(shape);
  const size_t last = shape.size() - 1;
  memory::dims dims{shape[0], shape[last]}, strides{steps[0], steps[last]};
  for (size_t i = 1; i < last; ++i) {
    dims.push_back(shape[i]);
    strides.push_back(steps[i]);
  }
  return {dims, type, strides};
}

// [S..., I / groups, O] in memory, seen as oneDNN's ([groups,] O / groups, I / groups, S...).
memory::desc Kernel(Span shape, memory::data_type type, int64_t groups, bool any) {
  const auto steps = RowMajor(shape);
  const size_t out = shape.size() - 1, in = out - 1;
  memory::dims dims, strides;
  if (groups > 1) {
    dims.push_back(groups);
    strides.push_back(shape[out] / groups);
  }
  dims.push_back(shape[out] / groups);
  strides.push_back(1);
  dims.push_back(shape[in]);
  strides.push_back(steps[in]);
  for (size_t i = 0; i < in; ++i) {
    dims.push_back(shape[i]);
    strides.push_back(steps[i]);
  }
  return any ? memory::desc(dims, type, memory::format_tag::any) : memory::desc(dims, type, strides);
}

memory::dims Dims(Span values, int64_t less = 0) {
  memory::dims dims(values.begin(), values.end());
  for (auto& value : dims) value -= less;
  return dims;
}

// oneDNN's portable reference loops are right and hundreds of times slower than XLA: they count as not supported.
template <typename Description>
const Description& Fast(const Description& d) {
  if (std::string(d.impl_info_str()).rfind("ref", 0) == 0) throw dnnl::error(dnnl_unimplemented, "reference loops only");
  return d;
}

Plan MakePlan(const Problem& p) {
  const auto x = Activation(p.input, p.type), y = Activation(p.output, p.type);
  const auto kernel = Kernel(p.kernel, p.type, p.groups, false), any = Kernel(p.kernel, p.type, p.groups, true);
  // oneDNN counts the gaps of a dilated kernel, XLA the steps.
  const auto strides = Dims(p.strides), gaps = Dims(p.dilation, 1), low = Dims(p.low), high = Dims(p.high);
  const auto direct = dnnl::algorithm::convolution_direct;
  dnnl::primitive_attr attributes;
  attributes.set_scratchpad_mode(dnnl::scratchpad_mode::user);
  const dnnl::convolution_forward::primitive_desc forward(Engine(), dnnl::prop_kind::forward_training, direct, x, any, y, strides,
                                                          gaps, low, high, attributes);
  Plan plan;
  plan.kernel = kernel;
  if (p.kind == kOutput) {
    plan.conv = dnnl::convolution_forward(Fast(forward));
    plan.kernel_inside = forward.weights_desc();
    plan.scratch = forward.scratchpad_desc();
    plan.source = x;
    plan.result = y;
  } else if (p.kind == kInputGrad) {
    const dnnl::convolution_backward_data::primitive_desc d(Engine(), direct, x, any, y, strides, gaps, low, high, forward,
                                                            attributes);
    plan.conv = dnnl::convolution_backward_data(Fast(d));
    plan.kernel_inside = d.weights_desc();
    plan.scratch = d.scratchpad_desc();
    plan.source = y;
    plan.result = x;
  } else {
    const dnnl::convolution_backward_weights::primitive_desc d(Engine(), direct, x, any, y, strides, gaps, low, high, forward,
                                                               attributes);
    plan.conv = dnnl::convolution_backward_weights(Fast(d));
    plan.kernel_inside = d.diff_weights_desc();
    plan.scratch = d.scratchpad_desc();
    plan.source = x;
    plan.result = y;
  }
  plan.reorders = plan.kernel_inside != plan.kernel;
  if (plan.reorders) {
    const auto& from = p.kind == kKernelGrad ? plan.kernel_inside : plan.kernel;
    const auto& to = p.kind == kKernelGrad ? plan.kernel : plan.kernel_inside;
    plan.reorder = dnnl::reorder(dnnl::reorder::primitive_desc(Engine(), from, Engine(), to));
  }
  plan.kernel_at = RoundUp(plan.scratch.get_size());
  plan.bytes = plan.kernel_at + (plan.reorders ? RoundUp(plan.kernel_inside.get_size()) : 0);
  return plan;
}

std::string KeyOf(const Problem& p) {
  std::string key;
  const auto add = [&key](int64_t value) { key.append(reinterpret_cast<const char*>(&value), sizeof value); };
  add(p.kind);
  add(static_cast<int64_t>(p.type));
  add(p.groups);
  for (Span span : {p.input, p.kernel, p.output, p.strides, p.low, p.high, p.dilation}) {
    add(static_cast<int64_t>(span.size()));
    for (int64_t value : span) add(value);
  }
  return key;
}

// All that follows in this struct is touched by the issuing thread alone.
struct Workshop {
  std::list<std::pair<std::string, Plan>> plans;  // the last used first
  std::unordered_map<std::string, decltype(plans)::iterator> found;
  void* scratch = nullptr;
  size_t scratch_bytes = 0;

  const Plan& Find(const Problem& p) {
    std::string key = KeyOf(p);
    if (const auto at = found.find(key); at != found.end()) {
      plans.splice(plans.begin(), plans, at->second);
      return plans.front().second;
    }
    plans.emplace_front(key, MakePlan(p));
    found[std::move(key)] = plans.begin();
    if (plans.size() > kMaxPlans) {
      found.erase(plans.back().first);
      plans.pop_back();
    }
    return plans.front().second;
  }

  char* Scratch(size_t bytes) {
    if (bytes > scratch_bytes) {
      std::free(scratch);
      scratch = std::aligned_alloc(kPage, RoundUp(bytes));
      scratch_bytes = scratch ? RoundUp(bytes) : 0;
      if (!scratch) throw dnnl::error(dnnl_out_of_memory, "no memory for scratch");
    }
    return static_cast<char*>(scratch);
  }

  void TrimScratch() {
    if (scratch_bytes <= kMaxKeptScratch) return;
    std::free(scratch);
    scratch = nullptr;
    scratch_bytes = 0;
  }

  void Run(const Problem& p, void* a, void* b, void* r) {
    const Plan& plan = Find(p);
    char* scratch = Scratch(plan.bytes);
    dnnl::stream stream(Engine());
    const memory own(plan.scratch, Engine(), scratch);
    const memory outside(plan.kernel, Engine(), p.kind == kKernelGrad ? r : b);
    const memory inside = plan.reorders ? memory(plan.kernel_inside, Engine(), scratch + plan.kernel_at) : outside;
    if (plan.reorders && p.kind != kKernelGrad) plan.reorder.execute(stream, {{DNNL_ARG_FROM, outside}, {DNNL_ARG_TO, inside}});
    const memory source(plan.source, Engine(), a), result(plan.result, Engine(), p.kind == kKernelGrad ? b : r);
    switch (p.kind) {
      case kOutput:
        plan.conv.execute(stream, {{DNNL_ARG_SRC, source}, {DNNL_ARG_WEIGHTS, inside}, {DNNL_ARG_DST, result},
                                   {DNNL_ARG_SCRATCHPAD, own}});
        break;
      case kInputGrad:
        plan.conv.execute(stream, {{DNNL_ARG_DIFF_DST, source}, {DNNL_ARG_WEIGHTS, inside}, {DNNL_ARG_DIFF_SRC, result},
                                   {DNNL_ARG_SCRATCHPAD, own}});
        break;
      case kKernelGrad:
        plan.conv.execute(stream, {{DNNL_ARG_SRC, source}, {DNNL_ARG_DIFF_DST, result}, {DNNL_ARG_DIFF_WEIGHTS, inside},
                                   {DNNL_ARG_SCRATCHPAD, own}});
        break;
    }
    if (plan.reorders && p.kind == kKernelGrad) plan.reorder.execute(stream, {{DNNL_ARG_FROM, inside}, {DNNL_ARG_TO, outside}});
    stream.wait();
    TrimScratch();
  }
};

int wanted_threads = 0;

class Issuer {
 public:
  Issuer() {
    std::thread([this] {
      if (wanted_threads > 0) omp_set_num_threads(wanted_threads);
      Workshop workshop;
      for (;;) {
        std::unique_lock<std::mutex> lock(mutex_);
        wake_.wait(lock, [this] { return job_ != nullptr; });
        const auto* job = job_;
        lock.unlock();
        std::string error;
        try {
          (*job)(workshop);
        } catch (const std::exception& e) {
          error = e.what();
          if (error.empty()) error = "failed";
        }
        lock.lock();
        job_ = nullptr;
        error_ = std::move(error);
        finished_ = true;
        done_.notify_one();
      }
    }).detach();
  }

  // Runs `job` on the issuing thread and waits for it. Returns what went wrong, empty if nothing did.
  std::string Do(const std::function<void(Workshop&)>& job) {
    std::lock_guard<std::mutex> turn(turn_);
    std::unique_lock<std::mutex> lock(mutex_);
    finished_ = false;
    job_ = &job;
    wake_.notify_one();
    done_.wait(lock, [this] { return finished_; });
    return std::exchange(error_, {});
  }

 private:
  std::mutex turn_, mutex_;
  std::condition_variable wake_, done_;
  const std::function<void(Workshop&)>* job_ = nullptr;
  bool finished_ = false;
  std::string error_;
};

Issuer& TheIssuer() {
  static auto* issuer = new Issuer;  // never destroyed: XLA's threads may outlive static destruction
  return *issuer;
}

memory::data_type TypeOf(ffi::DataType type) {
  if (type == ffi::DataType::F32) return memory::data_type::f32;
  if (type == ffi::DataType::BF16) return memory::data_type::bf16;
  return memory::data_type::undef;
}

template <Kind kind>
ffi::Error Handle(ffi::AnyBuffer a, ffi::AnyBuffer b, ffi::Result<ffi::AnyBuffer> r, Span strides, Span low, Span high,
                  Span dilation, int64_t groups) {
  Problem p{kind, TypeOf(a.element_type()), {}, {}, {}, strides, low, high, dilation, groups};
  p.input = kind == kInputGrad ? r->dimensions() : a.dimensions();
  p.kernel = kind == kKernelGrad ? r->dimensions() : b.dimensions();
  p.output = kind == kOutput ? r->dimensions() : (kind == kInputGrad ? a.dimensions() : b.dimensions());
  if (p.type == memory::data_type::undef || b.element_type() != a.element_type() || r->element_type() != a.element_type())
    return ffi::Error::InvalidArgument("convolution: float32 and bfloat16 only, one type in a call");
  void *pa = a.untyped_data(), *pb = b.untyped_data(), *pr = r->untyped_data();
  const std::string error = TheIssuer().Do([&](Workshop& w) { w.Run(p, pa, pb, pr); });
  return error.empty() ? ffi::Error::Success() : ffi::Error::Internal("convolution by oneDNN: " + error);
}

}  // namespace

#define MEDJAX_BINDING                       \
  ffi::Ffi::Bind()                           \
      .Arg<ffi::AnyBuffer>()                 \
      .Arg<ffi::AnyBuffer>()                 \
      .Ret<ffi::AnyBuffer>()                 \
      .Attr<Span>("strides")                 \
      .Attr<Span>("low")                     \
      .Attr<Span>("high")                    \
      .Attr<Span>("dilation")                \
      .Attr<int64_t>("groups")

XLA_FFI_DEFINE_HANDLER_SYMBOL(MedjaxConvOutput, Handle<kOutput>, MEDJAX_BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(MedjaxConvInputGrad, Handle<kInputGrad>, MEDJAX_BINDING);
XLA_FFI_DEFINE_HANDLER_SYMBOL(MedjaxConvKernelGrad, Handle<kKernelGrad>, MEDJAX_BINDING);

extern "C" {

// To be called once, before any other call. 0 leaves the number to OpenMP.
void medjax_conv_threads(int threads) { wanted_threads = threads; }

// 1 if oneDNN has fast code for the problem (whose plan is then made and kept), else 0.
// `bfloat16` picks the type; the arrays hold `rank` sizes (shapes) or rank - 2 (the others).
int medjax_conv_supports(int kind, int bfloat16, int rank, const int64_t* input, const int64_t* kernel, const int64_t* output,
                         const int64_t* strides, const int64_t* low, const int64_t* high, const int64_t* dilation,
                         int64_t groups) {
  const size_t n = rank, k = rank - 2;
  const Problem p{static_cast<Kind>(kind), bfloat16 ? memory::data_type::bf16 : memory::data_type::f32,
                  Span(input, n), Span(kernel, n), Span(output, n), Span(strides, k), Span(low, k), Span(high, k),
                  Span(dilation, k), groups};
  return TheIssuer().Do([&](Workshop& w) { w.Find(p); }).empty();
}

// out[0] plans held, out[1] bytes of scratch held.
void medjax_conv_stats(int64_t* out) {
  TheIssuer().Do([&](Workshop& w) {
    out[0] = static_cast<int64_t>(w.plans.size());
    out[1] = static_cast<int64_t>(w.scratch_bytes);
  });
}

// Version of oneDNN: major * 100 + minor.
int medjax_conv_version() {
  const auto* v = dnnl_version();
  return v->major * 100 + v->minor;
}
}
