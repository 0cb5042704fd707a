/* convert.c - decoded pictures to upright RGB of the wanted size. */
#include "stages/video/internal.h"
#include "stages/video/loader.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MULTIPLE = 8, STRIDE_ALIGN = 64, MAX_SIDE = 65536 };

bool lt_video_is_graph(const char *input)
{
    return !strncmp(input, "lavfi:", 6);
}

bool lt_video_is_glob(const char *input)
{
    return strpbrk(input, "*?[") && !lt_video_is_graph(input) && !lt_video_is_url(input) &&
           access(input, F_OK) != 0;
}

bool lt_video_is_sequence(const char *input)
{
    if (lt_video_is_glob(input)) return true;
    const char *at = strrchr(input, '%');
    if (!at || lt_video_is_graph(input) || lt_video_is_url(input) || access(input, F_OK) == 0) return false;
    at++;
    while (*at >= '0' && *at <= '9') at++;
    return *at == 'd' && av_filename_number_test(input);
}

bool lt_video_is_url(const char *input)
{
    const char *colon = strstr(input, "://");
    return colon && colon > input && !memchr(input, '/', (size_t)(colon - input));
}

int lt_video_matrix(int tagged, int height)
{
    if (tagged != AVCOL_SPC_UNSPECIFIED && tagged != AVCOL_SPC_RGB && tagged != AVCOL_SPC_RESERVED)
        return tagged;
    return height >= 720 ? AVCOL_SPC_BT709 : AVCOL_SPC_SMPTE170M;
}

/* Matrices that swscale knows. */
static bool is_known_matrix(int matrix)
{
    return matrix == AVCOL_SPC_BT709 || matrix == AVCOL_SPC_FCC || matrix == AVCOL_SPC_BT470BG ||
           matrix == AVCOL_SPC_SMPTE170M || matrix == AVCOL_SPC_SMPTE240M || matrix == AVCOL_SPC_BT2020_NCL;
}

/* ---- geometry ------------------------------------------------------------------------------------------ */

/* A display matrix as transposition and flips; turns that are not by quarters are left to the player. */
static void read_matrix(lt_convert *convert, const int32_t *turn, lt_video_info *info)
{
    if (!turn) return;
    int64_t a = turn[0], b = turn[1], c = turn[3], d = turn[4];
    if (!b && !c) {
        convert->flip_x = a < 0;
        convert->flip_y = d < 0;
    } else if (!a && !d) {
        convert->transpose = true;
        convert->flip_x = c < 0;
        convert->flip_y = b < 0;
    } else {
        double degrees = -av_display_rotation_get(turn);
        info->rotation = (int)(degrees < 0 ? degrees - 0.5 : degrees + 0.5);
    }
}

static int rounded(double value)
{
    return value < 1 ? 1 : value > MAX_SIDE ? MAX_SIDE : (int)(value + 0.5);
}

/* The wanted size: of several, the one whose shape is nearest; of equals the first. */
static lt_size choose_size(const lt_video_request *request, double shape)
{
    lt_size best = request->size;
    double least = INFINITY;
    for (int i = 0; i < request->n_buckets; i++) {
        const lt_size *size = &request->buckets[i];
        double distance = fabs(log((double)size->width / size->height / shape));
        if (distance >= least) continue;
        least = distance;
        best = *size;
    }
    return best;
}

