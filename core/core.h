/* core.h - what every program of Longtake needs: status codes and errors, log, arena, option tables,
 * checked arithmetic. Includes libc only.
 *
 * Threads: everything here may be called from any thread; an lt_arena and an lt_err belong to one thread at
 * a time. No function here exits or prints, but for lt_log, which writes one line to standard error. */
#ifndef LT_CORE_H
#define LT_CORE_H

#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* ---- status ------------------------------------------------------------------------------------------ */

/* X(name, string). 0 is success; LT_END and LT_AGAIN are flow, not failure. */
#define LT_STATUS_LIST(X)                                                                                    \
    X(OK, "success")                                                                                         \
    X(END, "end of stream")                                                                                  \
    X(AGAIN, "not now, try again")                                                                           \
    X(E_INVALID, "invalid argument or configuration")                                                        \
    X(E_FORMAT, "malformed data")                                                                            \
    X(E_UNSUPPORTED, "not supported")                                                                        \
    X(E_NOT_FOUND, "not found")                                                                              \
    X(E_EXISTS, "already exists")                                                                            \
    X(E_NO_MEMORY, "out of memory")                                                                          \
    X(E_NO_SPACE, "no space left")                                                                           \
    X(E_IO, "input/output error")                                                                            \
    X(E_PERMISSION, "permission denied")                                                                     \
    X(E_BUSY, "in use by another process")                                                                   \
    X(E_MISMATCH, "does not match")                                                                          \
    X(E_NUMERIC, "not a finite number")                                                                      \
    X(E_TRANSIENT, "temporary failure")                                                                      \
    X(E_DEVICE_LOST, "the device was lost")                                                                  \
    X(E_INTERNAL, "internal error (a bug in Longtake)")

typedef enum {
#define LT_STATUS_ENUM(name, string) LT_##name,
    LT_STATUS_LIST(LT_STATUS_ENUM)
#undef LT_STATUS_ENUM
        LT_N_STATUS
} lt_status;

/* The status as words; never NULL. */
const char *lt_status_string(lt_status status);

/* Exit codes of a stage process, read by its supervisor. */
enum {
    LT_EXIT_DONE = 0,        /* finished */
    LT_EXIT_PERMANENT = 100, /* the input or the configuration is wrong: do not restart */
    LT_EXIT_BUG = 101,       /* a bug of ours: counts against the chunk that was being processed */
    LT_EXIT_TRANSIENT = 111, /* restart with back-off */
};

/* The exit code of a stage that ends with `status`: E_TRANSIENT, E_DEVICE_LOST and E_BUSY -> 111, E_INTERNAL -> 101, other
 * errors
 * -> 100, OK and END -> 0. */
int lt_exit_code(lt_status status);

/* ---- errors ------------------------------------------------------------------------------------------ */

/* The sentence a user reads: what was wrong, where, and what to do. Held by the caller, who may pass NULL. */
typedef struct lt_err {
    lt_status status;
    char text[1024];
} lt_err;

/* Set err's status and text (cut off to fit, at a character) and return status, so that `return lt_fail(err, LT_E_IO,
 * "...")`. err may be NULL. The text has no final newline. */
