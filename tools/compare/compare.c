/* compare.c - how near a finished video is to its source: PSNR of RGB, frame by frame, as the frames
 * entered the run. */
#include "stages/video/encoder.h"
#include "stages/video/video.h"
#include "tools/compare/baseline.h"

#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { DIVIDER = 4, MAX_PSNR = 100 };

/* Squared error over frames. */
typedef struct score {
    double sum, samples, min, total_psnr;
    int64_t n, worst;
} score;

typedef struct compare {
    lt_video_request request_a, request_b;
    const char *side_by_side, *baseline_path;
    bool json;
    lt_video *a, *b;
    const lt_video_info *info_a, *info_b;
    uint8_t *frame_a, *frame_b, *linear, *both;
    lt_baseline *baseline;
    lt_encoder *encoder;
    lt_segment *segment;
    char part[4096];
    score video, base;
} compare;

static const char usage[] =
    "compare A B [options]: PSNR of the frames of B, a finished file, against those of A, its source\n"
    "  --size WxH --fit crop|pad|stretch   how A was brought to size\n"
    "  --start SECONDS --frames N --interval N --fps RATE   which frames of A were taken\n"
    "  --side-by-side OUT.mp4              also write A on the left and B on the right; the ending chooses "
    "the format\n"
    "  --baseline FILE.safetensors         also score a linear code of four numbers per 8x8 block\n"
    "  --json                              machine-readable result\n";

/* ---- arguments
 * ------------------------------------------------------------------------------------------ */

#define AT(field) offsetof(lt_video_request, field)
static const lt_option table[] = {
    {"size", LT_OPT_SIZE, AT(size), "", 0, 0, NULL, NULL, "", false},
    {"fit", LT_OPT_ENUM, AT(fit), "crop", 0, 0, "crop|pad|stretch", NULL, "", false},
    {"start", LT_OPT_SECONDS, AT(start), "0", 0, 1e9, NULL, NULL, "", false},
    {"frames", LT_OPT_INT, AT(frames), "0", 0, 1e9, NULL, NULL, "", false},
    {"interval", LT_OPT_INT, AT(interval), "1", 1, 1e6, NULL, NULL, "", false},
    {"fps", LT_OPT_FLOAT, AT(fps), "0", 0, 1000, NULL, NULL, "", false},
};
#undef AT

static lt_status parse(compare *c, int argc, char **argv, lt_arena *arena, lt_err *err)
{
    static const struct option names[] = {{"size", 1, 0, 't'},
                                          {"fit", 1, 0, 't'},
                                          {"start", 1, 0, 't'},
                                          {"frames", 1, 0, 't'},
                                          {"interval", 1, 0, 't'},
                                          {"fps", 1, 0, 't'},
                                          {"json", 0, 0, 'j'},
                                          {"side-by-side", 1, 0, 's'},
                                          {"baseline", 1, 0, 'b'},
                                          {"help", 0, 0, 'h'},
                                          {0}};
    int index, choice;
    lt_status status =
        lt_options_defaults(table, (int)LT_COUNT(table), &c->request_a, sizeof c->request_a, arena, err);
    while (!status && (choice = getopt_long(argc, argv, "", names, &index)) != -1) {
        switch (choice) {
        case 't':
            status = lt_options_set(table, (int)LT_COUNT(table), &c->request_a, names[index].name, optarg,
                                    arena, err);
            break;
        case 'j': c->json = true; break;
        case 's': c->side_by_side = optarg; break;
        case 'b': c->baseline_path = optarg; break;
        default: return LT_END;
        }
    }
    if (!status && argc - optind != 2) return LT_END;
    c->request_a.input = argv[optind];
    c->request_b.input = argv[optind + 1];
    c->request_a.bits = c->request_b.bits = 8;
    c->request_a.threads = c->request_b.threads = 2;
    return status;
}

/* ---- opening
 * -------------------------------------------------------------------------------------------- */

