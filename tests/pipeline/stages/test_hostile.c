/* test_hostile.c - strangers, liars and bad wires: what arrives on a socket harms nobody. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <zmq.h>

#include "tests/pipeline/stages/chain.h"

static char *expected;
static uint64_t random_state = 88172645463325252u;

static uint64_t next_random(void)
{
    random_state ^= random_state << 13, random_state ^= random_state >> 7, random_state ^= random_state << 17;
    return random_state;
}

static void make_expected(void **state)
{
    troupe t = make_chain(SLOTS, 1, 1, path("expected"));
    play(&t, 0, 0, 0);
    expected = read_file(path("expected"));
}

static void set_int(void *socket, int option, int value)
{
    zmq_setsockopt(socket, option, &value, sizeof value);
}

/* ---- garbage -------------------------------------------------------------------------------------------------------------- */

/* A header that is nearly right. */
static size_t make_header(unsigned char *room, size_t max)
{
    Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
    Lt__Wire__Hello hello = LT__WIRE__HELLO__INIT;
    Lt__Wire__Want want = LT__WIRE__WANT__INIT;
    Lt__Wire__Safe safe = LT__WIRE__SAFE__INIT;
    Lt__Wire__Release release = LT__WIRE__RELEASE__INIT;
    void *data;
    size_t bytes;
    lt_err err;
    header.run = next_random() % 4 ? 77 : next_random();
    header.incarnation = (uint32_t)(next_random() % 3);
    header.clip = (uint32_t)(next_random() % 3);
    switch (next_random() % 4) {
    case 0:
        hello.edge = next_random() % 2 ? "no>where" : "";
        hello.replica = (uint32_t)next_random() % 5000;
        hello.shares_memory = true;
        header.body_case = LT__WIRE__HEADER__BODY_HELLO;
        header.hello = &hello;
        break;
    case 1:
        want.unit = next_random();
        header.body_case = LT__WIRE__HEADER__BODY_WANT;
        header.want = &want;
        break;
    case 2:
        safe.unit = UINT64_MAX;
        header.body_case = LT__WIRE__HEADER__BODY_SAFE;
        header.safe = &safe;
        break;
    default:
        release.slot = (uint32_t)next_random();
        header.body_case = LT__WIRE__HEADER__BODY_RELEASE;
        header.release = &release;
    }
    assert_int_equal(lt_header_pack(&header, &data, &bytes, &err), LT_OK);
    bytes = LT_MIN(bytes, max);
    memcpy(room, data, bytes);
    free(data);
    return bytes;
}

static void send_garbage(void *socket)
{
    unsigned char bytes[2048];
    int n_frames = 1 + (int)(next_random() % 4);
    for (int f = 0; f < n_frames; f++) {
        size_t n = next_random() % sizeof bytes;
        for (size_t i = 0; i < n; i++) bytes[i] = (unsigned char)next_random();
        if (next_random() % 2) n = make_header(bytes, sizeof bytes);
        if (next_random() % 4 == 0 && n) bytes[next_random() % n] ^= (unsigned char)next_random();
        zmq_send(socket, bytes, n, ZMQ_DONTWAIT | (f + 1 < n_frames ? ZMQ_SNDMORE : 0));
    }
}

static void garbage_at_producers_is_dropped(void **state)
{
    void *context = zmq_ctx_new(), *sockets[2];
    troupe t = make_chain(SLOTS, 1, 1, path("garbage"));
    set_option(&t, 1, "sleep_ms", "10");
    troupe_start(&t);
    while (!t.actors[0].is_ready || !t.actors[1].is_ready) troupe_listen(&t);
    for (int i = 0; i < 2; i++) {
        sockets[i] = zmq_socket(context, ZMQ_DEALER);
        set_int(sockets[i], ZMQ_LINGER, 0);
        assert_int_equal(zmq_connect(sockets[i], t.actors[i].endpoint), 0);
    }
    for (int i = 0; i < 200; i++) {
        for (int k = 0; k < 20; k++) send_garbage(sockets[k % 2]);
        troupe_act(&t, 0.002, 0, 0, 0);
    }
    assert_true(troupe_act(&t, 30, 0, 0, 0));
    assert_int_equal(t.blamed, -1);
    for (int i = 0; i < 2; i++) zmq_close(sockets[i]);
    zmq_ctx_term(context);
    assert_true(troupe_stop(&t));
    assert_written(path("garbage"), expected);
}

