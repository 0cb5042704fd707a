/* loader.h - what lite-sora's data loader takes of a clip: which frames, and which box of each (load_video and crop_and_resize of
 * litesora/data/utils.py, its arithmetic as it stands there). Pure functions; the draws come from a seed instead of torch. */
#ifndef LT_VIDEO_LOADER_H
#define LT_VIDEO_LOADER_H

#include "core/core.h"

/* One clip's draws, each in [0, 1); of a range of n whole numbers a draw d takes floor(d n). */
typedef struct lt_loader_draws {
    double coin;     /* below 0.5: the interval is drawn too, else it is 1 */
    double interval; /* of 1 .. count / frames */
    double start;    /* of 0 .. count - interval (frames - 1) - 1 */
    float place;     /* of the box along the side that is cut: a multiple of 2^-24, as torch.rand gives */
} lt_loader_draws;

/* Uniform, independent, the same for a seed everywhere. */
lt_loader_draws lt_loader_draw(uint64_t seed);

/* Frames start + k interval, k = 0 .. frames - 1, of `count`: *interval is drawn where random_interval, then *start where
 * random_start; else they stay what they are and 0. Fewer than `frames`: nothing is drawn. */
void lt_loader_frames(const lt_loader_draws *draws, bool random_interval, bool random_start, int64_t count,
                      int64_t frames, int64_t *interval, int64_t *start);

typedef struct lt_loader_box {
    int x, y, width, height; /* at least 1x1, inside the picture */
} lt_loader_box;

/* The box of a picture that is scaled to `size`: its full height or its full width, whichever leaves it inside, cut to the shape of
 * `size`. aspect: of the picture's pixels (lite-sora knows none but 1). place: NULL: in the middle. */
lt_loader_box lt_loader_cut(int width, int height, double aspect, lt_size size, const float *place);

#endif
