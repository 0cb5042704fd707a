/* side.c - audio, subtitles and chapters of a file, copied packet by packet. */
#include "stages/decode/side.h"
#include "stages/decode/side_streams.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

/* How far sound that is late is looked for; packets wait in memory meanwhile. */
enum { PATIENT_BYTES = 32 << 20, PATIENT_MICROSECONDS = 60000000 };

/* patient: read on for a while until all that was announced has come. */
static lt_status open_as(lt_side *s, bool patient, lt_err *err)
{
    AVDictionary *options = NULL;
    bool url = lt_video_is_url(s->input);
    if (!url) av_dict_set(&options, "protocol_whitelist", "file", 0);
    if (patient) av_dict_set_int(&options, "probesize", PATIENT_BYTES, 0);
    if (patient) av_dict_set_int(&options, "analyzeduration", PATIENT_MICROSECONDS, 0);
    char *name = av_asprintf("%s%s", url ? "" : "file:", s->input);
    int rc = name ? avformat_open_input(&s->in, name, NULL, &options) : AVERROR(ENOMEM);
    av_dict_free(&options);
    av_free(name);
    if (rc >= 0) rc = avformat_find_stream_info(s->in, NULL);
    return rc < 0 ? lt_fail_av(err, rc, "%s: opening it for audio and subtitles", s->input) : LT_OK;
}

/* What a clip leaves out of its source, but for a second: mux cuts to the frame. */
static void find_range(lt_side *s, const lt_video_info *info)
{
    double unit = (double)info->time_base_num / info->time_base_den, second = 1;
    double start = (double)info->pts[0] * unit;
    double end = (double)(info->pts[info->n_frames - 1] + info->last_duration) * unit;
    s->from = start - info->source_start > second ? llrint((start - second) * AV_TIME_BASE) : INT64_MIN;
    s->to = info->source_end - end > second ? llrint((end + second) * AV_TIME_BASE) : INT64_MAX;
}

/* Of a clip the range, of a whole video "". */
static void range_text(const lt_side *s, char text[48])
{
    *text = 0;
    if (s->from == INT64_MIN && s->to == INT64_MAX) return;
    snprintf(text, 48, "%" PRId64 " %" PRId64, s->from, s->to);
}

static lt_status open_and_probe(lt_side *s, lt_err *err)
{
    bool unknown = false;
    lt_status status = open_as(s, false, err);
    for (unsigned i = 0; !status && i < s->in->nb_streams; i++)
        unknown |= lt_side_is_unknown(s->in->streams[i]);
    if (!unknown) return status;
    avformat_close_input(&s->in);
    return open_as(s, true, err);
}

/* Open it and go to where the clip begins, early enough for subtitles that are shown then; where that cannot be, all is read. */
static lt_status open_input(lt_side *s, lt_err *err)
{
    lt_status status = open_and_probe(s, err);
    if (status || s->from == INT64_MIN || s->line) return status;
    int subtitle = av_find_best_stream(s->in, AVMEDIA_TYPE_SUBTITLE, -1, -1, NULL, 0);
    int64_t to = s->from - INT64_C(1000000) * (subtitle >= 0 ? 30 : 2);
    if (s->in->start_time == AV_NOPTS_VALUE || to <= s->in->start_time) return LT_OK;
    if (av_seek_frame(s->in, -1, to, AVSEEK_FLAG_BACKWARD) >= 0) return LT_OK;
    avformat_close_input(&s->in);
    return open_and_probe(s, err);
}

/* Chapters, or a tag that is not about the file itself. */
static bool has_text(const AVFormatContext *in)
{
    static const char *const of_files[] = {"major_brand",   "minor_version", "compatible_brands",
                                           "creation_time", "encoder",       "duration"};
    const AVDictionaryEntry *tag = NULL;
    if (in->nb_chapters) return true;
    while ((tag = av_dict_get(in->metadata, "", tag, AV_DICT_IGNORE_SUFFIX))) {
        bool is_said = true;
        for (size_t i = 0; i < LT_COUNT(of_files); i++) is_said &= strcasecmp(tag->key, of_files[i]) != 0;
        if (is_said) return true;
    }
    return false;
}

