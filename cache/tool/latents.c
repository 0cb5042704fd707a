/* latents.c - the command-line tool of the latent cache. */
#include "cache/tool/tool.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static const char usage[] =
    "usage: latents ls CACHE [--json]\n"
    "       latents stat CACHE [--json]\n"
    "       latents verify CACHE [--json]\n"
    "       latents export CACHE CLIP OUT.safetensors [--json]\n"
    "       latents side CACHE CLIP OUT [--json]\n"
    "       latents import CACHE PATH [--tensor NAME] [--fps N] [--scaling-factor N] [--json]\n"
    "       latents copy FROM TO [--json]\n"
    "       latents rm CACHE CLIP [--json]\n"
    "       latents gc CACHE [--newest] [--json]\n"
    "\n"
    "Looks into a cache of latents, and changes it. CACHE is its folder; it may also be given as --cache "
    "CACHE.\n"
    "\n"
    "  ls       a line a clip: name/digest, state, chunks, frames, latents' size, dtype, bytes, and\n"
    "           when it was completed (UTC)\n"
    "  stat     totals and the environment, at once however large the cache\n"
    "  verify   read everything; names what is damaged or missing\n"
    "  export   a complete clip as one safetensors file: latent [T,C,h,w], unscaled\n"
    "  side     a clip's other streams (sound, subtitles), as the file they came in\n"
    "  import   a safetensors file, or all of a folder: latent [T,C,h,w] or [C,h,w], unscaled, a clip each;\n"
    "           An exported file keeps its digest, unless its numbers are others than those that were "
    "exported.\n"
    "           Of files that do not say it: --tensor, what holds the latents (else `latent`); --fps, frames "
    "a\n"
    "           second (else 24); --scaling-factor, by which latents are multiplied for a network that "
    "denoises\n"
    "           (else 0.18215, Stable Diffusion's and SVD's)\n"
    "  copy     all complete clips of FROM that TO does not have; run again, it goes on\n"
    "  rm       takes a clip out, or, where verify names it, a text's embeddings: text/TEXT/MODEL\n"
    "  gc       takes out what is of no use, and says what: unfinished and failed clips, values of no clip, "
    "and\n"
    "           clips that are there, else made in the same way, by a later numeric epoch; not while a run\n"
    "           writes to the cache. --newest: also complete clips of which a newer one of the same name is "
    "there,\n"
    "           however the two were made, as `ls` shows them: what a file was before it changed, another "
    "size\n"
    "\n"
    "CLIP is a name as ls prints it, with or without /DIGEST (or the digest's first letters).\n"
    "Behind -- no argument is an option: latents rm CACHE -- -NAME.\n"
    "Where a name is there more than once, export and side take the complete one; rm asks which.\n"
    "--json prints JSON, an object a line. Exit codes: 0 fine, 1 failed or damaged, 2 usage.\n";

/* The sentence, and how the command is called: its line of the usage, or of NULL all commands' names. */
static int wrong_usage(const char *command, const char *what, const char *which)
{
    char line[64];
    snprintf(line, sizeof line, "latents %s ", command ? command : "");
    const char *at = command ? strstr(usage, line) : NULL;
    fprintf(stderr, "latents: %s%s%s\n", what, *which ? ": " : "", which);
    if (at) fprintf(stderr, "usage: %.*s\n", (int)strcspn(at, "\n"), at);
    fputs(at ? "`latents --help` says more\n"
             : "usage: latents ls | stat | verify | export | side | import | copy | rm | gc CACHE ...\n"
               "`latents --help` says more\n",
          stderr);
    return USAGE;
}

int lt_tool_failed(const lt_err *err)
{
    fprintf(stderr, "latents: %s\n", err->text);
    return err->status == LT_E_INVALID ? USAGE : FAILED;
}

int lt_tool_damaged(const char *folder, const lt_cache_summary *clip)
{
    fprintf(stderr, "latents: the value of %s is damaged; `latents rm %s %s` takes it out\n", clip->key,
            folder, clip->key + strlen("state/"));
    return FAILED;
}

int lt_tool_json(json_t *object, int code)
{
    char *text = json_dumps(object, JSON_COMPACT);
    json_decref(object);
    if (!text || puts(text) < 0) code = FAILED;
    free(text);
    return code;
}

const char *lt_tool_bytes(int64_t bytes, char text[32])
{
    static const char *const units[] = {"B", "KiB", "MiB", "GiB", "TiB", "PiB"};
    double value = (double)bytes;
    int unit = 0;
    while (value >= 1024 && unit < 5) value /= 1024, unit++;
    snprintf(text, 32, unit ? "%.1f %s" : "%.0f %s", value, units[unit]);
    return text;
}

