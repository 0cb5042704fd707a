/* The journal of a dataset's clips: what several sinks say of one clip, of several datasets, and of clips that are abandoned. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "orchestrator/clips.h"

/* read -> work -> one, two;  more -> three;  film -> four, which is no dataset. */
enum { READ, WORK, ONE, TWO, MORE, THREE, FILM, FOUR, N_STAGES };

typedef struct world {
    lt_described source, sink;
    lt_graph_stage stages[N_STAGES];
    lt_edge edges[5];
    lt_graph graph;
    Lt__Wire__Stream clips, film;
    lt_planned_edge planned[5];
    lt_run_plan plan;
    lt_run_folder folder;
    lt_replica replicas[N_STAGES];
    lt_arena arena;
    char path[64];
    lt_run run;
} world;

static world *make_world(void)
{
    static const int edges[5][2] = {{READ, WORK}, {WORK, ONE}, {WORK, TWO}, {MORE, THREE}, {FILM, FOUR}};
    static const bool is_sink[N_STAGES] = {[ONE] = true, [TWO] = true, [THREE] = true, [FOUR] = true};
    world *w = calloc(1, sizeof *w);
    assert_non_null(w);
    w->source.n_outputs = 1;
    lt__wire__stream__init(&w->clips);
    lt__wire__stream__init(&w->film);
    w->clips.expendable = true;
    for (int i = 0; i < N_STAGES; i++) {
        w->stages[i] =
            (lt_graph_stage){.name = "x", .replicas = 1, .described = is_sink[i] ? &w->sink : &w->source};
        w->replicas[i] = (lt_replica){.stage = i, .control = -1, .report = -1, .name = "x"};
    }
    for (int e = 0; e < 5; e++) {
        w->edges[e] = (lt_edge){.producer = edges[e][0], .consumer = edges[e][1]};
        w->planned[e].stream = e < 4 ? &w->clips : &w->film;
    }
    w->graph = (lt_graph){.stages = w->stages, .n_stages = N_STAGES, .edges = w->edges, .n_edges = 5};
    w->plan = (lt_run_plan){.graph = &w->graph, .edges = w->planned};
    strcpy(w->path, "/tmp/longtake-clips-XXXXXX");
    assert_non_null(mkdtemp(w->path));
    w->folder.path = w->path;
    w->run = (lt_run){.graph = &w->graph,
                      .plan = &w->plan,
                      .folder = &w->folder,
                      .arena = &w->arena,
                      .replicas = w->replicas,
                      .n_replicas = N_STAGES,
                      .journal = -1};
    lt_clips_begin(&w->run);
    return w;
}

static char *text_of(const world *w, const char *name)
{
    static char text[1 << 16];
    char path[128];
    snprintf(path, sizeof path, "%s/%s", w->path, name);
    FILE *file = fopen(path, "r");
    if (!file) return NULL;
    text[fread(text, 1, sizeof text - 1, file)] = 0;
    fclose(file);
    return text;
}

static void end_world(world *w, lt_outcome outcome)
{
    static const char *const names[] = {"clips.jsonl", "failed.json"};
    char path[128];
    w->run.outcome = outcome;
    assert_int_equal(lt_clips_end(&w->run, NULL), LT_OK);
    for (size_t i = 0; i < LT_COUNT(names); i++) {
        snprintf(path, sizeof path, "%s/%s", w->path, names[i]);
        unlink(path);
    }
    assert_int_equal(rmdir(w->path), 0);
    lt_arena_finish(&w->arena);
    free(w);
}

static void tell(world *w, int sink, uint32_t clip, const char *reason, const char *result)
{
    Lt__Wire__ClipEnd end = LT__WIRE__CLIP_END__INIT;
    char key[32], entry[64];
    snprintf(key, sizeof key, "%02x%06x", sink < MORE ? READ : MORE, clip);
    snprintf(entry, sizeof entry, "{\"path\": \"%s\"}", key);
    end.clip = clip;
    end.name = end.key = key;
    end.entry = entry;
    end.failed = reason != NULL;
    end.reason = (char *)(reason ? reason : "");
    end.result = (char *)(result ? result : "");
    end.frames = reason ? 0 : 8;
    lt_clip_ended(&w->run, &w->replicas[sink], &end);
}

