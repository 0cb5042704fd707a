/* seen.c - descriptions of clips that were read before, kept in the cache: a file that has not changed since need not be
 * opened to know what it holds. */
#include "stages/decode/decode.h"

#include <stdlib.h>
#include <string.h>

#include "proto/wire.h"

bool lt_source_recall(const lt_source *source, const lt_wanted *wanted, lt_stream *stream, lt_arena *arena)
{
    void *bytes = NULL;
    size_t n = 0;
    lt_err none;
    if (!source->list || !source->cache || !*wanted->key) return false;
    if (lt_cache_get_seen(source->cache, wanted->name, wanted->key, &bytes, &n, &none)) return false;
    lt_stream *kept = lt__wire__stream__unpack(NULL, n, bytes);
    free(bytes);
    bool fine = kept && lt_stream_check(kept, &none) == LT_OK && !*kept->side_path &&
                lt_stream_copy(stream, kept, arena, &none) == LT_OK &&
                lt_source_announce(source, wanted, stream, arena, &none) == LT_OK;
    if (kept) lt__wire__stream__free_unpacked(kept, NULL);
    if (!fine) lt__wire__stream__init(stream);
    return fine;
}

void lt_source_flush(lt_source *source)
{
    lt_cache_seen seen[LT_DECODE_NOTES];
    lt_err err;
    for (int i = 0; i < source->n_notes; i++)
        seen[i] = (lt_cache_seen){source->notes[i].name, source->notes[i].key, source->notes[i].bytes,
                                  source->notes[i].n_bytes};
    /* What is not kept is found out again. */
    if (source->n_notes && lt_cache_put_seen(source->cache, seen, source->n_notes, &err))
        lt_log(LT_LOG_WARN, "%s", err.text);
    for (int i = 0; i < source->n_notes; i++) {
        free(source->notes[i].name);
        free(source->notes[i].key);
        free(source->notes[i].bytes);
    }
    source->n_notes = 0;
}

void lt_source_note(lt_source *source, const lt_stream *stream)
{
    if (!source->list || !source->cache || !source->keeps || !*stream->key || *stream->side_path) return;
    lt_note *note = &source->notes[source->n_notes];
    *note =
        (lt_note){strdup(stream->name), strdup(stream->key), NULL, lt__wire__stream__get_packed_size(stream)};
    note->bytes = malloc(note->n_bytes);
    if (!note->name || !note->key || !note->bytes) {
        free(note->name);
        free(note->key);
        free(note->bytes);
        return;
    }
    lt__wire__stream__pack(stream, note->bytes);
    if (++source->n_notes == LT_DECODE_NOTES) lt_source_flush(source);
}