/* ---- a false producer -------------------------------------------------------------------------------------------------------- */

static void say_hello(void *socket, const char *edge, uint32_t replica, uint32_t incarnation)
{
    Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
    Lt__Wire__Hello hello = LT__WIRE__HELLO__INIT;
    void *data;
    size_t bytes;
    lt_err err;
    header.run = 77;
    header.incarnation = incarnation;
    hello.edge = (char *)edge;
    hello.replica = replica;
    header.body_case = LT__WIRE__HEADER__BODY_HELLO;
    header.hello = &hello;
    assert_int_equal(lt_header_pack(&header, &data, &bytes, &err), LT_OK);
    zmq_send(socket, data, bytes, ZMQ_DONTWAIT);
    free(data);
}

/* What the true producer says of its clip, as incarnation 5 would; *bytes long, to be freed. */
static void *learn_open(void *context, const actor *producer, size_t *bytes)
{
    void *socket = zmq_socket(context, ZMQ_DEALER), *data = NULL;
    char message[4096];
    lt_err err;
    set_int(socket, ZMQ_LINGER, 0);
    assert_int_equal(zmq_connect(socket, producer->endpoint), 0);
    say_hello(socket, "1>2", 7, 1);
    while (!data) {
        Lt__Wire__Header *header;
        int n = zmq_recv(socket, message, sizeof message, 0);
        assert_int_equal(lt_header_unpack(message, (size_t)n, &header, &err), LT_OK);
        header->incarnation = 5;
        if (header->body_case == LT__WIRE__HEADER__BODY_OPEN)
            assert_int_equal(lt_header_pack(header, &data, bytes, &err), LT_OK);
        lt__wire__header__free_unpacked(header, NULL);
    }
    zmq_close(socket);
    return data;
}

/* A unit that is wrong in some way: its place, its size, its description, or who made it. */
static void lie(void *socket, const void *id, size_t id_bytes, uint64_t unit)
{
    static const char zeros[64];
    static uint8_t handle[LT_DEVICE_HANDLE_MAX];
    Lt__Wire__DeviceSlot device = LT__WIRE__DEVICE_SLOT__INIT;
    Lt__Wire__Header header = LT__WIRE__HEADER__INIT;
    Lt__Wire__Unit message = LT__WIRE__UNIT__INIT;
    Lt__Wire__Span span = LT__WIRE__SPAN__INIT, *spans[1] = {&span};
    void *data;
    size_t bytes;
    lt_err err;
    int kind = (int)(next_random() % 5);
    header.run = 77;
    header.incarnation = kind == 0 ? 4 : 5; /* the first kind is right, but of a process that is dead */
    header.body_case = LT__WIRE__HEADER__BODY_UNIT_DONE;
    header.unit_done = &message;
    message.unit = unit;
    message.bytes = kind == 1 ? 1 << 30 : 64;
    message.spans = spans;
    message.n_spans = kind != 2;
    span.count = 1, span.dtype = LT__WIRE__DTYPE__DTYPE_U8, span.bytes = 64;
    bool is_slot = kind && next_random() % 2;
    bool is_device = is_slot && next_random() % 3 == 0; /* which nobody has planned */
    message.payload_case = is_device ? LT__WIRE__UNIT__PAYLOAD_DEVICE
                           : is_slot ? LT__WIRE__UNIT__PAYLOAD_SLOT
                                     : LT__WIRE__UNIT__PAYLOAD_INLINE;
    uint32_t slot = (uint32_t)(next_random() % 2 ? next_random() % 4 : next_random());
    device.slot = slot;
    device.handle = (ProtobufCBinaryData){1 + next_random() % LT_DEVICE_HANDLE_MAX, handle};
    if (is_device)
        message.device = &device;
    else if (is_slot)
        message.slot = slot;
    else
        message.inline_ = true;
    assert_int_equal(lt_header_pack(&header, &data, &bytes, &err), LT_OK);
    bool has_frame = !kind || next_random() % 2; /* of a wrong size, or where none belongs */
    zmq_send(socket, id, id_bytes, ZMQ_SNDMORE);
    zmq_send(socket, data, bytes, has_frame ? ZMQ_SNDMORE : 0);
    if (has_frame) zmq_send(socket, zeros, kind ? next_random() % sizeof zeros : sizeof zeros, 0);
    free(data);
}

