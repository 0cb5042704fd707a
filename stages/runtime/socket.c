/* socket.c - ZeroMQ: binding, connecting, and one message at a time with everything in it checked. */
#include "stages/runtime/runtime.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    ASKED_BYTES_MAX = 64 << 10, /* of what consumers say: no payloads */
    RECONNECT_MS = 20,
    RECONNECT_MAX_MS = 1000,
    HEARTBEAT_MS = 2000,
    HEARTBEAT_TIMEOUT_MS = 15000,
    FRAMES_MAX = 3,
};

static bool is_tcp(const char *endpoint)
{
    return !strncmp(endpoint, "tcp://", 6);
}

static bool set_int(void *socket, int option, int value)
{
    return zmq_setsockopt(socket, option, &value, sizeof value) == 0;
}

bool rt_key_read(const ProtobufCBinaryData *key, uint8_t raw[RT_KEY_BYTES])
{
    char text[41];
    if (key->len == RT_KEY_BYTES) {
        memcpy(raw, key->data, RT_KEY_BYTES);
        return true;
    }
    if (key->len != 40) return false;
    memcpy(text, key->data, 40);
    text[40] = 0;
    return zmq_z85_decode(raw, text) != NULL;
}

/* A connection that was cut without a word is noticed, and the kernel's queues are never waited for at the end. */
static bool set_common(void *socket, const char *endpoint)
{
    bool ok = set_int(socket, ZMQ_LINGER, 0) && set_int(socket, ZMQ_SNDHWM, 0);
    if (ok && is_tcp(endpoint))
        ok = set_int(socket, ZMQ_HEARTBEAT_IVL, HEARTBEAT_MS) &&
             set_int(socket, ZMQ_HEARTBEAT_TIMEOUT, HEARTBEAT_TIMEOUT_MS);
    return ok;
}

/* ---- ends -------------------------------------------------------------------------------------------------------------- */

lt_status rt_socket_bind(rt *rt, rt_output *output, lt_err *err)
{
    const char *endpoint = output->boot->bind;
    uint8_t secret[RT_KEY_BYTES];
    output->socket = zmq_socket(rt->context, ZMQ_ROUTER);
    if (!output->socket) return lt_fail(err, LT_E_IO, "cannot make a socket: %s", zmq_strerror(errno));
    int64_t longest = ASKED_BYTES_MAX;
    bool ok = set_common(output->socket, endpoint) && set_int(output->socket, ZMQ_ROUTER_MANDATORY, 1) &&
              !zmq_setsockopt(output->socket, ZMQ_MAXMSGSIZE, &longest, sizeof longest);
    if (is_tcp(endpoint)) {
        if (!rt_key_read(&rt->boot->secret_key, secret))
            return lt_fail(err, LT_E_INVALID,
                           "port %s is to be reached over the network, but there are no keys",
                           output->boot->port);
        ok = ok && set_int(output->socket, ZMQ_CURVE_SERVER, 1) &&
             !zmq_setsockopt(output->socket, ZMQ_CURVE_SECRETKEY, secret, sizeof secret) &&
             !zmq_setsockopt(output->socket, ZMQ_ZAP_DOMAIN, "longtake", 8);
        output->is_encrypted = true;
    }
    size_t bytes = sizeof output->endpoint;
    if (!ok || zmq_bind(output->socket, endpoint) ||
        zmq_getsockopt(output->socket, ZMQ_LAST_ENDPOINT, output->endpoint, &bytes))
        return lt_fail(err, LT_E_TRANSIENT, "cannot listen at %s: %s", endpoint, zmq_strerror(errno));
    return LT_OK;
}

static bool watch(rt *rt, rt_producer *producer)
{
    char name[64];
    snprintf(name, sizeof name, "inproc://watch-%p", producer->socket);
    if (zmq_socket_monitor(producer->socket, name, ZMQ_EVENT_DISCONNECTED)) return false;
    producer->monitor = zmq_socket(rt->context, ZMQ_PAIR);
    return producer->monitor && set_int(producer->monitor, ZMQ_LINGER, 0) &&
           !zmq_connect(producer->monitor, name);
}

lt_status rt_socket_connect(rt *rt, rt_producer *producer, lt_err *err)
{
    uint8_t secret[RT_KEY_BYTES], public[RT_KEY_BYTES];
    producer->socket = zmq_socket(rt->context, ZMQ_DEALER);
    if (!producer->socket) return lt_fail(err, LT_E_IO, "cannot make a socket: %s", zmq_strerror(errno));
    bool ok = set_common(producer->socket, producer->endpoint) &&
              set_int(producer->socket, ZMQ_RECONNECT_IVL, RECONNECT_MS) &&
              set_int(producer->socket, ZMQ_RECONNECT_IVL_MAX, RECONNECT_MAX_MS);
    if (is_tcp(producer->endpoint)) {
        if (!producer->has_key || !rt_key_read(&rt->boot->secret_key, secret) ||
            !rt_key_read(&rt->boot->public_key, public))
            return lt_fail(err, LT_E_INVALID, "%s is reached over the network, but there are no keys",
                           producer->endpoint);
        ok = ok && !zmq_setsockopt(producer->socket, ZMQ_CURVE_SERVERKEY, producer->key, RT_KEY_BYTES) &&
             !zmq_setsockopt(producer->socket, ZMQ_CURVE_SECRETKEY, secret, sizeof secret) &&
             !zmq_setsockopt(producer->socket, ZMQ_CURVE_PUBLICKEY, public, sizeof public) &&
             watch(rt, producer);
    }
    if (!ok || zmq_connect(producer->socket, producer->endpoint))
        return lt_fail(err, LT_E_IO, "cannot connect to %s: %s", producer->endpoint, zmq_strerror(errno));
    return LT_OK;
}

