/* env.c - the LMDB environment: opening, transactions, and sentences for its errors. */
#include "cache/internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/vfs.h>
#include <unistd.h>

static const char format_key[] = "longtake/format";

static const int64_t default_map = (int64_t)1 << 40, smallest_default_map = (int64_t)1 << 34;

/* ---- errors -------------------------------------------------------------------------------------------- */

/* Does the disk have no room? Tells a short write, which LMDB reports as EIO, from a broken disk. */
static bool disk_is_full(const char *folder)
{
    struct statvfs about;
    return statvfs(folder, &about) == 0 && (uint64_t)about.f_bavail * about.f_frsize < (8u << 20);
}

static lt_status fail_full_map(const lt_cache *cache, lt_err *err, const char *what)
{
    MDB_envinfo info = {0};
    if (cache->env) mdb_env_info(cache->env, &info);
    return lt_fail(err, LT_E_NO_SPACE,
                   "%s: the cache %s is full: it may hold %.1f MiB. Nothing was lost; open it with a larger "
                   "limit (cache_size) to go on",
                   what, cache->folder, (double)info.me_mapsize / (1 << 20));
}

lt_status lt_cache_fail_mdb(const lt_cache *cache, int rc, lt_err *err, const char *what)
{
    const char *folder = cache->folder;
    switch (rc) {
    case MDB_MAP_FULL: return fail_full_map(cache, err, what);
    case EIO:
        if (!disk_is_full(folder)) break;
        __attribute__((fallthrough));
    case ENOSPC:
    case EDQUOT:
        return lt_fail(err, LT_E_NO_SPACE,
                       "%s: no space left on the disk of the cache %s. Nothing was lost; make room to go on",
                       what, folder);
    case EROFS:
        return lt_fail(err, LT_E_PERMISSION, "%s: the cache %s is on a read-only file system", what, folder);
    case EACCES:
    case EPERM:
        return lt_fail(err, LT_E_PERMISSION,
                       "%s: no permission for the cache %s (its files data.mdb and lock.mdb)", what, folder);
    case ENOENT: return lt_fail(err, LT_E_NOT_FOUND, "%s: there is no cache at %s", what, folder);
    case ENOTDIR: return lt_fail(err, LT_E_INVALID, "%s: %s is not a folder", what, folder);
    case ENOMEM:
        return lt_fail(err, LT_E_NO_MEMORY, "%s: out of memory or address space for the cache %s", what,
                       folder);
    case MDB_READERS_FULL:
        return lt_fail(err, LT_E_BUSY, "%s: too many processes read the cache %s", what, folder);
    case MDB_INVALID:
    case MDB_CORRUPTED:
    case MDB_PAGE_NOTFOUND:
        return lt_fail(err, LT_E_FORMAT, "%s: %s/data.mdb is not an LMDB file, or is damaged", what, folder);
    case MDB_VERSION_MISMATCH:
        return lt_fail(err, LT_E_MISMATCH, "%s: %s/data.mdb was written by another version of LMDB", what,
                       folder);
    default: break;
    }
    return lt_fail(err, LT_E_IO, "%s: cache %s: %s", what, folder, mdb_strerror(rc));
}

/* ---- transactions -------------------------------------------------------------------------------------- */

/* Another process made the data larger than our map: take over its size. */
static lt_status adopt_map_size(lt_cache *cache, lt_err *err)
{
    pthread_rwlock_wrlock(&cache->map_lock);
    int rc = mdb_env_set_mapsize(cache->env, 0);
    pthread_rwlock_unlock(&cache->map_lock);
    return rc ? lt_cache_fail_mdb(cache, rc, err, "following the cache's growth") : LT_OK;
}

lt_status lt_cache_begin(lt_cache *cache, bool write, MDB_txn **txn, lt_err *err)
{
    *txn = NULL;
    if (write && !cache->writable)
        return lt_fail(err, LT_E_INTERNAL, "the cache %s was opened for reading only", cache->folder);
    for (int attempt = 0;; attempt++) {
        pthread_rwlock_rdlock(&cache->map_lock);
        int rc = mdb_txn_begin(cache->env, NULL, write ? 0 : MDB_RDONLY, txn);
        if (rc == 0) return LT_OK;
        pthread_rwlock_unlock(&cache->map_lock);
        if (rc == MDB_MAP_RESIZED && attempt < 10) {
            lt_status status = adopt_map_size(cache, err);
            if (status) return status;
        } else if (rc == MDB_READERS_FULL && attempt == 0) {
            mdb_reader_check(cache->env, NULL);
        } else {
            return lt_cache_fail_mdb(cache, rc, err,
                                     write ? "starting a write transaction" : "starting a read transaction");
        }
    }
}

