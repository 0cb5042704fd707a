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

#include "tests/pipeline/stages/chain.h"

static char *expected; /* what an undisturbed run of the standard chain writes */

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
            play(&t, base_seed * 100 + seed, plays[i].n_kills, 12);
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
            assert_true(troupe_act(&t, 60, base_seed + 5, kills, 15));
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
        assert_true(troupe_act(&t, 60, base_seed + 3, kills, 15));
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
    set_option(&t, 2, "sleep_ms", "20"); /* it goes on asking for more while the filter ends */
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

/* Nor with those of the unit before. */
static void a_unit_that_needs_nothing_comes_with_nothing(void **state)
{
    troupe t = make_chain(SLOTS, 1, 2, path("bare"));
    set_option(&t, 1, "bare_unit", "7");
    play(&t, 0, 0, 0);
}

/* Clips of a data set are not all as the one that was planned: where one takes more at once than there are credits, all else waits for
 * no slot. What is more than any room is the clip's own failure. */
static void a_clip_may_need_more_than_was_planned(void **state)
{
    char *right = NULL;
    for (int play = 0; play < 6; play++) {
        troupe t = make_chain(play % 3, 1, 2, path("more"));
        t.parts[1].in_flight = play ? 4 : 60;
        set_option(&t, 0, "clips", "4");
        set_option(&t, 0, "frames", "160");
        set_option(&t, 0, "dataset", "true");
        set_option(&t, 1, "later_window", "30");
        troupe_start(&t);
        assert_true(troupe_act(&t, 60, base_seed + (uint64_t)play, play > 2 ? 6 : 0, 15));
        assert_int_equal(t.blamed, -1);
        assert_int_equal(t.n_failed_clips, 0);
        assert_true(troupe_stop(&t));
        char *text = read_file(path("more"));
        assert_int_equal(strlen(text), (20 + 3 * 6) * 41);
        if (right) assert_string_equal(text, right);
        free(right);
        right = text;
    }
    free(right);
    unlink(path("log")); /* it says what came as a copy, which the other tests must not find */
}

