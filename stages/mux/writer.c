/* writer.c - the encoding thread and its queue. */
#include "stages/mux/writer.h"

#include <pthread.h>
#include <stdlib.h>

struct lt_writer {
    lt_writer_request request; /* what it points to is the thread's own while it runs */
    lt_segment *segment;       /* the thread's own */
    int64_t next;              /* frame the thread takes next */

    pthread_t thread;
    pthread_mutex_t lock;
    pthread_cond_t changed;
    AVFrame *queue[LT_WRITER_QUEUE];
    int first, waiting;
    bool busy, stop;
    int64_t durable;
    lt_err failed; /* status LT_OK while all is well */
};

static int64_t finished(const lt_writer_request *request)
{
    return request->stills ? request->stills->count : lt_segment_list_frames(request->list);
}

/* When the segment begins and ends. Of a live clip the frame behind it is not known. */
static lt_status find_times(const lt_writer *writer, lt_segment_entry *entry, lt_err *err)
{
    const lt_writer_request *r = &writer->request;
    int64_t next = entry->first + entry->frames, last, before;
    lt_status status;
    if (r->pts) {
        entry->pts = r->pts[entry->first];
        entry->end = next < r->n_frames ? r->pts[next] : r->pts[next - 1] + r->last_duration;
        return LT_OK;
    }
    LT_TRY(lt_times_read(r->times, entry->first, &entry->pts, err));
    LT_TRY(lt_times_read(r->times, next - 1, &last, err));
    LT_TRY(lt_times_read(r->times, LT_MAX(next - 2, 0), &before, err));
    entry->end = last + LT_MAX(last - before, 1);
    return lt_times_sync(r->times, err);
fail:
    return status;
}

/* The segment ended: note it. */
static lt_status end_segment(lt_writer *writer, lt_err *err)
{
    const lt_writer_request *r = &writer->request;
    lt_segment_entry entry = {.first = lt_segment_list_frames(r->list)};
    entry.frames = writer->next - entry.first;
    lt_status status = lt_segment_finish(writer->segment, &entry.reorder, err);
    writer->segment = NULL;
    if (!status) status = find_times(writer, &entry, err);
    return status ? status : lt_segment_list_add(r->list, &entry, err);
}

static lt_status encode(lt_writer *writer, AVFrame *picture, lt_err *err)
{
    const lt_writer_request *r = &writer->request;
    lt_status status = LT_OK;
    if (r->stills) return lt_stills_write(r->stills, picture, err);
    if (!writer->segment) {
        char path[4096];
        lt_segment_path(r->list, r->list->n, true, path, sizeof path);
        status = lt_segment_open(&writer->segment, r->encoder, path, err);
    }
    if (!status) status = lt_segment_push(writer->segment, picture, err);
    if (status) return status;
    writer->next++;
    bool last = writer->next == r->n_frames || writer->next % r->segment_frames == 0;
    return last ? end_segment(writer, err) : LT_OK;
}

static void *run(void *opaque)
{
    lt_writer *writer = opaque;
    pthread_mutex_lock(&writer->lock);
    for (;;) {
        while (!writer->waiting && !writer->stop) pthread_cond_wait(&writer->changed, &writer->lock);
        if (writer->stop) break;
        AVFrame *picture = writer->queue[writer->first];
        writer->first = (writer->first + 1) % LT_WRITER_QUEUE;
        writer->waiting--;
        writer->busy = true;
        bool well = writer->failed.status == LT_OK;
        pthread_cond_broadcast(&writer->changed);
        pthread_mutex_unlock(&writer->lock);
        lt_err err = {0};
        if (well) encode(writer, picture, &err);
        av_frame_free(&picture);
        pthread_mutex_lock(&writer->lock);
        if (well) writer->failed = err;
        writer->durable = finished(&writer->request);
        writer->busy = false;
        pthread_cond_broadcast(&writer->changed);
    }
    pthread_mutex_unlock(&writer->lock);
    return NULL;
}

lt_status lt_writer_create(lt_writer **out, const lt_writer_request *request, lt_err *err)
{
    *out = NULL;
    lt_writer *writer = calloc(1, sizeof *writer);
    if (!writer) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    writer->request = *request;
    writer->next = writer->durable = finished(request);
    pthread_mutex_init(&writer->lock, NULL);
    pthread_cond_init(&writer->changed, NULL);
    int rc = pthread_create(&writer->thread, NULL, run, writer);
    if (rc) {
        free(writer);
        return lt_fail_errno(err, rc, "starting the encoding thread");
    }
    *out = writer;
    return LT_OK;
}

static lt_status failure(const lt_writer *writer, lt_err *err)
{
    if (writer->failed.status && err) *err = writer->failed;
    return writer->failed.status;
}

lt_status lt_writer_push(lt_writer *writer, AVFrame **picture, lt_err *err)
{
    pthread_mutex_lock(&writer->lock);
    while (writer->waiting == LT_WRITER_QUEUE && !writer->failed.status)
        pthread_cond_wait(&writer->changed, &writer->lock);
    lt_status status = failure(writer, err);
    if (!status) {
        writer->queue[(writer->first + writer->waiting++) % LT_WRITER_QUEUE] = *picture;
        *picture = NULL;
        pthread_cond_broadcast(&writer->changed);
    }
    pthread_mutex_unlock(&writer->lock);
    av_frame_free(picture);
    return status;
}

lt_status lt_writer_flush(lt_writer *writer, lt_err *err)
{
    pthread_mutex_lock(&writer->lock);
    while (writer->waiting || writer->busy) pthread_cond_wait(&writer->changed, &writer->lock);
    lt_status status = failure(writer, err);
    pthread_mutex_unlock(&writer->lock);
    return status;
}

lt_status lt_writer_cut(lt_writer *writer, lt_err *err)
{
    lt_status status = lt_writer_flush(writer, err);
    /* The thread waits for pictures, which none but the caller brings. */
    pthread_mutex_lock(&writer->lock);
    if (!status && writer->segment) status = end_segment(writer, err);
    writer->durable = finished(&writer->request);
    pthread_mutex_unlock(&writer->lock);
    return status;
}

int64_t lt_writer_durable(lt_writer *writer)
{
    pthread_mutex_lock(&writer->lock);
    int64_t durable = writer->durable;
    pthread_mutex_unlock(&writer->lock);
    return durable;
}

void lt_writer_destroy(lt_writer *writer)
{
    if (!writer) return;
    pthread_mutex_lock(&writer->lock);
    writer->stop = true;
    pthread_cond_broadcast(&writer->changed);
    pthread_mutex_unlock(&writer->lock);
    pthread_join(writer->thread, NULL);
    while (writer->waiting--)
        av_frame_free(&writer->queue[(writer->first + writer->waiting) % LT_WRITER_QUEUE]);
    lt_segment_abort(writer->segment);
    pthread_mutex_destroy(&writer->lock);
    pthread_cond_destroy(&writer->changed);
    free(writer);
}
