/* stage.h - what a stage process is: one const descriptor handed to lt_stage_main.
 *
 *     int main(int argc, char **argv) { return lt_stage_main(&my_stage, argc, argv); }
 *
 * A stage turns units of its inputs into units of its outputs, a unit being a chunk of frames or a window. It never learns where it was
 * launched: the runtime speaks with the orchestrator and the neighbours, asks the inputs for what `need` names, calls `process` and hands the result on.
 *
 *   source  no inputs;  process(unit) makes it, from wherever it has to seek
 *   filter  inputs and outputs; process(unit) must depend on nothing but the unit's inputs and the configuration, since any replica may make it, in any order, twice
 *   sink    no outputs; the runtime calls process for first_unit .. n_units-1 in order; finish_clip ends it
 *
 * Threads: `need` is called on the runtime's own thread, beside `process`; it may only read what open_clip made (and the cache). Every other function is called
 * on one thread, the main one. */
#ifndef LT_STAGE_H
#define LT_STAGE_H

#include "core/core.h"
#include "proto/wire.h"

/* ---- ports and streams ------------------------------------------------------------------------------------- */

typedef struct lt_port {
    const char *name; /* "frames" */
    unsigned kinds; /* accepted (input) or given (output): bits 1u << LT__WIRE__PORT_KIND__PORT_FRAMES ... */
    const char *help;
} lt_port;

/* One more bit of kinds: an input that a graph may leave out; its stream and payloads are NULL then. A stage with outputs whose inputs
 * are all left out is a source. */
#define LT_PORT_OPTIONAL (1u << 31)

enum { LT_MAX_PORTS = 4, LT_MAX_SPANS = 3 };

/* True for a live stream whose length is not known yet. */
static inline bool lt_stream_is_endless(const Lt__Wire__Stream *stream)
{
    return stream->live && stream->n_frames >= LT_STREAM_FRAMES_MAX;
}

/* A stream's description, lt_stream, is the wire's own message, borrowed; copy with lt_stream_copy (proto/wire.h). */

/* ---- what a stage is told ------------------------------------------------------------------------------------ */

/* Everything a stage may depend on, valid as long as the stage. */
typedef struct lt_setup {
    const void *config;      /* the struct of the option table, filled */
    const char *base_folder; /* paths in config have already been made absolute from it */
    const char *run_folder;  /* for files of the run; empty when planning */
    const char *cache;       /* folder of the latent cache; empty: none */
    const char *stage;       /* name in the graph */
    int replica;
    int threads;
    int pipe_fd,
        head_fd; /* a source whose input can be read only once: open, and a memfd of what was read of it when
                             planning (who plans appends what it reads); 0: the input is no such thing */
    /* Payloads on a device, by its id (lt_device_info.id); NULL: they lie in the host's memory. When planning: where the producer can leave
     * an input's. When running: where those of an input may lie, and where those of the output may be left. */
    const char *input_device[LT_MAX_PORTS], *output_device;
    uint64_t slot_bytes; /* when running: the largest unit that output_device is for */
    const char *const
        *outputs; /* when planning: what the sinks downstream write, absolute, as the graph says it */
    int n_outputs;
} lt_setup;

/* One clip on its way through this stage. */
typedef struct lt_clip {
    uint32_t index; /* in the run */
    uint32_t
        passed; /* source, set by open_clip: clips from index on that need nothing; the one described follows them */
    const lt_stream *inputs[LT_MAX_PORTS]; /* by input port */
    lt_stream *output; /* filter and source: to be filled by open_clip; strings and arrays in `arena` */
    lt_arena *arena;   /* lives as long as the clip */
    uint64_t first_unit,
        n_units; /* sink: units that are still to be consumed; set by open_clip. Filter that is in_order: first_unit */
    void *state; /* the stage's own; freed by finish_clip */
    /* Source of a live stream, set by process: it has end_frames frames and no more; the last lasts end_duration. process returns
     * LT_END for a unit behind the end. */
    bool has_ended;
    uint64_t end_frames;
    int64_t end_duration;
    const char *given_up; /* finish_clip: why the clip is given up; NULL: it was stopped, or is complete */
} lt_clip;

/* A clip of a dataset says so: the source sets output->expendable (with key and entry) before it does anything that may fail. What is
 * wrong with such a clip (E_FORMAT, E_NOT_FOUND, E_UNSUPPORTED, E_NUMERIC, E_INVALID, E_MISMATCH; at the source also E_IO and E_PERMISSION)
 * costs the clip: it is given up by all stages, listed in the report, and the run goes on. Any other failure ends the run as ever. */

