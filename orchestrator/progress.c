/* progress.c - the screen, the lines and the JSON of a run. */
#include "orchestrator/progress.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#include "orchestrator/check.h"
#include "orchestrator/clips.h"
#include "orchestrator/format.h"
#include "orchestrator/json_text.h"
#include "orchestrator/report.h"

#define SECOND INT64_C(1000000000)

static bool is_sink(const lt_run *run, int stage)
{
    return !run->graph->stages[stage].described->n_outputs;
}

static const char *state_of(const lt_run *run, int stage)
{
    bool starting = false, running = false, waiting = false, down = false;
    for (int i = 0; i < run->graph->stages[stage].replicas; i++) {
        const lt_replica *replica = lt_run_replica(run, stage, i);
        starting |= replica->state == LT_REPLICA_STARTING;
        down |= replica->state == LT_REPLICA_DOWN;
        if (replica->state != LT_REPLICA_READY || replica->is_done) continue;
        /* Between two units everyone is idle for a moment. */
        bool is_waiting = replica->is_idle && lt_now_ns() - replica->made_ns > 2 * SECOND;
        running |= !is_waiting;
        waiting |= is_waiting;
    }
    if (run->is_stopping) return run->outcome == LT_FINISHED ? "done" : "stopped";
    return running ? "running" : waiting ? "waiting" : starting ? "starting" : down ? "restarting" : "done";
}

/* What a stage makes, or a sink eats; NULL: nobody planned that. */
static const Lt__Wire__Stream *stream_of(const lt_run *run, int stage)
{
    const Lt__Wire__Stream *stream = NULL;
    for (int e = 0; e < run->graph->n_edges; e++) {
        const lt_edge *edge = &run->graph->edges[e];
        if ((is_sink(run, stage) ? edge->consumer : edge->producer) == stage)
            stream = run->plan->edges[e].stream;
    }
    return stream;
}

lt_stage_progress lt_stage_progress_of(const lt_run *run, int stage)
{
    lt_stage_progress p = {.state = state_of(run, stage), .fps = run->meters[stage].fps};
    uint64_t clip_frames = 0, behind = 0;
    for (int i = 0; i < run->graph->stages[stage].replicas; i++) {
        const lt_replica *r = lt_run_replica(run, stage, i);
        p.units += r->units + r->past_units;
        p.frames += is_sink(run, stage) ? LT_MAX(r->frames, r->most_frames) : r->frames_made + r->past_made;
        p.frames_total = LT_MAX(p.frames_total, r->frames_total);
        p.frames_before += r->first_frames;
        p.cached += r->cached + r->past_cached;
        p.bytes_out += r->bytes_out + r->past_bytes_out;
        p.memory_bytes += r->memory_bytes;
        p.peak_bytes += r->peak_memory;
        p.queued += r->queued;
        p.held += r->held;
        p.restarts += r->n_restarts;
        clip_frames += r->clip_frames;
        behind = LT_MAX(behind, r->clips_behind);
    }
    const Lt__Wire__Stream *stream = stream_of(run, stage);
    if (!stream || !stream->expendable) {
        if (p.frames_total) p.frames = LT_MIN(p.frames, p.frames_total); /* some were made again */
        return p;
    }
    p.frames_total = 0;
    if (!is_sink(run, stage)) return p;
    /* Of clips that are through; those that were there before count for nothing, and what the others have is the plan's guess. */
    p.frames = clip_frames;
    p.clips_total = stream->run_clips;
    p.clips = LT_MIN(behind, stream->run_clips);
    if (stream->run_clips)
        p.frames_total = clip_frames + (uint64_t)((double)stream->run_frames / (double)stream->run_clips *
                                                  (double)(p.clips_total - p.clips));
    return p;
}

/* ---- speed ------------------------------------------------------------------------------------------- */

/* Frames come in bursts, a window or a chunk at a time, so the speed is the average since this run's work began, and until it was done. */
static bool is_through(const lt_stage_progress *p)
{
    return !strcmp(p->state, "done") || (p->frames_total && p->frames >= p->frames_total);
}

static void measure(lt_run *run)
{
    int64_t now = lt_now_ns();
    for (int i = 0; i < run->graph->n_stages; i++) {
        lt_meter *meter = &run->meters[i];
        lt_stage_progress p = lt_stage_progress_of(run, i);
        uint64_t made = p.frames > p.frames_before ? p.frames - p.frames_before : 0;
        if (!meter->ns || made < meter->frames) {
            meter->frames = made;
            meter->ns = strcmp(p.state, "starting") ? now : 0;
        } else if (now - meter->ns >= SECOND && !is_through(&p)) {
            meter->fps = (double)(made - meter->frames) / ((double)(now - meter->ns) * 1e-9);
        }
    }
}