/* A box of whole pixels that is scaled to the wanted size, or, for bars, the whole picture to what fits. */
static void place_exact(lt_convert *convert, const lt_video_request *request, lt_size size, int width,
                        int height, double aspect)
{
    lt_loader_draws draws = lt_loader_draw(request->seed);
    lt_loader_box box = {0, 0, width, height};
    bool is_wider = width * aspect / height > (double)size.width / size.height;
    convert->inner_width = size.width;
    convert->inner_height = size.height;
    if (request->fit == LT_FIT_CROP)
        box = lt_loader_cut(width, height, aspect, size, request->random_crop ? &draws.place : NULL);
    else if (request->fit == LT_FIT_PAD && is_wider)
        convert->inner_height = LT_MIN(rounded(size.width / (width * aspect) * height), size.height);
    else if (request->fit == LT_FIT_PAD)
        convert->inner_width = LT_MIN(rounded((double)size.height / height * width * aspect), size.width);
    convert->box_x = box.x;
    convert->box_y = box.y;
    convert->box_width = box.width;
    convert->box_height = box.height;
    convert->upright_width = width;
    convert->upright_height = height;
    convert->offset_x = (convert->visible_width - convert->inner_width) / 2;
    convert->offset_y = (convert->visible_height - convert->inner_height) / 2;
}

static lt_status make_exact(lt_convert *convert, lt_err *err)
{
    size_t pixel = 3 * (size_t)(convert->bits / 8);
    if (!convert->inner_width) return LT_OK;
    convert->box = malloc(pixel * (size_t)convert->box_width * (size_t)convert->box_height);
    convert->inner = malloc(pixel * (size_t)convert->inner_width * (size_t)convert->inner_height);
    if (!convert->box || !convert->inner) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a picture");
    return lt_resample_create(&convert->exact, convert->box_width, convert->box_height, convert->inner_width,
                              convert->inner_height, convert->bits, err);
}

/* Sizes of the upright picture, scaled, and where it lies in the visible one. */
static void place(lt_convert *convert, AVRational aspect, const lt_video_request *request,
                  lt_video_info *info)
{
    int width = convert->source_width, height = convert->source_height;
    if (aspect.num <= 0 || aspect.den <= 0) aspect = (AVRational){1, 1};
    if (convert->transpose) {
        width = convert->source_height;
        height = convert->source_width;
        aspect = av_inv_q(aspect);
    }
    lt_size size = choose_size(request, width * av_q2d(aspect) / height);
    if (!size.width) {
        convert->upright_width = convert->visible_width = width;
        convert->upright_height = convert->visible_height = height;
        info->sample_aspect_num = aspect.num;
        info->sample_aspect_den = aspect.den;
        return;
    }
    info->sample_aspect_num = info->sample_aspect_den = 1;
    convert->visible_width = size.width;
    convert->visible_height = size.height;
    double x = (double)size.width / (width * av_q2d(aspect));
    double y = (double)size.height / height;
    if (request->fit == LT_FIT_CROP) x = y = LT_MAX(x, y);
    if (request->fit == LT_FIT_PAD) x = y = LT_MIN(x, y);
    convert->upright_width = rounded(width * av_q2d(aspect) * x);
    convert->upright_height = rounded(height * y);
    if (request->exact) {
        place_exact(convert, request, size, width, height, av_q2d(aspect));
        return;
    }
    /* Floor division, so that what is cut is at most one pixel more on the right and bottom. */
    convert->offset_x = (convert->visible_width - convert->upright_width) / 2;
    convert->offset_y = (convert->visible_height - convert->upright_height) / 2;
}

static lt_status check_colour(const lt_convert *convert, const AVFrame *frame, lt_err *err)
{
    const AVPixFmtDescriptor *format = av_pix_fmt_desc_get(frame->format);
    if (!format || format->flags & AV_PIX_FMT_FLAG_HWACCEL || !sws_isSupportedInput(frame->format))
        return lt_fail(err, LT_E_UNSUPPORTED, "pixels of format %s cannot be converted to RGB",
                       format ? format->name : "none");
    bool yuv = !(format->flags & (AV_PIX_FMT_FLAG_RGB | AV_PIX_FMT_FLAG_PAL)) && format->nb_components >= 3;
    if (yuv && !is_known_matrix(convert->matrix))
        return lt_fail(err, LT_E_UNSUPPORTED, "its colour matrix, %s, is not supported",
                       av_color_space_name(convert->matrix) ? av_color_space_name(convert->matrix)
                                                            : "unknown");
    return LT_OK;
}

