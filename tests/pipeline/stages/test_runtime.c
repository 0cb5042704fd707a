/* test_runtime.c - stages as processes: chains, forks, replicas and clips, over every transport, with processes killed.
 * Whatever happens on the way, a sink's file is the one that an undisturbed run writes. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "tests/pipeline/stages/troupe.h"

static const char *programs;
static char folder[64];
static char *expected; /* what an undisturbed run of the standard chain writes */

/* ---- the standard chain --------------------------------------------------------------------------------------------------- */

static troupe make_chain(transport transport, int sources, int filters, const char *output)
{
    unlink(output);
    return (troupe){
        .programs = programs,
        .folder = folder,
        .transport = transport,
        .n_parts = 3,
        .parts = {{.kind = "null_source",
                   .replicas = sources,
                   .from = -1,
                   .options = {{"frames", "478"}, {"chunk", "4"}}},
                  {.kind = "null_filter",
                   .replicas = filters,
                   .from = 0,
                   .in_flight = 4,
                   .options = {{"window", "3"}, {"stride", "2"}, {"sleep_ms", "2"}}},
                  {.kind = "null_sink",
                   .replicas = 1,
                   .from = 1,
                   .in_flight = 4,
                   .options = {{"output", output}}}},
    };
}

static void set_option(troupe *t, int part, const char *name, const char *value)
{
    int i = 0;
    while (t->parts[part].options[i][0] && strcmp(t->parts[part].options[i][0], name)) i++;
    t->parts[part].options[i][0] = name;
    t->parts[part].options[i][1] = value;
}

static char *path(const char *name)
{
    static char paths[8][128];
    static int next;
    char *path = paths[next++ % 8];
    snprintf(path, sizeof paths[0], "%s/%s", folder, name);
    return path;
}

static char *read_file(const char *name)
{
    FILE *file = fopen(name, "rb");
    if (!file) return strdup("(no file)");
    char *text = calloc(1, 1 << 20);
    size_t n = fread(text, 1, (1 << 20) - 1, file);
    text[n] = 0;
    fclose(file);
    return text;
}

static void assert_written(const char *name, const char *right)
{
    char *text = read_file(name);
    assert_string_equal(text, right);
    free(text);
}

static void play(troupe *t, uint64_t seed, int n_kills, int every_ms)
{
    troupe_start(t);
    bool ended = troupe_act(t, 60, seed, n_kills, every_ms);
    bool stopped = troupe_stop(t);
    if (!ended || t->blamed >= 0)
        print_error("%s, actor %d, exit code %d, signal %d: %s\n", ended ? "ended" : "stuck", t->blamed,
                    t->exit_code, t->exit_signal, t->text);
    assert_true(ended);
    assert_int_equal(t->blamed, -1);
    assert_true(stopped);
    assert_int_equal(t->n_outputs, 1);
}

static void a_chain_runs_to_its_end(void **state)
{
    troupe t = make_chain(SLOTS, 1, 1, path("expected"));
    play(&t, 0, 0, 0);
    expected = read_file(path("expected"));
    int lines = 0;
    for (const char *c = expected; *c; c++) lines += *c == '\n';
    assert_int_equal(lines, 60); /* 478 frames, 120 chunks: windows of 3 at every second */
}

static void transport_and_replicas_change_no_byte(void **state)
{
    for (int transport = SLOTS; transport <= NETWORK; transport++) {
        troupe t = make_chain(transport, 2, 3, path("same"));
        play(&t, 0, 0, 0);
        assert_written(path("same"), expected);
    }
}

static void kills_change_no_byte(void **state)
{
    static const struct {
        transport transport;
        uint64_t n_seeds;
        int n_kills;
    } plays[] = {{SLOTS, 6, 12}, {INLINE, 2, 12}, {NETWORK, 4, 12}};
    int n_kills = 0;
    for (size_t i = 0; i < LT_COUNT(plays); i++)
        for (uint64_t seed = 1; seed <= plays[i].n_seeds; seed++) {
            troupe t = make_chain(plays[i].transport, 1 + seed % 2, 2, path("killed"));
            set_option(&t, 1, "sleep_ms", "5");
            play(&t, seed, plays[i].n_kills, 12);
            n_kills += t.n_kills;
            assert_written(path("killed"), expected);
        }
    print_message("%d processes were killed\n", n_kills);
    assert_true(n_kills >= 80);
}