static void counts_are(const world *w, uint64_t done, uint64_t failed)
{
    assert_int_equal(w->run.clips_done, done);
    assert_int_equal(w->run.clips_failed, failed);
}

static void a_failure_of_either_sink_counts(void **state)
{
    world *w = make_world();
    tell(w, ONE, 0, NULL, "a.mp4");
    counts_are(w, 0, 0);
    tell(w, TWO, 0, NULL, NULL);
    counts_are(w, 1, 0);
    tell(w, ONE, 1, "the first cannot", NULL);
    tell(w, TWO, 1, NULL, "b.mp4");
    tell(w, TWO, 2, "the second cannot", NULL);
    tell(w, ONE, 2, NULL, "c.mp4");
    counts_are(w, 1, 2);
    assert_non_null(strstr(text_of(w, "clips.jsonl"), "a.mp4"));
    assert_int_equal(w->replicas[ONE].clip_frames, 16);
    assert_int_equal(lt_clips_end(&w->run, NULL), LT_OK);
    const char *failed = text_of(w, "failed.json");
    assert_non_null(failed);
    assert_non_null(strstr(failed, "the first cannot"));
    assert_non_null(strstr(failed, "the second cannot"));
    end_world(w, LT_INTERRUPTED);
}

static void datasets_and_other_clips_do_not_meet(void **state)
{
    world *w = make_world();
    assert_int_equal(lt_clip_sinks(&w->run, READ), 1u << ONE | 1u << TWO);
    assert_int_equal(lt_clip_sinks(&w->run, TWO), 1u << ONE | 1u << TWO);
    assert_int_equal(lt_clip_sinks(&w->run, THREE), 1u << THREE);
    assert_int_equal(lt_clip_sinks(&w->run, FOUR), 0);
    assert_int_equal(lt_clip_sinks(&w->run, FILM), 0);
    for (uint32_t i = 0; i < 500; i++) {
        tell(w, THREE, i, i % 100 ? NULL : "gone", NULL);
        tell(w, i % 2 ? ONE : TWO, i, NULL, NULL);
        tell(w, THREE, i, NULL, NULL); /* started again, it tells once more */
        tell(w, FOUR, i, "none of these clips", NULL);
        tell(w, i % 2 ? TWO : ONE, i, i % 50 ? NULL : "gone", NULL);
        tell(w, ONE, i, NULL, NULL);
    }
    counts_are(w, 495 + 490, 15);
    end_world(w, LT_FINISHED);
}

static void any_number_of_clips_may_be_abandoned(void **state)
{
    world *w = make_world();
    for (uint32_t i = 0; i < 3 * LT_MAX_DOOMED; i++) {
        assert_true(lt_clip_doom(&w->run, WORK, i, "it dies"));
        assert_false(lt_clip_doom(&w->run, WORK, i, "and again"));
        tell(w, ONE, i, "it dies", NULL);
        tell(w, TWO, i, "it dies", NULL);
    }
    assert_int_equal(w->run.n_doomed, 0);
    assert_false(lt_clip_doom(&w->run, FOUR, 0, "there is but one"));
    /* What a stage is told must be text. */
    assert_true(lt_clip_doom(&w->run, MORE, 0, "caf\xe9 \x1b[31m"));
    assert_true(lt_text_is_clean(w->run.doomed[0].reason, 256));
    end_world(w, LT_FINISHED);
}

static void a_part_that_is_interrupted_leaves_the_list(void **state)
{
    for (lt_outcome outcome = LT_FINISHED; outcome <= LT_INTERRUPTED; outcome++) {
        char path[128];
        world *w = make_world();
        snprintf(path, sizeof path, "%s/failed.json", w->path);
        FILE *file = fopen(path, "w");
        assert_non_null(file);
        fclose(file);
        tell(w, THREE, 0, NULL, NULL);
        w->run.outcome = outcome;
        assert_int_equal(lt_clips_end(&w->run, NULL), LT_OK);
        assert_int_equal(access(path, F_OK) == 0, outcome != LT_FINISHED);
        end_world(w, outcome);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_failure_of_either_sink_counts),
        cmocka_unit_test(datasets_and_other_clips_do_not_meet),
        cmocka_unit_test(any_number_of_clips_may_be_abandoned),
        cmocka_unit_test(a_part_that_is_interrupted_leaves_the_list),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