static bool is_full_range(const AVFrame *frame)
{
    switch (frame->format) {
    case AV_PIX_FMT_YUVJ420P:
    case AV_PIX_FMT_YUVJ422P:
    case AV_PIX_FMT_YUVJ444P:
    case AV_PIX_FMT_YUVJ440P:
    case AV_PIX_FMT_YUVJ411P: return true;
    default: return frame->color_range == AVCOL_RANGE_JPEG;
    }
}

static void describe(const lt_convert *convert, const AVFrame *frame, lt_video_info *info)
{
    const AVPixFmtDescriptor *format = av_pix_fmt_desc_get(frame->format);
    bool rgb = format->flags & AV_PIX_FMT_FLAG_RGB;
    info->visible_width = convert->visible_width;
    info->visible_height = convert->visible_height;
    info->width = convert->width;
    info->height = convert->height;
    info->bits = convert->bits;
    info->depth = format->comp[0].depth;
    info->has_alpha = format->flags & AV_PIX_FMT_FLAG_ALPHA && !(format->flags & AV_PIX_FMT_FLAG_PAL);
    info->has_mastering = av_frame_get_side_data(frame, AV_FRAME_DATA_MASTERING_DISPLAY_METADATA) ||
                          av_frame_get_side_data(frame, AV_FRAME_DATA_CONTENT_LIGHT_LEVEL);
    info->colour =
        (lt_video_colour){frame->color_primaries, frame->color_trc, rgb ? AVCOL_SPC_RGB : frame->colorspace,
                          rgb || convert->range ? AVCOL_RANGE_JPEG : frame->color_range};
}

lt_status lt_convert_init(lt_convert *convert, const AVFrame *frame, AVRational aspect, const int32_t *turn,
                          const lt_video_request *request, lt_video_info *info, lt_err *err)
{
    *convert = (lt_convert){.format = {AV_PIX_FMT_NONE, AV_PIX_FMT_NONE},
                            .source_width = frame->width,
                            .source_height = frame->height,
                            .matrix = lt_video_matrix(frame->colorspace, frame->height),
                            .range = is_full_range(frame),
                            .chroma_location = frame->chroma_location};
    lt_status status = check_colour(convert, frame, err);
    if (status) return status;
    info->interlaced = frame->interlaced_frame;
    convert->one_field = request->one_field && frame->height >= 4;
    int depth = av_pix_fmt_desc_get(frame->format)->comp[0].depth;
    convert->bits = request->bits ? request->bits : depth > 8 ? 16 : 8;
    read_matrix(convert, turn, info);
    place(convert, aspect, request, info);
    convert->scaled_width = convert->transpose ? convert->upright_height : convert->upright_width;
    convert->scaled_height = convert->transpose ? convert->upright_width : convert->upright_height;
    convert->width = (int)lt_round_up((size_t)convert->visible_width, MULTIPLE);
    convert->height = (int)lt_round_up((size_t)convert->visible_height, MULTIPLE);
    describe(convert, frame, info);
    if (request->gpu) return LT_OK; /* which converts */
    size_t stride =
        lt_round_up((size_t)convert->scaled_width * 3 * (size_t)(convert->bits / 8), STRIDE_ALIGN);
    size_t bytes;
    if (!lt_mul_size(stride, (size_t)convert->scaled_height + 1, &bytes) || stride > INT32_MAX)
        return lt_fail(err, LT_E_UNSUPPORTED, "pictures of %dx%d are too large", convert->scaled_width,
                       convert->scaled_height);
    convert->scaled_stride = (int)stride;
    convert->scaled = aligned_alloc(STRIDE_ALIGN, bytes);
    if (!convert->scaled) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a picture");
    return make_exact(convert, err);
}

void lt_convert_finish(lt_convert *convert)
{
    sws_freeContext(convert->sws[0]);
    sws_freeContext(convert->sws[1]);
    free(convert->scaled);
    lt_resample_destroy(convert->exact);
    free(convert->box);
    free(convert->inner);
    *convert = (lt_convert){0};
}

