/* replay.c - records of evaluations: when one is made, and when it holds.
 *
 * While a function is evaluated, the context's backend is a table of ours: its operators put what they were given into a digest, and then
 * call the real one, or leave it when a record is going to do the work. */
#include "kernels/replay.h"
#include "kernels/replay_table.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MOST_RECORDS = 16, MOST_RESULTS = 8, MOST_CHANGES = 3 };

typedef struct evaluation {
    uint64_t key, digest, weights; /* of the last pass; lt_weight_changes() when it was recorded */
    size_t host_bytes;             /* that the host brings */
    void *record;                  /* the backend's; NULL: none */
    int64_t last_use;              /* 0: this place is free */
    int n_changes;                 /* of its digest */
    bool given_up;
} evaluation;

typedef struct lt_replay {
    replay_pass pass;
    evaluation evaluations[MOST_RECORDS];
    int64_t clock;
    lt_replay_info info;
} state;

uint64_t lt_replay_key(const void *network, const lt_tensor *inputs, int n)
{
    uint64_t key = replay_mix(1, (uintptr_t)network);
    for (int i = 0; i < n; i++) key = replay_mix_tensor(key, &inputs[i]);
    return key;
}

lt_replay_info lt_replay_get_info(const lt_context *c)
{
    return c->replay ? c->replay->info : (lt_replay_info){0};
}

static bool is_running(const lt_context *c)
{
    return c->replay && c->backend == &c->replay->pass.table;
}

/* ---- records ------------------------------------------------------------------------------------------ */

static void free_record(lt_context *c, evaluation *e)
{
    if (e->record) c->backend->record(c, LT_RECORD_FREE, 0, &e->record);
    e->record = NULL;
}

void lt_replay_forget(lt_context *c)
{
    state *r = c->replay;
    for (int i = 0; r && i < MOST_RECORDS; i++) free_record(c, &r->evaluations[i]);
    free(r);
    c->replay = NULL;
}

/* The evaluation of a key; a new one takes the place of the one that was used longest ago. */
static evaluation *find(lt_context *c, state *r, uint64_t key)
{
    evaluation *oldest = &r->evaluations[0];
    r->clock++;
    for (int i = 0; i < MOST_RECORDS; i++) {
        evaluation *e = &r->evaluations[i];
        if (e->last_use && e->key == key) {
            e->last_use = r->clock;
            return e;
        }
        if (e->last_use < oldest->last_use) oldest = e;
    }
    free_record(c, oldest);
    *oldest = (evaluation){.key = key, .last_use = r->clock};
    return oldest;
}

static void give_up(lt_context *c, state *r, evaluation *e, const char *why)
{
    free_record(c, e);
    e->given_up = true;
    snprintf(r->info.note, sizeof(r->info.note), "operators are started one by one, not recorded: %s", why);
}

/* ---- passes ------------------------------------------------------------------------------------------- */

typedef struct call {
    lt_replay_fn *evaluate;
    void *user;
    lt_tensor *results;
    int n_results;
    double flops; /* of the context before */
} call;

static void evaluate(lt_context *c, state *r, replay_mode mode, const call *k)
{
    replay_begin(c, &r->pass, mode);
    c->flops = k->flops;
    k->evaluate(c, k->user, k->results);
    replay_end(c, &r->pass);
}

/* What a pass has left that is not taken. An error of its own is the context's only if the device is gone: another pass will find it
 * again. */
static void undo(lt_context *c, const call *k)
{
    for (int i = 0; i < k->n_results; i++) lt_drop(c, &k->results[i]);
    if (c->err.status != LT_E_DEVICE_LOST) c->err = (lt_err){0};
}

/* As always, and what it was. */
static void watch(lt_context *c, state *r, evaluation *e, const call *k)
{
    evaluate(c, r, REPLAY_WATCH, k);
    r->info.n_evaluated++;
    if (c->err.status != LT_OK) return;
    bool first = e->digest == 0;
    if (!first && e->digest != r->pass.digest) e->n_changes++;
    e->digest = r->pass.digest;
    e->host_bytes = r->pass.host_bytes;
    if (r->pass.barred)
        give_up(c, r, e, r->pass.barred);
    else if (e->n_changes >= MOST_CHANGES)
        give_up(c, r, e, "their arguments or addresses change from call to call");
}

/* Record, and run the record. False: there is none, and nothing was done. */
static bool record(lt_context *c, state *r, evaluation *e, const call *k)
{
    lt_err why = {0};
    lt_status status = c->backend->record(c, LT_RECORD_BEGIN, e->host_bytes, &e->record);
    if (status == LT_OK) {
        evaluate(c, r, REPLAY_RECORD, k);
        why = c->err;
        c->err = (lt_err){0};
        status = c->backend->record(c, LT_RECORD_END, 0, &e->record);
        if (why.status != LT_OK || r->pass.barred) c->err = why;
    }
    if (status == LT_OK && c->err.status == LT_OK && !r->pass.barred) {
        e->n_changes += e->digest != r->pass.digest;
        e->digest = r->pass.digest;
        e->weights = lt_weight_changes();
        r->info.n_recorded++;
        c->backend->record(c, LT_RECORD_RUN, 0, &e->record);
        return true;
    }
    char text[160];
    snprintf(text, sizeof(text), "%s", r->pass.barred ? r->pass.barred : c->err.text);
    undo(c, k);
    give_up(c, r, e, text);
    return false;
}

/* Run the record, if this evaluation is still the one that was recorded. False: it is not, and nothing was done. */
static bool replay(lt_context *c, state *r, evaluation *e, const call *k)
{
    bool holds =
        e->weights == lt_weight_changes() && c->backend->record(c, LT_RECORD_FILL, 0, &e->record) == LT_OK;
    if (holds) {
        evaluate(c, r, REPLAY_SKIP, k);
        holds = c->err.status == LT_OK && !r->pass.barred && r->pass.digest == e->digest;
    }
    if (holds) {
        c->backend->record(c, LT_RECORD_RUN, 0, &e->record);
        r->info.n_replayed++;
        return true;
    }
    undo(c, k);
    free_record(c, e);
    return false;
}

void lt_replay(lt_context *c, uint64_t key, lt_replay_fn *function, void *user, lt_tensor *results,
               int n_results)
{
    bool able = c->backend->records && !c->dry && !c->tape && c->err.status == LT_OK &&
                n_results <= MOST_RESULTS && !is_running(c);
    if (able && !c->replay) c->replay = calloc(1, sizeof(*c->replay));
    if (!able || !c->replay) {
        function(c, user, results);
        return;
    }
    state *r = c->replay;
    evaluation *e = find(c, r, key);
    const call k = {function, user, results, n_results, c->flops};
    if (e->given_up) {
        r->info.n_evaluated++;
        function(c, user, results);
        return;
    }
    bool done = e->record ? replay(c, r, e, &k) : e->digest && record(c, r, e, &k);
    if (!done && c->err.status == LT_OK) watch(c, r, e, &k); /* else the device is gone */
}