/* ---- ls ------------------------------------------------------------------------------------------------ */

static int print_clip(const lt_cache_summary *s, bool json)
{
    if (json)
        return lt_tool_json(json_pack("{sssssssIsIsIsIsisisisisssbsI}", "clip", s->clip, "digest", s->digest,
                                      "state", lt_cache_state_name(s->state), "chunks", (json_int_t)s->chunks,
                                      "n_chunks", (json_int_t)s->n_chunks, "frames", (json_int_t)s->n_frames,
                                      "bytes", (json_int_t)s->bytes, "chunk", s->chunk, "channels",
                                      s->channels, "height", s->height, "width", s->width, "dtype",
                                      lt_dtype_name(s->dtype), "logvar", s->logvar, "completed_ms",
                                      (json_int_t)s->completed_ms),
                            FINE);
    char bytes[32], since[32] = "";
    if (s->completed_ms) lt_cache_time_text(s->completed_ms, since);
    printf("%s/%s  %-8s  %lld/%lld chunks  %lld frames  %dx%dx%d %s%s  %s%s%s\n", s->clip, s->digest,
           lt_cache_state_name(s->state), (long long)s->chunks, (long long)s->n_chunks,
           (long long)s->n_frames, s->channels, s->height, s->width, lt_dtype_name(s->dtype),
           s->logvar ? "+logvar" : "", lt_tool_bytes(s->bytes, bytes), *since ? "  " : "", since);
    return FINE;
}

static int list(lt_cache *cache, const arguments *a)
{
    lt_err err;
    lt_status status;
    lt_cache_summary s = {0};
    int code = FINE;
    while ((status = lt_cache_next_clip(cache, &s, &err)) == LT_OK) {
        int its = s.damaged ? lt_tool_damaged(a->folder, &s) : print_clip(&s, a->json);
        code = LT_MAX(code, its);
    }
    return status == LT_END ? code : lt_tool_failed(&err);
}

/* ---- stat ---------------------------------------------------------------------------------------------- */

static int stat_json(const char *folder, const lt_cache_stat *s)
{
    json_t *object = json_pack(
        "{sssIsIsIsIsIsIsIsIsIsIsIsisisisi}", "cache", folder, "clips", (json_int_t)s->clips, "complete",
        (json_int_t)s->complete, "failed", (json_int_t)s->failed, "chunks", (json_int_t)s->chunks, "frames",
        (json_int_t)s->frames, "latent_bytes", (json_int_t)s->latent_bytes, "side_bytes",
        (json_int_t)s->side_bytes, "entries", (json_int_t)s->entries, "file_bytes", (json_int_t)s->file_bytes,
        "map_bytes", (json_int_t)s->map_bytes, "last_transaction", (json_int_t)s->last_transaction, "readers",
        s->readers, "max_readers", s->max_readers, "page_bytes", s->page_bytes, "depth", s->depth);
    return lt_tool_json(object, FINE);
}

static int print_stat(lt_cache *cache, const arguments *a)
{
    lt_err err;
    lt_cache_stat s;
    char latents[32], side[32], file[32], map[32];
    if (lt_cache_get_stat(cache, &s, &err)) return lt_tool_failed(&err);
    if (a->json) return stat_json(a->folder, &s);
    printf("clips    %lld: %lld complete, %lld failed, %lld partial\n", (long long)s.clips,
           (long long)s.complete, (long long)s.failed, (long long)(s.clips - s.complete - s.failed));
    printf("chunks   %lld, of %lld frames\n", (long long)s.chunks, (long long)s.frames);
    printf("latents  %s\n", lt_tool_bytes(s.latent_bytes, latents));
    printf("side     %s\n", lt_tool_bytes(s.side_bytes, side));
    printf("file     %s of at most %s\n", lt_tool_bytes(s.file_bytes, file), lt_tool_bytes(s.map_bytes, map));
    printf("lmdb     %lld entries, depth %d, pages of %d bytes, transaction %lld\n", (long long)s.entries,
           s.depth, s.page_bytes, (long long)s.last_transaction);
    printf("readers  %d of %d\n", s.readers, s.max_readers);
    return FINE;
}

/* ---- verify -------------------------------------------------------------------------------------------- */

static void collect(void *user, const char *what)
{
    json_array_append_new(user, json_string(what));
}

static void print_fault(void *user, const char *what)
{
    (void)user;
    printf("%s\n", what);
}

