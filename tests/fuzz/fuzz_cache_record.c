/* fuzz_cache_record.c - keys and JSON values of a cache. The first byte chooses: 'R' a clip's record, 'S' its state, 'K' a
 * key. */
#include "tests/fuzz/fuzz.h"

#include "cache/internal.h"

/* A record that is taken can be written, and reading that gives the same. */
static void record(MDB_val value)
{
    lt_err err;
    lt_arena arena = {0};
    lt_cache_clip clip, again;
    lt_cache_side_info side, side_again;
    lt_status status = lt_cache_parse_record(&value, "clip/a/0", &arena, &clip, &side, &err);
    if (status) {
        FUZZ_REFUSED(status, err);
    } else {
        FUZZ_MUST(clip.n_frames > 0 && clip.chunk > 0 && lt_cache_n_chunks(&clip) > 0);
        FUZZ_MUST(clip.channels > 0 && clip.height > 0 && clip.width > 0 && clip.clip && clip.caption);
        char *text = lt_cache_record_text(&clip, &side);
        FUZZ_MUST(text);
        MDB_val written = lt_cache_val(text, strlen(text));
        FUZZ_MUST(!lt_cache_parse_record(&written, "clip/a/0", &arena, &again, &side_again, &err));
        FUZZ_MUST(again.n_frames == clip.n_frames && again.chunk == clip.chunk && again.dtype == clip.dtype);
        FUZZ_MUST(!strcmp(again.caption, clip.caption) && !strcmp(again.source, clip.source));
        FUZZ_MUST(!again.pts_delta == !clip.pts_delta);
        if (clip.pts_delta)
            FUZZ_MUST(!memcmp(again.pts_delta, clip.pts_delta, (size_t)clip.n_frames * sizeof(int64_t)));
        FUZZ_MUST(side_again.bytes == side.bytes && side_again.xxh3 == side.xxh3);
        free(text);
    }
    lt_arena_finish(&arena);
}

static void state(MDB_val value)
{
    lt_err err;
    lt_cache_summary summary;
    MDB_val key = lt_cache_val("state/a/0", 9);
    lt_status status = lt_cache_parse_summary(&key, &value, &summary, &err);
    if (status)
        FUZZ_REFUSED(status, err);
    else
        FUZZ_MUST(summary.n_frames > 0 && summary.n_chunks > 0 && summary.chunks >= 0);
}

/* A key that is taken apart is put together again the same, where its parts may stand in one. */
static void key(MDB_val key)
{
    char clip[LT_CACHE_CLIP_BYTES], digest[LT_CACHE_DIGEST_BYTES], text[LT_CACHE_KEY_BYTES];
    int64_t number = -1;
    if (!lt_cache_key_parse(&key, "latent", clip, digest, &number)) return;
    FUZZ_MUST(number >= 0);
    if (lt_cache_check_name(clip, digest, NULL)) return;
    MDB_val again = lt_cache_key_number(text, "latent", clip, digest, number, LT_CACHE_FIRST_DIGITS);
    FUZZ_MUST(again.mv_size < LT_CACHE_KEY_BYTES);
    char clip_again[LT_CACHE_CLIP_BYTES], digest_again[LT_CACHE_DIGEST_BYTES];
    int64_t number_again = -1;
    FUZZ_MUST(lt_cache_key_parse(&again, "latent", clip_again, digest_again, &number_again));
    FUZZ_MUST(number_again == number && !strcmp(clip, clip_again) && !strcmp(digest, digest_again));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    if (!n_bytes) return 0;
    MDB_val value = lt_cache_val((const char *)data + 1, n_bytes - 1);
    switch (data[0]) {
    case 'R': record(value); break;
    case 'S': state(value); break;
    case 'K': key(value); break;
    default: break;
    }
    return 0;
}
