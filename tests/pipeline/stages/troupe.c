/* troupe.c - a small orchestrator for tests. */
#include "tests/pipeline/stages/troupe.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>
#include <zmq.h>

#include "stages/runtime/slab.h"

static const uint64_t run_id = 77;

static void insist(bool holds, const char *what)
{
    if (holds) return;
    fprintf(stderr, "troupe: %s: %s\n", what, strerror(errno));
    abort();
}

static bool is_sink(const troupe *t, int part)
{
    for (int p = 0; p < t->n_parts; p++)
        if (t->parts[p].from == part) return false;
    return true;
}

static const char *edge_name(const troupe *t, int consumer, char name[64])
{
    snprintf(name, 64, "%d>%d", t->parts[consumer].from, consumer);
    return name;
}

static uint32_t n_slots(const troupe *t, int part)
{
    uint32_t n = 0;
    for (int p = 0; p < t->n_parts; p++)
        if (t->parts[p].from == part) n += (uint32_t)t->parts[p].replicas * t->parts[p].in_flight;
    return n;
}

/* ---- messages ------------------------------------------------------------------------------------------------------------ */

static void send_control(actor *actor, Lt__Wire__Control *control)
{
    lt_err err;
    if (actor->in < 0) return;
    lt_status status = lt_control_write(actor->in, control, &err);
    insist(status == LT_OK || status == LT_END, "writing to a stage");
}

static void fill_peer(const troupe *t, const actor *about, int consumer, char edge[64], Lt__Wire__Peer *peer)
{
    lt__wire__peer__init(peer);
    bool is_producer = about->part != consumer;
    peer->edge = (char *)edge_name(t, consumer, edge);
    peer->replica = (uint32_t)about->replica;
    peer->incarnation = about->pid ? about->incarnation : 0;
    peer->slab_fd = is_producer ? about->slab_fd : -1;
    if (is_producer && about->is_ready) peer->endpoint = (char *)about->endpoint;
    if (t->transport == NETWORK) peer->public_key = (ProtobufCBinaryData){40, (uint8_t *)about->public_key};
}

/* Tell `to` about `about`, if an edge joins them. */
static void introduce(const troupe *t, const actor *about, actor *to)
{
    char edge[64];
    Lt__Wire__Peer peer;
    Lt__Wire__Control control = LT__WIRE__CONTROL__INIT;
    bool feeds = t->parts[to->part].from == about->part, is_fed = t->parts[about->part].from == to->part;
    if ((!feeds && !is_fed) || !to->pid) return;
    fill_peer(t, about, feeds ? to->part : about->part, edge, &peer);
    control.body_case = LT__WIRE__CONTROL__BODY_PEER;
    control.peer = &peer;
    send_control(to, &control);
}

static void announce(troupe *t, const actor *about)
{
    for (int i = 0; i < t->n_actors; i++) introduce(t, about, &t->actors[i]);
}

/* Everything a Boot points to. */
typedef struct boot_parts {
    Lt__Wire__Boot boot;
    char edges[MAX_PARTS][64], *edge_list[MAX_PARTS], bind[256], name[16];
    Lt__Wire__Option given[MAX_OPTIONS], *options[MAX_OPTIONS];
    Lt__Wire__InputPort input, *inputs[1];
    Lt__Wire__OutputPort output, *outputs[1];
} boot_parts;

static void add_options(const part *part, boot_parts *b)
{
    for (size_t i = 0; i < MAX_OPTIONS && part->options[i][0]; i++) {
        lt__wire__option__init(&b->given[i]);
        b->given[i].name = (char *)part->options[i][0];
        b->given[i].text = (char *)part->options[i][1];
        b->options[i] = &b->given[i];
        b->boot.n_options = i + 1;
    }
    b->boot.options = b->options;
}

static void add_input(const troupe *t, const actor *actor, boot_parts *b)
{
    const part *part = &t->parts[actor->part];
    lt__wire__input_port__init(&b->input);
    b->input.port = "in";
    b->input.edge = (char *)edge_name(t, actor->part, b->edges[0]);
    b->input.in_flight = part->in_flight;
    b->input.n_replicas = (uint32_t)t->parts[part->from].replicas;
    b->inputs[0] = &b->input;
    b->boot.inputs = b->inputs;
    b->boot.n_inputs = 1;
}