void rt_socket_close(rt_producer *producer, int linger_ms)
{
    if (producer->monitor) {
        zmq_socket_monitor(producer->socket, NULL, 0);
        zmq_close(producer->monitor);
    }
    if (producer->socket) {
        set_int(producer->socket, ZMQ_LINGER, linger_ms);
        zmq_close(producer->socket);
    }
    producer->socket = producer->monitor = NULL;
}

bool rt_socket_broke(rt_producer *producer)
{
    zmq_msg_t part;
    bool broke = false;
    zmq_msg_init(&part);
    while (producer->monitor && zmq_msg_recv(&part, producer->monitor, ZMQ_DONTWAIT) >= 0) broke = true;
    zmq_msg_close(&part);
    return broke;
}

/* ---- messages -------------------------------------------------------------------------------------------------------- */

static void free_packed(void *data, void *hint)
{
    free(data);
}

bool rt_socket_send(rt *rt, void *socket, const void *id, size_t id_bytes, Lt__Wire__Header *header,
                    zmq_msg_t *payload)
{
    void *data;
    size_t bytes;
    lt_err err;
    zmq_msg_t packed;
    if (!socket) return false;
    header->run = rt->boot->run;
    header->incarnation = rt->boot->incarnation;
    lt_status status = lt_header_pack(header, &data, &bytes, &err);
    if (status) {
        rt_fail(rt, &err, NULL);
        return false;
    }
    if (zmq_msg_init_data(&packed, data, bytes, free_packed, NULL)) {
        free(data);
        return false;
    }
    bool ok = !id_bytes || zmq_send(socket, id, id_bytes, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0;
    ok = ok && zmq_msg_send(&packed, socket, ZMQ_DONTWAIT | (payload ? ZMQ_SNDMORE : 0)) >= 0;
    ok = ok && (!payload || zmq_msg_send(payload, socket, ZMQ_DONTWAIT) >= 0);
    zmq_msg_close(&packed);
    return ok;
}

/* Take one whole message; more than `room` frames are thrown away, and counted. */
static int receive_frames(void *socket, zmq_msg_t *frames, int room)
{
    int n = 0;
    bool more = true;
    for (int i = 0; i < room; i++) zmq_msg_init(&frames[i]);
    while (more) {
        zmq_msg_t extra, *into = n < room ? &frames[n] : &extra;
        if (into == &extra) zmq_msg_init(&extra);
        int received = zmq_msg_recv(into, socket, ZMQ_DONTWAIT);
        more = received >= 0 && zmq_msg_more(into);
        if (into == &extra) zmq_msg_close(&extra);
        if (received < 0) break;
        n++;
    }
    return n;
}

lt_status rt_socket_receive(rt *rt, void *socket, bool is_router, rt_arrival *arrival)
{
    zmq_msg_t frames[FRAMES_MAX];
    lt_err err = {.text = "wrong number of parts"};
    int first = is_router ? 1 : 0, n = receive_frames(socket, frames, FRAMES_MAX);
    lt_status status = n == 0 ? LT_AGAIN : LT_E_FORMAT;
    bool plausible = n == first + 1 || (n == first + 2 && !is_router);
    if (plausible && (!is_router || zmq_msg_size(&frames[0]) <= sizeof arrival->id)) {
        arrival->id_bytes = is_router ? zmq_msg_size(&frames[0]) : 0;
        memcpy(arrival->id, zmq_msg_data(&frames[0]), arrival->id_bytes);
        status = lt_header_unpack(zmq_msg_data(&frames[first]), zmq_msg_size(&frames[first]),
                                  &arrival->header, &err);
        arrival->has_payload = n == first + 2;
        zmq_msg_init(&arrival->payload);
        if (arrival->has_payload) zmq_msg_move(&arrival->payload, &frames[first + 1]);
        if (!status && arrival->header->run != rt->boot->run) {
            lt__wire__header__free_unpacked(arrival->header, NULL);
            status = lt_fail(&err, LT_E_FORMAT, "it belongs to another run");
        }
        if (status) zmq_msg_close(&arrival->payload);
    }
    for (int i = 0; i < FRAMES_MAX; i++) zmq_msg_close(&frames[i]);
    if (status == LT_OK || status == LT_AGAIN) return status;
    rt_complain(rt, "dropped a message: %s", err.text);
    return LT_END;
}