lt_status lt_cache_commit(lt_cache *cache, MDB_txn *txn, lt_err *err)
{
    int rc = mdb_txn_commit(txn);
    pthread_rwlock_unlock(&cache->map_lock);
    return rc ? lt_cache_fail_mdb(cache, rc, err, "writing to the cache") : LT_OK;
}

void lt_cache_abort(lt_cache *cache, MDB_txn *txn)
{
    if (!txn) return;
    mdb_txn_abort(txn);
    pthread_rwlock_unlock(&cache->map_lock);
}

/* ---- opening ------------------------------------------------------------------------------------------- */

/* File systems on which several hosts may write one file, and shared maps and locks are not those of one host. */
static lt_status refuse_network(const char *folder, lt_err *err)
{
    static const struct {
        uint32_t magic;
        const char *name;
    } networks[] = {
        {0x6969, "NFS"},      {0xFF534D42, "CIFS"},   {0xFE534D42, "SMB"},   {0x517B, "SMB"},
        {0x00C36400, "Ceph"}, {0x0BD00BD0, "Lustre"}, {0x5346414F, "AFS"},   {0x6B414653, "AFS"},
        {0x47504653, "GPFS"}, {0x19830326, "BeeGFS"}, {0x73757245, "Coda"},  {0x564C, "NCP"},
        {0x01161970, "GFS2"}, {0x7461636F, "OCFS2"},  {0xAAD7AAEA, "PanFS"}, {0x5DCA2DF5, "SDCardFS"}};
    struct statfs about;
    if (statfs(folder, &about) != 0)
        return lt_fail_errno(err, errno, "cannot look at the cache folder %s", folder);
    for (size_t i = 0; i < LT_COUNT(networks); i++) {
        if ((uint32_t)about.f_type == networks[i].magic)
            return lt_fail(err, LT_E_UNSUPPORTED,
                           "the cache %s is on a network file system (%s), where LMDB loses data; use a "
                           "local disk of the host that "
                           "owns the data set",
                           folder, networks[i].name);
    }
    return LT_OK;
}

/* mkdir -p. A parent that may not be written may still be there: what fails is the first that is not. */
static lt_status make_folder(const lt_cache *cache, lt_err *err)
{
    char *path = strdup(cache->folder);
    if (!path) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    int refused = 0;
    for (char *at = path + 1; at[-1]; at++) {
        if (*at != '/' && *at != 0) continue;
        char kept = *at;
        *at = 0;
        int error = mkdir(path, 0777) == 0 ? 0 : errno;
        if (error && error != EEXIST && error != EISDIR && !refused) refused = error;
        if (error == 0 || error == EEXIST) refused = 0;
        *at = kept;
    }
    free(path);
    return refused ? lt_cache_fail_mdb(cache, refused, err, "making the cache folder") : LT_OK;
}

static int open_environment(lt_cache *cache, int64_t map_bytes)
{
    int rc = mdb_env_create(&cache->env);
    if (rc) return rc;
    mdb_env_set_mapsize(cache->env, (size_t)map_bytes);
    mdb_env_set_maxreaders(cache->env, 512);
    rc = mdb_env_open(cache->env, cache->folder, MDB_NOTLS | (cache->writable ? 0 : MDB_RDONLY), 0666);
    if (rc) {
        mdb_env_close(cache->env);
        cache->env = NULL;
    }
    return rc;
}

/* Reserve what was asked for; by default as much of 1 TiB as the process may. */
static lt_status open_with_map(lt_cache *cache, int64_t map_bytes, lt_err *err)
{
    int64_t bytes = map_bytes ? map_bytes : default_map;
    int rc;
    while ((rc = open_environment(cache, bytes)) == ENOMEM && map_bytes == 0 && bytes > smallest_default_map)
        bytes /= 4;
    return rc ? lt_cache_fail_mdb(cache, rc, err, "opening the cache") : LT_OK;
}

