/* encoder_memory.c - what an encoder takes at its peak. */
#include "stages/video/encoder.h"

#include <string.h>

size_t lt_encoder_peak_bytes(const lt_encoder *encoder, int queued, int64_t n_frames)
{
    int one = av_image_get_buffer_size(encoder->format, encoder->width, encoder->height, 64);
    size_t picture = one > 0 ? (size_t)one : 0;
    return picture * (size_t)(queued + 2) + picture * 60 * (n_frames > 0);
}