static void a_clip_that_needs_too_much_is_given_up(void **state)
{
    troupe t = make_chain(SLOTS, 1, 2, path("too_much"));
    set_option(&t, 0, "clips", "3");
    set_option(&t, 0, "chunk", "1");
    set_option(&t, 0, "frames", "5000");
    set_option(&t, 0, "size", "16x8");
    set_option(&t, 0, "dataset", "true");
    set_option(&t, 1, "stride", "1000");
    set_option(&t, 1, "later_window", "4097");
    troupe_start(&t);
    assert_true(troupe_act(&t, 20, 0, 0, 0));
    assert_int_equal(t.blamed, -1);
    assert_true(troupe_stop(&t));
    assert_int_equal(t.n_outputs, 1);
    assert_int_equal(t.n_failed_clips, 2);
    assert_non_null(strstr(t.reason, "needs 4097 units of port \"in\" at once"));
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

/* ---- more than one opinion ------------------------------------------------------------------------------------------------- */

static void replicas_that_differ_are_refused_unless_told(void **state)
{
    for (int mixed = 0; mixed <= 1; mixed++) {
        troupe t = make_chain(SLOTS, 1, 2, path("mixed"));
        t.mixed = mixed;
        set_option(&t, 1, "numeric_class", "replica");
        if (mixed) {
            play(&t, 0, 0, 0);
            assert_written(path("mixed"), expected);
            return;
        }
        troupe_start(&t);
        assert_true(troupe_act(&t, 20, 0, 0, 0));
        assert_int_equal(t.failed, LT_E_MISMATCH);
        assert_non_null(strstr(t.text, "numeric_class"));
        troupe_stop(&t);
    }
}

static void a_clip_that_is_given_up_does_not_hold_the_others(void **state)
{
    troupe t = make_chain(SLOTS, 1, 2, path("given_up"));
    set_option(&t, 0, "clips", "3");
    troupe_start(&t);
    while (t.actors[3].units_done < 10) troupe_listen(&t);
    troupe_tell_give_up(&t, 0);
    assert_true(troupe_act(&t, 60, 0, 0, 0));
    assert_int_equal(t.blamed, -1);
    assert_true(troupe_stop(&t));
    assert_int_equal(t.n_outputs, 2);
    char *text = read_file(path("given_up"));
    assert_true(strlen(text) >= (2 * 60 + 10) * 41 && strlen(text) < 3 * 60 * 41);
    assert_memory_equal(text, expected, 10 * 41);
    free(text);
}

/* A path whose bytes are no text, a control character in a caption: a message that holds them would be refused, and nobody would
 * hear of the clip's end. */
static void what_is_said_of_a_clip_is_made_text(void **state)
{
    for (int transport = SLOTS; transport <= NETWORK; transport += 2) {
        troupe t = make_chain(transport, 1, 2, path("text"));
        set_option(&t, 0, "clips", "3");
        set_option(&t, 0, "frames", "40");
        set_option(&t, 0, "dataset", "true");
        set_option(&t, 0, "fail_clip", "1");
        troupe_start(&t);
        assert_true(troupe_act(&t, 20, 0, 0, 0));
        assert_int_equal(t.blamed, -1);
        assert_true(troupe_stop(&t));
        assert_int_equal(t.n_outputs, 2);
        assert_int_equal(t.n_failed_clips, 1);
        assert_string_equal(t.reason, "caf?/bad.mp4: is as bad as it was told to be");
        assert_string_equal(t.entry, "{\"text\":\"a bird, ?\"}");
    }
}

static void a_failure_is_told_as_text(void **state)
{
    troupe t = make_chain(SLOTS, 1, 1, path("failed"));
    set_option(&t, 0, "fail_clip", "0");
    troupe_start(&t);
    assert_true(troupe_act(&t, 20, 0, 0, 0));
    assert_int_equal(t.failed, LT_E_FORMAT);
    assert_non_null(strstr(t.text, "caf?/bad.mp4"));
    troupe_stop(&t);
}

static void a_busy_stage_shows_life(void **state)
{
    troupe t = make_chain(SLOTS, 1, 1, path("busy"));
    set_option(&t, 1, "sleep_ms", "20000");
    troupe_start(&t);
    while (!t.actors[1].n_started) troupe_listen(&t);
    uint32_t before = t.actors[1].n_progress;
    troupe_act(&t, 2.6, 0, 0, 0);
    assert_in_range(t.actors[1].n_progress - before, 2, 3);
    int64_t start = lt_now_ns();
    assert_true(troupe_stop(&t)); /* does not wait for the unit */
    assert_true(lt_now_ns() - start < 4000000000);
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
        cmocka_unit_test(a_unit_that_needs_nothing_comes_with_nothing),
        cmocka_unit_test(a_clip_may_need_more_than_was_planned),
        cmocka_unit_test(a_clip_that_needs_too_much_is_given_up),
        cmocka_unit_test(a_failure_is_told_with_its_unit),
        cmocka_unit_test(a_crash_leaves_its_mark),
        cmocka_unit_test(wrong_options_are_a_sentence),
        cmocka_unit_test(a_sink_stops_when_told_and_goes_on_later),
        cmocka_unit_test(nobody_outlives_the_orchestrator),
        cmocka_unit_test(replicas_that_differ_are_refused_unless_told),
        cmocka_unit_test(a_clip_that_is_given_up_does_not_hold_the_others),
        cmocka_unit_test(what_is_said_of_a_clip_is_made_text),
        cmocka_unit_test(a_failure_is_told_as_text),
        cmocka_unit_test(a_busy_stage_shows_life),
    };
    return chain_main(argc, argv, tests, LT_COUNT(tests), &expected);
}