/* ---- other shapes ---------------------------------------------------------------------------------------------------------- */

static void two_consumers_get_the_same(void **state)
{
    for (int kills = 0; kills <= 6; kills += 6)
        for (int transport = SLOTS; transport <= NETWORK; transport += 2) {
            troupe t = make_chain(transport, 1, 2, path("left"));
            unlink(path("right"));
            t.n_parts = 4;
            t.parts[1].memo_units = 4;
            t.parts[3] = (part){.kind = "null_sink",
                                .replicas = 1,
                                .from = 1,
                                .in_flight = 2,
                                .options = {{"output", path("right")}, {"sleep_ms", "1"}}};
            troupe_start(&t);
            assert_true(troupe_act(&t, 60, 5, kills, 15));
            assert_int_equal(t.blamed, -1);
            assert_true(troupe_stop(&t));
            assert_written(path("left"), expected);
            assert_written(path("right"), expected);
        }
}

static void clips_come_one_after_the_other(void **state)
{
    char *right = NULL;
    for (int kills = 0; kills <= 8; kills += 8) {
        troupe t = make_chain(SLOTS, 1, 2, path("clips"));
        set_option(&t, 0, "clips", "7");
        set_option(&t, 0, "frames", "50");
        troupe_start(&t);
        assert_true(troupe_act(&t, 60, 3, kills, 15));
        assert_int_equal(t.blamed, -1);
        assert_true(troupe_stop(&t));
        char *text = read_file(path("clips"));
        assert_int_equal(strlen(text), 7 * 6 * 41);
        if (right) assert_string_equal(text, right);
        free(right);
        right = text;
    }
    free(right);
}

static void a_clip_without_frames_is_a_clip(void **state)
{
    troupe t = make_chain(SLOTS, 1, 1, path("empty"));
    set_option(&t, 0, "frames", "0");
    play(&t, 0, 0, 0);
    assert_written(path("empty"), "");
}

static void a_finished_file_is_not_made_again(void **state)
{
    troupe t = make_chain(SLOTS, 1, 1, path("again"));
    play(&t, 0, 0, 0);
    t = make_chain(SLOTS, 1, 1, path("nothing"));
    set_option(&t, 2, "output", path("again"));
    play(&t, 0, 0, 0);
    assert_int_equal(t.actors[0].n_started, 0);
    assert_int_equal(t.actors[1].n_started, 0);
    assert_written(path("again"), expected);
}

/* ---- failures -------------------------------------------------------------------------------------------------------------- */

static void a_failure_is_told_with_its_unit(void **state)
{
    troupe t = make_chain(SLOTS, 1, 1, path("failed"));
    set_option(&t, 1, "fail_unit", "7");
    troupe_start(&t);
    assert_true(troupe_act(&t, 20, 0, 0, 0));
    assert_int_equal(t.actors[t.blamed].part, 1);
    assert_int_equal(t.exit_code, LT_EXIT_PERMANENT);
    assert_int_equal(t.failed, LT_E_FORMAT);
    assert_non_null(strstr(t.text, "unit 7 is as bad"));
    troupe_stop(&t);
}

static void a_crash_leaves_its_mark(void **state)
{
    troupe t = make_chain(SLOTS, 1, 1, path("crashed"));
    set_option(&t, 1, "crash_unit", "9");
    troupe_start(&t);
    assert_true(troupe_act(&t, 20, 0, 0, 0));
    assert_int_equal(t.actors[t.blamed].part, 1);
    assert_int_equal(t.exit_signal, SIGABRT);
    assert_int_equal(t.actors[t.blamed].started, 9);
    troupe_stop(&t);
}

static void wrong_options_are_a_sentence(void **state)
{
    troupe t = make_chain(SLOTS, 1, 1, path("options"));
    set_option(&t, 1, "windw", "2");
    troupe_start(&t);
    assert_true(troupe_act(&t, 20, 0, 0, 0));
    assert_int_equal(t.exit_code, LT_EXIT_PERMANENT);
    assert_non_null(strstr(t.text, "window"));
    troupe_stop(&t);
}