lt_status lt_fail(lt_err *err, lt_status status, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Put "prefix: " in front of the text that is there; returns err's status (LT_E_INTERNAL where err is NULL).
 * For adding where something happened on the way up. */
lt_status lt_err_prefix(lt_err *err, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* As lt_fail, from errno: status is chosen from error_number, and ": " strerror is appended. */
lt_status lt_fail_errno(lt_err *err, int error_number, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Evaluate a call; on an error status jump to `fail` with `status` set. Flow (END, AGAIN) is an error here:
 * handle it before. */
#define LT_TRY(call)                                                                                         \
    do {                                                                                                     \
        if ((status = (call)) != LT_OK) goto fail;                                                           \
    } while (0)

/* ---- text -------------------------------------------------------------------------------------------- */

/* Bytes of the UTF-8 character at `text`, control characters too; 0: there is none that is valid, as at the final 0. */
size_t lt_utf8_bytes(const char *text);

/* As snprintf and vsnprintf with room > 0, but what does not fit is cut off between two characters. */
void lt_text_print(char *text, size_t room, const char *format, ...) __attribute__((format(printf, 3, 4)));
void lt_text_vprint(char *text, size_t room, const char *format, va_list args)
    __attribute__((format(printf, 3, 0)));

/* ---- log --------------------------------------------------------------------------------------------- */

typedef enum { LT_LOG_ERROR, LT_LOG_WARN, LT_LOG_INFO, LT_LOG_DEBUG } lt_log_level;

/* Name that starts every line of this process ("vae_encode.0"), copied; and the most detailed level written.
 * Call once, at start. */
void lt_log_init(const char *name, lt_log_level level);

/* One line to standard error, written with one write(2): "HH:MM:SS.mmm name level: text". */
void lt_log(lt_log_level level, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* ---- mapped files ------------------------------------------------------------------------------------ */

/* A file that is cut short while it is mapped gives a SIGBUS to whoever reads it behind its new end, as does a disk that
 * fails. Say which memory is a mapped file, so that such an end can be told; path is borrowed until lt_mapping_end of the
 * same start. Of more than 4,096 at a time some are not remembered. From any thread. */
void lt_mapping_begin(const void *start, size_t bytes, const char *path);
void lt_mapping_end(const void *start);

/* For a program that reads mapped files: from now on a SIGBUS in one of them writes the line "NAME error: PATH: ..." to standard
 * error and ends the process with LT_EXIT_PERMANENT, before a value that is not there could be used. Any other SIGBUS does
 * what it does by default. Once, at start; name is copied. */
void lt_mapping_watch(const char *name);

/* ---- memory -------------------------------------------------------------------------------------------- */

/* Bytes that the host can give without swapping (MemAvailable); 0: it does not say. Any thread. */
uint64_t lt_available_memory(void);

/* ---- time -------------------------------------------------------------------------------------------- */

/* CLOCK_MONOTONIC in nanoseconds: the only clock that decisions are taken by. */
int64_t lt_now_ns(void);

/* ---- checked arithmetic ------------------------------------------------------------------------------ */

/* *out = a * b, a + b. False, with *out untouched, on overflow of size_t. */
bool lt_mul_size(size_t a, size_t b, size_t *out);
bool lt_add_size(size_t a, size_t b, size_t *out);

/* Product of n non-negative int64 values. False, with *out untouched, when one is negative or the product
 * exceeds INT64_MAX. */
bool lt_product_i64(const int64_t *values, int n, int64_t *out);

/* a rounded up to a multiple of `multiple` (> 0); a is small enough not to overflow. */
static inline size_t lt_round_up(size_t a, size_t multiple)
{
    return (a + multiple - 1) / multiple * multiple;
}

#define LT_MIN(a, b)    ((a) < (b) ? (a) : (b))
#define LT_MAX(a, b)    ((a) > (b) ? (a) : (b))
#define LT_COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* ---- arena ------------------------------------------------------------------------------------------- */

/* Memory of one lifetime: allocated piece by piece, freed all at once. For configuration, plans and tables;
 * tensors of a running network live in a workspace (kernels/tensor.h). A zeroed lt_arena is a valid empty
 * one. */
typedef struct lt_arena {
    struct lt_arena_block *head;
} lt_arena;

/* `bytes` zeroed bytes aligned to 16, or NULL when memory is out. Owned by the arena. */
void *lt_arena_alloc(lt_arena *arena, size_t bytes);

/* Copies of text in the arena; NULL when memory is out. */
char *lt_arena_strdup(lt_arena *arena, const char *text);
char *lt_arena_printf(lt_arena *arena, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Free everything; the arena is empty and usable again. Takes NULL. */
void lt_arena_finish(lt_arena *arena);

/* ---- option tables ----------------------------------------------------------------------------------- */

/* What a stage or a tool can be told. One table drives the graph file, --set, --help, --describe and the
 * reference. */
typedef enum {
    LT_OPT_STRING,  /* const char *            any text */
    LT_OPT_PATH,    /* const char *            a file or folder; the graph file's folder is the base of a
                       relative one */
    LT_OPT_INT,     /* int64_t                 within [min, max] */
    LT_OPT_FLOAT,   /* double                  within [min, max], finite */
    LT_OPT_BOOL,    /* bool                    true | false */
    LT_OPT_ENUM,    /* int                     index into choices, "a|b|c" */
    LT_OPT_BYTES,   /* int64_t                 a size: 4096, 512M, 1.5G (K, M, G, T are powers of 1024) */
    LT_OPT_SECONDS, /* double                  12.5 | 01:02:03.5 */
    LT_OPT_SIZE,    /* lt_size                 WIDTHxHEIGHT in pixels */
    LT_OPT_DICT,    /* const char *            key=value pairs joined by ':' (in a graph file also a table) */
    LT_OPT_JSON,    /* const char *            JSON text, which the stage reads (in a graph file an array) */
} lt_option_type;

typedef struct lt_size {
    int32_t width, height; /* 0, 0: not given */
} lt_size;

typedef struct lt_option {
    const char *name;
    lt_option_type type;
    size_t offset;        /* of the value in the configuration struct */
    const char *fallback; /* default, written as a user would; NULL: required */
    double min, max;      /* of INT, FLOAT, BYTES, SECONDS; both 0: no limits */
    const char *choices;  /* of ENUM, "a|b|c" */
    const char *unit;     /* "frames", "pixels", ...; NULL: none */
    const char *help;     /* one sentence, no final stop */
    bool cosmetic; /* true: cannot change the output's bytes (threads, log level); kept out of digests */
} lt_option;

/* Fill `config` (config_bytes, zeroed first) from defaults. Required options are left zero. Strings live in
 * arena. */
lt_status lt_options_defaults(const lt_option *options, int n_options, void *config, size_t config_bytes,
                              lt_arena *arena, lt_err *err);

/* Parse `text` into option `name`. E_NOT_FOUND (with a "did you mean" when near) or E_INVALID, which names
 * option, value and range. */
lt_status lt_options_set(const lt_option *options, int n_options, void *config, const char *name,
                         const char *text, lt_arena *arena, lt_err *err);

/* E_INVALID naming every required option that is not among the n_given names. */
lt_status lt_options_require(const lt_option *options, int n_options, const char *const *given, int n_given,
                             lt_err *err);

/* Name of a type as it stands in --describe and in the reference ("integer", "size", ...). */
const char *lt_option_type_name(lt_option_type type);

/* What a value of a type looks like, for the sentence that refuses another: "an integer", "WIDTHxHEIGHT such as 1024x576". */
const char *lt_option_expected(lt_option_type type);

/* The candidate nearest to `name` by edit distance, or NULL when none is within a third of its length. */
const char *lt_did_you_mean(const char *name, const char *const *candidates, int n_candidates);

#endif
