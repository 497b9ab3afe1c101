// What llama.cpp would allocate for compute on GPUs, asked without one: devices that say of
// themselves what its CUDA devices say, and do nothing. Prints MiB of every device and of the host.
//
//   g++ -std=c++17 -I$L/include -I$L/ggml/include -I$L/ggml/src -I$L/src gpu_splits.cpp
//       -lllama -lggml -lggml-base -lggml-cpu
//   SPLIT=1,1 CTX=4096 ./a.out model.gguf
//
// The model is a header in a sparse file. In its no-allocation mode llama.cpp 0.5.0 forgets which
// device it wanted each layer's norm on, and foretells more than it then allocates; the recorded
// sizes are those of a real run: ggml_backend_sched_reset is left out of
// ggml_backend_sched_reserve_size, as ggml_backend_sched_reserve does without it.
#include <sys/mman.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <string>
#include <vector>

#include "ggml-backend-impl.h"
#include "ggml-cpu.h"
#include "llama-ext.h"
#include "llama.h"

using Buffer = ggml_backend_buffer_t;
using BufferType = ggml_backend_buffer_type_t;
using Device = ggml_backend_dev_t;

struct Name { int number; std::string text; };

static constexpr size_t ALIGNMENT = 128, ROW_PADDING = 512, LEAST_BATCH = 32, SLACK = 4096;
static constexpr double MIB = 1 << 20;
static std::vector<ggml_backend_device> devices;
static std::vector<ggml_backend_buffer_type> types;
static std::vector<Name> names;
static Name host_name = {-1, "HOST"};
static ggml_backend_buffer_type host_type;
static ggml_guid guid = {1};
static bool offloads, is_async, has_host;

static int setting(const char * name, int otherwise) {
    const char * value = getenv(name);
    return value ? atoi(value) : otherwise;
}

static const char * text_of(void * context) { return static_cast<Name *>(context)->text.c_str(); }