static void too_few_credits_are_refused(void **state)
{
    troupe t = make_chain(SLOTS, 1, 1, path("credits"));
    t.parts[1].in_flight = 2;
    troupe_start(&t);
    assert_true(troupe_act(&t, 20, 0, 0, 0));
    assert_int_equal(t.failed, LT_E_INVALID);
    assert_non_null(strstr(t.text, "in flight"));
    troupe_stop(&t);
}

static void exactly_enough_credits_do(void **state)
{
    troupe t = make_chain(SLOTS, 1, 2, path("tight"));
    t.parts[1].in_flight = 3;
    t.parts[2].in_flight = 1;
    play(&t, 0, 0, 0);
    assert_written(path("tight"), expected);
}

/* ---- stops ------------------------------------------------------------------------------------------------------------------ */

static void a_sink_stops_when_told_and_goes_on_later(void **state)
{
    for (int gracefully = 0; gracefully <= 1; gracefully++) {
        troupe t = make_chain(SLOTS, 1, 1, path("stopped"));
        set_option(&t, 1, "sleep_ms", "20");
        troupe_start(&t);
        while (t.actors[2].units_done < 10) troupe_act(&t, 0.02, 0, 0, 0);
        troupe_tell_stop(&t, 2, gracefully);
        assert_true(troupe_act(&t, 10, 0, 0, 0));
        assert_int_equal(t.blamed, -1);
        assert_true(t.stopped);
        assert_int_equal(t.n_outputs, 0);
        assert_true(troupe_stop(&t));
        char *text = read_file(path("stopped"));
        assert_true(strlen(text) < strlen(expected));
        assert_memory_equal(text, expected, strlen(text));
        free(text);
        t = make_chain(SLOTS, 1, 1, path("nothing"));
        set_option(&t, 2, "output", path("stopped"));
        play(&t, 0, 0, 0);
        assert_written(path("stopped"), expected);
    }
}

static void nobody_outlives_the_orchestrator(void **state)
{
    troupe t = make_chain(SLOTS, 1, 1, path("orphans"));
    set_option(&t, 1, "sleep_ms", "20000");
    troupe_start(&t);
    while (!t.actors[1].n_started) troupe_act(&t, 0.05, 0, 0, 0);
    for (int i = 0; i < t.n_actors; i++) { /* what its death does */
        close(t.actors[i].in);
        t.actors[i].in = -1;
        t.actors[i].is_done = true;
    }
    int64_t start = lt_now_ns();
    for (int i = 0; i < t.n_actors; i++)
        while (t.actors[i].pid && lt_now_ns() - start < 8000000000) troupe_listen(&t);
    assert_true(lt_now_ns() - start < 2500000000);
    troupe_stop(&t);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_chain_runs_to_its_end),
        cmocka_unit_test(transport_and_replicas_change_no_byte),
        cmocka_unit_test(kills_change_no_byte),
        cmocka_unit_test(two_consumers_get_the_same),
        cmocka_unit_test(clips_come_one_after_the_other),
        cmocka_unit_test(a_clip_without_frames_is_a_clip),
        cmocka_unit_test(a_finished_file_is_not_made_again),
        cmocka_unit_test(exactly_enough_credits_do),
        cmocka_unit_test(too_few_credits_are_refused),
        cmocka_unit_test(a_failure_is_told_with_its_unit),
        cmocka_unit_test(a_crash_leaves_its_mark),
        cmocka_unit_test(wrong_options_are_a_sentence),
        cmocka_unit_test(a_sink_stops_when_told_and_goes_on_later),
        cmocka_unit_test(nobody_outlives_the_orchestrator),
    };
    programs = argc > 1 ? argv[1] : ".";
    snprintf(folder, sizeof folder, "/tmp/longtake-test-XXXXXX");
    if (!mkdtemp(folder)) return 1;
    int failed = cmocka_run_group_tests(tests, NULL, NULL);
    free(expected);
    if (!failed) {
        char command[128];
        snprintf(command, sizeof command, "rm -rf '%s'", folder);
        failed = system(command) != 0;
    }
    return failed;
}