/* ---- pixels -------------------------------------------------------------------------------------------- */

/* Where chroma samples lie, in 1/256 of a luma pixel; the usual is left, half way down (MPEG-2, H.264). */
static void set_chroma_location(struct SwsContext *sws, const lt_convert *convert, enum AVPixelFormat format)
{
    const AVPixFmtDescriptor *descriptor = av_pix_fmt_desc_get(format);
    int location = convert->chroma_location;
    if (location == AVCHROMA_LOC_UNSPECIFIED) location = AVCHROMA_LOC_LEFT;
    bool centre_x =
        location == AVCHROMA_LOC_CENTER || location == AVCHROMA_LOC_TOP || location == AVCHROMA_LOC_BOTTOM;
    bool top = location == AVCHROMA_LOC_TOPLEFT || location == AVCHROMA_LOC_TOP;
    bool bottom = location == AVCHROMA_LOC_BOTTOMLEFT || location == AVCHROMA_LOC_BOTTOM;
    if (descriptor->log2_chroma_w == 1) av_opt_set_int(sws, "src_h_chr_pos", centre_x ? 128 : 0, 0);
    if (descriptor->log2_chroma_h == 1) av_opt_set_int(sws, "src_v_chr_pos", top ? 0 : bottom ? 256 : 128, 0);
}

/* A scaler for pictures of this format, or for one field of them. */
static lt_status make_sws(lt_convert *convert, bool field, enum AVPixelFormat format, lt_err *err)
{
    sws_freeContext(convert->sws[field]);
    convert->format[field] = AV_PIX_FMT_NONE;
    struct SwsContext *sws = convert->sws[field] = sws_alloc_context();
    if (!sws) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for a scaler");
    av_opt_set_int(sws, "srcw", convert->source_width, 0);
    av_opt_set_int(sws, "srch", field ? convert->source_height / 2 : convert->source_height, 0);
    av_opt_set_int(sws, "src_format", format, 0);
    av_opt_set_int(sws, "dstw", convert->scaled_width, 0);
    av_opt_set_int(sws, "dsth", convert->scaled_height, 0);
    av_opt_set_int(sws, "dst_format", convert->bits == 8 ? AV_PIX_FMT_RGB24 : AV_PIX_FMT_RGB48, 0);
    av_opt_set_int(sws, "sws_flags",
                   SWS_BICUBIC | SWS_ACCURATE_RND | SWS_BITEXACT | SWS_FULL_CHR_H_INT | SWS_FULL_CHR_H_INP,
                   0);
    set_chroma_location(sws, convert, format);
    const int *table = sws_getCoefficients(convert->matrix);
    sws_setColorspaceDetails(sws, table, convert->range, table, 1, 0, 1 << 16, 1 << 16);
    int rc = sws_init_context(sws, NULL, NULL);
    if (rc < 0)
        return lt_fail_av(err, rc, "scaling %dx%d %s to %dx%d RGB", convert->source_width,
                          convert->source_height, av_get_pix_fmt_name(format), convert->scaled_width,
                          convert->scaled_height);
    convert->format[field] = format;
    return LT_OK;
}

/* A row of the upright picture from column `from`, `count` pixels. */
static void copy_row(const lt_convert *convert, int y, int from, int count, uint8_t *out)
{
    size_t pixel = 3 * (size_t)(convert->bits / 8);
    int width = convert->scaled_width, height = convert->scaled_height;
    if (!convert->transpose && !convert->flip_x) {
        int row = convert->flip_y ? height - 1 - y : y;
        memcpy(out, convert->scaled + (size_t)row * (size_t)convert->scaled_stride + (size_t)from * pixel,
               (size_t)count * pixel);
        return;
    }
    for (int i = 0; i < count; i++) {
        int x = from + i, column, row;
        if (convert->transpose) {
            row = convert->flip_x ? height - 1 - x : x;
            column = convert->flip_y ? width - 1 - y : y;
        } else {
            column = width - 1 - x;
            row = convert->flip_y ? height - 1 - y : y;
        }
        memcpy(out + (size_t)i * pixel,
               convert->scaled + (size_t)row * (size_t)convert->scaled_stride + (size_t)column * pixel,
               pixel);
    }
}