static Buffer allocate(BufferType type, size_t size) {
    void * memory = mmap(nullptr, size + SLACK, PROT_READ | PROT_WRITE,
                         MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    ggml_backend_buffer_i calls = {};
    calls.free_buffer = [](Buffer b) { munmap(b->context, b->size + SLACK); };
    calls.get_base = [](Buffer b) { return b->context; };
    calls.memset_tensor = [](Buffer, ggml_tensor *, uint8_t, size_t, size_t) {};
    calls.set_tensor = [](Buffer, ggml_tensor *, const void *, size_t, size_t) {};
    calls.get_tensor = [](Buffer, const ggml_tensor *, void *, size_t, size_t) {};
    calls.clear = [](Buffer, uint8_t) {};
    return ggml_backend_buffer_init(type, calls, memory, size);
}

static size_t padded_size(BufferType, const ggml_tensor * tensor) {
    size_t over = tensor->ne[0] % ROW_PADDING;
    bool is_padded = ggml_is_quantized(tensor->type) && over;
    return ggml_nbytes(tensor) + (is_padded ? ggml_row_size(tensor->type, ROW_PADDING - over) : 0);
}

static ggml_backend_buffer_type type_of(Name * name, Device device, bool is_host) {
    ggml_backend_buffer_type_i calls = {};
    calls.get_name = [](BufferType type) { return text_of(type->context); };
    calls.alloc_buffer = allocate;
    calls.get_alignment = [](BufferType) { return ALIGNMENT; };
    if (is_host) calls.is_host = [](BufferType) { return true; };
    else calls.get_alloc_size = padded_size;
    return {calls, device, name};
}

static BufferType own_type(Device device) {
    return &types[static_cast<Name *>(device->context)->number];
}

static void memory_of(Device, size_t * free, size_t * total) { *free = *total = size_t(4) << 40; }

static void properties_of(Device device, ggml_backend_dev_props * found) {
    found->name = found->description = text_of(device->context);
    found->type = GGML_BACKEND_DEVICE_TYPE_GPU;
    found->device_id = nullptr;
    memory_of(device, &found->memory_free, &found->memory_total);
    found->caps = {is_async, has_host, false, is_async, true};
}

static ggml_backend_t start(Device device, const char *) {
    ggml_backend_i calls = {};
    calls.get_name = [](ggml_backend_t backend) { return text_of(backend->context); };
    calls.free = [](ggml_backend_t backend) { delete backend; };
    calls.graph_compute = [](ggml_backend_t, ggml_cgraph *) { return GGML_STATUS_SUCCESS; };
    calls.synchronize = [](ggml_backend_t) {};
    calls.event_record = [](ggml_backend_t, ggml_backend_event_t) {};
    calls.event_wait = [](ggml_backend_t, ggml_backend_event_t) {};
    return new ggml_backend{&guid, calls, device, device->context};
}

// As in ggml-cuda: matrices in RAM are worth copying for a batch.
static bool takes(Device, const ggml_tensor * op) {
    size_t batch = ggml_nrows(op);
    if (op->op == GGML_OP_GET_ROWS) batch = 0;
    if (op->op == GGML_OP_MUL_MAT) batch = op->ne[1];
    if (op->op == GGML_OP_MUL_MAT_ID || op->op == GGML_OP_ROPE) batch = op->ne[2];
    return offloads && batch >= LEAST_BATCH;
}

static ggml_backend_device_i device_calls() {
    ggml_backend_device_i calls = {};
    calls.get_name = calls.get_description = [](Device d) { return text_of(d->context); };
    calls.get_memory = memory_of;
    calls.get_type = [](Device) { return GGML_BACKEND_DEVICE_TYPE_GPU; };
    calls.get_props = properties_of;
    calls.init_backend = start;
    calls.get_buffer_type = own_type;
    calls.get_host_buffer_type = [](Device) { return has_host ? &host_type : nullptr; };
    calls.supports_op = [](Device, const ggml_tensor *) { return true; };
    calls.supports_buft = [](Device device, BufferType type) { return type == own_type(device); };
    calls.offload_op = takes;
    calls.event_new = [](Device d) { return new ggml_backend_event{d, nullptr}; };
    calls.event_free = [](Device, ggml_backend_event_t event) { delete event; };
    calls.event_synchronize = [](Device, ggml_backend_event_t) {};
    return calls;
}

static void register_devices(size_t count) {
    static ggml_backend_reg registry = {
        GGML_BACKEND_API_VERSION,
        {[](ggml_backend_reg_t) { return "FAKE"; },
         [](ggml_backend_reg_t) { return devices.size(); },
         [](ggml_backend_reg_t, size_t number) { return &devices[number]; },
         [](ggml_backend_reg_t, const char *) -> void * { return nullptr; }},
        nullptr};
    names.resize(count), devices.resize(count), types.resize(count);
    for (size_t i = 0; i < count; i++) {
        names[i] = {int(i), "FAKE" + std::to_string(i)};
        devices[i] = {device_calls(), &registry, &names[i]};
        types[i] = type_of(&names[i], &devices[i], false);
    }
    host_type = type_of(&host_name, &devices[0], true);
    ggml_backend_register(&registry);
}

static llama_model * load(const char * path, const std::vector<float> & split) {
    std::vector<std::string> patterns;
    std::vector<llama_model_tensor_buft_override> in_ram;
    for (int i = 0; i < setting("NCMOE", 0); i++)
        patterns.push_back("blk\\." + std::to_string(i) + "\\.ffn_(up|down|gate|gate_up)_(ch|)exps");
    for (auto & pattern : patterns) in_ram.push_back({pattern.c_str(), ggml_backend_cpu_buffer_type()});
    in_ram.push_back({nullptr, nullptr});
    auto params = llama_model_default_params();
    if (!patterns.empty()) params.tensor_buft_overrides = in_ram.data();
    params.n_gpu_layers = setting("NGL", 999);
    params.tensor_split = split.data();
    params.no_alloc = true;
    params.load_mode = LLAMA_LOAD_MODE_NONE;
    return llama_model_load_from_file(path, params);
}

static llama_context_params context_params() {
    auto params = llama_context_default_params();
    params.n_ctx = setting("CTX", 4096);
    params.n_ubatch = setting("UB", 512);
    params.n_batch = std::max<uint32_t>(2048, params.n_ubatch);
    params.n_seq_max = setting("SLOTS", 1);
    params.n_outputs_max = setting("OUTPUTS", params.n_seq_max);
    params.kv_unified = true;
    params.swa_full = false;
    params.flash_attn_type =
        setting("FA", 1) ? LLAMA_FLASH_ATTN_TYPE_ENABLED : LLAMA_FLASH_ATTN_TYPE_DISABLED;
    return params;
}

int main(int, char ** arguments) {
    offloads = setting("OFFLOAD", 1), is_async = setting("ASYNC", 1), has_host = setting("HOST", 1);
    std::vector<float> split;
    std::string shares = getenv("SPLIT") ? getenv("SPLIT") : "1";
    for (char * part = strtok(shares.data(), ","); part; part = strtok(nullptr, ","))
        split.push_back(atof(part));
    size_t count = split.size();
    split.resize(llama_max_devices());
    llama_backend_init();
    register_devices(count);
    llama_model * model = load(arguments[1], split);
    llama_context * context = model ? llama_init_from_model(model, context_params()) : nullptr;
    if (!context) return 1;
    auto found = llama_get_memory_breakdown(context);
    for (auto & type : types) printf("%.2f ", found[&type].compute / MIB);
    auto host = found[&host_type].compute, processor = found[ggml_backend_cpu_buffer_type()].compute;
    printf("host %.2f\n", std::max(host, processor) / MIB);
}