static int verify(lt_cache *cache, const arguments *a)
{
    lt_err err;
    int64_t n = 0;
    json_t *faults = json_array();
    lt_cache_stat s;
    lt_status status = lt_cache_verify(cache, a->json ? collect : print_fault, faults, &n, &err);
    if (status == LT_OK) status = lt_cache_get_stat(cache, &s, &err);
    int code = status ? lt_tool_failed(&err) : n ? FAILED : FINE;
    if (status) {
        json_decref(faults);
    } else if (a->json) {
        lt_tool_json(json_pack("{sIsIsIso}", "n_faults", (json_int_t)n, "clips", (json_int_t)s.clips,
                               "chunks", (json_int_t)s.chunks, "faults", faults),
                     code);
    } else {
        json_decref(faults);
        printf("%lld clips, %lld chunks: ", (long long)s.clips, (long long)s.chunks);
        if (n)
            printf("%lld faults; `latents rm %s CLIP/DIGEST` takes a damaged clip out, and the run that made "
                   "it makes "
                   "it again\n",
                   (long long)n, a->folder);
        else
            printf("no fault\n");
    }
    return code;
}

/* ---- export -------------------------------------------------------------------------------------------- */

/* Does the clip's name/digest go with what the user wrote: NAME, NAME/DIGEST, NAME/BEGINNING? */
static bool matches(const lt_cache_summary *s, const char *wanted)
{
    size_t n = strlen(s->clip);
    if (strncmp(wanted, s->clip, n) != 0) return false;
    return wanted[n] == 0 ||
           (wanted[n] == '/' && strncmp(s->digest, wanted + n + 1, strlen(wanted + n + 1)) == 0);
}

lt_status lt_tool_find_clip(lt_cache *cache, const char *wanted, bool complete, lt_cache_summary *found,
                            lt_err *err)
{
    lt_status status;
    lt_cache_summary s = {0};
    char several[512] = "";
    int n = 0, n_complete = 0;
    while ((status = lt_cache_next_clip(cache, &s, err)) == LT_OK) {
        if (!*s.clip || !matches(&s, wanted)) continue;
        if (!strcmp(wanted, s.key + strlen("state/"))) {
            *found = s;
            return LT_OK;
        }
        bool is_complete = s.state == LT_CACHE_COMPLETE;
        if (n == 0 || (is_complete && n_complete == 0)) *found = s;
        n++;
        n_complete += is_complete;
        size_t used = strlen(several);
        snprintf(several + used, sizeof several - used, " %s/%s (%s)", s.clip, s.digest,
                 s.damaged ? "damaged" : lt_cache_state_name(s.state));
    }
    if (status != LT_END) return status;
    if (n == 0)
        return lt_fail(err, LT_E_NOT_FOUND, "there is no clip %s in the cache (latents ls names them)",
                       wanted);
    if (n > 1 && (!complete || n_complete != 1))
        return lt_fail(err, LT_E_INVALID, "%s can be any of:%s", wanted, several);
    return LT_OK;
}

static int export_clip(lt_cache *cache, const arguments *a)
{
    lt_err err;
    lt_cache_summary s;
    if (lt_tool_find_clip(cache, a->clip, true, &s, &err)) return lt_tool_failed(&err);
    bool side = strcmp(a->command, "side") == 0;
    lt_status status = side ? lt_cache_side(cache, s.clip, s.digest, a->out, &err)
                            : lt_cache_export(cache, s.clip, s.digest, a->out, &err);
    if (status) return lt_tool_failed(&err);
    if (a->json)
        return lt_tool_json(json_pack("{sssssssI}", "clip", s.clip, "digest", s.digest, "out", a->out,
                                      "frames", (json_int_t)s.n_frames),
                            FINE);
    printf("%s/%s -> %s\n", s.clip, s.digest, a->out);
    return FINE;
}

/* ---- the command line ---------------------------------------------------------------------------------- */

static const struct {
    const char *name;
    int (*run)(lt_cache *cache, const arguments *a);
    int n_more;                            /* positional arguments after the cache */
    enum { READS, CHANGES, MAKES } access; /* MAKES: a cache that is not there */
} commands[] = {{"ls", list, 0, READS},           {"stat", print_stat, 0, READS},
                {"verify", verify, 0, READS},     {"export", export_clip, 2, READS},
                {"side", export_clip, 2, READS},  {"import", lt_tool_import, 1, MAKES},
                {"copy", lt_tool_copy, 1, READS}, {"rm", lt_tool_remove, 1, CHANGES},
                {"gc", lt_tool_gc, 0, CHANGES}};

static int find_command(const char *name)
{
    for (int i = 0; i < (int)LT_COUNT(commands); i++)
        if (strcmp(commands[i].name, name) == 0) return i;
    return -1;
}

