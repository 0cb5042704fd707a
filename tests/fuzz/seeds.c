/* seeds.c - make the committed inputs that are not text.
 *
 *     fuzz_seeds tests/fuzz/corpus      then: git add tests/fuzz/corpus */
#include "tests/fuzz/fuzz.h"

#include <sys/stat.h>

#include "cache/internal.h"
#include "kernels/safetensors.h"
#include "proto/wire.h"

static const char *corpus;

/* corpus/TARGET/NAME: `first` (0: none), then the bytes. */
static void put(const char *target, const char *name, char first, const void *data, size_t n_bytes)
{
    char path[512];
    snprintf(path, sizeof path, "%s/%s", corpus, target);
    mkdir(path, 0777);
    snprintf(path, sizeof path, "%s/%s/%s", corpus, target, name);
    FILE *file = fopen(path, "wb");
    FUZZ_MUST(file && (!first || fputc(first, file) != EOF));
    FUZZ_MUST(fwrite(data, 1, n_bytes, file) == n_bytes && !fclose(file));
}

/* ---- wire ---------------------------------------------------------------------------------------------- */

static Lt__Wire__Stream stream = LT__WIRE__STREAM__INIT;
static Lt__Wire__Picture picture = LT__WIRE__PICTURE__INIT;
static Lt__Wire__Windows windows = LT__WIRE__WINDOWS__INIT;
static int64_t delta[20] = {-500};

static void make_stream(void)
{
    for (int i = 1; i < 20; i++) delta[i] = 3600;
    windows.window = 32, windows.stride = 24, windows.tile_height = 8, windows.tile_width = 12;
    picture.width = 96, picture.height = 64, picture.rotation = 90;
    stream.kind = LT__WIRE__PORT_KIND__PORT_FRAMES;
    stream.dtype = LT__WIRE__DTYPE__DTYPE_U8;
    stream.width = 64, stream.height = 32, stream.channels = 3, stream.bits = 8, stream.chunk = 8;
    stream.n_frames = 20, stream.n_units = 3, stream.unit_bytes = 8 * 64 * 32 * 3;
    stream.time_base_num = 1, stream.time_base_den = 90000;
    stream.n_pts_delta = 20, stream.pts_delta = delta;
    stream.picture = &picture;
    stream.scaling_factor = 0.18215;
    stream.name = "clip-1.mp4", stream.source = "/films/clip 1.mp4", stream.caption = "a bird";
    stream.fingerprint = "00ff", stream.digest = "abcdef0123", stream.numeric_class = "cpu/f32/avx512";
}

static void put_header(const char *name, Lt__Wire__Header *header)
{
    void *data;
    size_t n_bytes;
    header->run = 7, header->incarnation = 1;
    FUZZ_MUST(!lt_header_pack(header, &data, &n_bytes, NULL));
    put("wire", name, 'H', data, n_bytes);
    free(data);
}

static void headers(void)
{
    Lt__Wire__Hello hello = LT__WIRE__HELLO__INIT;
    Lt__Wire__Open open = LT__WIRE__OPEN__INIT;
    Lt__Wire__Want want = LT__WIRE__WANT__INIT;
    Lt__Wire__Release release = LT__WIRE__RELEASE__INIT;
    Lt__Wire__Safe safe = LT__WIRE__SAFE__INIT;
    Lt__Wire__GiveUp give_up = LT__WIRE__GIVE_UP__INIT;
    Lt__Wire__Clips clips = LT__WIRE__CLIPS__INIT;
    Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
    hello.edge = "read.frames>write.frames", hello.replica = 1, hello.shares_memory = true;
    open.stream = &stream;
    want.unit = 3, release.slot = 2, safe.unit = 9, give_up.reason = "the disk is full";
    clips.closed = 1, clips.ended = true, clips.n_clips = 2;
#define PUT(name, CASE, field)                                                                               \
    header.body_case = LT__WIRE__HEADER__BODY_##CASE;                                                        \
    header.field = &field;                                                                                   \
    put_header("header-" name, &header)
    PUT("hello", HELLO, hello);
    PUT("open", OPEN, open);
    PUT("want", WANT, want);
    PUT("release", RELEASE, release);
    PUT("safe", SAFE, safe);
    PUT("give-up", GIVE_UP, give_up);
    PUT("clips", CLIPS, clips);
#undef PUT
}

