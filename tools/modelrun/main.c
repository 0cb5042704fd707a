/* modelrun - run one network on tensors from a file, in the layouts and scale of the reference it is compared with. */
#include "tools/modelrun/part.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const part *const parts[] = {&part_encoder,      &part_decoder,        &part_decode_video,
                                    &part_text_encoder, &part_text_encoder_2, &part_transformer,
                                    &part_unet,         &part_pipeline};

static const char usage[] =
    "usage: modelrun MODEL --in X.safetensors --out Y.safetensors [options]\n"
    "\n"
    "Runs a network on tensors from a file and writes the result, as the reference's own forward takes and "
    "gives "
    "them.\n"
    "MODEL is a diffusers or transformers folder, or one .safetensors file.\n"
    "\n"
    "  --part PART          what to run (below); by default what the tensors in the file are the input of\n"
    "  --device DEVICE      cpu (default) | ref (float64, slow)\n"
    "  --dtype DTYPE        f32 (default) | bf16: of activations\n"
    "  --numerics WHOSE     auto (default: lite-sora for files with its names) | diffusers | lite-sora\n"
    "  --tile TxHxW         decode_video: tile in latent units, default 32x64x64\n"
    "  --stride TxHxW       decode_video: default 16x32x32\n"
    "  --clip-skip K        text_encoder: give the state after the K-th layer from the end, too\n"
    "  --threads N          default: all cores\n"
    "\n"
    "Parts, their inputs and results:\n";

static const char usage_end[] = "Exit status: 0 done, 1 failed, 2 used wrongly.\n";

/* ---- command line ------------------------------------------------------------------------------------------------------ */

/* Index of text among the choices ("a|b|c"), or -1. */
static int choice(const char *text, const char *choices)
{
    size_t n = strlen(text);
    for (int i = 0; *choices; i++) {
        const char *end = strchr(choices, '|');
        size_t length = end ? (size_t)(end - choices) : strlen(choices);
        if (length == n && strncmp(text, choices, n) == 0) return i;
        choices += length + (end ? 1 : 0);
    }
    return -1;
}

static bool read_box(const char *text, int box[3])
{
    char rest;
    return sscanf(text, "%dx%dx%d%c", &box[0], &box[1], &box[2], &rest) == 3 && box[0] > 0 && box[1] > 0 &&
           box[2] > 0;
}

static bool read_number(const char *text, int low, int high, int *number)
{
    char rest;
    return sscanf(text, "%d%c", number, &rest) == 1 && *number >= low && *number <= high;
}

static const part *find_part(const char *name)
{
    for (size_t i = 0; i < LT_COUNT(parts); i++)
        if (strcmp(parts[i]->name, name) == 0) return parts[i];
    return NULL;
}

static bool read_option(arguments *a, const part **part, int option, const char *value)
{
    int i;
    switch (option) {
    case 'i': a->in = value; return true;
    case 'o': a->out = value; return true;
    case 'd': a->device = value; return true;
    case 'p': return (*part = find_part(value)) != NULL;
    case 't':
        if ((i = choice(value, "f32|bf16")) >= 0) a->dtype = i ? LT_BF16 : LT_F32;
        return i >= 0;
    case 'n':
        if ((i = choice(value, "auto|diffusers|lite-sora")) >= 0)
            a->numerics = (lt_numerics)(LT_NUMERICS_AUTO + i);
        return i >= 0;
    case 'T': return read_box(value, a->tile);
    case 'S': return read_box(value, a->stride);
    case 'c': return read_number(value, 1, 512, &a->clip_skip);
    case 'j': return read_number(value, 0, 4096, &a->threads);
    default: return false;
    }
}

static void print_usage(void)
{
    fputs(usage, stdout);
    for (size_t i = 0; i < LT_COUNT(parts); i++) fputs(parts[i]->help, stdout);
    fputc('\n', stdout);
    fputs(usage_end, stdout);
}

