/* runtime.h - a running stage: what its two threads share, and what the runtime's files call of each other.
 *
 * The main thread runs the stage's functions, one job at a time. The I/O thread does everything else: sockets, control
 * channel, demand, the choice of the next job. They meet in rt_job alone (job.c). Everything in rt is the I/O thread's
 * unless it says otherwise. */
#ifndef LT_STAGES_RUNTIME_H
#define LT_STAGES_RUNTIME_H

#include <pthread.h>
#include <stdatomic.h>
#include <zmq.h>

#include "stages/runtime/slab.h"
#include "stages/runtime/stage.h"

enum {
    RT_CLIPS = 4,      /* known at once */
    RT_CLIPS_OPEN = 3, /* that a source works on at once */
    RT_DOOMED = 256,   /* to be given up, perhaps before they are opened */
    RT_RESULTS = 256,  /* told at the end */
    RT_KEY_BYTES = 32, /* of a CURVE key, raw */
    RT_ENDPOINT_MAX = 256,
    RT_WANTS_MAX = 65536, /* pending at once, of all consumers */
    RT_UNITS_AT_ONCE =
        4096, /* input units for one of output, where the clip is not the one that was planned */
};

typedef struct rt rt;

/* A unit of a clip. Order: clip, then unit. */
typedef struct rt_key {
    uint32_t clip;
    uint64_t unit;
} rt_key;

static inline int rt_key_compare(rt_key a, rt_key b)
{
    if (a.clip != b.clip) return a.clip < b.clip ? -1 : 1;
    return a.unit < b.unit ? -1 : a.unit > b.unit;
}

/* ---- memory.c: where a payload lies ----------------------------------------------------------------------------- */

/* Private buffers, aligned to 64 bytes, used again and again. Any thread. */
typedef struct rt_pool {
    pthread_mutex_t mutex;
    struct rt_buffer *free;
} rt_pool;

typedef struct rt_buffer {
    rt_pool *pool;
    struct rt_buffer *next;
    size_t capacity;
    void *data;
} rt_buffer;

void rt_pool_init(rt_pool *pool);
void rt_pool_finish(rt_pool *pool);
/* NULL when memory is out. */
rt_buffer *rt_buffer_get(rt_pool *pool, size_t bytes);
/* Takes NULL. The second has the signature of zmq_free_fn. */
void rt_buffer_put(rt_buffer *buffer);
void rt_buffer_put_sent(void *data, void *buffer);

/* The largest payload of a stream, with the timestamps that units of a live one carry. */
uint64_t rt_unit_bytes(const lt_stream *stream);
/* Give a filter's unit the timestamps that came with its inputs. E_FORMAT: they did not. */
lt_status rt_pass_times(lt_payload *output, const lt_payload *inputs, uint64_t n_inputs, lt_err *err);

typedef struct rt_memory {
    enum { RT_NOWHERE, RT_SLOT, RT_BUFFER, RT_MESSAGE } kind;
    const lt_slab *slab;
    uint32_t slot;
    rt_buffer *buffer;
    zmq_msg_t message;
} rt_memory;

/* ---- clips ---------------------------------------------------------------------------------------------------------- */

typedef enum {
    RT_CLIP_NONE,
    RT_CLIP_ARRIVING, /* not every input has announced it yet, or its turn has not come */
    RT_CLIP_OPENING,  /* a job */
    RT_CLIP_OPEN,
    RT_CLIP_FINISHING, /* a job */
    RT_CLIP_GIVEN_UP,  /* until the consumers know */
} rt_clip_state;

typedef struct rt_clip {
    lt_clip clip; /* first: stage functions hand it back */
    rt *rt;
    rt_clip_state state;
    lt_arena arena;
    lt_stream inputs[LT_MAX_PORTS], output;
    uint64_t safe_edges;    /* bit: a consumer stage has all of it */
    uint64_t next_unit;     /* sink, and filter that is in_order: the first that was not done */
    uint64_t frames, units; /* made by this incarnation */
    bool ends, complete;    /* to be finished, and how */
    bool is_given_up, is_passed_over;
    bool has_turn_word;             /* since is known */
    uint32_t since;                 /* clips from here up to this one need nothing */
    char reason[512];               /* why */
    const char *name, *entry, *key; /* given up before its stream was known; NULL: the stream has them */
    const char *result;             /* sink: what was made */
    bool is_stage_open;             /* the stage's open_clip succeeded: finish_clip is owed */
    _Atomic uint64_t safe;          /* sink, set by the main thread: durable below this */
    uint64_t safe_sent;
    bool ends_come[LT_MAX_PORTS]; /* the length of a live input is known, and not yet told the stage: */
    struct {
        uint64_t n_frames, n_units;
        int64_t last_duration;
    } end_of[LT_MAX_PORTS];
    bool is_end_told; /* the output's length has been said */
} rt_clip;