/* Sinks taken together. */
static lt_stage_progress whole(const lt_run *run)
{
    lt_stage_progress all = {0};
    for (int i = 0; i < run->graph->n_stages; i++) {
        lt_stage_progress p = lt_stage_progress_of(run, i);
        all.cached += p.cached;
        all.memory_bytes += p.memory_bytes;
        if (!is_sink(run, i)) continue;
        all.frames += p.frames;
        all.frames_total += p.frames_total;
        if (p.clips_total >= all.clips_total) {
            all.clips_total = p.clips_total;
            all.clips = p.clips;
        }
        all.fps += p.fps;
    }
    return all;
}

/* Seconds to go; negative: unknown. */
static double seconds_left(const lt_stage_progress *p)
{
    return p->fps > 0 && p->frames_total >= p->frames && p->frames_total
               ? (double)(p->frames_total - p->frames) / p->fps
               : -1;
}

/* ---- screen ------------------------------------------------------------------------------------------ */

static int screen_width(void)
{
    struct winsize size;
    return !ioctl(2, TIOCGWINSZ, &size) && size.ws_col > 20 ? size.ws_col : 80;
}

static void wipe(lt_run *run)
{
    if (run->n_drawn) fprintf(stderr, "\033[%dA\r\033[J", run->n_drawn);
    run->n_drawn = 0;
}

/* The line is cut where the terminal ends: what matters most comes first. */
static void stage_line(const lt_run *run, int stage, char *line, size_t room)
{
    lt_stage_progress p = lt_stage_progress_of(run, stage);
    char frames[48], state[48], cached[40] = "", restarts[40] = "";
    int width = 0;
    for (int i = 0; i < run->graph->n_stages; i++)
        width = LT_MAX(width, (int)strlen(run->graph->stages[i].name));
    if (p.frames_total)
        snprintf(frames, sizeof frames, "%llu/%llu", (unsigned long long)p.frames,
                 (unsigned long long)p.frames_total);
    else
        snprintf(frames, sizeof frames, "%llu", (unsigned long long)p.frames);
    if (is_sink(run, stage) && seconds_left(&p) >= 0 && !strcmp(p.state, "running"))
        snprintf(state, sizeof state, "ETA %s", lt_format_seconds(seconds_left(&p)).text);
    else
        snprintf(state, sizeof state, "%s", p.state);
    if (p.cached) snprintf(cached, sizeof cached, "  %llu cached", (unsigned long long)p.cached);
    if (p.restarts) snprintf(restarts, sizeof restarts, "  %d restarted", p.restarts);
    snprintf(line, room, "%-*s  %13s frames %7.1f fps  %-11s queue %-3u %9s%s%s", width,
             run->graph->stages[stage].name, frames, p.fps, state, p.queued,
             lt_format_bytes((double)(run->is_stopping ? p.peak_bytes : p.memory_bytes)).text, cached,
             restarts);
}

/* "clip 52 of 75, 3 failed"; "": no data set. The clip is the one that is being made. */
static const char *clips_text(const lt_run *run, const lt_stage_progress *all, char text[80])
{
    char failed[32] = "";
    *text = 0;
    if (!all->clips_total) return text;
    if (run->clips_failed)
        snprintf(failed, sizeof failed, ", %llu failed", (unsigned long long)run->clips_failed);
    snprintf(text, 80, "clip %llu of %llu%s", (unsigned long long)LT_MIN(all->clips + 1, all->clips_total),
             (unsigned long long)all->clips_total, failed);
    return text;
}

static void draw(lt_run *run)
{
    char line[512], clips[80];
    int width = screen_width();
    wipe(run);
    for (int i = 0; i < run->graph->n_stages; i++) {
        stage_line(run, run->graph->order[i], line, sizeof line);
        fprintf(stderr, "%.*s\n", width - 1, line);
        run->n_drawn++;
    }
    lt_stage_progress all = whole(run);
    if (*clips_text(run, &all, clips)) {
        fprintf(stderr, "%.*s\n", width - 1, clips);
        run->n_drawn++;
    }
    fflush(stderr);
}

/* ---- lines and JSON ---------------------------------------------------------------------------------- */

static double unix_time(void)
{
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    return (double)now.tv_sec + (double)now.tv_nsec * 1e-9;
}

static void print_json(json_t *object)
{
    char *text = object ? json_dumps(object, JSON_COMPACT | JSON_REAL_PRECISION(15)) : NULL;
    if (text) printf("%s\n", text);
    fflush(stdout);
    free(text);
    json_decref(object);
}

