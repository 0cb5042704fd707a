/* side_live.c - audio and subtitles of a live input, written as they come. */
#include "stages/decode/side.h"
#include "stages/decode/side_streams.h"

#include <stdlib.h>

struct lt_side_live {
    lt_side side;
    char *run_folder, *path;
    bool cut_start, cut_end, is_open;
};

lt_side_live *lt_side_live_create(const char *input, const char *run_folder, bool cut_start, bool cut_end)
{
    lt_side_live *live = calloc(1, sizeof *live);
    if (!live) return NULL;
    live->cut_start = cut_start;
    live->cut_end = cut_end;
    live->side =
        (lt_side){.input = av_strdup(input), .shift = 1, .from = INT64_MIN, .to = INT64_MAX, .is_live = true};
    live->run_folder = av_strdup(run_folder);
    if (live->side.input && live->run_folder) return live;
    lt_side_live_destroy(live);
    return NULL;
}

/* What mux cuts is told by a source that is longer than any clip of it. */
static void set_live_tags(const lt_side_live *live, AVDictionary **tags)
{
    static const int64_t forever = INT64_C(1000000000) * AV_TIME_BASE;
    av_dict_copy(tags, live->side.in->metadata, 0);
    av_dict_set_int(tags, "longtake_shift", live->side.shift, 0);
    if (live->cut_start) av_dict_set_int(tags, "longtake_start", -forever, 0);
    if (live->cut_end) av_dict_set_int(tags, "longtake_end", forever, 0);
}

/* A file of the streams that there are now. */
static lt_status begin(lt_side_live *live, lt_err *err)
{
    lt_side *s = &live->side;
    AVDictionary *options = NULL;
    bool room = lt_side_make_tables(s);
    int format = lt_side_choose_format(s);
    if (format < 0) return LT_OK;
    live->path = av_asprintf("%s/side.%s", live->run_folder, lt_side_formats[format].suffix);
    if (!room || !live->path ||
        avformat_alloc_output_context2(&s->out, NULL, lt_side_formats[format].format, live->path) < 0 ||
        av_dict_parse_string(&options, lt_side_formats[format].live, "=", ":", 0) < 0)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
    lt_status status = lt_side_add_streams(s, err);
    if (status) {
        av_dict_free(&options);
        return status;
    }
    set_live_tags(live, &s->out->metadata);
    s->out->flags |= AVFMT_FLAG_BITEXACT | AVFMT_FLAG_FLUSH_PACKETS;
    int rc = avio_open(&s->out->pb, live->path, AVIO_FLAG_WRITE);
    if (rc >= 0) rc = avformat_write_header(s->out, &options);
    av_dict_free(&options);
    live->is_open = rc >= 0;
    if (live->is_open) avio_flush(s->out->pb);
    return rc < 0 ? lt_fail_av(err, rc, "%s", live->path) : LT_OK;
}

/* The pictures go on without. */
static void leave_out(lt_side_live *live, const lt_err *err)
{
    lt_log(LT_LOG_WARN, "%s; sound and subtitles are left out from here on", err->text);
    lt_side_live_finish(live);
}

void lt_side_live_take(void *opaque, struct AVFormatContext *input, struct AVPacket *packet)
{
    lt_side_live *live = opaque;
    lt_side *s = &live->side;
    lt_err err;
    if (!packet) {
        s->in = input;
        if (begin(live, &err)) leave_out(live, &err);
        return;
    }
    if (!live->is_open || !lt_side_carries(s, packet)) return;
    int index = packet->stream_index, rc = lt_side_write(s, packet);
    if (lt_side_leaves_out(s, index, rc)) return;
    if (rc >= 0) rc = s->out->pb->error;
    if (rc >= 0) return;
    lt_fail_av(&err, rc, "%s", live->path);
    leave_out(live, &err);
}

const char *lt_side_live_path(const lt_side_live *live)
{
    return live->is_open ? live->path : NULL;
}

void lt_side_live_finish(lt_side_live *live)
{
    if (live->is_open) av_write_trailer(live->side.out);
    live->is_open = false;
    if (live->side.out) avio_closep(&live->side.out->pb);
}

void lt_side_live_destroy(lt_side_live *live)
{
    if (!live) return;
    lt_side_live_finish(live);
    lt_side_close_output(&live->side);
    av_free((char *)live->side.input);
    av_free(live->run_folder);
    av_free(live->path);
    free(live);
}
