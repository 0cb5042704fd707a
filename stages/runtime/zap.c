/* zap.c - who may connect over the network: ZeroMQ asks (RFC 27), the keys of this run's consumers are let in. */
#include "stages/runtime/runtime.h"

#include <errno.h>
#include <string.h>

enum { PARTS = 7 }; /* version, request id, domain, address, identity, mechanism, key */

lt_status rt_zap_open(rt *rt, lt_err *err)
{
    int linger = 0;
    rt->zap = zmq_socket(rt->context, ZMQ_REP);
    if (!rt->zap || zmq_setsockopt(rt->zap, ZMQ_LINGER, &linger, sizeof linger) ||
        zmq_bind(rt->zap, "inproc://zeromq.zap.01"))
        return lt_fail(err, LT_E_IO, "cannot guard connections: %s", zmq_strerror(errno));
    return LT_OK;
}

static bool is_known(const rt *rt, const void *key)
{
    for (size_t i = 0; i < rt->output.n_consumers; i++) {
        const rt_consumer *consumer = &rt->output.consumers[i];
        if (consumer->has_key && !memcmp(consumer->key, key, RT_KEY_BYTES)) return true;
    }
    return false;
}

/* A key that is not known may be so soon: 300 makes the other side try again, where 400 would end its attempts. */
static void answer(rt *rt, zmq_msg_t parts[PARTS], int n)
{
    bool is_curve =
        n == PARTS && zmq_msg_size(&parts[5]) == 5 && !memcmp(zmq_msg_data(&parts[5]), "CURVE", 5);
    bool is_let_in =
        is_curve && zmq_msg_size(&parts[6]) == RT_KEY_BYTES && is_known(rt, zmq_msg_data(&parts[6]));
    const char *code = is_let_in ? "200" : is_curve ? "300" : "400";
    zmq_send(rt->zap, "1.0", 3, ZMQ_SNDMORE);
    zmq_msg_send(&parts[1], rt->zap, ZMQ_SNDMORE);
    zmq_send(rt->zap, code, 3, ZMQ_SNDMORE);
    zmq_send(rt->zap, "", 0, ZMQ_SNDMORE);
    zmq_send(rt->zap, "", 0, ZMQ_SNDMORE);
    zmq_send(rt->zap, "", 0, 0);
    if (!is_let_in) rt_complain(rt, "a connection with an unknown key was refused");
}

void rt_zap_answer(rt *rt)
{
    for (;;) {
        zmq_msg_t parts[PARTS];
        int n = 0;
        bool more = true;
        for (int i = 0; i < PARTS; i++) zmq_msg_init(&parts[i]);
        while (more && n < PARTS && zmq_msg_recv(&parts[n], rt->zap, ZMQ_DONTWAIT) >= 0)
            more = zmq_msg_more(&parts[n++]);
        for (bool rest = more && n == PARTS; rest;) { /* no request of RFC 27 has so many */
            zmq_msg_t extra;
            zmq_msg_init(&extra);
            rest = zmq_msg_recv(&extra, rt->zap, ZMQ_DONTWAIT) >= 0 && zmq_msg_more(&extra);
            zmq_msg_close(&extra);
        }
        if (n > 1) answer(rt, parts, n);
        for (int i = 0; i < PARTS; i++) zmq_msg_close(&parts[i]);
        if (n <= 1) return;
    }
}