/* A live stream (output->live) has a length that is not known when it opens. Until it is, n_frames is LT_STREAM_FRAMES_MAX, the most
 * there may be, and n_units what follows from that; timestamps come with the units. The source says the end (lt_clip.has_ended); every
 * stage downstream learns it, by `ended`, before it is given a unit that is shorter for it. */

/* Input units first .. first+count-1 that a unit is made of. */
typedef struct lt_need {
    uint64_t first, count;
} lt_need;

typedef struct lt_span {
    uint64_t first, count; /* absolute frames */
    Lt__Wire__Dtype dtype;
    void *data;
    size_t bytes;
} lt_span;

/* The payload of one unit: at most LT_MAX_SPANS runs of frames, one after the other (each at a multiple of 64 bytes). */
typedef struct lt_payload {
    uint64_t unit;
    void *data;      /* capacity bytes; spans lie inside */
    size_t capacity; /* the stream's unit_bytes, rounded up to 64 */
    size_t bytes;    /* used */
    int n_spans;
    lt_span spans[LT_MAX_SPANS];
    lt_span times; /* of a live stream: timestamps (i64) of its frames, in its time base; count 0: none */
    /* Runs of frames on a device, at their offsets in `data`; times are in `data` all the same. Of an output: `slot` is the number of the
     * device memory that the stage may use for them, one of a few that come again and again; -1: only `data` will do. A stage that
     * does sets the handle. Of an input: handle_bytes > 0 says that they are there, and nothing is in `data`. stages/device/handover.h does
     * all this. */
    int64_t slot;
    size_t handle_bytes;
    uint8_t handle[LT_DEVICE_HANDLE_MAX];
} lt_payload;

/* Append a run of frames to a payload that is being made: sets data (64-byte aligned) and updates bytes. E_INTERNAL when it does not fit. */
lt_status lt_payload_add(lt_payload *payload, uint64_t first, uint64_t count, Lt__Wire__Dtype dtype,
                         size_t bytes, lt_span **span, lt_err *err);

/* Room for the timestamps of frames first .. first+count-1, after all runs; sources of live streams fill it, for filters the runtime does.
 * E_INTERNAL when it does not fit. */
lt_status lt_payload_times(lt_payload *payload, uint64_t first, uint64_t count, int64_t **pts, lt_err *err);

/* ---- planning ---------------------------------------------------------------------------------------------------- */

/* Filled by `plan`. Text and arrays in `arena`. */
typedef struct lt_plan {
    lt_arena *arena;
    lt_stream *output; /* filter and source: to be filled (initialised already), as by open_clip */
    uint32_t in_flight
        [LT_MAX_PORTS]; /* by input port: units needed at once for one unit of output, plus those being fetched beside it */
    uint64_t
        peak_bytes; /* anonymous memory of one replica at its peak, everything counted but slabs; within 10 % of the truth */
    const char *device,
        *device_title; /* not the host's memory: "cuda:0", as its maker calls it; NULL: there is none */
    uint64_t device_bytes, device_total,
        device_free;           /* one replica's part of its memory; all of it; what is free */
    const char *output_device; /* its payloads can be left on the device of this id; NULL: they cannot */
    bool takes_device[LT_MAX_PORTS]; /* what setup->input_device offers is taken */
    uint64_t disk_bytes;
    double flops, work_factor;
    bool live;
    int n_resolved, n_notes;
    struct {
        const char *name, *text;
    } resolved[16];
    const char *notes[16];
} lt_plan;

/* Say that option `name`, which was "auto", shall be `text` from now on; add a line for `orchestrator plan`. */
void lt_plan_resolve(lt_plan *plan, const char *name, const char *format, ...)
    __attribute__((format(printf, 3, 4)));