static void a_false_producer_is_not_believed(void **state)
{
    void *context = zmq_ctx_new(), *router = zmq_socket(context, ZMQ_ROUTER);
    char endpoint[128];
    snprintf(endpoint, sizeof endpoint, "ipc://%s", path("false"));
    set_int(router, ZMQ_LINGER, 0);
    assert_int_equal(zmq_bind(router, endpoint), 0);
    troupe t = make_chain(SLOTS, 1, 1, path("lied"));
    set_option(&t, 1, "sleep_ms", "5");
    set_option(&t, 2, "sleep_ms", "40"); /* so that it holds slots that lies can name */
    troupe_start(&t);
    while (t.actors[2].units_done < 10) troupe_listen(&t);
    size_t open_bytes;
    void *open = learn_open(context, &t.actors[1], &open_bytes);
    troupe_tell_peer(&t, &t.actors[1], &t.actors[2], 5, endpoint);
    unsigned char id[64];
    int id_bytes = zmq_recv(router, id, sizeof id, 0);
    assert_in_range(id_bytes, 1, sizeof id);
    zmq_send(router, id, (size_t)id_bytes, ZMQ_SNDMORE);
    zmq_send(router, open, open_bytes, 0);
    free(open);
    uint64_t done = t.actors[2].units_done;
    for (int i = 0; i < 400; i++) {
        for (int k = 0; k < 8; k++) lie(router, id, (size_t)id_bytes, done + next_random() % 8);
        zmq_send(router, id, (size_t)id_bytes, ZMQ_SNDMORE);
        send_garbage(router);
        troupe_act(&t, 0.002, 0, 0, 0);
    }
    assert_int_equal(t.blamed, -1);
    troupe_tell_peer(&t, &t.actors[1], &t.actors[2], 1, NULL);
    assert_true(troupe_act(&t, 30, 0, 0, 0));
    assert_int_equal(t.blamed, -1);
    zmq_close(router);
    zmq_ctx_term(context);
    assert_true(troupe_stop(&t));
    assert_written(path("lied"), expected);
}

/* ---- keys ---------------------------------------------------------------------------------------------------------------------- */

/* What a producer answers within half a second to someone with these keys; -1: nothing. */
static int ask(void *context, const actor *producer, const char *public_key, const char *secret_key)
{
    char answer[4096];
    void *socket = zmq_socket(context, ZMQ_DEALER);
    set_int(socket, ZMQ_LINGER, 0);
    set_int(socket, ZMQ_RCVTIMEO, 500);
    if (public_key) {
        zmq_setsockopt(socket, ZMQ_CURVE_SERVERKEY, producer->public_key, 40);
        zmq_setsockopt(socket, ZMQ_CURVE_PUBLICKEY, public_key, 40);
        zmq_setsockopt(socket, ZMQ_CURVE_SECRETKEY, secret_key, 40);
    }
    assert_int_equal(zmq_connect(socket, producer->endpoint), 0);
    say_hello(socket, "0>1", 0, 9);
    int n = zmq_recv(socket, answer, sizeof answer, 0);
    zmq_close(socket);
    return n;
}

static void only_keys_of_the_run_are_let_in(void **state)
{
    void *context = zmq_ctx_new();
    char public_key[41], secret_key[41];
    troupe t = make_chain(NETWORK, 1, 1, path("keys"));
    set_option(&t, 1, "sleep_ms", "10000");
    troupe_start(&t);
    while (!t.actors[0].is_ready || !t.actors[1].is_ready) troupe_listen(&t);
    assert_int_equal(zmq_curve_keypair(public_key, secret_key), 0);
    assert_int_equal(ask(context, &t.actors[0], NULL, NULL), -1);
    assert_int_equal(ask(context, &t.actors[0], public_key, secret_key), -1);
    /* The very same question with a consumer's key is answered: the test can tell. */
    assert_true(ask(context, &t.actors[0], t.actors[1].public_key, t.actors[1].secret_key) > 0);
    zmq_ctx_term(context);
    troupe_stop(&t);
}

/* ---- bad wires ------------------------------------------------------------------------------------------------------------------ */

/* Carries connections to another port, until they are cut. */
typedef struct wire {
    int listener, port;
    int ends[32][2];
    int n;
} wire;

static wire wires[4];
static int n_wires;
static pthread_mutex_t wires_mutex = PTHREAD_MUTEX_INITIALIZER;
static atomic_bool cut, ended;
static int n_cut;