static void add_output(const troupe *t, const actor *actor, boot_parts *b)
{
    const part *part = &t->parts[actor->part];
    lt__wire__output_port__init(&b->output);
    b->output.port = part->from < 0 ? "frames" : "out";
    b->output.edges = b->edge_list;
    for (int p = 0; p < t->n_parts; p++)
        if (t->parts[p].from == actor->part)
            b->edge_list[b->output.n_edges++] = (char *)edge_name(t, p, b->edges[p]);
    b->output.slab_fd = actor->slab_fd;
    b->output.memo_units = part->memo_units;
    if (t->transport == NETWORK)
        snprintf(b->bind, sizeof b->bind, "tcp://127.0.0.1:*");
    else
        snprintf(b->bind, sizeof b->bind, "ipc://%s/%d.%d.%u", t->folder, actor->part, actor->replica,
                 actor->incarnation);
    b->output.bind = b->bind;
    b->outputs[0] = &b->output;
    b->boot.outputs = b->outputs;
    b->boot.n_outputs = 1;
}

static void send_boot(const troupe *t, actor *actor)
{
    boot_parts parts = {.boot = LT__WIRE__BOOT__INIT};
    Lt__Wire__Boot *boot = &parts.boot;
    Lt__Wire__Control control = LT__WIRE__CONTROL__INIT;
    snprintf(parts.name, sizeof parts.name, "s%d", actor->part);
    boot->run = run_id;
    boot->stage = parts.name;
    boot->replica = (uint32_t)actor->replica;
    boot->n_replicas = (uint32_t)t->parts[actor->part].replicas;
    boot->incarnation = actor->incarnation;
    boot->base_folder = (char *)t->folder;
    boot->threads = 1;
    boot->log_level = getenv("LT_TEST_LOG") ? LT_LOG_DEBUG : LT_LOG_WARN;
    boot->mixed = t->mixed;
    add_options(&t->parts[actor->part], &parts);
    if (t->parts[actor->part].from >= 0) add_input(t, actor, &parts);
    if (!is_sink(t, actor->part)) add_output(t, actor, &parts);
    if (t->transport == NETWORK) {
        boot->secret_key = (ProtobufCBinaryData){40, (uint8_t *)actor->secret_key};
        boot->public_key = (ProtobufCBinaryData){40, (uint8_t *)actor->public_key};
    }
    control.body_case = LT__WIRE__CONTROL__BODY_BOOT;
    control.boot = boot;
    send_control(actor, &control);
}

void troupe_tell_stop(troupe *t, int part, bool gracefully)
{
    Lt__Wire__Stop stop = LT__WIRE__STOP__INIT;
    Lt__Wire__Control control = LT__WIRE__CONTROL__INIT;
    stop.gracefully = gracefully;
    control.body_case = LT__WIRE__CONTROL__BODY_STOP;
    control.stop = &stop;
    for (int i = 0; i < t->n_actors; i++)
        if ((part < 0 || t->actors[i].part == part) && t->actors[i].pid)
            send_control(&t->actors[i], &control);
}

void troupe_tell_give_up(troupe *t, uint32_t clip)
{
    Lt__Wire__GiveUp give_up = LT__WIRE__GIVE_UP__INIT;
    Lt__Wire__Control control = LT__WIRE__CONTROL__INIT;
    give_up.clip = clip;
    give_up.reason = "the test says so";
    control.body_case = LT__WIRE__CONTROL__BODY_GIVE_UP;
    control.give_up = &give_up;
    for (int i = 0; i < t->n_actors; i++) send_control(&t->actors[i], &control);
}

void troupe_tell_peer(troupe *t, const actor *about, actor *to, uint32_t incarnation, const char *endpoint)
{
    char edge[64];
    Lt__Wire__Peer peer;
    Lt__Wire__Control control = LT__WIRE__CONTROL__INIT;
    fill_peer(t, about, to->part, edge, &peer);
    peer.incarnation = incarnation;
    if (endpoint) peer.endpoint = (char *)endpoint;
    control.body_case = LT__WIRE__CONTROL__BODY_PEER;
    control.peer = &peer;
    send_control(to, &control);
}

/* ---- processes ----------------------------------------------------------------------------------------------------------- */