static void progress_line(const lt_run *run)
{
    lt_stage_progress all = whole(run);
    double left = seconds_left(&all);
    char clock[16], cached[48] = "", clips[80];
    time_t now = time(NULL);
    struct tm parts;
    strftime(clock, sizeof clock, "%H:%M:%S", localtime_r(&now, &parts));
    if (all.cached)
        snprintf(cached, sizeof cached, ", %llu units from the cache", (unsigned long long)all.cached);
    char total[32] = "";
    if (all.frames_total) snprintf(total, sizeof total, " of %llu", (unsigned long long)all.frames_total);
    clips_text(run, &all, clips);
    fprintf(stderr, "%s %s%s%llu%s frames, %.1f fps%s%s%s, %s of memory\n", clock, clips, *clips ? ", " : "",
            (unsigned long long)all.frames, total, all.fps, left >= 0 ? ", ETA " : "",
            left >= 0 ? lt_format_seconds(left).text : "", cached,
            lt_format_bytes((double)all.memory_bytes).text);
}

static void progress_json(const lt_run *run)
{
    lt_stage_progress all = whole(run);
    double left = seconds_left(&all);
    json_t *stages = json_array();
    for (int i = 0; i < run->graph->n_stages; i++) {
        lt_stage_progress p = lt_stage_progress_of(run, run->graph->order[i]);
        json_array_append_new(stages,
                              json_pack("{ss ss sI sI sI sf si si sI sI si}", "name",
                                        run->graph->stages[run->graph->order[i]].name, "state", p.state,
                                        "units", (json_int_t)p.units, "frames", (json_int_t)p.frames,
                                        "frames_total", (json_int_t)p.frames_total, "fps", p.fps, "queued",
                                        (int)p.queued, "held", (int)p.held, "cached", (json_int_t)p.cached,
                                        "memory_bytes", (json_int_t)p.memory_bytes, "restarts", p.restarts));
    }
    print_json(json_pack("{ss sf sI sI sf so sI sI so}", "event", "progress", "time", unix_time(), "frames",
                         (json_int_t)all.frames, "frames_total", (json_int_t)all.frames_total, "fps", all.fps,
                         "eta_seconds", left >= 0 ? json_real(left) : json_null(), "clips",
                         (json_int_t)all.clips, "clips_total", (json_int_t)all.clips_total, "stages",
                         stages));
}

void lt_progress_event(lt_run *run, const char *event, const lt_replica *replica, const char *format, ...)
{
    char text[1500];
    va_list arguments;
    va_start(arguments, format);
    lt_text_vprint(text, sizeof text, format, arguments);
    va_end(arguments);
    const lt_graph_stage *stage = replica ? &run->graph->stages[replica->stage] : NULL;
    if (run->mode == LT_OUTPUT_JSON) {
        json_t *object =
            json_pack("{ss sf so}", "event", event, "time", unix_time(), "text", lt_json_text(text));
        if (replica) {
            json_object_set_new(object, "stage", json_string(stage->name));
            json_object_set_new(object, "replica", json_integer(replica->replica));
            json_object_set_new(object, "incarnation", json_integer(replica->incarnation));
        }
        print_json(object);
        return;
    }
    if (!strcmp(event, "start") || (!strcmp(event, "ready") && run->mode == LT_OUTPUT_SCREEN)) return;
    char clock[16], title[96];
    time_t now = time(NULL);
    struct tm parts;
    strftime(clock, sizeof clock, "%H:%M:%S", localtime_r(&now, &parts));
    wipe(run);
    fprintf(stderr, "%s %s%s%s\n", clock, replica ? lt_replica_title(run, replica, title) : "",
            replica ? " " : "", text);
    if (run->mode == LT_OUTPUT_SCREEN) draw(run);
}

void lt_progress_tick(lt_run *run)
{
    static const int64_t every[] = {
        [LT_OUTPUT_LINES] = 10 * SECOND, [LT_OUTPUT_SCREEN] = SECOND / 4, [LT_OUTPUT_JSON] = SECOND};
    int64_t now = lt_now_ns();
    measure(run);
    if (!run->drawn_ns && run->mode != LT_OUTPUT_SCREEN) run->drawn_ns = now;
    if (now - run->drawn_ns < every[run->mode]) return;
    run->drawn_ns = now;
    if (run->mode == LT_OUTPUT_SCREEN)
        draw(run);
    else if (run->mode == LT_OUTPUT_JSON)
        progress_json(run);
    else
        progress_line(run);
}

/* ---- the end ----------------------------------------------------------------------------------------- */

