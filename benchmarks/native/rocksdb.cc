/* rocksdb DIRECTORY WRITE_BUFFER_BYTES: durable appends to RocksDB, one batch a write with sync on.

   The keys are big-endian indexes. What decides the cost of an append is set as raftstore's backend has it:
   recycled log files, no compression, memtables of the same size. */

#include <rocksdb/db.h>
#include <rocksdb/version.h>

#include "slices.h"

static rocksdb::DB *db;
static rocksdb::WriteOptions durable;
static rocksdb::WriteBatch batch;
static unsigned char *data;
static uint64_t next_index = 1;

static void check(const rocksdb::Status &status, const char *what) {
    if (status.ok()) return;
    fprintf(stderr, "%s: %s\n", what, status.ToString().c_str());
    exit(1);
}

static void write_one(long count, long size) {
    batch.Clear();
    for (long i = 0; i < count; i++) {
        uint64_t key = __builtin_bswap64(next_index++);
        const char *value = (const char *)data + (size_t)i * size % POOL_BYTES;
        batch.Put(rocksdb::Slice((const char *)&key, sizeof key), rocksdb::Slice(value, (size_t)size));
    }
    check(db->Write(durable, &batch), "write");
}

int main(int argc, char **argv) {
    if (argc != 3) return 2;
    data = random_bytes(2 * POOL_BYTES);
    rocksdb::Options options;
    options.create_if_missing = true;
    options.compression = rocksdb::kNoCompression;
    options.recycle_log_file_num = 1;
    options.write_buffer_size = (size_t)atoll(argv[2]);
    options.max_write_buffer_number = 3;
    options.max_background_jobs = 2;
    durable.sync = true;
    check(rocksdb::DB::Open(options, argv[1], &db), "open");
    serve(rocksdb::GetRocksVersionAsString().c_str(), write_one, NULL);
    delete db;
    return 0;
}
