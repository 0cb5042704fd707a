/* fuzz_run_manifest.c - the manifest.json of a run folder that a run is to continue. */
#include "tests/fuzz/fuzz.h"

#include "orchestrator/manifest.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    lt_arena arena = {0};
    lt_err err;
    lt_manifest manifest;
    lt_graph graph = {.file = "graph.toml", .base = "/films", .here = "/films", .cache = "/films/cache"};
    fuzz_write(fuzz_path("manifest.json"), data, n_bytes);
    lt_run_folder folder = {.path = fuzz_folder(), .outputs = {"/dev/null"}, .n_outputs = 1};
    lt_status status = lt_manifest_open(&graph, &folder, false, &arena, &manifest, &err);
    if (status) {
        FUZZ_REFUSED(status, err);
    } else {
        FUZZ_MUST(manifest.json && (manifest.state != LT_RUN_NEW || manifest.is_over_another));
        for (int i = 0; i < manifest.n_resolved; i++) {
            const lt_resolved *resolved = &manifest.resolved[i];
            FUZZ_MUST(resolved->stage && resolved->name && resolved->text);
        }
        lt_run_plan plan = {.graph = &graph};
        lt_manifest_spent(&graph, &folder, &manifest);
        status = lt_manifest_begin(&plan, &folder, &arena, &manifest, &err);
        if (status) FUZZ_REFUSED(status, err);
    }
    lt_manifest_finish(&manifest);
    lt_arena_finish(&arena);
    return 0;
}