/* B may be a row or column larger: encoders of 4:2:0 need even sizes. */
static lt_status check_pair(const compare *c, lt_err *err)
{
    const lt_video_info *a = c->info_a, *b = c->info_b;
    int wider = b->visible_width - a->visible_width, higher = b->visible_height - a->visible_height;
    if (wider < 0 || wider > 1 || higher < 0 || higher > 1)
        return lt_fail(err, LT_E_MISMATCH,
                       "the frames of A are %dx%d, those of B %dx%d; --size and --fit bring A to size",
                       a->visible_width, a->visible_height, b->visible_width, b->visible_height);
    if (a->n_frames != b->n_frames)
        return lt_fail(err, LT_E_MISMATCH, "A has %lld frames, B has %lld", (long long)a->n_frames,
                       (long long)b->n_frames);
    return LT_OK;
}

static lt_status open_side_by_side(compare *c, lt_err *err)
{
    const lt_video_info *a = c->info_a;
    int width = 2 * a->visible_width + DIVIDER, height = a->visible_height;
    int even_width = (width + 1) / 2 * 2, even_height = (height + 1) / 2 * 2;
    double seconds = (double)(a->pts[a->n_frames - 1] + a->last_duration - a->pts[0]) * a->time_base_num /
                     a->time_base_den;
    AVRational rate = av_d2q(seconds > 0 ? (double)a->n_frames / seconds : 25, 60000);
    lt_encoder_request request = {.codec = "libx264",
                                  .pixel_format = "yuv420p",
                                  .options = "",
                                  .width = width,
                                  .height = height,
                                  .frame_width = even_width,
                                  .frame_height = even_height,
                                  .bits = 8,
                                  .colour = a->colour,
                                  .aspect_num = a->sample_aspect_num,
                                  .aspect_den = a->sample_aspect_den,
                                  .rate_num = rate.num,
                                  .rate_den = rate.den,
                                  .container = c->side_by_side,
                                  .whole = true};
    c->both = calloc((size_t)even_width * (size_t)even_height, 3);
    if (!c->both) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    lt_status status = lt_encoder_create(&c->encoder, &request, err);
    snprintf(c->part, sizeof c->part, "%s.part", c->side_by_side);
    return status ? status : lt_segment_open(&c->segment, c->encoder, c->part, err);
}

static lt_status open_all(compare *c, lt_err *err)
{
    lt_status status;
    LT_TRY(lt_video_open(&c->a, &c->request_a, err));
    LT_TRY(lt_video_open(&c->b, &c->request_b, err));
    c->info_a = lt_video_get_info(c->a);
    c->info_b = lt_video_get_info(c->b);
    LT_TRY(check_pair(c, err));
    c->frame_a = malloc(lt_video_frame_bytes(c->info_a));
    c->frame_b = malloc(lt_video_frame_bytes(c->info_b));
    c->linear = malloc(lt_video_frame_bytes(c->info_a));
    if (!c->frame_a || !c->frame_b || !c->linear) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    if (c->baseline_path) LT_TRY(lt_baseline_open(&c->baseline, c->baseline_path, err));
    if (c->side_by_side) LT_TRY(open_side_by_side(c, err));
fail:
    return status;
}

/* ---- comparing
 * ------------------------------------------------------------------------------------------ */

static double psnr(double squared, double samples)
{
    return squared > 0 ? LT_MIN(10 * log10(255.0 * 255.0 * samples / squared), MAX_PSNR) : MAX_PSNR;
}

/* Over A's visible picture; rows of b are b_width pixels long. */
static double add(const compare *c, score *s, const uint8_t *b, int b_width)
{
    const lt_video_info *a = c->info_a;
    double sum = 0, samples = 3.0 * a->visible_width * a->visible_height;
    for (int y = 0; y < a->visible_height; y++) {
        const uint8_t *p = c->frame_a + (size_t)y * (size_t)a->width * 3,
                      *q = b + (size_t)y * (size_t)b_width * 3;
        int64_t row = 0;
        for (int i = 0; i < a->visible_width * 3; i++) row += (p[i] - q[i]) * (p[i] - q[i]);
        sum += (double)row;
    }
    double value = psnr(sum, samples);
    if (!s->n || value < s->min) {
        s->min = value;
        s->worst = s->n;
    }
    s->sum += sum;
    s->samples += samples;
    s->total_psnr += value;
    s->n++;
    return value;
}