static void units(void)
{
    Lt__Wire__Unit unit = LT__WIRE__UNIT__INIT;
    Lt__Wire__Span spans[] = {LT__WIRE__SPAN__INIT, LT__WIRE__SPAN__INIT}, *list[] = {&spans[0], &spans[1]};
    Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
    spans[0].count = 6, spans[0].dtype = LT__WIRE__DTYPE__DTYPE_U8, spans[0].bytes = 6 * 64;
    spans[1] = spans[0];
    spans[1].first = 6, spans[1].count = 2, spans[1].dtype = LT__WIRE__DTYPE__DTYPE_F32;
    spans[1].offset = 6 * 64, spans[1].bytes = 2 * 64 * 4;
    unit.unit = 1, unit.n_spans = 2, unit.spans = list, unit.bytes = 6 * 64 + 2 * 64 * 4;
    header.body_case = LT__WIRE__HEADER__BODY_UNIT_DONE, header.unit_done = &unit;
    unit.payload_case = LT__WIRE__UNIT__PAYLOAD_INLINE, unit.inline_ = true;
    put_header("header-unit-inline", &header);
    unit.payload_case = LT__WIRE__UNIT__PAYLOAD_SLOT, unit.slot = 3;
    put_header("header-unit-slot", &header);
    unit.payload_case = LT__WIRE__UNIT__PAYLOAD_DEVICE;
    Lt__Wire__DeviceSlot device = LT__WIRE__DEVICE_SLOT__INIT;
    device.slot = 3, device.handle = (ProtobufCBinaryData){4, (uint8_t *)"abcd"};
    unit.device = &device;
    put_header("header-unit-device", &header);
}

/* Frames of a pipe from a message of any kind. */
static void put_frames(const char *name, char first, const ProtobufCMessage *const *messages, int n)
{
    uint8_t frames[4096];
    size_t at = 0;
    for (int i = 0; i < n; i++) {
        size_t n_bytes = protobuf_c_message_get_packed_size(messages[i]);
        FUZZ_MUST(at + 4 + n_bytes <= sizeof frames);
        for (int k = 0; k < 4; k++) frames[at++] = (uint8_t)(n_bytes >> 8 * k);
        at += protobuf_c_message_pack(messages[i], frames + at);
    }
    put("wire", name, first, frames, at);
}

static void controls(void)
{
    Lt__Wire__Control control[3] = {LT__WIRE__CONTROL__INIT, LT__WIRE__CONTROL__INIT,
                                    LT__WIRE__CONTROL__INIT};
    Lt__Wire__Boot boot = LT__WIRE__BOOT__INIT;
    Lt__Wire__Option option = LT__WIRE__OPTION__INIT, *options[] = {&option};
    Lt__Wire__InputPort input = LT__WIRE__INPUT_PORT__INIT, *inputs[] = {&input};
    Lt__Wire__OutputPort output = LT__WIRE__OUTPUT_PORT__INIT, *outputs[] = {&output};
    Lt__Wire__Peer peer = LT__WIRE__PEER__INIT, *peers[] = {&peer};
    Lt__Wire__Stop stop = LT__WIRE__STOP__INIT;
    char *edges[] = {"a.frames>b.frames"};
    option.name = "chunk", option.text = "8";
    input.port = "frames", input.edge = edges[0], input.in_flight = 2, input.n_replicas = 1;
    output.port = "frames", output.edges = edges, output.n_edges = 1, output.slab_fd = 5,
    output.slot_bytes = 4096;
    output.n_slots = 4, output.bind = "tcp://127.0.0.1:*";
    peer.edge = edges[0], peer.incarnation = 1, peer.endpoint = "tcp://127.0.0.1:4000", peer.slab_fd = -1;
    peer.public_key = boot.public_key = boot.secret_key =
        (ProtobufCBinaryData){32, (uint8_t *)"0123456789abcdef0123456789abcdef"};
    boot.run = 7, boot.stage = "vae_encode", boot.n_replicas = 2, boot.incarnation = 1, boot.threads = 2;
    boot.options = options, boot.n_options = 1, boot.inputs = inputs, boot.n_inputs = 1,
    boot.outputs = outputs;
    boot.n_outputs = 1, boot.peers = peers, boot.n_peers = 1;
    boot.base_folder = "/films", boot.run_folder = "/films/out.mp4.longtake", boot.cache = "/films/cache";
    stop.gracefully = true;
    control[0].body_case = LT__WIRE__CONTROL__BODY_BOOT, control[0].boot = &boot;
    control[1].body_case = LT__WIRE__CONTROL__BODY_PEER, control[1].peer = &peer;
    control[2].body_case = LT__WIRE__CONTROL__BODY_STOP, control[2].stop = &stop;
    const ProtobufCMessage *messages[] = {&control[0].base, &control[1].base, &control[2].base};
    put_frames("control", 'C', messages, 3);
}