void lt_plan_note(lt_plan *plan, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- the descriptor ---------------------------------------------------------------------------------------------- */

typedef struct lt_stage {
    const char *kind; /* "vae_encode": what a graph calls it */
    const char *help; /* what it does, in a sentence or two, for --help and the reference */
    const lt_port *inputs, *outputs;
    int n_inputs, n_outputs; /* at most one output today */
    const lt_option *options;
    int n_options;
    size_t config_bytes;
    bool replicable; /* more than one replica makes sense: process is a pure function */
    int clips_ahead; /* sink: clips it may have open at once, in order; 0: one. More of them hide what it costs to begin with one */

    /* Filter whose units follow from those before, not replicable: open_clip sets clip->first_unit, below which every unit
     * is kept (in a cache). From there on units are made one after the other, each once, whether somebody wants it or not; a unit
     * that was made before may be asked for at any time, and comes from where it is kept. */
    bool in_order;

    /* Whether the options go together, as far as they alone say: reads no file. E_INVALID, and others that name an option. NULL: they
     * always do. Called before `plan`, too. */
    lt_status (*check)(const void *config, lt_err *err);

    /* Geometry, memory and work of one clip from the geometry of the inputs (NULL streams for a source). Loads no weights it does not need; touches no device. */
    lt_status (*plan)(const lt_setup *setup, const lt_stream *const *inputs, lt_plan *plan, lt_err *err);

    /* Load models, open devices and caches. *numeric_class (static or owned by state) is what the bytes of results depend on; "" where nothing does.
     * Unless empty, the runtime writes it into the output's stream. */
    lt_status (*create)(void **state, const lt_setup *setup, const char **numeric_class, lt_err *err);
    void (*destroy)(void *state);

    /* Source: describe clip `clip->index` in clip->output, or LT_END after the last; clips that need nothing are passed over (clip->passed);
     * LT_AGAIN: this clip shall not be had, for the reason in err, which is no fault. Filter: the same from clip->inputs. Sink: set first_unit
     * and n_units. A sink has one clip open at a time (clips_ahead), in order; others at most a few. */
    lt_status (*open_clip)(void *state, lt_clip *clip, lt_err *err);

    /* Which input units output unit `unit` needs now: needs[port]. Count 0: none of that port (the cache holds the result). At most the port's credits
     * (lt_plan.in_flight); of a clip that is not the one that was planned also more, up to 4096: what goes beyond the credits is copied. What
     * cannot be is the clip's failure. NULL for sources; NULL elsewhere means the unit of the same number of every port. */
    lt_status (*need)(void *state, const lt_clip *clip, uint64_t unit, lt_need needs[LT_MAX_PORTS],
                      lt_err *err);

    /* Make (or, for a sink, consume) one unit. inputs[port][i] is input unit needs[port].first + i, inputs[port] is
     * NULL where none was needed: what the cache had then and has no more is E_TRANSIENT, since need is asked anew. An input's memory is borrowed for the call.
     * The output's memory is not cleared. A sink that was asked to stop returns END here. */
    lt_status (*process)(void *state, lt_clip *clip, uint64_t unit, const lt_payload *const *inputs,
                         lt_payload *output, lt_err *err);

    /* The length of a live clip's inputs has become known: clip->inputs[] say it. A filter sets output->n_frames and n_units, a sink n_units.
     * Called between two calls of process, on the runtime's thread; must not block. NULL: one unit of input 0 is one of the output, or of a
     * sink. */
    lt_status (*ended)(void *state, lt_clip *clip, lt_err *err);

    /* The clip ended (or, complete = false, is given up or stopped): sinks make the result durable. *result: path of what was made, or NULL.
     * Clips end in any order among those that are open. */
    lt_status (*finish_clip)(void *state, lt_clip *clip, bool complete, const char **result, lt_err *err);
} lt_stage;

/* Whole main function: --help, --version, --describe, --plan, and run (under an orchestrator). Returns the exit code. */
int lt_stage_main(const lt_stage *stage, int argc, char **argv);

/* ---- called from open_clip and process ------------------------------------------------------------------------------------- */

/* Sources, in open_clip: clip index + passed is opened from here on. Where the process dies of that, this clip is to blame, not index,
 * and after three deaths it has been given up: E_INVALID, with the reason, for open_clip to return. */
lt_status lt_stage_opens(const lt_clip *clip, lt_err *err);

/* Sinks: units below `unit` of this clip are durable and will never be asked for again. */
void lt_stage_safe(const lt_clip *clip, uint64_t unit);
/* Whoever works long on a unit: a part of it is done. The progress deadline, which knows a unit by its share of the planned work,
 * starts anew. */
void lt_stage_moved(const lt_clip *clip);
/* Filters: this unit came from the cache (for the report). */
void lt_stage_cached(const lt_clip *clip);
/* Sinks: true once the run was asked to stop after what is being written; process then finishes its segment and returns LT_END. Live
 * sources: the stream shall end here; may be asked on any thread while waiting for input. */
bool lt_stage_stopping(void);

#endif