static void launch(troupe *t, actor *actor)
{
    int in[2], out[2];
    char program[1024];
    snprintf(program, sizeof program / 2, "%s/stage-%s", t->programs, t->parts[actor->part].kind);
    insist(!pipe2(in, O_CLOEXEC) && !pipe2(out, O_CLOEXEC), "pipe");
    actor->pid = fork();
    insist(actor->pid >= 0, "fork");
    if (actor->pid == 0) {
        dup2(in[0], 0);
        dup2(out[1], 1);
        snprintf(program + sizeof program / 2, sizeof program / 2, "%s/log", t->folder);
        int log = open(program + sizeof program / 2, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
        if (log >= 0 && !getenv("LT_TEST_LOG")) dup2(log, 2);
        for (int i = 0; i < t->n_actors; i++)
            if (t->actors[i].slab_fd >= 0) fcntl(t->actors[i].slab_fd, F_SETFD, 0);
        execl(program, program, (char *)NULL);
        _exit(127);
    }
    close(in[0]);
    close(out[1]);
    actor->in = in[1];
    actor->out = out[0];
    actor->incarnation++;
    actor->is_ready = actor->was_killed = false;
    send_boot(t, actor);
    for (int i = 0; i < t->n_actors; i++) {
        const struct actor *other = &t->actors[i];
        if (other->pid && (other->is_ready || t->parts[other->part].from == actor->part))
            introduce(t, other, actor);
    }
    if (t->parts[actor->part].from >= 0)
        for (int i = 0; i < t->n_actors; i++)
            if (t->actors[i].part == t->parts[actor->part].from) introduce(t, actor, &t->actors[i]);
}

static void make_slab(const troupe *t, actor *actor)
{
    lt_err err;
    actor->slab_fd = -1;
    if (t->transport != SLOTS || is_sink(t, actor->part)) return;
    insist(!lt_slab_create(1 << 16, n_slots(t, actor->part), &actor->slab_fd, &err), "slab");
}

void troupe_start(troupe *t)
{
    signal(SIGPIPE, SIG_IGN);
    t->exit_code = t->blamed = -1;
    for (int p = 0; p < t->n_parts; p++)
        for (int r = 0; r < t->parts[p].replicas; r++) {
            actor *actor = &t->actors[t->n_actors++];
            *actor = (struct actor){.part = p, .replica = r, .in = -1, .out = -1};
            insist(!zmq_curve_keypair(actor->public_key, actor->secret_key), "keys");
            make_slab(t, actor);
        }
    for (int i = 0; i < t->n_actors; i++) launch(t, &t->actors[i]);
}

/* Slots of a dead process: what it was filling, and what it was given. */
static void reclaim(const troupe *t, const actor *dead)
{
    char edge[64], name[16];
    lt_err err;
    snprintf(name, sizeof name, "s%d", dead->part);
    for (int i = 0; i < t->n_actors; i++) {
        const actor *other = &t->actors[i];
        bool is_own = other == dead, feeds = t->parts[dead->part].from == other->part;
        lt_slab slab;
        if (other->slab_fd < 0 || (!is_own && !feeds)) continue;
        insist(!lt_slab_map(&slab, other->slab_fd, &err), "mapping a slab");
        const char *owner = is_own ? name : edge_name(t, dead->part, edge);
        lt_slab_reclaim(&slab,
                        (lt_slab_holder){lt_slab_owner(owner, (uint32_t)dead->replica), dead->incarnation});
        lt_slab_unmap(&slab);
    }
}

static int bury(troupe *t, actor *actor)
{
    int code;
    insist(waitpid(actor->pid, &code, 0) == actor->pid, "waitpid");
    close(actor->in);
    close(actor->out);
    lt_reader_finish(&actor->reader);
    actor->pid = 0;
    actor->in = actor->out = -1;
    actor->is_ready = false;
    reclaim(t, actor);
    return code;
}

void troupe_kill(troupe *t, actor *actor)
{
    kill(actor->pid, SIGKILL);
    actor->was_killed = true;
    t->n_kills++;
}

/* ---- reports -------------------------------------------------------------------------------------------------------------- */

static void take_report(troupe *t, actor *actor, const Lt__Wire__Report *report)
{
    switch (report->body_case) {
    case LT__WIRE__REPORT__BODY_READY:
        actor->is_ready = true;
        if (report->ready->n_bound) {
            const char *endpoint = report->ready->bound[0]->endpoint;
            snprintf(actor->endpoint, sizeof actor->endpoint, "%s",
                     t->detour ? t->detour(endpoint) : endpoint);
        }
        announce(t, actor);
        break;
    case LT__WIRE__REPORT__BODY_STARTED:
        if (report->started->unit >= LT_UNIT_FINISHING) break;
        actor->started = report->started->unit;
        actor->n_started++;
        break;
    case LT__WIRE__REPORT__BODY_PROGRESS:
        actor->n_progress++;
        actor->units_done = report->progress->units_done;
        actor->frames_done = report->progress->frames_done;
        break;
    case LT__WIRE__REPORT__BODY_FAILED:
        t->failed = (lt_status)report->failed->status;
        snprintf(t->text, sizeof t->text, "%s", report->failed->text);
        break;
    case LT__WIRE__REPORT__BODY_DONE:
        actor->is_done = true;
        t->stopped |= report->done->stopped;
        t->n_outputs += (uint32_t)report->done->n_outputs;
        break;
    case LT__WIRE__REPORT__BODY_CLIP_END:
        if (!report->clip_end->failed) break;
        t->n_failed_clips++;
        snprintf(t->reason, sizeof t->reason, "%s", report->clip_end->reason);
        snprintf(t->entry, sizeof t->entry, "%s", report->clip_end->entry);
        break;
    default: break;
    }
}

/* What an end means: a kill of ours is followed by a restart; a sink's may be its last. */
static void take_end(troupe *t, actor *actor)
{
    int code = bury(t, actor);
    announce(t, actor);
    if (actor->is_done || t->blamed >= 0) return;
    if (actor->was_killed) {
        launch(t, actor);
        return;
    }
    t->blamed = (int)(actor - t->actors);
    t->exit_code = WIFEXITED(code) ? WEXITSTATUS(code) : -1;
    t->exit_signal = WIFSIGNALED(code) ? WTERMSIG(code) : 0;
}

static void listen_to(troupe *t, actor *actor)
{
    Lt__Wire__Report *report;
    lt_err err;
    lt_status status;
    while (actor->pid && !(status = lt_report_read(&actor->reader, actor->out, 0, &report, &err))) {
        take_report(t, actor, report);
        lt__wire__report__free_unpacked(report, NULL);
    }
    if (!actor->pid || status == LT_AGAIN) return;
    insist(status == LT_END, err.text);
    take_end(t, actor);
}

static void listen_to_all(troupe *t, int timeout_ms)
{
    struct pollfd fds[MAX_ACTORS];
    for (int i = 0; i < t->n_actors; i++) fds[i] = (struct pollfd){.fd = t->actors[i].out, .events = POLLIN};
    poll(fds, (nfds_t)t->n_actors, timeout_ms);
    for (int i = 0; i < t->n_actors; i++)
        if (fds[i].revents && t->actors[i].pid) listen_to(t, &t->actors[i]);
}

void troupe_listen(troupe *t)
{
    listen_to_all(t, 5);
}

/* ---- the play --------------------------------------------------------------------------------------------------------------- */

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13, *state ^= *state >> 7, *state ^= *state << 17;
    return *state;
}

