/* video_clips.c - making clips with the ffmpeg program. */
#include "tests/unit/video_clips.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static char folder[64];

bool lt_clips_begin(void)
{
    if (system("ffmpeg -version >/dev/null 2>&1")) {
        fprintf(stderr, "no ffmpeg program: every test of this file is skipped\n");
        return false;
    }
    snprintf(folder, sizeof folder, "/tmp/lt_video_XXXXXX");
    return mkdtemp(folder) != NULL;
}

void lt_clips_end(void)
{
    char command[128];
    snprintf(command, sizeof command, "rm -rf '%s'", folder);
    if (system(command)) fprintf(stderr, "%s was not removed\n", folder);
}

const char *lt_clips_path(const char *format, ...)
{
    static char paths[16][256];
    static int next;
    char *path = paths[next++ % 16];
    int n = snprintf(path, sizeof paths[0], "%s/", folder);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(path + n, sizeof paths[0] - (size_t)n, format, arguments);
    va_end(arguments);
    return path;
}

const char *lt_clips_folder(const char *name)
{
    const char *path = lt_clips_path("%s", name);
    mkdir(path, 0777);
    return path;
}

const char *lt_clips_option(const char *name, const char *file)
{
    static char texts[16][300];
    static int next;
    char *text = texts[next++ % 16];
    snprintf(text, sizeof texts[0], "%s=%s", name, lt_clips_path("%s", file));
    return text;
}

void lt_clips_ffmpeg(const char *format, ...)
{
    char command[2048];
    int n = snprintf(command, sizeof command, "cd %s && ffmpeg -nostdin -v error -y ", folder);
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(command + n, sizeof command - (size_t)n, format, arguments);
    va_end(arguments);
    if (system(command)) {
        fprintf(stderr, "failed: %s\n", command);
        abort();
    }
}

void lt_clips_make_av(void)
{
    lt_clips_ffmpeg(
        "-f lavfi -i testsrc2=size=160x96:rate=24:duration=4 -f lavfi -i sine=duration=4 -c:v libx264 "
        "-g 30 -bf 2 -pix_fmt yuv420p -c:a aac -metadata title=hello av.mp4");
}

/* ---- H.264 by fields ------------------------------------------------------------------------------------- */

typedef struct bits {
    uint8_t data[2048];
    int n;
} bits;

static void put(bits *b, int n, uint32_t value)
{
    for (int i = n - 1; i >= 0; i--, b->n++)
        b->data[b->n / 8] |= (uint8_t)((value >> i & 1) << (7 - b->n % 8));
}

/* Each of them as an unsigned Exp-Golomb code. */
static void put_codes(bits *b, const char *values)
{
    for (; *values; values++) {
        uint32_t value = (uint32_t)(*values - '0') + 1;
        int length = 32 - __builtin_clz(value);
        put(b, 2 * length - 1, value);
    }
}

static void end_unit(FILE *file, int kind, bits *b)
{
    put(b, 1, 1);
    fwrite("\0\0\0\1", 1, 4, file);
    fputc(kind, file);
    for (int i = 0, zeros = 0; i < (b->n + 7) / 8; i++) {
        if (zeros >= 2 && b->data[i] <= 3) {
            fputc(3, file);
            zeros = 0;
        }
        fputc(b->data[i], file);
        zeros = b->data[i] ? 0 : zeros + 1;
    }
    *b = (bits){{0}, 0};
}

static void put_headers(FILE *file, bits *b)
{
    put(b, 24, 77 << 16 | 30); /* main profile, level 3 */
    put_codes(b, "00041");
    put(b, 1, 0);
    put_codes(b, "10");
    put(b, 5, 5); /* fields, no adaptive macroblocks, 8x8 inference, no cropping; usage: */
    put(b, 4, 0);
    put(b, 1, 1);
    put(b, 32, 1);
    put(b, 32, 50);
    put(b, 5, 1 << 4);
    end_unit(file, 0x67, b);
    put_codes(b, "00");
    put(b, 2, 0);
    put_codes(b, "000");
    put(b, 3, 0);
    put_codes(b, "000");
    put(b, 3, 0);
    end_unit(file, 0x68, b);
}

/* Two macroblocks of plain samples, grey by frame and parity. */
static void put_field(FILE *file, bits *b, int frame, int bottom)
{
    bool first = !frame && !bottom;
    put_codes(b, "070");
    put(b, 4, (uint32_t)frame % 16);
    put(b, 2, 2 | (uint32_t)bottom);
    if (first) put_codes(b, "0");
    put(b, 8, (uint32_t)(2 * frame + bottom) % 256);
    put(b, first ? 2 : 1, 0);
    put_codes(b, "0");
    for (int m = 0; m < 2; m++) {
        put(b, 9, 26); /* I_PCM: 25 as a code */
        b->n = (b->n + 7) / 8 * 8;
        for (int i = 0; i < 384; i++)
            put(b, 8, i < 256 ? 16 + ((uint32_t)frame * 8 + (bottom ? 100 : 0)) % 200 : 128);
    }
    end_unit(file, first ? 0x65 : 0x61, b);
}

void lt_clips_fields(const char *name, int n_frames)
{
    FILE *file = fopen(lt_clips_path("%s", name), "wb");
    bits b = {{0}, 0};
    for (int frame = 0; frame < n_frames; frame++)
        for (int bottom = 0; bottom < 2; bottom++) {
            fwrite("\0\0\0\1\x09\x10", 1, 6, file);
            if (!bottom) put_headers(file, &b);
            put_field(file, &b, frame, bottom);
        }
    fclose(file);
}

void *lt_clips_load(const char *path, size_t *bytes)
{
    FILE *file = fopen(path, "rb");
    if (!file) return NULL;
    fseek(file, 0, SEEK_END);
    long size = ftell(file);
    rewind(file);
    void *data = malloc((size_t)size + 1);
    *bytes = fread(data, 1, (size_t)size, file);
    fclose(file);
    return data;
}

bool lt_clips_same(const char *a, const char *b)
{
    size_t n = 0, m = 0;
    void *x = lt_clips_load(a, &n), *y = lt_clips_load(b, &m);
    bool same = x && y && n == m && !memcmp(x, y, n);
    free(x);
    free(y);
    return same;
}

int64_t lt_clips_inode(const char *path)
{
    struct stat info;
    return stat(path, &info) ? -1 : (int64_t)info.st_ino;
}
