/* launch.c - starts stage processes and takes back what dead ones held. */
#include "orchestrator/clips.h"
#include "orchestrator/launch.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zmq.h>

#include "orchestrator/messages.h"
#include "orchestrator/sockets.h"

lt_replica *lt_run_replica(const lt_run *run, int stage, int n)
{
    int first = 0;
    for (int i = 0; i < stage; i++) first += run->graph->stages[i].replicas;
    return &run->replicas[first + n];
}

const char *lt_replica_title(const lt_run *run, const lt_replica *replica, char text[96])
{
    const lt_graph_stage *stage = &run->graph->stages[replica->stage];
    if (stage->replicas > 1)
        snprintf(text, 96, "stage %s (replica %d)", stage->name, replica->replica);
    else
        snprintf(text, 96, "stage %s", stage->name);
    return text;
}

/* ---- preparing --------------------------------------------------------------------------------------- */

static lt_status make_keys(lt_replica *replica, lt_err *err)
{
    char public_text[41], secret_text[41];
    if (zmq_curve_keypair(public_text, secret_text))
        return lt_fail(err, LT_E_UNSUPPORTED, "cannot make keys: %s", zmq_strerror(zmq_errno()));
    bool ok =
        zmq_z85_decode(replica->public_key, public_text) && zmq_z85_decode(replica->secret_key, secret_text);
    explicit_bzero(secret_text, sizeof secret_text);
    return ok ? LT_OK : lt_fail(err, LT_E_INTERNAL, "cannot read the keys that were made");
}

static lt_status make_outlets(lt_run *run, lt_replica *replica, lt_err *err)
{
    const lt_planned_stage *planned = &run->plan->stages[replica->stage];
    int n = run->graph->stages[replica->stage].described->n_outputs;
    replica->outlets = lt_arena_alloc(run->arena, (size_t)LT_MAX(n, 1) * sizeof *replica->outlets);
    if (!replica->outlets) return lt_fail(err, LT_E_NO_MEMORY, "no memory");
    for (int port = 0; port < n; port++) replica->outlets[port].fd = -1;
    lt_status status = LT_OK;
    for (int port = 0; port < n && !status && !run->graph->is_tcp; port++) {
        const lt_planned_output *output = &planned->outputs[port];
        lt_outlet *outlet = &replica->outlets[port];
        if (!output->n_slots) continue;
        status = lt_slab_create(output->slot_bytes, output->n_slots, &outlet->fd, err);
        if (!status) status = lt_slab_map(&outlet->slab, outlet->fd, err);
    }
    return status ? lt_err_prefix(err, "slots of %s", replica->name) : LT_OK;
}

static lt_status make_replica(lt_run *run, int stage, int n, lt_err *err)
{
    lt_replica *replica = lt_run_replica(run, stage, n);
    *replica = (lt_replica){.stage = stage, .replica = n, .control = -1, .report = -1};
    replica->name = lt_arena_printf(run->arena, "%s.%d", run->graph->stages[stage].name, n);
    if (replica->name)
        replica->log_path = lt_arena_printf(run->arena, "%s/logs/%s.log", run->folder->path, replica->name);
    if (!replica->log_path) return lt_fail(err, LT_E_NO_MEMORY, "no memory");
    lt_status status = make_outlets(run, replica, err);
    return status || !run->graph->is_tcp ? status : make_keys(replica, err);
}

lt_status lt_run_prepare(lt_run *run, lt_err *err)
{
    char logs[4200];
    int n_replicas = 0;
    for (int i = 0; i < run->graph->n_stages; i++) n_replicas += run->graph->stages[i].replicas;
    run->replicas = lt_arena_alloc(run->arena, (size_t)LT_MAX(n_replicas, 1) * sizeof *run->replicas);
    if (!run->replicas) return lt_fail(err, LT_E_NO_MEMORY, "no memory for the run");
    if (getrandom(&run->id, sizeof run->id, 0) != (ssize_t)sizeof run->id)
        return lt_fail_errno(err, errno, "cannot make the run's number");
    run->id |= 1; /* never 0 */
    snprintf(logs, sizeof logs, "%s/logs", run->folder->path);
    if (mkdir(logs, 0777) && errno != EEXIST) return lt_fail_errno(err, errno, "%s", logs);
    lt_status status = LT_OK;
    if (!run->graph->is_tcp)
        status = lt_sockets_make(run->sockets, sizeof run->sockets, &run->sockets_lock, err);
    for (int i = 0; i < run->graph->n_stages && !status; i++)
        for (int n = 0; n < run->graph->stages[i].replicas && !status; n++) {
            status = make_replica(run, i, n, err);
            run->n_replicas++;
        }
    return status;
}

void lt_run_finish(lt_run *run)
{
    for (int i = 0; i < run->n_replicas; i++) {
        lt_replica *replica = &run->replicas[i];
        int n = replica->outlets ? run->graph->stages[replica->stage].described->n_outputs : 0;
        for (int port = 0; port < n; port++) {
            lt_slab_unmap(&replica->outlets[port].slab);
            if (replica->outlets[port].fd >= 0) close(replica->outlets[port].fd);
            free(replica->outlets[port].endpoint);
        }
        explicit_bzero(replica->secret_key, sizeof replica->secret_key);
        free(replica->pending);
        free(replica->numeric_class);
        lt_reader_finish(&replica->reader);
    }
    run->n_replicas = 0;
    if (*run->sockets) lt_sockets_remove(run->sockets, run->sockets_lock);
}

/* ---- starting ---------------------------------------------------------------------------------------- */

static void inherit(int fd)
{
    if (fd >= 0) fcntl(fd, F_SETFD, 0);
}