static lt_status write_both(compare *c, lt_err *err)
{
    const lt_video_info *a = c->info_a, *b = c->info_b;
    size_t stride = (size_t)((2 * a->visible_width + DIVIDER + 1) / 2 * 2) * 3,
           half = (size_t)a->visible_width * 3;
    for (int y = 0; y < a->visible_height; y++) {
        uint8_t *row = c->both + (size_t)y * stride;
        memcpy(row, c->frame_a + (size_t)y * (size_t)a->width * 3, half);
        memset(row + half, 255, DIVIDER * 3);
        memcpy(row + half + DIVIDER * 3, c->frame_b + (size_t)y * (size_t)b->width * 3, half);
    }
    AVFrame *picture;
    lt_status status = lt_encoder_picture(c->encoder, c->both, &picture, err);
    if (!status) status = lt_segment_push(c->segment, picture, err);
    av_frame_free(&picture);
    return status;
}

static lt_status compare_frames(compare *c, lt_err *err)
{
    lt_status status;
    if (c->json) printf("{\"frames\": [");
    for (int64_t i = 0; i < c->info_a->n_frames; i++) {
        LT_TRY(lt_video_read(c->a, i, c->frame_a, err));
        LT_TRY(lt_video_read(c->b, i, c->frame_b, err));
        double value = add(c, &c->video, c->frame_b, c->info_b->width);
        if (c->json) printf("%s%.4f", i ? ", " : "", value);
        if (c->baseline) {
            lt_baseline_apply(c->baseline, c->frame_a, c->info_a->width, c->info_a->height, c->linear);
            add(c, &c->base, c->linear, c->info_a->width);
        }
        if (c->segment) LT_TRY(write_both(c, err));
    }
    if (c->segment) {
        int reorder;
        lt_segment *segment = c->segment;
        c->segment = NULL;
        LT_TRY(lt_segment_finish(segment, &reorder, err));
        LT_TRY(lt_file_replace(c->part, c->side_by_side, err));
    }
    return LT_OK;
fail:
    return status;
}

static void report(const compare *c)
{
    const score *scores[] = {&c->video, &c->base};
    const char *names[] = {"video", "baseline"};
    for (int i = 0; i < (c->baseline ? 2 : 1); i++) {
        const score *s = scores[i];
        double mean = s->total_psnr / (double)s->n, global = psnr(s->sum, s->samples);
        if (c->json)
            printf(
                "%s\"%s\": {\"n\": %lld, \"min\": %.4f, \"worst\": %lld, \"mean\": %.4f, \"global\": %.4f}",
                i ? ", " : "], ", names[i], (long long)s->n, s->min, (long long)s->worst, mean, global);
        else
            printf("%-8s  %lld frames, PSNR of RGB: %.2f dB over all, %.2f dB mean, %.2f dB at worst (frame "
                   "%lld)\n",
                   names[i], (long long)s->n, global, mean, s->min, (long long)s->worst);
    }
    if (c->json) printf("}\n");
}

int main(int argc, char **argv)
{
    compare c = {0};
    lt_arena arena = {0};
    lt_err err = {0};
    lt_log_init("compare", LT_LOG_WARN);
    lt_status status = parse(&c, argc, argv, &arena, &err);
    if (status == LT_END) {
        fputs(usage, stderr);
        lt_arena_finish(&arena);
        return LT_EXIT_PERMANENT;
    }
    if (!status) status = open_all(&c, &err);
    if (!status) status = compare_frames(&c, &err);
    if (status)
        fprintf(stderr, "compare: %s\n", err.text);
    else
        report(&c);
    lt_segment_abort(c.segment);
    lt_encoder_destroy(c.encoder);
    lt_baseline_close(c.baseline);
    lt_video_close(c.a);
    lt_video_close(c.b);
    free(c.frame_a);
    free(c.frame_b);
    free(c.linear);
    free(c.both);
    lt_arena_finish(&arena);
    return lt_exit_code(status);
}