/* ---- inputs ---------------------------------------------------------------------------------------------------------- */

/* One replica of the stage that feeds an input. */
typedef struct rt_producer {
    uint32_t incarnation; /* 0: not running */
    char endpoint[RT_ENDPOINT_MAX];
    uint8_t key[RT_KEY_BYTES];
    bool has_key;
    void *socket, *monitor;
    lt_slab slab;
    bool has_slab;
    uint32_t n_outstanding;
    uint32_t open[RT_CLIPS];
    int n_open;
} rt_producer;

typedef enum {
    RT_ITEM_FREE,
    RT_ITEM_NEEDED, /* nobody asked yet */
    RT_ITEM_WANTED, /* asked of `replica` */
    RT_ITEM_HELD,
} rt_item_state;

/* One credit's worth of room. */
typedef struct rt_item {
    rt_item_state state;
    rt_key key;
    uint32_t replica;
    bool in_use; /* by the running job */
    rt_memory memory;
    lt_payload payload;
} rt_item;

typedef struct rt_input {
    const lt_port *port;
    const char *edge;
    lt_slab_holder me;
    uint32_t n_producers;
    uint32_t n_credits, n_items; /* items above n_credits are for a unit that takes more than was planned */
    rt_producer *producers;
    rt_item **items;
} rt_input;

/* ---- output ---------------------------------------------------------------------------------------------------------- */

/* One replica of a stage that is fed. */
typedef struct rt_consumer {
    uint32_t edge, replica, incarnation; /* edge: index in the output's edges */
    bool is_connected, shares_memory, has_key;
    uint8_t key[RT_KEY_BYTES];
    uint8_t id[32]; /* ZeroMQ's name of the connection */
    size_t id_bytes;
    uint32_t owner;
} rt_consumer;

typedef struct rt_want {
    rt_key key;
    uint32_t consumer;
} rt_want;

typedef struct rt_memo {
    rt_key key;
    rt_buffer *buffer; /* NULL: empty */
    lt_payload payload;
} rt_memo;

typedef struct rt_output {
    const lt_port *port;
    const Lt__Wire__OutputPort *boot;
    void *socket;
    char endpoint[RT_ENDPOINT_MAX];
    lt_slab slab;
    bool has_slab, is_encrypted;
    lt_slab_holder me;
    rt_consumer *consumers;
    rt_want *wants;
    rt_memo *memos;
    size_t n_consumers, consumers_room, n_wants, wants_room, n_memos, next_memo;
} rt_output;

/* ---- requests and the job ------------------------------------------------------------------------------------------ */

/* A unit that this stage shall make or consume. */
typedef struct rt_request {
    rt_key key;
    rt_clip *clip;
    lt_need needs[LT_MAX_PORTS];
    bool is_running;
} rt_request;

typedef enum { RT_CREATE, RT_OPEN_CLIP, RT_PROCESS, RT_FINISH_CLIP, RT_QUIT } rt_job_kind;

typedef struct rt_job {
    enum { RT_IDLE, RT_POSTED, RT_RETURNED } state; /* under rt.mutex; the rest belongs to whose turn it is */
    rt_job_kind kind;
    rt_clip *clip;
    uint64_t unit;
    lt_payload *inputs[LT_MAX_PORTS]; /* arrays of input_room */
    uint64_t input_room[LT_MAX_PORTS];
    uint64_t n_inputs[LT_MAX_PORTS];
    lt_payload output;
    rt_memory memory; /* of output */
    bool complete;
    lt_status status;
    lt_err err;
    const char *result;
    int64_t busy_ns;
} rt_job;

