/* loader.c - lite-sora's choice of frames and of a box. */
#include "stages/video/loader.h"

#include <string.h>
#include <xxhash.h>

/* ---- draws --------------------------------------------------------------------------------------------- */

static uint64_t bits_of(uint64_t seed, const char *word)
{
    return XXH3_64bits_withSeed(word, strlen(word), seed);
}

static double uniform(uint64_t seed, const char *word)
{
    return (double)(bits_of(seed, word) >> 11) * 0x1p-53;
}

lt_loader_draws lt_loader_draw(uint64_t seed)
{
    return (lt_loader_draws){.coin = uniform(seed, "whether"),
                             .interval = uniform(seed, "interval"),
                             .start = uniform(seed, "start"),
                             .place = (float)(bits_of(seed, "crop") >> 40) * 0x1p-24f};
}

/* ---- frames -------------------------------------------------------------------------------------------- */

static int64_t one_of(double draw, int64_t n)
{
    return LT_MIN((int64_t)(draw * (double)n), n - 1);
}

void lt_loader_frames(const lt_loader_draws *draws, bool random_interval, bool random_start, int64_t count,
                      int64_t frames, int64_t *interval, int64_t *start)
{
    *start = 0;
    if (frames < 1 || count < frames) return;
    if (random_interval) *interval = draws->coin < 0.5 ? 1 + one_of(draws->interval, count / frames) : 1;
    int64_t starts = count - *interval * (frames - 1);
    if (random_start && starts > 0) *start = one_of(draws->start, starts);
}

/* ---- the box ------------------------------------------------------------------------------------------- */

/* Python multiplies the middle in f64; a place of torch's is an f32, and so is what it is multiplied with. */
static int corner(double room, const float *place)
{
    if (!place) return (int)(0.5 * room);
    float f32 = (float)room;
    return (int)(*place * f32);
}

lt_loader_box lt_loader_cut(int width, int height, double aspect, lt_size size, const float *place)
{
    lt_loader_box box = {0, 0, width, height};
    /* Quotients first: of other orders of these, some round to a pixel less or more. */
    if ((double)size.width / size.height < width * aspect / height) {
        double wanted = (double)height / size.height * size.width / aspect;
        box.x = corner(width - wanted, place);
        box.width = LT_MAX((int)wanted, 1);
    } else {
        double wanted = width * aspect / size.width * size.height;
        box.y = corner(height - wanted, place);
        box.height = LT_MAX((int)wanted, 1);
    }
    return box;
}