/* *there: the environment is a cache of our version. Not there and no error: it is empty. */
static lt_status read_format(lt_cache *cache, MDB_txn *txn, bool *there, lt_err *err)
{
    MDB_val key = lt_cache_val(format_key, sizeof format_key - 1), value;
    *there = false;
    int rc = mdb_get(txn, cache->dbi, &key, &value);
    if (rc == MDB_NOTFOUND) {
        MDB_stat about;
        mdb_stat(txn, cache->dbi, &about);
        if (about.ms_entries == 0) return LT_OK;
        return lt_fail(err, LT_E_FORMAT,
                       "%s is an LMDB environment, but not a cache of Longtake; use another folder",
                       cache->folder);
    }
    if (rc) return lt_cache_fail_mdb(cache, rc, err, "reading the cache's version");
    char version[24] = "";
    memcpy(version, value.mv_data, LT_MIN(value.mv_size, sizeof version - 1));
    if (atoi(version) != LT_CACHE_FORMAT)
        return lt_fail(err, LT_E_MISMATCH,
                       "the cache %s has format version %s, this program reads and writes version %d; use "
                       "another folder",
                       cache->folder, version, LT_CACHE_FORMAT);
    *there = true;
    return LT_OK;
}

static lt_status write_format(lt_cache *cache, lt_err *err)
{
    MDB_txn *txn;
    bool there;
    lt_status status = lt_cache_begin(cache, true, &txn, err);
    if (status) return status;
    LT_TRY(read_format(cache, txn, &there, err));
    if (!there) {
        char version[24];
        int n = snprintf(version, sizeof version, "%d", LT_CACHE_FORMAT);
        MDB_val key = lt_cache_val(format_key, sizeof format_key - 1),
                value = lt_cache_val(version, (size_t)n);
        int rc = mdb_put(txn, cache->dbi, &key, &value, 0);
        if (rc) LT_TRY(lt_cache_fail_mdb(cache, rc, err, "writing the cache's version"));
        return lt_cache_commit(cache, txn, err);
    }
fail:
    lt_cache_abort(cache, txn);
    return status;
}

static lt_status check_format(lt_cache *cache, lt_err *err)
{
    MDB_txn *txn;
    bool there = false;
    lt_status status = lt_cache_begin(cache, false, &txn, err);
    if (status) return status;
    int rc = mdb_dbi_open(txn, NULL, 0, &cache->dbi);
    if (rc)
        status = lt_cache_fail_mdb(cache, rc, err, "opening the cache");
    else
        status = read_format(cache, txn, &there, err);
    lt_cache_abort(cache, txn);
    if (status || there) return status;
    if (!cache->writable) return lt_fail(err, LT_E_NOT_FOUND, "the cache %s is empty", cache->folder);
    return write_format(cache, err);
}

lt_status lt_cache_open(lt_cache **out, const char *folder, bool writable, int64_t map_bytes, lt_err *err)
{
    *out = NULL;
    if (!folder || !*folder) return lt_fail(err, LT_E_INVALID, "no folder was given for the cache");
    if (map_bytes < 0) return lt_fail(err, LT_E_INVALID, "the cache's size must not be negative");
    lt_status status = LT_OK;
    lt_cache *cache = calloc(1, sizeof *cache);
    if (!cache) return lt_fail(err, LT_E_NO_MEMORY, "out of memory");
    cache->writable = writable;
    cache->folder = strdup(folder);
    if (!cache->folder || pthread_rwlock_init(&cache->map_lock, NULL) != 0)
        LT_TRY(lt_fail(err, LT_E_NO_MEMORY, "out of memory"));
    cache->map_lock_made = true;
    if (writable) LT_TRY(make_folder(cache, err));
    if (!writable && access(folder, F_OK) != 0)
        LT_TRY(lt_cache_fail_mdb(cache, errno, err, "opening the cache"));
    LT_TRY(refuse_network(folder, err));
    LT_TRY(open_with_map(cache, map_bytes, err));
    mdb_reader_check(cache->env, NULL);
    LT_TRY(check_format(cache, err));
    *out = cache;
    return LT_OK;
fail:
    lt_cache_close(cache);
    return status;
}

void lt_cache_close(lt_cache *cache)
{
    if (!cache) return;
    if (cache->env) mdb_env_close(cache->env);
    if (cache->map_lock_made) pthread_rwlock_destroy(&cache->map_lock);
    free(cache->folder);
    free(cache);
}
