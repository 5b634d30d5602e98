/* lmdb DIRECTORY: durable appends to LMDB, one transaction a write, no flag that weakens a commit.

   The keys are big-endian indexes, put in order with MDB_APPEND. */

#include <lmdb.h>

#include "slices.h"

static MDB_env *environment;
static MDB_dbi entries;
static unsigned char *data;
static uint64_t next_index = 1;

static void check(int code, const char *what) {
    if (code == 0) return;
    fprintf(stderr, "%s: %s\n", what, mdb_strerror(code));
    exit(1);
}

static void write_one(long count, long size) {
    MDB_txn *txn;
    check(mdb_txn_begin(environment, NULL, 0, &txn), "begin");
    for (long i = 0; i < count; i++) {
        uint64_t key_bytes = __builtin_bswap64(next_index++);
        MDB_val key = {sizeof key_bytes, &key_bytes};
        MDB_val value = {(size_t)size, data + (size_t)i * size % POOL_BYTES};
        check(mdb_put(txn, entries, &key, &value, MDB_APPEND), "put");
    }
    check(mdb_txn_commit(txn), "commit");
}

int main(int argc, char **argv) {
    if (argc != 2) return 2;
    data = random_bytes(2 * POOL_BYTES);
    check(mdb_env_create(&environment), "create");
    check(mdb_env_set_mapsize(environment, (size_t)64 << 30), "map size");
    check(mdb_env_set_maxdbs(environment, 2), "databases");
    check(mdb_env_open(environment, argv[1], 0, 0600), "open");
    MDB_txn *txn;
    check(mdb_txn_begin(environment, NULL, 0, &txn), "begin");
    check(mdb_dbi_open(txn, "entries", MDB_CREATE, &entries), "database");
    check(mdb_txn_commit(txn), "commit");
    int major, minor, patch;
    char version[32];
    mdb_version(&major, &minor, &patch);
    snprintf(version, sizeof version, "%d.%d.%d", major, minor, patch);
    serve(version, write_one, NULL);
    mdb_env_close(environment);
    return 0;
}
