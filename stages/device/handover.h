/* handover.h - units that pass from stage to stage in the memory of a device (lt_payload.slot and .handle): the producer's end and the
 * consumer's.
 *
 * The producer has a share (kernels/share.h) for each slot of its slab, made when the slot is first used, of the slot's size. Who holds the
 * slot holds both, so when one may be written again is the runtime's business, and nothing is told but a handle with every unit. The consumer
 * opens a share when its handle first comes.
 *
 * Threads: the stage's main thread. A zeroed object is empty. */
#ifndef LT_STAGE_HANDOVER_H
#define LT_STAGE_HANDOVER_H

#include "kernels/share.h"
#include "stages/runtime/stage.h"

typedef struct lt_outlet {
    struct lt_outlet_slot *slots;
    size_t n_slots;
} lt_outlet;

/* The device memory of an output that has a slot, where setup says so: a share of the context's device; NULL: the unit goes into
 * output->data. Runs lie in it where lt_payload_add would put them. Errors of lt_share_create. */
lt_status lt_outlet_open(lt_outlet *outlet, const lt_setup *setup, lt_context *context,
                         const lt_payload *output, lt_share **share, lt_err *err);

/* What was asked of the context so far has filled the share of this output, whose runs have been added: it is handed over so. Whether it
 * succeeded is known when the context has been waited for, and a unit that failed is sent to nobody: so who gives waits before it returns. */
void lt_outlet_give(lt_outlet *outlet, lt_context *context, lt_payload *output);

/* Before the contexts go, and the process ends: consumers may have the shares open for longer, so their memory stays until then. */
void lt_outlet_close(lt_outlet *outlet);

typedef struct lt_inlet {
    struct lt_inlet_share *shares;
    size_t n_shares;
} lt_inlet;

/* Where the runs of an input lie, at their offsets in input->data: what is asked of the context from now on finds them there. NULL: in
 * input->data. Blocks as lt_share_await does, which is not at all where the producer has waited. E_TRANSIENT: who made them has ended; other
 * errors of lt_share_open, and those of the context. */
lt_status lt_inlet_open(lt_inlet *inlet, lt_context *context, const lt_payload *input, lt_share **share,
                        lt_err *err);

/* After lt_wait: what was read of these inputs is what their producers wrote. E_TRANSIENT: one of them has ended meanwhile, and whatever
 * came of it is nothing. */
lt_status lt_inlet_check(const lt_inlet *inlet, const lt_payload *inputs, uint64_t n, lt_err *err);
void lt_inlet_close(lt_inlet *inlet);

#endif
