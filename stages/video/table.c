/* table.c - the timestamps of a video's frames, in display order. */
#include "stages/video/internal.h"

#include <stdlib.h>

/* Room for one more item of `size` bytes. */
static lt_status grow(void **items, int64_t n, int64_t *capacity, size_t size, lt_err *err)
{
    if (n < *capacity) return LT_OK;
    int64_t wanted = *capacity ? *capacity * 2 : 256;
    size_t bytes;
    void *larger = lt_mul_size((size_t)wanted, size, &bytes) ? realloc(*items, bytes) : NULL;
    if (!larger) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for %lld timestamps", (long long)wanted);
    *items = larger;
    *capacity = wanted;
    return LT_OK;
}

lt_status lt_table_add(lt_video_table *table, int64_t pts, lt_err *err)
{
    lt_status status = grow((void **)&table->pts, table->n, &table->capacity, sizeof *table->pts, err);
    if (!status) table->pts[table->n++] = pts;
    return status;
}

lt_status lt_table_add_key(lt_video_table *table, int64_t pts, int64_t dts, lt_err *err)
{
    lt_status status =
        grow((void **)&table->keys, table->n_keys, &table->keys_capacity, sizeof *table->keys, err);
    if (!status) table->keys[table->n_keys++] = (lt_video_key){-1, pts, dts};
    return status;
}

int64_t lt_table_find(const lt_video_table *table, int64_t pts)
{
    int64_t low = 0, high = table->n - 1;
    while (low <= high) {
        int64_t middle = low + (high - low) / 2;
        if (table->pts[middle] == pts) return middle;
        if (table->pts[middle] < pts)
            low = middle + 1;
        else
            high = middle - 1;
    }
    return -1;
}

int64_t lt_table_key_before(const lt_video_table *table, int64_t index)
{
    int64_t low = 0, high = table->n_keys - 1, found = -1;
    while (low <= high) {
        int64_t middle = low + (high - low) / 2;
        if (table->keys[middle].index <= index) {
            found = middle;
            low = middle + 1;
        } else {
            high = middle - 1;
        }
    }
    return found;
}

void lt_table_finish(lt_video_table *table)
{
    free(table->pts);
    free(table->keys);
    *table = (lt_video_table){0};
}

bool lt_table_suffices(const lt_video_table *table, const lt_video_request *request)
{
    bool draws = request->random_interval || request->random_start; /* from all frames there are */
    if (request->frames <= 0 || draws || !table->n) return false;
    double unit = av_q2d(table->time_base), first = (double)table->pts[0] * unit;
    double last = (double)table->pts[table->n - 1] * unit;
    if (request->fps > 0) {
        double wanted =
            request->start + (double)(request->frames * LT_MAX(request->interval, 1)) / request->fps;
        return last - first > wanted;
    }
    int64_t low = 0, high = table->n; /* frames before `start` */
    while (low < high) {
        int64_t middle = low + (high - low) / 2;
        if ((double)table->pts[middle] * unit - first < request->start)
            low = middle + 1;
        else
            high = middle;
    }
    return table->n - low >= (request->frames - 1) * LT_MAX(request->interval, 1) + 1;
}