/* One row of the result: bars, picture, and the edge pixel repeated up to the full width. */
static void fill_row(const lt_convert *convert, int y, uint8_t *out)
{
    size_t pixel = 3 * (size_t)(convert->bits / 8);
    int inside = y - convert->offset_y;
    int left = LT_MAX(convert->offset_x, 0);
    int count =
        LT_MIN(convert->exact ? convert->inner_width : convert->upright_width, convert->visible_width);
    if (inside < 0 || inside >= (convert->exact ? convert->inner_height : convert->upright_height)) {
        memset(out, 0, (size_t)convert->visible_width * pixel);
    } else {
        memset(out, 0, (size_t)left * pixel);
        if (convert->exact)
            memcpy(out + (size_t)left * pixel, convert->inner + (size_t)inside * (size_t)count * pixel,
                   (size_t)count * pixel);
        else
            copy_row(convert, inside, LT_MAX(-convert->offset_x, 0), count, out + (size_t)left * pixel);
        memset(out + (size_t)(left + count) * pixel, 0,
               (size_t)(convert->visible_width - left - count) * pixel);
    }
    for (int x = convert->visible_width; x < convert->width; x++)
        memcpy(out + (size_t)x * pixel, out + (size_t)(convert->visible_width - 1) * pixel, pixel);
}

lt_status lt_convert_frame(lt_convert *convert, const AVFrame *frame, uint8_t *rgb, lt_err *err)
{
    if (frame->width != convert->source_width || frame->height != convert->source_height)
        return lt_fail(err, LT_E_UNSUPPORTED,
                       "the picture is %dx%d where the video began as %dx%d; a change of size in mid-stream "
                       "is not supported: "
                       "cut the video there with start and frames, or leave the picture out",
                       frame->width, frame->height, convert->source_width, convert->source_height);
    bool field = convert->one_field && frame->interlaced_frame;
    if (frame->format != convert->format[field]) {
        lt_status status = check_colour(convert, frame, err);
        if (!status) status = make_sws(convert, field, frame->format, err);
        if (status) return status;
    }
    uint8_t *planes[4] = {convert->scaled};
    int strides[4] = {convert->scaled_stride};
    const uint8_t *data[4] = {frame->data[0], frame->data[1], frame->data[2], frame->data[3]};
    int linesize[4] = {frame->linesize[0], frame->linesize[1], frame->linesize[2], frame->linesize[3]};
    int height = field ? frame->height / 2 : frame->height;
    for (int i = 0; i < 4 && field; i++) {
        if (data[i] && !frame->top_field_first) data[i] += linesize[i];
        linesize[i] *= 2;
    }
    int rc = sws_scale(convert->sws[field], data, linesize, 0, height, planes, strides);
    if (rc < 0) return lt_fail_av(err, rc, "conversion to RGB");
    if (convert->exact) {
        size_t pixel = 3 * (size_t)(convert->bits / 8), stride = pixel * (size_t)convert->box_width;
        for (int y = 0; y < convert->box_height; y++)
            copy_row(convert, convert->box_y + y, convert->box_x, convert->box_width,
                     convert->box + (size_t)y * stride);
        lt_resample_run(convert->exact, convert->box, stride, convert->inner,
                        pixel * (size_t)convert->inner_width);
    }
    size_t row_bytes = (size_t)convert->width * 3 * (size_t)(convert->bits / 8);
    for (int y = 0; y < convert->visible_height; y++) fill_row(convert, y, rgb + (size_t)y * row_bytes);
    for (int y = convert->visible_height; y < convert->height; y++)
        memcpy(rgb + (size_t)y * row_bytes, rgb + (size_t)(convert->visible_height - 1) * row_bytes,
               row_bytes);
    return LT_OK;
}