/* Clips of the plan that an earlier run has finished with. */
static uint64_t clips_there(const lt_run *run)
{
    uint64_t clips = 0, seen = run->clips_done + run->clips_failed + run->clips_passed_over;
    if (run->outcome != LT_FINISHED || !run->begun_ns) return 0; /* nobody knows, or nobody planned */
    for (int e = 0; e < run->graph->n_edges; e++) {
        int sink = run->graph->edges[e].consumer;
        uint64_t sinks = is_sink(run, sink) ? lt_clip_sinks(run, sink) : 0;
        /* A clip is through when all sinks of its dataset are: one of them stands for all. */
        if (sinks && __builtin_ctzll(sinks) == sink) clips += run->plan->edges[e].stream->run_clips;
    }
    return clips > seen ? clips - seen : 0;
}

static void end_json(const lt_run *run, int exit_code)
{
    json_t *outputs = json_array();
    double seconds = lt_run_seconds(run);
    for (int i = 0; i < run->folder->n_outputs; i++)
        json_array_append_new(outputs, lt_json_text(run->folder->outputs[i]));
    print_json(json_pack("{ss sf ss so si so sI sf sf si sI sI sI sI}", "event", "end", "time", unix_time(),
                         "outcome", lt_outcome_name(run->outcome), "text", lt_json_text(run->why),
                         "exit_code", exit_code, "outputs", outputs, "frames", (json_int_t)lt_run_frames(run),
                         "seconds", seconds, "fps", lt_run_fps(run), "restarts", lt_run_restarts(run),
                         "clips_done", (json_int_t)run->clips_done, "clips_failed",
                         (json_int_t)run->clips_failed, "clips_passed_over",
                         (json_int_t)run->clips_passed_over, "clips_there", (json_int_t)clips_there(run)));
}

/* What the sinks were given. */
static const char *frames_or_texts(const lt_run *run)
{
    bool texts = run->graph->n_edges > 0;
    for (int e = 0; e < run->graph->n_edges; e++)
        if (!run->graph->stages[run->graph->edges[e].consumer].described->n_outputs)
            texts = texts && run->plan->edges[e].stream->kind == LT__WIRE__PORT_KIND__PORT_TEXT;
    return texts ? "texts" : "frames";
}

/* Files by their names; where clips are many, the pattern of all. */
static void print_outputs(const lt_run *run)
{
    int n = 0;
    for (int i = 0; i < run->graph->n_stages; i++) {
        const char *output = lt_stage_output(&run->graph->stages[i]),
                   *file = output ? lt_plan_output(run->plan, i, run->arena) : NULL;
        if (output) printf("%s%s", n++ ? ", " : "", file ? file : output);
    }
}

static void print_clips(const lt_run *run)
{
    uint64_t there = clips_there(run);
    printf("%llu clips done", (unsigned long long)run->clips_done);
    if (there) printf(", %llu there already", (unsigned long long)there);
    if (run->clips_passed_over) printf(", %llu passed over", (unsigned long long)run->clips_passed_over);
    if (run->clips_failed)
        printf(", %llu failed: %s/failed.json lists them, as a manifest",
               (unsigned long long)run->clips_failed, run->folder->path);
    printf("\n");
}

void lt_progress_end(lt_run *run, int exit_code)
{
    double seconds = lt_run_seconds(run);
    uint64_t frames = lt_run_frames(run);
    int restarts = lt_run_restarts(run);
    if (run->mode == LT_OUTPUT_SCREEN && run->begun_ns) draw(run); /* stays on the screen */
    if (run->mode == LT_OUTPUT_JSON) {
        end_json(run, exit_code);
        return;
    }
    if (run->outcome == LT_FAILED) {
        fprintf(stderr, "orchestrator: %s\n", run->why);
        for (int i = 0; i < run->folder->n_outputs && run->plan->is_live && run->begun_ns; i++)
            if (!access(run->folder->outputs[i], F_OK))
                fprintf(stderr, "%s holds what came until then\n", run->folder->outputs[i]);
        return;
    }
    if (run->outcome == LT_INTERRUPTED) {
        fprintf(stderr, "interrupted after %s; %s\n", lt_format_seconds(seconds).text,
                run->plan->is_live ? "the input was live, and cannot be continued"
                                   : "the same command continues");
        return;
    }
    print_outputs(run);
    printf("%s%llu %s in %.1f s, %.1f %s", run->folder->n_outputs ? ": " : "", (unsigned long long)frames,
           frames_or_texts(run), seconds, lt_run_fps(run), *frames_or_texts(run) == 't' ? "a second" : "fps");
    if (restarts) printf(", %d restart%s", restarts, restarts > 1 ? "s" : "");
    printf("\n");
    if (lt_plan_is_dataset(run->plan)) print_clips(run);
    fflush(stdout);
    if (run->n_bad_ends)
        fprintf(stderr, "orchestrator: what was made %s, but %s\n",
                run->clips_failed ? "stands" : "is complete", run->why);
}