static lt_status add_chapters(lt_side *s, lt_err *err)
{
    if (!s->in->nb_chapters) return LT_OK;
    s->out->chapters = av_calloc(s->in->nb_chapters, sizeof *s->out->chapters);
    if (!s->out->chapters) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
    for (unsigned i = 0; i < s->in->nb_chapters; i++) {
        const AVChapter *from = s->in->chapters[i];
        AVChapter *to = av_mallocz(sizeof *to);
        if (!to) return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
        int64_t shift = av_rescale_q(s->shift, (AVRational){1, 1}, from->time_base);
        *to = (AVChapter){.id = from->id,
                          .time_base = from->time_base,
                          .start = from->start + shift,
                          .end = from->end + shift};
        av_dict_copy(&to->metadata, from->metadata, 0);
        s->out->chapters[s->out->nb_chapters++] = to;
    }
    return LT_OK;
}

static void set_tags(lt_side *s, const lt_video_info *info)
{
    AVDictionary **tags = &s->out->metadata;
    av_dict_copy(tags, s->in->metadata, 0);
    char range[48];
    range_text(s, range);
    av_dict_set(tags, "longtake_fingerprint", info->fingerprint, 0);
    if (*range) av_dict_set(tags, "longtake_range", range, 0);
    av_dict_set_int(tags, "longtake_start", llrint(info->source_start * 1e6), 0);
    av_dict_set_int(tags, "longtake_end", llrint(info->source_end * 1e6), 0);
    av_dict_set_int(tags, "longtake_shift", s->shift, 0);
}

/* Whether all that belongs to the clip has been read: streams are not further apart in a file. */
static bool is_past(const lt_side *s, const AVPacket *packet)
{
    enum { APART = 10 * AV_TIME_BASE };
    if (s->to > INT64_MAX - APART || packet->dts == AV_NOPTS_VALUE) return false;
    AVRational base = s->in->streams[packet->stream_index]->time_base;
    return av_compare_ts(packet->dts, base, s->to + APART, AV_TIME_BASE_Q) > 0;
}

static int copy_packets(lt_side *s)
{
    AVPacket *packet = av_packet_alloc();
    if (!packet) return AVERROR(ENOMEM);
    int rc = 0;
    bool past = false;
    while (rc >= 0 && !past && av_read_frame(s->in, packet) >= 0) {
        int index = packet->stream_index;
        if (s->line) lt_timeline_move(s->line, s->in->streams[index], packet);
        past = is_past(s, packet);
        if (lt_side_carries(s, packet)) rc = lt_side_write(s, packet);
        if (lt_side_leaves_out(s, index, rc)) rc = 0;
        av_packet_unref(packet);
    }
    av_packet_free(&packet);
    if (s->in->nb_streams > s->n_streams)
        lt_log(LT_LOG_WARN, "%s: streams that begin later than others are left out of the output: %u",
               s->input, s->in->nb_streams - s->n_streams);
    return rc;
}

static lt_status write_file(lt_side *s, const char *temporary, lt_err *err)
{
    AVDictionary *options = NULL;
    s->out->flags |= AVFMT_FLAG_BITEXACT;
    if (!strcmp(s->out->oformat->name, "mov")) av_dict_set(&options, "movflags", "use_metadata_tags", 0);
    int rc = avio_open(&s->out->pb, temporary, AVIO_FLAG_WRITE);
    if (rc >= 0) rc = avformat_write_header(s->out, &options);
    if (rc >= 0 && s->out->nb_streams) rc = copy_packets(s);
    if (rc >= 0) rc = av_write_trailer(s->out);
    av_dict_free(&options);
    int failed = s->out->pb ? s->out->pb->error : 0;
    int closed = avio_closep(&s->out->pb);
    if (rc >= 0) rc = failed < 0 ? failed : closed;
    return rc < 0 ? lt_fail_av(err, rc, "%s: copying audio and subtitles", temporary) : LT_OK;
}

