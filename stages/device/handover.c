/* handover.c - shares by slot, and shares by handle. */
#include "stages/device/handover.h"

#include <stdlib.h>
#include <string.h>

_Static_assert(sizeof(lt_share_handle) <= LT_DEVICE_HANDLE_MAX, "a handle fits into a message");

/* ---- the producer ---------------------------------------------------------------------------------------- */

struct lt_outlet_slot {
    lt_share *share; /* NULL: not used yet */
    lt_share_handle handle;
};

static lt_status reach(lt_outlet *outlet, size_t slot, lt_err *err)
{
    size_t n = slot + 1, bytes;
    struct lt_outlet_slot *grown;
    if (n <= outlet->n_slots) return LT_OK;
    grown = lt_mul_size(n, sizeof *grown, &bytes) ? realloc(outlet->slots, bytes) : NULL;
    if (!grown) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for slots of a device");
    memset(grown + outlet->n_slots, 0, (n - outlet->n_slots) * sizeof *grown);
    outlet->slots = grown;
    outlet->n_slots = n;
    return LT_OK;
}

lt_status lt_outlet_open(lt_outlet *outlet, const lt_setup *setup, lt_context *c, const lt_payload *output,
                         lt_share **share, lt_err *err)
{
    *share = NULL;
    if (!setup->output_device || output->slot < 0 || output->capacity > setup->slot_bytes) return LT_OK;
    lt_status status = reach(outlet, (size_t)output->slot, err);
    if (status) return status;
    struct lt_outlet_slot *slot = &outlet->slots[output->slot];
    if (!slot->share) status = lt_share_create(&slot->share, c, setup->slot_bytes, &slot->handle, err);
    *share = slot->share;
    return status;
}

void lt_outlet_give(lt_outlet *outlet, lt_context *c, lt_payload *output)
{
    const struct lt_outlet_slot *slot = &outlet->slots[output->slot];
    lt_share_mark(c, slot->share);
    memcpy(output->handle, &slot->handle, sizeof slot->handle);
    output->handle_bytes = sizeof slot->handle;
}

void lt_outlet_close(lt_outlet *outlet)
{
    for (size_t i = 0; i < outlet->n_slots; i++) lt_share_destroy(outlet->slots[i].share);
    free(outlet->slots);
    *outlet = (lt_outlet){0};
}

/* ---- the consumer ---------------------------------------------------------------------------------------- */

struct lt_inlet_share {
    lt_share_handle handle;
    lt_share *share;
};

static struct lt_inlet_share *find(const lt_inlet *inlet, const lt_payload *input)
{
    for (size_t i = 0; i < inlet->n_shares; i++)
        if (!memcmp(&inlet->shares[i].handle, input->handle, sizeof inlet->shares[i].handle))
            return &inlet->shares[i];
    return NULL;
}

/* Those of processes that have ended: others take their place. */
static void close_ended(lt_inlet *inlet)
{
    size_t n = 0;
    lt_err ignored;
    for (size_t i = 0; i < inlet->n_shares; i++) {
        if (lt_share_check(inlet->shares[i].share, &ignored))
            lt_share_destroy(inlet->shares[i].share);
        else
            inlet->shares[n++] = inlet->shares[i];
    }
    inlet->n_shares = n;
}

static lt_status open_share(lt_inlet *inlet, lt_context *c, const lt_payload *input, lt_share **share,
                            lt_err *err)
{
    lt_share_handle handle;
    if (input->handle_bytes != sizeof handle)
        return lt_fail(err, LT_E_FORMAT, "a handle of %zu bytes is none of a device's memory",
                       input->handle_bytes);
    memcpy(&handle, input->handle, sizeof handle);
    close_ended(inlet);
    struct lt_inlet_share *grown =
        realloc(inlet->shares, (inlet->n_shares + 1) * sizeof *grown); /* a few, once each */
    if (!grown) return lt_fail(err, LT_E_NO_MEMORY, "out of memory for slots of a device");
    inlet->shares = grown;
    lt_status status = lt_share_open(share, c, &handle, err);
    if (!status) inlet->shares[inlet->n_shares++] = (struct lt_inlet_share){handle, *share};
    return status;
}

lt_status lt_inlet_open(lt_inlet *inlet, lt_context *c, const lt_payload *input, lt_share **share,
                        lt_err *err)
{
    *share = NULL;
    if (!input->handle_bytes) return LT_OK;
    struct lt_inlet_share *known = find(inlet, input);
    lt_status status = known ? LT_OK : open_share(inlet, c, input, share, err);
    if (status) return status;
    if (known) *share = known->share;
    lt_share_await(c, *share);
    if (c->err.status) return lt_context_status(c, err); /* which waits for the device: only then */
    return LT_OK;
}

lt_status lt_inlet_check(const lt_inlet *inlet, const lt_payload *inputs, uint64_t n, lt_err *err)
{
    lt_status status = LT_OK;
    for (uint64_t i = 0; i < n && !status; i++) {
        const struct lt_inlet_share *known = inputs[i].handle_bytes ? find(inlet, &inputs[i]) : NULL;
        if (known) status = lt_share_check(known->share, err);
    }
    return status;
}

void lt_inlet_close(lt_inlet *inlet)
{
    for (size_t i = 0; i < inlet->n_shares; i++) lt_share_destroy(inlet->shares[i].share);
    free(inlet->shares);
    *inlet = (lt_inlet){0};
}
