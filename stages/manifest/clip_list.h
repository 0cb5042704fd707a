/* clip_list.h - a manifest: the list of a dataset's clips, in a file that people write.
 *
 *     JSON         [{"path": "videos/a.mp4", "text": "a dog"}, ...]
 *     JSON lines   one such object a line
 *     CSV          a first line of column names, then a clip a line (RFC 4180: quotes, doubled quotes inside)
 *
 * The file's ending decides (.json, .jsonl, .ndjson, .csv), for others its first character. An entry has
 *
 *     path         file, URL or lavfi: graph (required); a relative one starts in the base folder
 *     text         what is seen (also: caption)
 *     start, end   seconds of the source, numbers or "MM:SS.s": the clip is what lies between
 *     name         the clip's name, of [A-Za-z0-9._-]; without it the file's, made unique (lt_clip_name_of)
 *
 * and whatever else, which is kept but not looked at. A name does not change when entries are added behind it. So it is their order that
 * says which of two files of one name has it as it is: no other rule could leave a first one's name when a second one comes.
 *
 * Memory: 24 bytes an entry, and a name's hash; the text of an entry is read when it is asked for.
 * Threads: a list belongs to one thread at a time. */
#ifndef LT_MANIFEST_CLIP_LIST_H
#define LT_MANIFEST_CLIP_LIST_H

#include "core/core.h"

enum {
    LT_CLIP_ENTRY_BYTES = 1 << 20, /* longest entry */
    LT_CLIP_NAME_BYTES = 200,      /* longest name, final 0 included */
};

typedef struct lt_clip_list lt_clip_list;

/* Which part of the list a process takes: entries index, index + count, index + 2 count, ... */
typedef struct lt_shard {
    int64_t index, count; /* 0 <= index < count; 0, 0: all */
} lt_shard;

/* "i/n" with 0 <= i < n, or "" for all. E_INVALID with a sentence. */
lt_status lt_shard_parse(const char *text, lt_shard *shard, lt_err *err);

/* The name of a clip that is given none, in the arena: the file's without its ending, at most `most` bytes of it; of a "lavfi:" graph its text;
 * of numbered pictures, or a pattern of the shell, where there is no file of just that name, what stands before the pattern, without
 * "-", "_" and "." at its ends ("a/img_%04d.png": img), else the folder's name ("shots/%04d.png", "shots/NAME*.png" without NAME: shots).
 * Never "". NULL: out of memory. */
const char *lt_clip_name_of(const char *input, size_t most, lt_arena *arena);

typedef struct lt_clip_entry {
    const char *path;  /* absolute, or a URL or lavfi: graph as it stands */
    const char *text;  /* "" where there is none; control characters are spaces */
    const char *name;  /* unique in the file */
    double start, end; /* seconds; end 0: the source's */
    const char *json;  /* the entry as one line of JSON with an absolute path: an entry of a manifest again */
    int64_t line;      /* in the file, from 1 */
} lt_clip_entry;

/* Open the manifest at `path` and look at every entry. base: folder of relative paths; "" or NULL: the manifest's own.
 * E_NOT_FOUND, E_PERMISSION, E_IO; E_FORMAT with file:line where it is no list, an entry is malformed or too long, has
 * no path, an impossible time or name, or repeats an earlier one; E_NO_MEMORY. *list is the caller's to close. */
lt_status lt_clip_list_open(lt_clip_list **list, const char *path, const char *base, lt_shard shard,
                            lt_err *err);
void lt_clip_list_close(lt_clip_list *list); /* takes NULL */

/* Entries of the shard. */
int64_t lt_clip_list_count(const lt_clip_list *list);

/* Entry `index` of the shard; strings in `arena`. E_IO, E_FORMAT (the file was changed meanwhile), E_NO_MEMORY. */
lt_status lt_clip_list_get(lt_clip_list *list, int64_t index, lt_arena *arena, lt_clip_entry *entry,
                           lt_err *err);

/* Whether what is made of the shard's clips, by the patterns `outputs` ("films/{clip}.mp4", of pictures "films/{clip}/%06d.png"; absolute,
 * those without {clip} are passed over), would be written over the source of any clip of the list, its own too: E_INVALID with the lines of
 * both. Names of pictures are compared without their numbers. Links to a source are not seen through, those to its folder are. Reads the
 * list again and looks at every folder once; memory is some 40 bytes an entry meanwhile. E_IO, E_FORMAT, E_NO_MEMORY. */
lt_status lt_clip_list_check_outputs(const lt_clip_list *list, const char *const *outputs, int n_outputs,
                                     lt_err *err);

/* XXH3-128 of the shard's entries, in hex: changes when any of them does. */
const char *lt_clip_list_digest(const lt_clip_list *list);

#endif