static bool all_sinks_done(const troupe *t)
{
    for (int i = 0; i < t->n_actors; i++)
        if (is_sink(t, t->actors[i].part) && (!t->actors[i].is_done || t->actors[i].pid)) return false;
    return true;
}

bool troupe_act(troupe *t, double seconds, uint64_t seed, int n_kills, int every_ms)
{
    int64_t now = lt_now_ns(), end = now + (int64_t)(seconds * 1e9);
    uint64_t state = seed * 0x9e3779b97f4a7c15u + 1;
    int64_t next_kill = now + every_ms * INT64_C(1000000);
    while (now < end && !all_sinks_done(t) && t->blamed < 0) {
        listen_to_all(t, 5);
        now = lt_now_ns();
        if (!n_kills || now < next_kill) continue;
        actor *victim = &t->actors[next_random(&state) % (uint64_t)t->n_actors];
        if (!victim->pid || victim->was_killed || victim->is_done) continue;
        troupe_kill(t, victim);
        n_kills--;
        next_kill = now + (int64_t)(next_random(&state) % (uint64_t)(2 * every_ms) + 1) * 1000000;
    }
    return all_sinks_done(t) || t->blamed >= 0;
}

static bool slots_are_free(troupe *t)
{
    bool all_free = true;
    for (int i = 0; i < t->n_actors; i++) {
        lt_slab slab;
        lt_err err;
        if (t->actors[i].slab_fd < 0) continue;
        insist(!lt_slab_map(&slab, t->actors[i].slab_fd, &err), "mapping a slab");
        all_free = all_free && lt_slab_n_held(&slab) == 0;
        lt_slab_unmap(&slab);
        close(t->actors[i].slab_fd);
        t->actors[i].slab_fd = -1;
    }
    return all_free;
}

bool troupe_stop(troupe *t)
{
    int64_t end = lt_now_ns() + INT64_C(5000000000);
    int n_alive = 1;
    bool well = true;
    troupe_tell_stop(t, -1, false);
    while (n_alive && lt_now_ns() < end) {
        n_alive = 0;
        for (int i = 0; i < t->n_actors; i++) {
            actor *actor = &t->actors[i];
            Lt__Wire__Report *report;
            lt_err err;
            lt_status status = LT_OK;
            while (actor->pid && !(status = lt_report_read(&actor->reader, actor->out, 2, &report, &err))) {
                take_report(t, actor, report);
                lt__wire__report__free_unpacked(report, NULL);
            }
            if (actor->pid && status == LT_END) {
                int code = bury(t, actor);
                well = well && (actor->was_killed || (WIFEXITED(code) && !WEXITSTATUS(code)));
            }
            n_alive += actor->pid != 0;
        }
    }
    for (int i = 0; i < t->n_actors; i++)
        if (t->actors[i].pid) {
            kill(t->actors[i].pid, SIGKILL);
            bury(t, &t->actors[i]);
        }
    return slots_are_free(t) && well && !n_alive;
}
