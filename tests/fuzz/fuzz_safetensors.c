/* fuzz_safetensors.c - a safetensors file in memory. */
#include "tests/fuzz/fuzz.h"

#include "kernels/safetensors.h"

static volatile unsigned n_read; /* so that reading is done */

/* Every tensor lies inside the file, is found by its name, and can be read. */
static void use_tensor(const lt_safetensors *file, int index, const uint8_t *data, size_t n_bytes)
{
    const char *name;
    lt_err err;
    lt_tensor tensor = lt_safetensors_at(file, index, &name), found;
    FUZZ_MUST(name && !lt_safetensors_get(file, name, &found, &err) && found.data == tensor.data);
    const uint8_t *begin = tensor.data;
    size_t size = lt_tensor_bytes(&tensor);
    FUZZ_MUST(begin >= data && begin <= data + n_bytes && size <= (size_t)(data + n_bytes - begin));
    n_read += size ? begin[0] ^ begin[size - 1] : 0;
    char text[128];
    FUZZ_MUST(lt_tensor_describe(&tensor, text, sizeof text));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t n_bytes)
{
    lt_safetensors *file;
    lt_err err;
    lt_status status = lt_safetensors_open_memory(&file, data, n_bytes, "input", &err);
    if (status) {
        FUZZ_MUST(!file);
        FUZZ_REFUSED(status, err);
        return 0;
    }
    int n = lt_safetensors_count(file);
    const char *before = NULL, *name;
    for (int i = 0; i < n; i++, before = name) {
        use_tensor(file, i, data, n_bytes);
        lt_safetensors_at(file, i, &name);
        FUZZ_MUST(!before || strcmp(before, name) < 0);
    }
    lt_safetensors_metadata(file, "format");
    lt_safetensors_close(file);
    return 0;
}