/* Exit status to leave with, or -1 to go on. */
static int read_arguments(arguments *a, const part **part, int argc, char **argv)
{
    static const struct option options[] = {
        {"in", required_argument, NULL, 'i'},
        {"out", required_argument, NULL, 'o'},
        {"part", required_argument, NULL, 'p'},
        {"device", required_argument, NULL, 'd'},
        {"dtype", required_argument, NULL, 't'},
        {"numerics", required_argument, NULL, 'n'},
        {"tile", required_argument, NULL, 'T'},
        {"stride", required_argument, NULL, 'S'},
        {"clip-skip", required_argument, NULL, 'c'},
        {"threads", required_argument, NULL, 'j'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int option, index = 0;
    while ((option = getopt_long(argc, argv, "h", options, &index)) != -1) {
        if (option == 'h') {
            print_usage();
            return 0;
        }
        if (option == '?') return 2;
        if (!read_option(a, part, option, optarg)) {
            fprintf(stderr, "modelrun: --%s does not take '%s' (modelrun --help)\n", options[index].name,
                    optarg);
            return 2;
        }
    }
    if (optind != argc - 1 || !a->in || !a->out) {
        fprintf(stderr, "modelrun: one MODEL, --in and --out are needed (modelrun --help)\n");
        return 2;
    }
    a->model = argv[optind];
    return -1;
}

/* ---- running ------------------------------------------------------------------------------------------------------------- */

lt_status part_context(lt_context **context, const arguments *a, size_t bytes, lt_err *err)
{
    lt_dtype dtype = strcmp(a->device, "ref") == 0 ? LT_F64 : a->dtype;
    return lt_context_create(context, a->device, dtype, bytes, a->threads, err);
}

lt_status part_new(lt_tensor *t, int rank, const int64_t *shape, lt_err *err)
{
    int64_t n;
    *t = (lt_tensor){.dtype = LT_F32, .rank = rank};
    for (int i = 0; i < rank; i++) t->shape[i] = shape[i];
    if (!lt_product_i64(shape, rank, &n) || !(t->data = calloc((size_t)LT_MAX(n, 1), sizeof(float))))
        return lt_fail(err, LT_E_NO_MEMORY, "out of memory for the result");
    return LT_OK;
}

/* The one part of which the file holds the input. */
static lt_status choose_part(const part **part, const char *path, const lt_safetensors *in, lt_err *err)
{
    char list[256] = "";
    int n_found = 0;
    for (size_t i = 0; i < LT_COUNT(parts); i++) {
        lt_tensor t;
        if (!parts[i]->input) continue;
        size_t n = strlen(list);
        snprintf(list + n, sizeof(list) - n, "%s`%s`", n ? ", " : "", parts[i]->input);
        if (lt_safetensors_get(in, parts[i]->input, &t, NULL) != LT_OK) continue;
        *part = parts[i];
        n_found++;
    }
    return n_found == 1 ? LT_OK
                        : lt_fail(err, LT_E_INVALID, "%s holds %s of %s: say which --part to run", path,
                                  n_found ? "more than one" : "none", list);
}

static lt_status execute(const arguments *a, const part *part, results *results, lt_err *err)
{
    lt_safetensors *in = NULL;
    lt_status status;
    LT_TRY(lt_safetensors_open(&in, a->in, err));
    if (!part) LT_TRY(choose_part(&part, a->in, in, err));
    LT_TRY(part->run(a, in, results, err));
    LT_TRY(lt_safetensors_write(a->out, results->tensors, results->n, NULL, 0, err));
fail:
    lt_safetensors_close(in);
    return status;
}

int main(int argc, char **argv)
{
    arguments a = {.device = "cpu", .dtype = LT_F32, .tile = {32, 64, 64}, .stride = {16, 32, 32}};
    const part *part = NULL;
    int code = read_arguments(&a, &part, argc, argv);
    if (code >= 0) return code;
    lt_mapping_watch("modelrun");
    lt_err err = {0};
    results results = {0};
    lt_status status = execute(&a, part, &results, &err);
    if (status != LT_OK) fprintf(stderr, "modelrun: %s\n", err.text);
    for (int i = 0; i < results.n; i++) free(results.tensors[i].tensor.data);
    return status == LT_OK ? 0 : 1;
}