static void reports(void)
{
    Lt__Wire__Report report[5] = {LT__WIRE__REPORT__INIT, LT__WIRE__REPORT__INIT, LT__WIRE__REPORT__INIT,
                                  LT__WIRE__REPORT__INIT, LT__WIRE__REPORT__INIT};
    Lt__Wire__Ready ready = LT__WIRE__READY__INIT;
    Lt__Wire__Bound bound = LT__WIRE__BOUND__INIT, *bounds[] = {&bound};
    Lt__Wire__Started started = LT__WIRE__STARTED__INIT;
    Lt__Wire__Progress progress = LT__WIRE__PROGRESS__INIT;
    Lt__Wire__Failed failed = LT__WIRE__FAILED__INIT;
    Lt__Wire__Done done = LT__WIRE__DONE__INIT;
    char *files[] = {"/films/out.mp4"};
    bound.port = "frames", bound.endpoint = "ipc:///run/x", ready.bound = bounds, ready.n_bound = 1;
    ready.numeric_class = "cpu/f32";
    started.unit = 3, progress.units_done = 2, progress.frames_done = 16, progress.idle = true;
    failed.status = LT_E_IO, failed.text = "no room", failed.has_unit = true, done.outputs = files,
    done.n_outputs = 1;
    report[0].body_case = LT__WIRE__REPORT__BODY_READY, report[0].ready = &ready;
    report[1].body_case = LT__WIRE__REPORT__BODY_STARTED, report[1].started = &started;
    report[2].body_case = LT__WIRE__REPORT__BODY_PROGRESS, report[2].progress = &progress;
    report[3].body_case = LT__WIRE__REPORT__BODY_FAILED, report[3].failed = &failed;
    report[4].body_case = LT__WIRE__REPORT__BODY_DONE, report[4].done = &done;
    const ProtobufCMessage *messages[] = {&report[0].base, &report[1].base, &report[2].base, &report[3].base,
                                          &report[4].base};
    put_frames("report", 'R', messages, 5);
}

static void plans(void)
{
    Lt__Wire__PlanRequest request = LT__WIRE__PLAN_REQUEST__INIT;
    Lt__Wire__PlanReply reply = LT__WIRE__PLAN_REPLY__INIT;
    Lt__Wire__PlannedInput input = LT__WIRE__PLANNED_INPUT__INIT, *inputs[] = {&input};
    Lt__Wire__PlannedOutput output = LT__WIRE__PLANNED_OUTPUT__INIT, *outputs[] = {&output};
    Lt__Wire__Option option = LT__WIRE__OPTION__INIT, *options[] = {&option};
    Lt__Wire__InFlight in_flight = LT__WIRE__IN_FLIGHT__INIT, *flights[] = {&in_flight};
    char *notes[] = {"tile 64x64"};
    option.name = "tile", option.text = "512";
    input.port = output.port = in_flight.port = "frames", in_flight.units = 2;
    input.stream = output.stream = &stream;
    request.options = reply.resolved = options, request.n_options = reply.n_resolved = 1;
    request.inputs = inputs, request.n_inputs = 1, request.base_folder = "/films", request.threads = 2;
    reply.outputs = outputs, reply.n_outputs = 1, reply.in_flight = flights, reply.n_in_flight = 1;
    reply.notes = notes, reply.n_notes = 1, reply.flops = 1e9, reply.work_factor = 1.3,
    reply.peak_bytes = 1 << 20;
    put_frames("plan-request", 'Q', (const ProtobufCMessage *[]){&request.base}, 1);
    put_frames("plan-reply", 'A', (const ProtobufCMessage *[]){&reply.base}, 1);
}

/* ---- files --------------------------------------------------------------------------------------------- */