static struct sockaddr_in local(int port)
{
    return (struct sockaddr_in){
        .sin_family = AF_INET, .sin_port = htons((uint16_t)port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
}

static const char *lay_wire(const char *endpoint)
{
    static char names[4][64];
    struct sockaddr_in address = local(0);
    socklen_t size = sizeof address;
    pthread_mutex_lock(&wires_mutex);
    wire *w = &wires[n_wires];
    *w = (wire){.listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0),
                .port = atoi(strrchr(endpoint, ':') + 1)};
    bind(w->listener, (struct sockaddr *)&address, sizeof address);
    listen(w->listener, 8);
    getsockname(w->listener, (struct sockaddr *)&address, &size);
    snprintf(names[n_wires], sizeof names[0], "tcp://127.0.0.1:%d", ntohs(address.sin_port));
    const char *name = names[n_wires++];
    pthread_mutex_unlock(&wires_mutex);
    return name;
}

static void hang_up(wire *w, int i)
{
    close(w->ends[i][0]);
    close(w->ends[i][1]);
    memmove(w->ends[i], w->ends[--w->n], sizeof w->ends[i]);
}

static void take_call(wire *w)
{
    struct sockaddr_in address = local(w->port);
    int from = accept4(w->listener, NULL, NULL, SOCK_CLOEXEC);
    int to = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (from < 0 || w->n == 32 || connect(to, (struct sockaddr *)&address, sizeof address)) {
        close(from);
        close(to);
        return;
    }
    w->ends[w->n][0] = from;
    w->ends[w->n++][1] = to;
}

/* False: the connection is over. */
static bool pass_on(int from, int to)
{
    char bytes[65536];
    ssize_t n = recv(from, bytes, sizeof bytes, MSG_DONTWAIT);
    for (ssize_t done = 0, m; n > 0 && done < n; done += m) {
        m = send(to, bytes + done, (size_t)(n - done), MSG_NOSIGNAL);
        if (m < 0) return false;
    }
    return n > 0;
}

static void serve(wire *w)
{
    struct pollfd fds[65] = {{.fd = w->listener, .events = POLLIN}};
    int n = w->n;
    for (int i = 0; i < 2 * n; i++)
        fds[1 + i] = (struct pollfd){.fd = w->ends[i / 2][i % 2], .events = POLLIN};
    if (poll(fds, (nfds_t)(1 + 2 * n), 1) <= 0) return;
    for (int i = n - 1; i >= 0; i--) {
        bool alive = true;
        for (int k = 0; k < 2 && alive; k++)
            if (fds[1 + 2 * i + k].revents) alive = pass_on(w->ends[i][k], w->ends[i][1 - k]);
        if (!alive) hang_up(w, i);
    }
    if (fds[0].revents) take_call(w);
}

static void *carry(void *unused)
{
    while (!atomic_load(&ended)) {
        pthread_mutex_lock(&wires_mutex);
        bool cuts = atomic_exchange(&cut, false);
        for (int i = 0; i < n_wires; i++) {
            serve(&wires[i]);
            for (; cuts && wires[i].n; n_cut++) hang_up(&wires[i], wires[i].n - 1);
        }
        pthread_mutex_unlock(&wires_mutex);
        usleep(200);
    }
    return NULL;
}

static void connections_that_break_are_made_again(void **state)
{
    pthread_t thread;
    troupe t = make_chain(NETWORK, 1, 2, path("wires"));
    t.detour = lay_wire;
    set_option(&t, 1, "sleep_ms", "10");
    assert_int_equal(pthread_create(&thread, NULL, carry, NULL), 0);
    troupe_start(&t);
    int n = 0;
    while (!troupe_act(&t, 0.15, 0, 0, 0) && n++ < 300)
        if (n <= 12) atomic_store(&cut, true);
    assert_true(troupe_act(&t, 1, 0, 0, 0));
    assert_int_equal(t.blamed, -1);
    assert_true(troupe_stop(&t));
    atomic_store(&ended, true);
    pthread_join(thread, NULL);
    print_message("%d connections were cut\n", n_cut);
    assert_true(n_cut > 3);
    assert_written(path("wires"), expected);
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(make_expected),
        cmocka_unit_test(garbage_at_producers_is_dropped),
        cmocka_unit_test(a_false_producer_is_not_believed),
        cmocka_unit_test(only_keys_of_the_run_are_let_in),
        cmocka_unit_test(connections_that_break_are_made_again),
    };
    return chain_main(argc, argv, tests, LT_COUNT(tests), &expected);
}