/* ---- the stage ---------------------------------------------------------------------------------------------------------- */

struct rt {
    const lt_stage *stage;
    const Lt__Wire__Boot *boot;
    lt_setup setup;
    lt_arena arena;
    void *state;
    const char *numeric_class;

    void *context, *zap;
    int wake_fd, report_fd;
    pthread_mutex_t report_mutex;
    lt_reader reader;
    pthread_t io;

    rt_pool pool;
    rt_input inputs[LT_MAX_PORTS];
    rt_output output;
    rt_clip clips[RT_CLIPS];
    uint32_t n_closed;    /* clips below are finished */
    uint32_t n_announced; /* source: clips below have been opened */
    uint32_t n_clips;     /* of the run, once is_ended */
    bool is_ended, is_ready;
    const char *results[RT_RESULTS];
    size_t n_results;
    struct {
        uint32_t clip;
        char reason[256];
    } doomed[RT_DOOMED];
    int n_doomed;
    uint32_t edge_closed[64]; /* clips below are finished with, by the output's edges */
    uint64_t clips_done, frames_of_clips;
    uint64_t frames_made; /* no sink: of all clips */

    rt_request *requests; /* sorted by key */
    size_t n_requests, requests_room;

    pthread_mutex_t mutex;
    pthread_cond_t posted;
    rt_job job;

    bool has_orchestrator, stop_asked, quits, quit_posted, has_quit, was_stopped, has_reported_done;
    _Atomic bool stop_gracefully; /* read by lt_stage_stopping */
    int exit_code;
    int64_t quit_deadline_ns; /* 0: none */
    int64_t next_beat_ns, next_complaint_ns;

    uint64_t units_done, bytes_out, busy_ns;
    uint32_t last_clip;
    _Atomic uint64_t n_cached, n_moves;
};

static inline bool rt_is_sink(const rt *rt)
{
    return rt->stage->n_outputs == 0;
}
/* No inputs, or none that the graph feeds. */
static inline bool rt_is_source(const rt *rt)
{
    return rt->boot->n_inputs == 0;
}

/* ---- config.c ------------------------------------------------------------------------------------------------------------ */

/* Fill a configuration from a message's options; it and its strings live in `arena`. Paths come out absolute. */
lt_status rt_config_fill(const lt_stage *stage, Lt__Wire__Option *const *given, size_t n_given,
                         const char *base_folder, lt_arena *arena, const void **config, lt_err *err);

/* ---- describe.c, plan.c, run.c: the verbs; each returns the exit code ------------------------------------------------- */

int rt_help(const lt_stage *stage);
int rt_describe(const lt_stage *stage);
int rt_check(const lt_stage *stage);
int rt_plan(const lt_stage *stage);
int rt_run(const lt_stage *stage);

/* Keep descriptor 1 for messages alone: *fd is where it led; libraries that print now reach standard error. */
lt_status rt_take_stdout(int *fd, lt_err *err);

/* ---- report.c: to the orchestrator; any thread -------------------------------------------------------------------------- */

void rt_report_ready(rt *rt);
void rt_report_started(rt *rt, uint32_t clip, uint64_t unit);
void rt_report_progress(rt *rt);
void rt_report_failed(rt *rt, const lt_err *err, const rt_key *unit);
void rt_report_done(rt *rt);
void rt_report_clip_end(rt *rt, const rt_clip *clip);

/* ---- control.c: from the orchestrator ------------------------------------------------------------------------------------- */

/* Take what stands on standard input. */
void rt_control_read(rt *rt);
/* News of a neighbour. */
void rt_peer(rt *rt, const Lt__Wire__Peer *peer);

/* End: a failure with its report, or a normal end. Work that is under way gets grace_ms (< 0: all it needs), then the
 * process ends at once. Only the first counts. */
void rt_fail(rt *rt, const lt_err *err, const rt_key *unit);
void rt_quit(rt *rt, int exit_code, int grace_ms);