/* In the child: locks, its own slots, and those of its producers stay open across exec; everything else is CLOEXEC. */
static void inherit_all(const lt_run *run, const lt_replica *replica)
{
    const lt_graph *graph = run->graph;
    for (int i = 0; i < run->folder->n_paths; i++) inherit(run->folder->locks[i]);
    for (int port = 0; port < graph->stages[replica->stage].described->n_outputs; port++)
        inherit(replica->outlets[port].fd);
    const lt_pipe *pipe = &run->plan->stages[replica->stage].pipe;
    if (pipe->fd) {
        inherit(pipe->fd);
        inherit(pipe->head_fd);
    }
    for (int e = 0; e < graph->n_edges; e++) {
        const lt_edge *edge = &graph->edges[e];
        if (edge->consumer != replica->stage) continue;
        for (int i = 0; i < graph->stages[edge->producer].replicas; i++)
            inherit(lt_run_replica(run, edge->producer, i)->outlets[edge->output].fd);
    }
}

static void become(const lt_run *run, const lt_replica *replica, int in, int out, int log, pid_t parent)
{
    const char *program = run->graph->stages[replica->stage].described->program;
    sigset_t none;
    sigemptyset(&none);
    setpgid(0, 0); /* a Ctrl-C at the terminal is the orchestrator's to handle */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (getppid() != parent) _exit(LT_EXIT_TRANSIENT);
    inherit_all(run, replica);
    if (dup2(in, 0) < 0 || dup2(out, 1) < 0 || dup2(log, 2) < 0) _exit(LT_EXIT_TRANSIENT);
    signal(SIGPIPE, SIG_DFL);
    /* Stages share the cores, so threads that wait must sleep. With spinning ones (the default) a round trip with two
     * computing stages on two busy cores took 3 to 4 times as long, in wall and in CPU time. */
    setenv("OMP_WAIT_POLICY", "passive", 0);
    sigprocmask(SIG_SETMASK, &none, NULL);
    execl(program, program, (char *)NULL);
    dprintf(2, "cannot run %s: %s\n", program, strerror(errno));
    _exit(LT_EXIT_PERMANENT);
}

static void reset_incarnation(lt_replica *replica)
{
    replica->incarnation++;
    replica->state = LT_REPLICA_STARTING;
    replica->has_unit = replica->has_failed = replica->is_stuck = replica->is_idle = false;
    replica->failure[0] = 0;
    replica->started_ns = replica->heard_ns = replica->moved_ns = lt_now_ns();
    replica->units = replica->frames = replica->frames_made = replica->cached = replica->bytes_out =
        replica->busy_ns = 0;
    replica->queued = replica->held = 0;
    replica->n_pending = 0;
    lt_reader_finish(&replica->reader);
}

lt_status lt_launch(lt_run *run, lt_replica *replica, lt_err *err)
{
    int in[2] = {-1, -1}, out[2] = {-1, -1}, log;
    pid_t parent = getpid();
    lt_status status = LT_OK;
    reset_incarnation(replica);
    log = open(replica->log_path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    replica->log_start = log >= 0 ? (int64_t)lseek(log, 0, SEEK_END) : 0;
    if (log < 0)
        status = lt_fail_errno(err, errno, "%s", replica->log_path);
    else if (pipe2(in, O_CLOEXEC) || pipe2(out, O_CLOEXEC))
        status = lt_fail_errno(err, errno, "pipes to %s", replica->name);
    if (!status) {
        replica->pid = fork();
        if (replica->pid == 0) become(run, replica, in[0], out[1], log, parent);
        if (replica->pid < 0) status = lt_fail_errno(err, errno, "cannot start %s", replica->name);
    }
    if (log >= 0) close(log);
    if (in[0] >= 0) close(in[0]);
    if (out[1] >= 0) close(out[1]);
    replica->control = in[1];
    replica->report = out[0];
    if (status) {
        replica->pid = 0;
        lt_bury(run, replica);
        return status;
    }
    fcntl(replica->control, F_SETFL, O_NONBLOCK);
    fcntl(replica->report, F_SETFL, O_NONBLOCK);
    lt_status sent = lt_send_boot(run, replica, err);
    if (!sent) lt_clips_tell(run, replica);
    return sent;
}

/* ---- ending ------------------------------------------------------------------------------------------ */

static void reclaim(const lt_slab *slab, const char *owner, const lt_replica *dead)
{
    lt_slab_holder holder = {lt_slab_owner(owner, (uint32_t)dead->replica), dead->incarnation};
    if (slab->base) lt_slab_reclaim(slab, holder);
}

void lt_bury(lt_run *run, lt_replica *replica)
{
    const lt_graph *graph = run->graph;
    const lt_graph_stage *stage = &graph->stages[replica->stage];
    if (replica->control >= 0) close(replica->control);
    if (replica->report >= 0) close(replica->report);
    replica->control = replica->report = -1;
    replica->pid = 0;
    replica->n_pending = 0;
    for (int port = 0; port < stage->described->n_outputs; port++) {
        reclaim(&replica->outlets[port].slab, stage->name, replica);
        free(replica->outlets[port].endpoint);
        replica->outlets[port].endpoint = NULL;
    }
    for (int e = 0; e < graph->n_edges; e++) {
        const lt_edge *edge = &graph->edges[e];
        if (edge->consumer != replica->stage) continue;
        for (int i = 0; i < graph->stages[edge->producer].replicas; i++)
            reclaim(&lt_run_replica(run, edge->producer, i)->outlets[edge->output].slab, edge->name, replica);
    }
}