/* True when `path` holds the side streams of this very source, and of this clip of it. */
static bool is_made(const lt_side *s, const char *path, const lt_video_info *info)
{
    char range[48];
    AVFormatContext *file = NULL;
    if (access(path, R_OK) || avformat_open_input(&file, path, NULL, NULL) < 0) return false;
    const AVDictionaryEntry *tag = av_dict_get(file->metadata, "longtake_fingerprint", NULL, 0);
    bool same = tag && !strcmp(tag->value, info->fingerprint);
    range_text(s, range);
    tag = av_dict_get(file->metadata, "longtake_range", NULL, 0);
    same = same && !strcmp(tag ? tag->value : "", range);
    avformat_close_input(&file);
    return same;
}

/* A file of streams and no packets is none that can be opened; one of text alone has no streams. */
static bool is_worth_it(const lt_side *s)
{
    return s->n_written || !s->out->nb_streams;
}

static lt_status make(lt_side *s, const lt_video_info *info, const char *final, int format, lt_arena *arena,
                      lt_err *err)
{
    lt_status status;
    const char *temporary = lt_arena_printf(arena, "%s.part", final);
    if (!temporary || !lt_side_make_tables(s))
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
    const char *name = format == LT_SIDE_NO_STREAMS ? "ffmetadata" : lt_side_formats[format].format;
    if (avformat_alloc_output_context2(&s->out, NULL, name, temporary) < 0)
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", s->input);
    LT_TRY(lt_side_add_streams(s, err));
    LT_TRY(add_chapters(s, err));
    set_tags(s, info);
    LT_TRY(write_file(s, temporary, err));
    if (is_worth_it(s)) LT_TRY(lt_file_replace(temporary, final, err));
fail:
    if (status || !is_worth_it(s)) unlink(temporary);
    return status;
}

static char *side_path(const char *run_folder, uint32_t clip, int format, lt_arena *arena)
{
    const char *suffix = format == LT_SIDE_NO_STREAMS ? "txt" : lt_side_formats[format].suffix;
    return clip ? lt_arena_printf(arena, "%s/side-%u.%s", run_folder, clip, suffix)
                : lt_arena_printf(arena, "%s/side.%s", run_folder, suffix);
}

lt_status lt_side_copy(const char *input, const lt_video_info *info, const char *run_folder, uint32_t clip,
                       lt_arena *arena, const char **path, lt_err *err)
{
    lt_timeline line = {0};
    lt_side s = {.input = input, .shift = 1, .line = info->restarts ? &line : NULL};
    *path = NULL;
    find_range(&s, info);
    lt_status status = open_input(&s, err);
    if (status) goto done;
    int format = lt_side_choose_format(&s);
    if (format < 0 && has_text(s.in)) format = LT_SIDE_NO_STREAMS;
    if (format < 0) goto done;
    const char *final = side_path(run_folder, clip, format, arena);
    bool made = final && is_made(&s, final, info);
    if (!final)
        status = lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", input);
    else if (!made)
        status = make(&s, info, final, format, arena, err);
    if (!status && !made && !is_worth_it(&s) && has_text(s.in)) {
        lt_side_close_output(&s); /* no sound lies in the clip: its words alone */
        format = LT_SIDE_NO_STREAMS;
        final = side_path(run_folder, clip, format, arena);
        status = final ? make(&s, info, final, format, arena, err)
                       : lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory", input);
    }
    if (!status && (made || is_worth_it(&s))) *path = final;
done:
    avformat_close_input(&s.in);
    lt_side_close_output(&s);
    return status;
}