/* A warning about what others sent: at most one a second. */
void rt_complain(rt *rt, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- socket.c, zap.c ------------------------------------------------------------------------------------------------------- */

/* Bind the output's ROUTER; its real endpoint goes to output.endpoint. */
lt_status rt_socket_bind(rt *rt, rt_output *output, lt_err *err);
/* Connect a DEALER (and, for tcp, its monitor) to a producer. */
lt_status rt_socket_connect(rt *rt, rt_producer *producer, lt_err *err);
void rt_socket_close(rt_producer *producer, int linger_ms);
/* True when the monitor says that the connection broke. */
bool rt_socket_broke(rt_producer *producer);

/* Send a header, and `payload` (moved from, NULL: none), to the ROUTER's connection `id` or, with id_bytes 0, over a
 * DEALER. False when there is no such connection any more. */
bool rt_socket_send(rt *rt, void *socket, const void *id, size_t id_bytes, Lt__Wire__Header *header,
                    zmq_msg_t *payload);

/* The next message, or AGAIN. *header is freed by the caller; `id` is set for a ROUTER; `payload` is initialised and, when
 * *has_payload, filled. END: there was one, it was bad and is gone. */
typedef struct rt_arrival {
    uint8_t id[32];
    size_t id_bytes;
    Lt__Wire__Header *header;
    zmq_msg_t payload;
    bool has_payload;
} rt_arrival;
lt_status rt_socket_receive(rt *rt, void *socket, bool is_router, rt_arrival *arrival);

/* 32 raw bytes from raw or Z85 text. False: there is none. */
bool rt_key_read(const ProtobufCBinaryData *key, uint8_t raw[RT_KEY_BYTES]);

lt_status rt_zap_open(rt *rt, lt_err *err);
/* Answer who may connect: the keys of known consumers. */
void rt_zap_answer(rt *rt);

/* ---- clips.c ---------------------------------------------------------------------------------------------------------------- */

rt_clip *rt_clip_find(rt *rt, uint32_t index);
/* A clip was announced on an input. */
void rt_clip_arrived(rt *rt, int port, uint32_t index, uint32_t since, const lt_stream *stream);
/* Clips below `closed` are no more; `ended`: there are n_clips. */
void rt_clips_known(rt *rt, const Lt__Wire__Clips *clips);
/* Abandon a clip: `from_below` is the edge whose consumer says so, -1: nobody's. */
void rt_clip_give_up(rt *rt, rt_clip *clip, const Lt__Wire__GiveUp *word, int from_below);
/* The same, said by a producer, of a clip that may not be known yet; or by the orchestrator. */
void rt_clip_given_up_above(rt *rt, uint32_t index, const Lt__Wire__GiveUp *word);
void rt_clip_doom(rt *rt, uint32_t index, const char *reason);
/* Why a clip is to be given up, NULL when it is not. From any thread. */
const char *rt_clip_is_doomed(rt *rt, uint32_t index);
/* Whether `status` is the clip's own failure, and costs no more than the clip; it is given up then. */
bool rt_clip_fail(rt *rt, rt_clip *clip, lt_status status, const lt_err *err);
/* Consumers of an edge are through with all clips below `closed`. */
void rt_clips_closed_below(rt *rt, uint32_t edge, uint32_t closed);
/* Frames, entry and such, wherever the clip is known from. */
const lt_stream *rt_clip_stream(const rt *rt, const rt_clip *clip);
/* A consumer stage has all of it. */
void rt_clip_safe(rt *rt, rt_clip *clip, uint32_t edge, uint64_t unit);
/* A producer says how long a live clip is. */
void rt_clip_end_came(rt *rt, int port, uint32_t index, uint64_t n_frames, uint64_t n_units,
                      int64_t last_duration);
/* The source says so. */
void rt_clip_source_ended(rt *rt, rt_clip *clip);
/* Tell the stage of ends that came; the main thread is idle. */
void rt_clips_apply_ends(rt *rt);
/* Choose a clip to open or to finish; true when a job was posted. */
bool rt_clips_dispatch(rt *rt);
void rt_clip_opened(rt *rt, rt_clip *clip);
void rt_clip_finished(rt *rt, rt_clip *clip);
/* Pass on what sinks have made durable. */
void rt_clips_send_safe(rt *rt);

/* ---- input.c ---------------------------------------------------------------------------------------------------------------- */

lt_status rt_input_init(rt *rt, int port, const Lt__Wire__InputPort *boot, lt_err *err);
void rt_input_finish(rt *rt, int port);
void rt_input_peer(rt *rt, int port, const Lt__Wire__Peer *peer);
void rt_input_receive(rt *rt, int port, uint32_t replica);
/* Forget the connection and begin anew with the same incarnation. */
void rt_input_reconnect(rt *rt, int port, uint32_t replica);
rt_item *rt_input_find(rt_input *input, rt_key key);
/* Have room for n_items units at least. E_NO_MEMORY. */
lt_status rt_input_grow(rt *rt, int port, uint32_t n_items, lt_err *err);
/* Room for `key`, taken from what no request (or, for the first request, what that one) does not need. NULL: none. Beyond the credits
 * there is room for the first request alone. */
rt_item *rt_input_make_room(rt *rt, int port, rt_key key, const rt_request *first);
/* Ask a producer for every item nobody was asked for. */
void rt_input_ask(rt *rt, int port);
void rt_input_drop(rt *rt, int port, rt_item *item);
void rt_input_drop_clip(rt *rt, uint32_t clip);
void rt_input_drop_behind(rt *rt, int port, uint32_t clip, uint64_t n_units);
/* Tell every producer of an input. */
void rt_input_tell(rt *rt, int port, uint32_t clip, Lt__Wire__Header *header);

/* ---- output.c --------------------------------------------------------------------------------------------------------------- */

lt_status rt_output_init(rt *rt, const Lt__Wire__OutputPort *boot, lt_err *err);
void rt_output_finish(rt *rt);
/* Whether the edge is one of this output's. */
bool rt_output_peer(rt *rt, const Lt__Wire__Peer *peer);
void rt_output_receive(rt *rt);
void rt_output_announce(rt *rt, const rt_clip *clip);
void rt_output_announce_clips(rt *rt);
void rt_output_give_up(rt *rt, const rt_clip *clip);
/* Say how long a live clip is, and forget what is wanted behind its end. */
void rt_output_end(rt *rt, const rt_clip *clip);
void rt_output_drop_clip(rt *rt, uint32_t clip);
/* Memory for a unit that is to be made for whoever wants it: fills the payload's data, capacity and slot. */
lt_status rt_output_memory(rt *rt, rt_key key, uint64_t bytes, rt_memory *memory, lt_payload *payload,
                           lt_err *err);
/* Send a made unit to all who want it; takes the memory. */
void rt_output_deliver(rt *rt, rt_key key, const lt_payload *payload, rt_memory *memory);
/* Answer from what is kept; true when that was possible. */
bool rt_output_recall(rt *rt, rt_key key);
void rt_memory_free(rt *rt, rt_memory *memory, lt_slab_holder holder);

/* ---- flow.c ----------------------------------------------------------------------------------------------------------------- */

/* What `unit` takes, checked against the inputs and their credits. E_TRANSIENT: the stage is ending and is asked nothing more. */
lt_status rt_need(rt *rt, const rt_clip *clip, uint64_t unit, lt_need needs[LT_MAX_PORTS], lt_err *err);
/* Note that `unit` is wanted. False: it cannot be (the clip is then given up, or the stage has failed). */
bool rt_request_add(rt *rt, rt_clip *clip, uint64_t unit);
void rt_requests_drop_clip(rt *rt, uint32_t clip);
/* The clip's length is known: drop what lies behind its n_units, and ask anew what the rest takes. */
void rt_requests_revise(rt *rt, rt_clip *clip, uint64_t n_units);
/* Drop requests nobody wants any more. */
void rt_requests_prune(rt *rt);
/* A sink has nothing more to do: say so, and end. */
void rt_finish_sink(rt *rt);
/* Move everything that can move: take the job's result, ask for input, post the next job. */
void rt_pump(rt *rt);

/* ---- job.c ------------------------------------------------------------------------------------------------------------------ */

bool rt_job_is_idle(rt *rt);
void rt_job_post(rt *rt, rt_job_kind kind, rt_clip *clip);
/* True, once, when the main thread has returned the job. */
bool rt_job_take(rt *rt);
/* The main thread: do jobs until RT_QUIT. */
void rt_job_loop(rt *rt);
/* Make the I/O thread look around. Any thread. */
void rt_wake(rt *rt);

/* ---- loop.c: the I/O thread --------------------------------------------------------------------------------------------------- */

void *rt_loop(void *rt);

#endif