/* Of the first two arguments the one that is a command, or NULL. */
static const char *named_command(int argc, char **argv)
{
    for (int i = 1; i < argc && i < 3; i++)
        if (find_command(argv[i]) >= 0) return argv[i];
    return NULL;
}

/* Arguments that are no option, in their order. */
typedef struct positional {
    const char *text[4];
    int n;
} positional;

/* NaN: it is none. */
static double number(const char *text)
{
    char *end;
    double value = strtod(text, &end);
    return end == text || *end ? NAN : value;
}

/* Take the argument at i, and the value behind it where it has one: the index of the next, or 0: it is no option. */
static int take_option(int argc, char **argv, int i, arguments *a)
{
    const char *option = argv[i], *value = i + 1 < argc ? argv[i + 1] : NULL;
    if (strcmp(option, "--json") == 0) return a->json = true, i + 1;
    if (strcmp(option, "--newest") == 0) return a->newest = true, i + 1;
    if (!value) return 0;
    if (strcmp(option, "--cache") == 0) return a->folder = value, i + 2;
    if (strcmp(option, "--tensor") == 0) return a->unsaid.tensor = value, i + 2;
    if (strcmp(option, "--fps") == 0) return a->unsaid.fps = number(value), i + 2;
    if (strcmp(option, "--scaling-factor") == 0) return a->unsaid.scaling_factor = number(value), i + 2;
    return 0;
}

/* Sort options from the others; behind -- there is none. -1, or an exit code. */
static int sort(int argc, char **argv, arguments *a, positional *p)
{
    bool has_options = true;
    for (int i = 1, next; i < argc; i = next) {
        bool is_option = has_options && argv[i][0] == '-' && argv[i][1];
        next = i + 1;
        if (is_option && strcmp(argv[i], "--") == 0)
            has_options = false;
        else if (is_option && (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0))
            return fputs(usage, stdout) < 0 ? FAILED : FINE;
        else if (is_option && strcmp(argv[i], "--version") == 0)
            return puts("latents " LT_VERSION) < 0 ? FAILED : FINE;
        else if (is_option && !(next = take_option(argc, argv, i, a)))
            return wrong_usage(named_command(argc, argv), "unknown option, or one without its value",
                               argv[i]);
        else if (!is_option && p->n == (int)LT_COUNT(p->text))
            return wrong_usage(named_command(argc, argv), "too many arguments", "");
        else if (!is_option)
            p->text[p->n++] = argv[i];
    }
    return -1;
}

/* "CACHE COMMAND" is taken as "COMMAND CACHE". -1, or an exit code. */
static int parse(int argc, char **argv, arguments *a, int *command)
{
    positional p = {0};
    int code = sort(argc, argv, a, &p), at = 1;
    if (code >= 0) return code;
    if (p.n == 0) return wrong_usage(NULL, "no command", "");
    *command = find_command(p.text[0]);
    if (*command < 0 && p.n > 1 && !a->folder && (*command = find_command(p.text[1])) >= 0) {
        a->folder = p.text[0];
        at = 2;
    }
    if (*command < 0) return wrong_usage(NULL, "unknown command", p.text[0]);
    if (!a->folder) {
        if (p.n < 2) return wrong_usage(p.text[0], "no cache was named", "");
        a->folder = p.text[at++];
    }
    a->command = commands[*command].name;
    if (p.n - at != commands[*command].n_more)
        return wrong_usage(a->command, "wrong number of arguments", "");
    if (commands[*command].n_more >= 1) a->clip = p.text[at];
    if (commands[*command].n_more == 2) a->out = p.text[at + 1];
    if (a->newest && strcmp(a->command, "gc")) return wrong_usage(a->command, "--newest is for gc", "");
    return -1;
}

/* Who opens a cache to write makes what is not there: before that, one that is to be changed is opened to read. */
static lt_status open_cache(lt_cache **cache, int command, const char *folder, lt_err *err)
{
    if (commands[command].access == CHANGES) {
        lt_status status = lt_cache_open(cache, folder, false, 0, err);
        if (status) return status;
        lt_cache_close(*cache);
    }
    return lt_cache_open(cache, folder, commands[command].access != READS, 0, err);
}

int main(int argc, char **argv)
{
    arguments a = {.unsaid = {"", 24, LT_CACHE_SCALING_FACTOR}};
    int command = 0, code = parse(argc, argv, &a, &command);
    if (code >= 0) return code;
    lt_cache *cache;
    lt_err err;
    if (open_cache(&cache, command, a.folder, &err)) return lt_tool_failed(&err);
    code = commands[command].run(cache, &a);
    lt_cache_close(cache);
    if (fflush(stdout) != 0) code = FAILED;
    return code;
}