static void safetensors(void)
{
    static float values[24];
    const lt_named_tensor tensors[] = {
        {"encoder.conv.weight", {values, LT_F32, 3, {2, 3, 4}, 0}},
        {"encoder.conv.bias", {values, LT_F16, 1, {3}, 0}},
        {"scale", {values, LT_F64, 0, {0}, 0}},
        {"empty", {values, LT_U8, 2, {0, 5}, 0}},
    };
    const lt_metadata metadata[] = {{"format", "pt"}, {"note", "caf\xc3\xa9"}};
    void *bytes;
    size_t n_bytes;
    FUZZ_MUST(!lt_safetensors_pack(&bytes, &n_bytes, tensors, LT_COUNT(tensors), metadata, 2, NULL));
    put("safetensors", "four", 0, bytes, n_bytes);
    free(bytes);
    FUZZ_MUST(!lt_safetensors_pack(&bytes, &n_bytes, NULL, 0, NULL, 0, NULL));
    put("safetensors", "none", 0, bytes, n_bytes);
    free(bytes);
}

static lt_cache_clip clip = {
    .clip = "clip",
    .digest = "00",
    .n_frames = 20,
    .chunk = 8,
    .dtype = LT_F32,
    .channels = 2,
    .height = 3,
    .width = 1,
    .scaling_factor = 0.18215,
    .factor = 8,
    .source = "/films/clip 1.mp4",
    .fingerprint = "00ff",
    .caption = "a bird",
    .time_base_num = 1,
    .time_base_den = 90000,
    .pts_delta = delta,
    .last_duration = 3600,
    .picture = {96, 64, 4, 3, 90, 1, 13, 5, 2},
    .model = "svd/vae",
    .weights = "aa",
    .numerics = "diffusers",
    .numeric_class = "cpu/f32",
    .encoding = "tile none",
    .state = LT_CACHE_COMPLETE,
};

static void values(void)
{
    static const float latent[8 * 2 * 3] = {1.5f, -2};
    void *bytes;
    size_t n_bytes;
    FUZZ_MUST(!lt_cache_pack(&clip, 8, latent, NULL, &bytes, &n_bytes, NULL));
    put("cache_value", "mean", 0, bytes, n_bytes);
    free(bytes);
    clip.logvar = true, clip.dtype = LT_BF16;
    FUZZ_MUST(!lt_cache_pack(&clip, 8, latent, latent, &bytes, &n_bytes, NULL));
    put("cache_value", "mean-and-variance", 0, bytes, n_bytes);
    free(bytes);
}

static void records(void)
{
    static const char state[] =
        "{\"state\":\"partial\",\"chunks\":2,\"bytes\":4096,\"frames\":20,\"chunk\":8,\"channels\":4,"
        "\"height\":8,\"width\":12,\"dtype\":\"F32\",\"logvar\":false}";
    static const char key[] = "latent/clip-1.mp4/00ff/000000000008";
    lt_cache_side_info side = {4096, 1, 0x1234567890abcdef};
    char *text = lt_cache_record_text(&clip, &side);
    FUZZ_MUST(text);
    put("cache_record", "complete", 'R', text, strlen(text));
    free(text);
    static const char list[] = /* timestamps as earlier builds wrote them */
        "{\"state\":\"complete\",\"clip\":\"clip\",\"digest\":\"00\",\"frames\":20,\"chunk\":8,\"time_base\":"
        "[1,24],"
        "\"timestamps\":{\"first\":7,\"steps\":[[3,12],[1,7]]},\"latent\":{\"channels\":2,\"height\":3,"
        "\"width\":1,"
        "\"dtype\":\"f32\",\"factor\":8},\"side\":{\"bytes\":0,\"values\":0,\"xxh3\":\"0\"}}";
    put("cache_record", "list", 'R', list, sizeof list - 1);
    clip.state = LT_CACHE_FAILED, clip.reason = "frame 9 is damaged", clip.pts_delta = NULL;
    FUZZ_MUST((text = lt_cache_record_text(&clip, &side)));
    put("cache_record", "failed", 'R', text, strlen(text));
    free(text);
    put("cache_record", "state", 'S', state, sizeof state - 1);
    put("cache_record", "key", 'K', key, sizeof key - 1);
}

int main(int argc, char **argv)
{
    if (argc != 2) {
        fprintf(stderr, "usage: fuzz_seeds FOLDER\n");
        return 2;
    }
    corpus = argv[1];
    make_stream();
    headers();
    units();
    controls();
    reports();
    plans();
    safetensors();
    values();
    records();
    return 0;
}
